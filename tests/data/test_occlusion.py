from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ebapose.data.occlusion import coarse_dropout, hide, paste, person_mask, put_behind
from ebapose.data.transforms import AugmentConfig
from ebapose.skeleton import COCO17


def test_hide_turns_visible_into_hidden_only() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[:, 10:] = 1
    keypoints = np.array([[12, 5], [12, 5], [12, 5], [3, 5], [50, 5], [12, -4]], np.float32)
    visibility = np.array([2, 1, 0, 2, 2, 2], np.uint8)
    hide(keypoints, visibility, mask)
    assert visibility.tolist() == [1, 1, 0, 2, 2, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_covered_pixels_are_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 256, (64, 48, 3), np.uint8)
    crop = before.copy()
    mask = coarse_dropout(crop, AugmentConfig(dropout_probability=1), rng)
    assert mask.any()
    assert not mask.all()
    np.testing.assert_array_equal(crop[mask == 0], before[mask == 0])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_pasting_touches_only_the_silhouette(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crop, cutout = np.full((64, 48, 3), 10, np.uint8), np.full((64, 48, 3), 200, np.uint8)
    points = rng.uniform(10, 40, (17, 2)).astype(np.float32)
    silhouette = person_mask(points, np.full(17, 2, np.uint8), COCO17, (64, 48))
    assert silhouette.any()
    mask = paste(crop, cutout, silhouette, rng)
    assert (crop[mask > 0] > 100).all()
    assert (crop[mask == 0] < 110).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_put_behind_leaves_the_person_in_front(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crop, cutout = np.full((64, 48, 3), 10, np.uint8), np.full((64, 48, 3), 200, np.uint8)
    crop[:, 44:] = 0  # beyond the picture
    silhouette, other = (np.zeros((64, 48), np.uint8) for _ in range(2))
    silhouette[20:50, 12:28] = 255
    other[4:60, 4:44] = 255
    put_behind(crop, silhouette, cutout, other, rng)
    assert (crop[21:49, 13:27] < 14).all()  # the border is soft
    assert (crop[:, 44:] == 0).all()
    assert (crop[:, :44] > 150).any()


def test_a_whole_picture_behind_covers_all_but_the_person() -> None:
    silhouette = np.zeros((64, 48), np.uint8)
    silhouette[20:50, 12:28] = 255
    away = cv2.distanceTransform(255 - silhouette, cv2.DIST_L2, 3) > 5
    covered = []
    for seed in range(20):
        crop, cutout = np.full((64, 48, 3), 10, np.uint8), np.full((32, 32, 3), 200, np.uint8)
        put_behind(crop, silhouette, cutout, np.zeros((32, 32), np.uint8), np.random.default_rng(seed))
        covered.append(float((crop[away] == 200).mean()))
    assert set(covered) == {0.0, 1.0}  # nobody stands in this picture: all of it or nothing


def test_nothing_is_put_behind_nobody() -> None:
    crop = np.full((64, 48, 3), 10, np.uint8)
    full = np.full((64, 48), 255, np.uint8)
    for seed in range(10):
        put_behind(crop, np.zeros((64, 48), np.uint8), crop + 99, full, np.random.default_rng(seed))
    assert (crop == 10).all()


def test_nobody_has_no_silhouette() -> None:
    points = np.zeros((17, 2), np.float32)
    assert not person_mask(points, np.zeros(17, np.uint8), COCO17, (64, 48)).any()
    far = np.full((17, 2), 1e9, np.float32)
    assert person_mask(far, np.full(17, 2, np.uint8), COCO17, (64, 48)).shape == (64, 48)


def test_parts_of_a_silhouette() -> None:
    points = np.zeros((17, 2), np.float32)
    for name, at in {
        "left_shoulder": (30, 20),
        "right_shoulder": (18, 20),
        "left_hip": (29, 40),
        "right_hip": (19, 40),
    }.items():
        points[COCO17.keypoint_names.index(name)] = at
    for name, at in {"left_knee": (29, 58), "right_knee": (19, 58)}.items():
        points[COCO17.keypoint_names.index(name)] = at
    seen = points.any(axis=1).astype(np.uint8)
    upper = person_mask(points, seen, COCO17, (64, 48), ("shoulder", "hip"))
    lower = person_mask(points, seen, COCO17, (64, 48), ("hip", "knee"))
    assert upper[30, 24]
    assert not upper[52].any()
    assert lower[52, [19, 29]].all()
    assert not lower[30].any()
    assert ((upper | lower) == person_mask(points, seen, COCO17, (64, 48))).all()


def test_parts_are_recognised_in_any_case_of_letters() -> None:
    shouted = replace(COCO17, keypoint_names=tuple(name.upper() for name in COCO17.keypoint_names))
    points = np.random.default_rng(0).uniform(5, 40, (17, 2)).astype(np.float32)
    seen = np.ones(17, np.uint8)
    for parts in (None, ("shoulder", "hip"), ("knee", "ankle")):
        mask = person_mask(points, seen, shouted, (64, 48), parts)
        assert mask.any()
        assert (mask == person_mask(points, seen, COCO17, (64, 48), parts)).all()


def test_a_keypoint_far_outside():
    """A keypoint far outside of the crop, as close-ups make them, is no place that OpenCV can draw to."""
    points = np.random.default_rng(0).uniform(5, 40, (17, 2)).astype(np.float32)
    points[15] = 3e9
    assert person_mask(points, np.full(17, 2, np.uint8), COCO17, (64, 48)).any()
