from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ebapose.skeleton import COCO17
from ebapose.structures import Boxes
from pose_sets import STANDING

ROOT = Path(__file__).parents[2]
FLIP = list(COCO17.flip_indices)
PICTURE = np.zeros((200, 300, 3), np.uint8)
PERSON, OTHER = [20.0, 0.0, 80.0, 160.0], [180.0, 0.0, 240.0, 160.0]
BESIDE = STANDING + np.array([160, 0])


@pytest.fixture(scope="module")
def bystanders():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("bystanders", ROOT / "benchmarks/bystanders.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


@pytest.fixture
def teacher(bystanders, monkeypatch):
    """Sees these points, in the picture and in its mirror image; `off` moves keypoints in the mirror image only."""

    def teach(points, score=0.8, off=None):
        looks = []

        def look(_, image, box_xywh):
            seen = np.concatenate([points, np.full((17, 1), score)], axis=1)
            if len(looks) % 2:
                seen[:, 0] = image.shape[1] - 1 - seen[:, 0]
                seen = seen[FLIP]
                if off is not None:
                    seen[:, :2] += off
            looks.append(box_xywh)
            return seen

        monkeypatch.setattr(bystanders, "look", look)
        return looks

    return teach


def labelled(points=STANDING):
    return {"bbox": [20, 0, 60, 160], "keypoints": np.insert(points, 2, 2, axis=1).ravel().tolist()}


def detector(*boxes):
    return lambda frame: Boxes.from_xyxy(list(boxes))


def test_both_looks_are_mirror_images_of_each_other(bystanders, teacher):
    looks = teacher(BESIDE)
    seen = bystanders.look_twice(None, PICTURE, np.array(OTHER))
    np.testing.assert_allclose(seen[:, :2], BESIDE, atol=1e-9)
    np.testing.assert_allclose(seen[:, 2], 0.8)
    assert looks == [[180, 0, 60, 160], [60, 0, 60, 160]]


def test_keypoints_that_the_mirror_image_moves_or_that_leave_the_picture_have_no_weight(bystanders, teacher):
    off = np.zeros((17, 2))
    off[FLIP[9]] = (0, 20)
    points = BESIDE.copy()
    points[16] = (200, 205)
    teacher(points, off=off)
    seen = bystanders.look_twice(None, PICTURE, np.array(OTHER))
    assert np.flatnonzero(seen[:, 2] == 0).tolist() == [9, 16]


def test_a_person_who_is_labelled_is_not_found_again(bystanders, teacher):
    counts = Counter()
    looks = teacher(STANDING)
    assert bystanders.find(PICTURE, [labelled()], detector(PERSON), None, counts) == []
    assert not looks
    wider = [0.0, 0.0, 140.0, 190.0]  # lies beside most of the labelled box, but the teacher sees the labelled person
    assert bystanders.find(PICTURE, [labelled() | {"bbox": [100, 0, 60, 160]}], detector(wider), None, counts) == []
    assert len(looks) == 2
    assert counts == {"boxes looked at": 1}


def test_the_person_beside_is_found_once_and_written_as_estimated(bystanders, teacher):
    teacher(BESIDE)
    near = [178.0, 0.0, 240.0, 160.0]
    (box, seen), *more = bystanders.find(PICTURE, [labelled()], detector(OTHER), None, Counter())
    assert not more
    entry = bystanders.annotation(7, 3, box, seen)
    assert entry["bbox"] == [180, 0, 60, 160]
    assert (entry["id"], entry["image_id"], entry["num_keypoints"]) == (7, 3, 17)
    np.testing.assert_allclose(np.reshape(entry["keypoints"], (17, 3)), np.insert(BESIDE, 2, 1, axis=1))
    assert entry["keypoint_weights"] == [0.8] * 17
    known = [np.insert(BESIDE, 2, 2, axis=1)]
    assert bystanders.is_known(bystanders.look_twice(None, PICTURE, np.array(near)), known, 160)


def test_small_and_doubtful_persons_are_left_out(bystanders, teacher):
    looks = teacher(BESIDE, score=0.2)
    assert bystanders.find(PICTURE, [], detector([0.0, 0.0, 20.0, 30.0]), None, Counter()) == []
    assert not looks
    assert bystanders.find(PICTURE, [], detector(OTHER), None, Counter()) == []
    assert len(looks) == 2
