from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebapose.config import parse_config
from ebapose.data.transforms import (
    AUGMENTATIONS,
    AugmentConfig,
    blacken,
    half_body_box,
    sample_geometry,
    transform_keypoints,
    truncated_box,
    turned_box,
)
from ebapose.errors import UsageError
from ebapose.geometry.crop import image_to_crop_matrix, transform_points
from ebapose.skeleton import COCO17, Skeleton

BOX = np.array([10.0, 10, 90, 190])


def random_person(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    visibility = rng.integers(0, 3, 17).astype(np.uint8)
    points = (rng.uniform(0, 200, (17, 2)) * (visibility > 0)[:, None]).astype(np.float32)
    return points, visibility, (rng.random(17) * (visibility > 0)).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(20, 500))
def test_mirroring_twice_changes_nothing(seed: int, width: float) -> None:
    points, visibility, weights = random_person(seed)
    mirror = [[-1, 0, width - 1], [0, 1, 0]]
    once = transform_keypoints(points, visibility, weights, mirror, COCO17, flip=True)
    twice = transform_keypoints(*once, mirror, COCO17, flip=True)
    np.testing.assert_allclose(twice[0], points, atol=1e-3)
    np.testing.assert_array_equal(twice[1], visibility)
    np.testing.assert_array_equal(twice[2], weights)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_mirroring_relabels_everything_that_has_a_side(seed: int) -> None:
    points, visibility, weights = random_person(seed)
    matrix = image_to_crop_matrix(BOX, (64, 48), flip=True)[0]
    flipped = transform_keypoints(points, visibility, weights, matrix, COCO17, flip=True)
    names = list(COCO17.keypoint_names)
    for name in names:
        other = name.replace("left", "x").replace("right", "left").replace("x", "right")
        here, there = names.index(name), names.index(other)
        assert flipped[1][here] == visibility[there]
        assert flipped[2][here] == weights[there]
        if visibility[there]:
            expected = matrix[:, :2] @ points[there] + matrix[:, 2]
            np.testing.assert_allclose(flipped[0][here], expected, atol=1e-3)
        else:
            assert flipped[0][here].tolist() == [0, 0]


def test_the_records_are_not_written_to() -> None:
    points, visibility, weights = random_person(0)
    before = points.copy(), visibility.copy(), weights.copy()
    _, seen, trusted = transform_keypoints(points, visibility, weights, np.eye(2, 3), COCO17, flip=False)
    seen[:], trusted[:] = 0, 0
    for array, old in zip((points, visibility, weights), before, strict=True):
        np.testing.assert_array_equal(array, old)


def draw(config: AugmentConfig, count: int = 4000) -> list:
    points, _, _ = random_person(1)
    rng = np.random.default_rng(0)
    return [sample_geometry(BOX, points, np.full(17, 2, np.uint8), COCO17, config, rng) for _ in range(count)]


def test_the_papers_augmentation() -> None:
    drawn = draw(AUGMENTATIONS["paper"])
    rotation, scale = np.array([g.rotation_deg for g in drawn]), np.array([g.scale for g in drawn])
    assert -30 <= rotation.min() < -29
    assert 29 < rotation.max() <= 30
    assert 0.7 <= scale.min() < 0.71
    assert 1.29 < scale.max() <= 1.3
    assert abs(np.mean(rotation)) < 1
    assert abs(np.mean(scale) - 1) < 0.02
    assert abs(np.mean([g.flip for g in drawn]) - 0.5) < 0.03
    assert all(g.shift == (0, 0) and np.array_equal(g.box_xyxy, BOX) for g in drawn)


def test_the_references_normal_distribution() -> None:
    config = AugmentConfig(rotation_deg=40, rotation_probability=0.6, distribution="normal", flip_probability=0)
    drawn = draw(config)
    rotation, scale = np.array([g.rotation_deg for g in drawn]), np.array([g.scale for g in drawn])
    assert abs(np.mean(rotation != 0) - 0.6) < 0.03
    assert rotation.max() == 80
    assert rotation.min() == -80
    assert (scale == 0.7).mean() > 0.1  # cut at one standard deviation
    assert not any(g.flip for g in drawn)


def test_half_bodies() -> None:
    points = np.zeros((17, 2), np.float32)
    points[:11] = np.random.default_rng(0).uniform([20, 10], [80, 90], (11, 2))
    points[11:] = np.random.default_rng(1).uniform([20, 110], [80, 190], (6, 2))
    seen = np.full(17, 2, np.uint8)
    upper = half_body_box(BOX, points, seen, COCO17, upper=True)
    lower = half_body_box(BOX, points, seen, COCO17, upper=False)
    assert upper[3] < 100 < lower[1]
    for box, part in ((upper, points[:11]), (lower, points[11:])):
        assert (part >= box[:2]).all()
        assert (part <= box[2:]).all()
    seen[11:] = 0
    assert half_body_box(BOX, points, seen, COCO17, upper=False) is BOX
    hand = Skeleton("hand", ("a", "b", "c", "d"), (), (), (0.1,) * 4)
    assert half_body_box(BOX, points[:4], np.full(4, 2, np.uint8), hand, upper=True) is BOX
    chosen = [g.box_xyxy[3] for g in draw(AugmentConfig(half_body_probability=0.4), 1000)]
    assert 0.3 < np.mean(np.array(chosen) != BOX[3]) < 0.5
    assert all(
        np.array_equal(g.box_xyxy, BOX) for g in draw(AugmentConfig(half_body_probability=1, half_body_keypoints=18), 9)
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(-180, 180), st.booleans())
def test_the_box_of_a_turned_person_fits(seed: int, angle: float, flip: bool) -> None:
    points = np.random.default_rng(seed).uniform(BOX[:2], BOX[2:], (17, 2)).astype(np.float32)
    margin = 4.0
    upright = np.concatenate([points.min(axis=0) - margin, points.max(axis=0) + margin]).astype(np.float64)
    box = turned_box(upright, points, angle, flip=flip)
    size_hw = (256, 192)
    matrix = image_to_crop_matrix(box, size_hw, 1.0, rotation_deg=angle, flip=flip)[0]
    crop = transform_points(points, matrix)
    gaps = np.array([crop.min(axis=0), np.array(size_hw[::-1]) - 1 - crop.max(axis=0)])  # left, top; right, bottom
    np.testing.assert_allclose(gaps[0], gaps[1], atol=0.01)  # in the middle of the crop
    scale = np.hypot(*matrix[:, 0])
    np.testing.assert_allclose(gaps.min(), margin * scale - 0.5, atol=0.01)  # and no smaller than the box makes it
    np.testing.assert_allclose(turned_box(upright, points, 0, flip=False), upright, atol=1e-3)


def test_boxes_are_fitted_to_turned_persons_on_request() -> None:
    points = np.random.default_rng(0).uniform(BOX[:2], BOX[2:], (17, 2)).astype(np.float32)
    seen = np.full(17, 2, np.uint8)
    config = AugmentConfig(rotation_deg=90, rotation_probability=0.5, rotation_refit=True)
    rng = np.random.default_rng(0)
    drawn = [sample_geometry(BOX, points, seen, COCO17, config, rng) for _ in range(1000)]
    for geometry in drawn:
        if geometry.rotation_deg == 0:
            assert geometry.box_xyxy is BOX
    wide = [np.subtract(*g.box_xyxy[[2, 0]]) > np.subtract(*g.box_xyxy[[3, 1]]) for g in drawn]
    assert 0.15 < np.mean(wide) < 0.3  # half of those that are turned by 0 to 90 degrees
    few = np.where(np.arange(17) < 3, 2, 0).astype(np.uint8)
    assert all(sample_geometry(BOX, points, few, COCO17, config, rng).box_xyxy is BOX for _ in range(9))


def test_stretched_persons() -> None:
    config = AugmentConfig(stretch=0.5, rotation_deg=0, flip_probability=0, scale=(1, 1))
    shape = []
    for geometry in draw(config, 1000):
        matrix = geometry.matrix((64, 48), 1.0, "symmetric")
        assert np.linalg.det(matrix[:, :2]) == pytest.approx(matrix[1, 1] * matrix[0, 0])
        corners = transform_points(BOX.reshape(2, 2), matrix)
        assert corners.mean(axis=0) == pytest.approx([23.5, 31.5])  # the box is in the middle, and fits
        assert (corners[1] - corners[0]).max() <= 64 + 1e-9
        assert np.isclose(corners[1] - corners[0], [48, 64]).any()
        shape.append(matrix[0, 0] / matrix[1, 1])
    assert 1 / 1.5 <= min(shape) < 0.68
    assert 1.48 < max(shape) <= 1.5
    assert abs(np.mean(np.log(shape))) < 0.02
    assert {g.stretch for g in draw(AugmentConfig(), 9)} == {(1.0, 1.0)}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_seen_of_a_stretched_person(seed: int) -> None:
    points = np.random.default_rng(seed).uniform(BOX[:2], BOX[2:], (17, 2)).astype(np.float32)
    config = AugmentConfig(stretch=1, truncation_probability=1, rotation_refit=True, rotation_deg=90)
    seen = np.full(17, 2, np.uint8)
    geometry = sample_geometry(BOX, points, seen, COCO17, config, np.random.default_rng(seed))
    matrix = geometry.matrix((400, 300), 2.0, "symmetric")
    in_crop = transform_points(points, matrix)
    box = geometry.box_xyxy / np.tile(geometry.stretch, 2)
    middle = transform_points(box.reshape(2, 2).mean(axis=0)[None], matrix)[0]
    np.testing.assert_allclose(middle, [149.5, 199.5], atol=1e-6)
    if geometry.seen_xyxy is not None:  # image px, as the points are
        inside = ((points >= geometry.seen_xyxy[:2]) & (points <= geometry.seen_xyxy[2:])).all(axis=1)
        assert inside.sum() >= 4
        assert ((in_crop[inside] > -1) & (in_crop[inside] < [300, 400])).all(axis=1).sum() >= 4


def test_truncated_persons() -> None:
    rng = np.random.default_rng(0)
    points = np.random.default_rng(1).uniform(BOX[:2], BOX[2:], (17, 2)).astype(np.float32)
    seen = np.full(17, 2, np.uint8)
    seen[3] = 0
    boxes, views = zip(*(truncated_box(BOX, points, seen, rng) for _ in range(2000)), strict=True)
    for box, view in zip(boxes, views, strict=True):
        assert (box[:2] >= BOX[:2]).all()
        assert (box[2:] <= BOX[2:]).all()
        inside = ((points >= box[:2]) & (points <= box[2:])).all(axis=1) & (seen > 0)
        assert inside.sum() >= 4
        assert view is None or ((view[:2] <= box[:2]).all() and (view[2:] >= box[2:]).all())
    assert 0.25 < np.mean([view is not None for view in views]) < 0.45
    height = np.array([(box[3] - box[1]) / (BOX[3] - BOX[1]) for box in boxes])
    assert height.min() < 0.35  # a face
    assert np.mean(height < 0.7) > 0.3
    ends = np.array([view for view in views if view is not None])
    assert 0.75 < np.isfinite(ends[:, 3]).mean() < 0.95  # mostly the lower end is beyond the picture
    assert 0.1 < np.isfinite(ends[:, 1]).mean() < 0.25
    few = np.where(np.arange(17) < 3, 2, 0).astype(np.uint8)
    assert truncated_box(BOX, points, few, rng) == (BOX, None)

    upright = points[np.argsort(points[:, 1])]  # the nose topmost, the ankles lowest
    boxes, _ = zip(*(truncated_box(BOX, upright, np.full(17, 2, np.uint8), rng) for _ in range(2000)), strict=True)
    height = np.array([(box[3] - box[1]) / (BOX[3] - BOX[1]) for box in boxes])
    assert 0.17 < np.mean(height < 0.4) < 0.3  # portraits: head and shoulders fill the box

    assert all(g.seen_xyxy is None and np.array_equal(g.box_xyxy, BOX) for g in draw(AugmentConfig(), 9))
    often = AugmentConfig(truncation_probability=0.5)
    drawn = [sample_geometry(BOX, points, seen, COCO17, often, rng) for _ in range(1000)]
    assert 0.12 < np.mean([g.seen_xyxy is not None for g in drawn]) < 0.23


def test_beyond_the_picture_is_black_and_unlabelled() -> None:
    crop = np.full((40, 20, 3), 200, np.uint8)
    matrix = np.array([[0, 2.0, 0], [2.0, 0, 0]])  # image x is crop y / 2
    keypoints = np.array([[4, 10], [4, 30], [16, 10], [0, 0]], np.float32)
    visibility = np.array([2, 2, 1, 0], np.uint8)
    blacken(crop, keypoints, visibility, matrix, np.array([-np.inf, -np.inf, 10, 5]))
    dark = np.zeros((40, 20), bool)
    dark[21:], dark[:, 11:] = True, True
    np.testing.assert_array_equal(crop, np.where(np.stack([dark] * 3, axis=-1), 0, 200))
    assert visibility.tolist() == [2, 0, 0, 0]
    assert keypoints.tolist() == [[4, 10], [0, 0], [0, 0], [0, 0]]


def test_configs_refuse_nonsense_by_name() -> None:
    for key, value in (("scale", [1.3, 0.7]), ("flip_probability", 2), ("rotation", 3), ("photometric", {"jpg": 1})):
        with pytest.raises(UsageError, match=key):
            parse_config(AugmentConfig, {key: value}, "recipe")


def test_no_microscope():
    """Three keypoints on one spot make no microscope of the crop."""
    points = np.full((17, 2), 50, np.float32)
    seen = np.where(np.arange(17) < 3, 2, 0).astype(np.uint8)
    box = half_body_box(BOX, points, seen, COCO17, upper=True)
    np.testing.assert_allclose(box, [50 - 22.5, 50 - 22.5, 50 + 22.5, 50 + 22.5])


def test_refit_knows_of_the_mirror():
    points = np.random.default_rng(0).uniform(BOX[:2], BOX[2:], (17, 2)).astype(np.float32)
    points[0] = BOX[:2]  # far from what mirroring would make of them
    config = AugmentConfig(rotation_deg=60, rotation_probability=1, rotation_refit=True, flip_probability=1)
    rng = np.random.default_rng(0)
    for _ in range(9):
        drawn = sample_geometry(BOX, points, np.full(17, 2, np.uint8), COCO17, config, rng)
        assert drawn.flip
        np.testing.assert_array_equal(drawn.box_xyxy, turned_box(BOX, points, drawn.rotation_deg, flip=True))


def test_hidden_keypoints_belong_to_a_half_body():
    """Hidden keypoints (1) belong to the half body, too."""
    points = np.random.default_rng(0).uniform(BOX[:2], BOX[2:], (17, 2)).astype(np.float32)
    boxes = [half_body_box(BOX, points, np.full(17, v, np.uint8), COCO17, upper=True) for v in (1, 2)]
    np.testing.assert_array_equal(boxes[0], boxes[1])
    assert boxes[0] is not BOX


def test_keypoints_outside_do_not_enlarge_the_turned_box():
    """Keypoints outside of the box (the legs, where it holds the upper body) do not enlarge it."""
    points = np.random.default_rng(0).uniform(BOX[:2], BOX[2:], (9, 2)).astype(np.float32)
    more = np.concatenate([points, np.float32([[50, 400], [60, 500]])])
    np.testing.assert_array_equal(turned_box(BOX, more, 30, flip=False), turned_box(BOX, points, 30, flip=False))
