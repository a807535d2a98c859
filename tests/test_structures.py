from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from ebapose.errors import InputError
from ebapose.skeleton import COCO17
from ebapose.structures import Boxes, Frame, Poses


def make_poses(num: int = 3) -> Poses:
    g = np.random.default_rng(0)
    boxes = Boxes.from_xywh(g.random((num, 4)) * 50, np.linspace(0, 1, num))
    return Poses(
        g.random((num, 17, 2)) * 100,
        g.random((num, 17)),
        np.full((num, 17, 2), np.nan),
        boxes,
        COCO17,
        "test",
        (90, 120),
        np.arange(num),
    )


# --- Frame ------------------------------------------------------------------------------------------------------------


def test_frame_knows_its_size():
    assert Frame(np.zeros((3, 5, 3), np.uint8)).hw == (3, 5)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((3, 5), np.uint8), r"uint8 \(3, 5\)"),
        (np.zeros((3, 5, 4), np.uint8), r"uint8 \(3, 5, 4\)"),
        (np.zeros((3, 5, 3), np.float32), "float32"),
        ([[1, 2]], "list"),
        (None, "NoneType"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
    ],
)
def test_frame_refuses_other_arrays(image, found):
    with pytest.raises(InputError, match=f"a.jpg: .*{found}"):
        Frame(image, "a.jpg")


# --- Boxes ------------------------------------------------------------------------------------------------------------


def test_boxes_from_both_conventions_agree():
    a, b = Boxes.from_xyxy([[1, 2, 4, 6]], [0.5]), Boxes.from_xywh([[1, 2, 3, 4]], [0.5])
    np.testing.assert_array_equal(a.xyxy, b.xyxy)
    np.testing.assert_array_equal(a.xywh, [[1, 2, 3, 4]])
    assert len(a) == 1


def test_arrays_do_not_keep_objects_out_of_lists_and_keys():
    a, b = Boxes.from_xyxy([[1, 2, 4, 6]]), Boxes.from_xyxy([[1, 2, 4, 6]])
    assert a == a
    assert a != b  # each is its own
    assert b in [a, b]
    assert {a: 1, b: 2}[b] == 2


def test_one_box_may_be_given_flat_and_scores_default_to_one():
    boxes = Boxes.from_xyxy([1, 2, 4, 6])
    assert boxes.xyxy.shape == (1, 4)
    np.testing.assert_array_equal(boxes.scores, [1])
    assert boxes.xyxy.dtype == boxes.scores.dtype == np.float32


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), ()])
def test_no_boxes(empty):
    for boxes in (Boxes.from_xyxy(empty), Boxes.from_xywh(empty), Boxes(empty, [])):
        assert len(boxes) == 0
        assert boxes.xyxy.shape == boxes.xywh.shape == (0, 4)
        assert len(boxes[[]]) == len(boxes[:0]) == 0


@pytest.mark.parametrize(
    ("xyxy", "scores", "why"),
    [
        ([[1, 2, 3]], [1], r"boxes: shape \(1, 3\), expected \(any, 4\)"),
        ([[1, 2, 3, 4]], [1, 1], r"box scores: shape \(2,\), expected \(1\)"),
        ([[1, 2, 3, 4]], 1, "box scores: shape"),
        ([[1, 2, 3, np.nan]], [1], "finite"),
        ([[1, 2, 3, np.inf]], [1], "finite"),
        ([[0, 0, 1, 1], [100, 50, 30, 80]], [1, 1], r"\(100, 50, 30, 80\) is no left, top, right, bottom"),
        ([[1, 2, 3, 4]], [1.5], "box scores must lie in 0..1"),
        ([[1, 2, 3, 4]], [np.nan], "box scores must lie in 0..1"),
        ([["a", "b", "c", "d"]], [1], "array of numbers"),
        ([[1, 2, 3, 4], [1, 2]], [1, 1], "array of numbers"),
    ],
)
def test_wrong_boxes_are_refused(xyxy, scores, why):
    with pytest.raises(InputError, match=why):
        Boxes(xyxy, scores)


def test_five_numbers_are_no_box():
    with pytest.raises(InputError, match="expected"):
        Boxes.from_xyxy([[1, 2, 3, 4, 0.9]])


@pytest.mark.parametrize("boxes", [[[1, 2, 3, 4], [1, 2, 3]], [["a", "b", "c", "d"]], [[1, 2, 3, 10**400]]])
def test_what_is_no_table_of_numbers_is_no_boxes(boxes):
    for make in (Boxes.from_xyxy, Boxes.from_xywh):
        with pytest.raises(InputError, match=r"^boxes: "):
            make(boxes)
        with pytest.raises(InputError, match=r"^box scores: "):
            make([[1, 2, 3, 4]], [["a"]])


def test_boxes_keep_their_own_copy_and_cannot_be_changed():
    corners = np.array([[1, 2, 4, 6]], np.float32)
    boxes = Boxes.from_xyxy(corners)
    corners[:] = 0
    np.testing.assert_array_equal(boxes.xyxy, [[1, 2, 4, 6]])
    with pytest.raises(ValueError, match="read-only"):
        boxes.xyxy[0, 0] = 5
    with pytest.raises(FrozenInstanceError):
        boxes.scores = np.ones(1)


# --- Poses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (np.s_[1:], [1, 2]),
        ([2, 0], [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        ([False, False, True], [2]),
        (1, [1]),
        (-1, [2]),
        ([], []),
    ],
)
def test_persons_are_chosen_by_index(index, chosen):
    poses = make_poses()
    some = poses[index]
    assert len(some) == len(chosen)
    np.testing.assert_array_equal(some.track_ids, chosen)
    for field in ("keypoints", "scores", "sigmas_px"):
        np.testing.assert_array_equal(getattr(some, field), getattr(poses, field)[chosen])
    np.testing.assert_array_equal(some.boxes.xyxy, poses.boxes.xyxy[chosen])
    assert (some.skeleton, some.model, some.image_hw) == (poses.skeleton, poses.model, poses.image_hw)


def test_an_index_too_far_is_an_error():
    with pytest.raises(IndexError):
        make_poses()[3]


def test_pose_scores_weigh_keypoints_and_box():
    poses = make_poses()
    np.testing.assert_allclose(poses.pose_scores, [0, 0.5, 1] * poses.scores.mean(axis=1))
    assert poses.pose_scores.dtype == np.float32


def test_nobody():
    for poses in (Poses.empty(COCO17, "test", (9, 9)), make_poses()[[]]):
        assert len(poses) == 0
        assert poses.keypoints.shape == poses.sigmas_px.shape == (0, 17, 2)
        assert poses.pose_scores.shape == (0,)
    assert Poses([], [], [], Boxes.from_xyxy([]), COCO17, "test", (9, 9)).scores.shape == (0, 17)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"keypoints": np.zeros((3, 16, 2))}, r"keypoints: shape \(3, 16, 2\), expected \(3, 17, 2\)"),
        ({"keypoints": np.zeros((2, 17, 2))}, "keypoints: shape"),
        ({"keypoints": np.zeros((3, 17, 3))}, "keypoints: shape"),
        ({"keypoints": np.full((3, 17, 2), np.nan)}, "keypoints: coordinates must be finite"),
        ({"scores": np.zeros((3, 17, 1))}, "keypoint scores: shape"),
        ({"scores": np.full((3, 17), 1.01)}, "keypoint scores must lie in 0..1"),
        ({"scores": np.full((3, 17), -0.01)}, "keypoint scores must lie in 0..1"),
        ({"scores": np.full((3, 17), np.nan)}, "keypoint scores must lie in 0..1"),
        ({"sigmas_px": np.zeros((3, 17))}, "keypoint sigmas: shape"),
        ({"boxes": Boxes.from_xyxy([])}, "shape"),
        ({"track_ids": [1, 2]}, r"track_ids: shape \(2,\), expected \(3,\)"),
    ],
)
def test_wrong_poses_are_refused(changes, why):
    with pytest.raises(InputError, match=why):
        replace(make_poses(), **changes)


def test_poses_cannot_be_changed():
    poses = make_poses()
    for array in (poses.keypoints, poses.scores, poses.sigmas_px, poses.track_ids):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(FrozenInstanceError):
        poses.model = "other"


def test_photographs_have_no_track_ids():
    assert replace(make_poses(), track_ids=None)[1:].track_ids is None
