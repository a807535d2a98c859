from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from ebapose.data.coco import load_coco
from ebapose.data.figure import SHOWS, draw_person, figure_points, random_angles, random_appearance
from ebapose.data.synthetic import draw_people, draw_sequence, make_dataset
from ebapose.errors import UsageError
from ebapose.skeleton import COCO17

NAMES = COCO17.keypoint_names
L_SHOULDER, R_SHOULDER = NAMES.index("left_shoulder"), NAMES.index("right_shoulder")


def test_a_scene_follows_from_its_seed() -> None:
    one, again, other = draw_people((96, 80), 5), draw_people((96, 80), 5), draw_people((96, 80), 6)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.keypoints, again.keypoints)
    assert not np.array_equal(one.image, other.image)
    assert one.image.shape == (96, 80, 3)


def test_left_is_where_a_viewer_sees_it() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        facing = figure_points(random_angles(rng, turn_deg=50), 100, (64, 64))
        assert facing[L_SHOULDER, 0] > facing[R_SHOULDER, 0]
        angles = random_angles(rng)
        angles[0] = 180
        away = figure_points(angles, 100, (64, 64))
        assert away[L_SHOULDER, 0] < away[R_SHOULDER, 0]


def test_faces_are_seen_from_the_front_only() -> None:
    shown = {}
    for turn in (0, 180):
        angles = np.zeros(len(random_angles(np.random.default_rng(0))))
        angles[0] = turn
        points = figure_points(angles, 200, (128, 128))
        canvas = np.zeros((256, 256, 3), np.uint8)
        _, owners = draw_person(canvas, points, random_appearance(np.random.default_rng(0)))
        assert not canvas.any()  # drawn on a copy
        x, y = np.rint(points[:17, :2]).astype(int).T
        shown[turn] = SHOWS[np.arange(17), owners[y, x]]
    assert shown[0].all()
    assert not shown[180][:3].any()  # nose and eyes
    assert shown[180][5:].all()


def test_bones_keep_their_length() -> None:
    rng = np.random.default_rng(0)
    bones = [(5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16), (5, 6), (11, 12)]
    lengths = []
    for _ in range(20):
        points = figure_points(random_angles(rng, 180), 100, (0, 0))
        lengths.append([np.linalg.norm(points[a] - points[b]) for a, b in bones])
    assert np.ptp(lengths, axis=0).max() < 1e-9
    left_and_right = np.array(lengths[0][:8]).reshape(2, 2, 2)
    np.testing.assert_allclose(left_and_right[:, 0], left_and_right[:, 1])


def test_visible_keypoints_lie_on_their_figure() -> None:
    for seed in range(30):
        scene = draw_people((96, 96), seed, max_people=3, turn_deg=180)
        for points, seen, box in zip(scene.keypoints, scene.visibility, scene.boxes_xyxy, strict=True):
            x, y = points[seen == 2].T
            assert (x >= box[0] - 1).all()
            assert (x <= box[2]).all()
            assert (y >= box[1] - 1).all()
            assert (y <= box[3]).all()
            outside = (np.rint(points) < 0).any(axis=1) | (np.rint(points) > 95).any(axis=1)
            np.testing.assert_array_equal(seen == 0, outside)


def test_people_before_others_hide_them() -> None:
    hidden = area = 0
    for seed in range(10):
        scene = draw_people((96, 96), seed, num_people=4)
        front = draw_people((96, 96), seed, num_people=4)
        np.testing.assert_array_equal(scene.visibility, front.visibility)
        hidden += np.count_nonzero(scene.visibility[:-1] == 1)
        area += scene.areas[-1] > 0
    assert hidden > 0
    assert area == 10


def test_sequences_move_smoothly() -> None:
    frames = list(draw_sequence((64, 96), 40, seed=2, num_people=2, frames_per_pose=10))
    assert len(frames) == 40
    steps = [np.abs(b.keypoints - a.keypoints).max() for a, b in pairwise(frames)]
    assert 0 < max(steps) < 8
    travelled = np.abs(frames[10].keypoints - frames[0].keypoints).max()
    assert travelled > 2 * max(steps[:10])
    shorter = list(draw_sequence((64, 96), 12, seed=2, num_people=2, frames_per_pose=10))
    np.testing.assert_array_equal(shorter[11].image, frames[11].image)


def test_dataset_is_coco(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "a", num_images=6, seed=1, image_hw=(72, 64), max_people=3)
    data = load_coco(path)
    assert data.num_images == 6
    assert data.skeleton is COCO17
    assert len(data.persons()) == len(data) > 6
    for record in data:
        image = cv2.imread(str(record.image_path))
        assert image.shape[:2] == record.image_hw == (72, 64)
        assert record.area <= np.prod(record.box_xyxy[2:] - record.box_xyxy[:2])
    scene = draw_people((72, 64), (1, 3), max_people=3)
    rows = np.flatnonzero(data.image_indices == 3)
    np.testing.assert_allclose(
        data.keypoints[rows], np.where(scene.visibility[..., None] > 0, scene.keypoints, 0), atol=0.006
    )
    with pytest.raises(UsageError, match="exists already"):
        make_dataset(tmp_path / "a", num_images=1)
    for name in ("c/images/mine.jpg", "d/validation.json"):
        mine = tmp_path / name
        mine.parent.mkdir(parents=True)
        mine.touch()
        with pytest.raises(UsageError, match="exists already"):
            make_dataset(tmp_path / name[0], num_images=1)
        assert [*(tmp_path / name[0]).rglob("*.*")] == [mine]
    again = make_dataset(tmp_path / "b", num_images=6, seed=1, image_hw=(72, 64), max_people=3)
    assert again.read_bytes() == path.read_bytes()


def test_nonsense_is_refused(tmp_path: Path) -> None:
    for arguments in ({"num_images": 0}, {"max_people": 0}, {"turn_deg": 200}, {"image_hw": (4, 4)}):
        with pytest.raises(UsageError):
            make_dataset(tmp_path / "x", **arguments)
    assert not (tmp_path / "x").exists()
