from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebapose.errors import InputError
from ebapose.skeleton import COCO17, SKELETONS, Skeleton, mirrored_name, name_side

FACE = Skeleton("face", ("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)), ((1, 2),), (0.02, 0.03, 0.03))


@pytest.mark.parametrize(
    ("name", "side", "mirrored"),
    [
        ("left_eye", "left", "right_eye"),
        ("eye_left", "left", "eye_right"),
        ("Right Ear", "right", "Left Ear"),
        ("LEFT-HIP", "left", "RIGHT-HIP"),
        ("l_knee", "left", "r_knee"),
        ("R_Knee", "right", "L_Knee"),
        ("upper_left_lip", "left", "upper_right_lip"),
        ("nose", None, "nose"),
        ("cleft", None, "cleft"),
        ("collar", None, "collar"),
        ("rightmost", None, "rightmost"),
    ],
)
def test_sides_are_read_from_names(name, side, mirrored):
    assert name_side(name) == side
    assert mirrored_name(name) == mirrored
    assert mirrored_name(mirrored) == name


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"keypoint_names": (), "sigmas": (), "edges": (), "flip_pairs": ()}, "at least one"),
        ({"keypoint_names": ("nose", "nose", "right_eye")}, "unique"),
        ({"sigmas": (0.1, 0.1)}, "2 sigmas for 3 keypoints"),
        ({"sigmas": (0.1, 0.1, 0.0)}, "positive"),
        ({"sigmas": (0.1, 0.1, -1.0)}, "positive"),
        ({"sigmas": (0.1, 0.1, float("nan"))}, "positive"),
        ({"sigmas": (0.1, 0.1, float("inf"))}, "positive"),
        ({"edges": ((0, 3),)}, r"edge \(0, 3\)"),
        ({"edges": ((-1, 0),)}, r"edge \(-1, 0\)"),
        ({"edges": ((1, 1),)}, "two different"),
        ({"flip_pairs": ((1, 5),)}, r"flip pair \(1, 5\)"),
        ({"flip_pairs": ((2, 2),)}, "two different"),
        ({"flip_pairs": ((1, 2), (2, 0))}, "more than one flip pair"),
        ({"flip_pairs": ((1, 2), (1, 2))}, "more than one flip pair"),
        ({"flip_pairs": ((0, 1),)}, "disagrees with the names"),
        ({"flip_pairs": ()}, "left_eye has a mirror image right_eye"),
    ],
)
def test_contradictions_are_refused(changes, why):
    with pytest.raises(InputError, match=why) as caught:
        replace(FACE, **changes)
    assert "skeleton 'face'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_of_nameless_sides_are_taken():
    hand = Skeleton("hand", ("a", "b", "c"), (), ((0, 2),), (0.1, 0.1, 0.1))
    np.testing.assert_array_equal(hand.flip_indices, [2, 1, 0])


def test_a_left_keypoint_without_a_right_one_stands_alone():
    watch = Skeleton("watch", ("left_wrist",), (), (), (0.1,))
    assert watch.sides == ("left",)
    np.testing.assert_array_equal(watch.flip_indices, [0])


@given(st.permutations(range(12)), st.integers(0, 6))
def test_flipping_twice_changes_nothing(order, num_pairs):
    pairs = tuple(zip(order[:num_pairs], order[num_pairs : 2 * num_pairs], strict=True))
    skeleton = Skeleton("any", tuple(f"k{i}" for i in range(12)), (), pairs, (0.1,) * 12)
    np.testing.assert_array_equal(skeleton.flip_indices[skeleton.flip_indices], np.arange(12))
    assert (skeleton.flip_indices != np.arange(12)).sum() == 2 * num_pairs


def test_flip_indices_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        COCO17.flip_indices[0] = 5


@pytest.mark.parametrize("skeleton", [*SKELETONS.values(), FACE])
def test_json_round_trip(skeleton):
    assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton


@pytest.mark.parametrize("part", ["name", "keypoint_names", "edges", "flip_pairs", "sigmas"])
def test_missing_parts_are_named(part):
    data = FACE.to_dict()
    del data[part]
    with pytest.raises(InputError, match=f"{part} missing"):
        Skeleton.from_dict(data)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("keypoint_names", "nose"),
        ("keypoint_names", None),
        ("edges", [[0, 1, 2]]),
        ("edges", [0, 1]),
        ("flip_pairs", [["left", "right"]]),
        ("flip_pairs", 3),
        ("sigmas", ["wide", 1, 1]),
        ("sigmas", None),
    ],
)
def test_wrong_parts_are_named(part, value):
    with pytest.raises(InputError, match=f"skeleton 'face': {part} cannot be"):
        Skeleton.from_dict(FACE.to_dict() | {part: value})


def test_coco17_is_cocos():
    assert COCO17.num_keypoints == 17
    names = [COCO17.keypoint_names[i] for i in COCO17.flip_indices[[0, 5, 16]]]
    assert names == ["nose", "right_shoulder", "left_ankle"]
    assert COCO17.sides.count("left") == COCO17.sides.count("right") == 8
    published = [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    np.testing.assert_allclose(COCO17.sigmas, np.array(published) / 10)
