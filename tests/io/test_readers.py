"""Box, id and pose files: read where they are right, refused in one line where they are not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebapose.errors import InputError
from ebapose.io.readers import (
    find_entry,
    image_id_from_name,
    read_detections,
    read_image_ids,
    read_poses_json,
    with_bare_names,
)


def put(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_detections(tmp_path: Path) -> None:
    entries = [
        {"image_id": 5, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.5},
        {"image_id": 5, "bbox": [1, 2, 0, 4]},  # no area: the predictor's concern
        {"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1},  # not a person
        {"image_id": 6, "category_id": 1, "bbox": [None, 0, 1, 1], "score": 1},
        {"image_id": 6, "category_id": 1, "bbox": [0, 0, -1, 1], "score": 1},
        {"image_id": 6, "category_id": 1, "bbox": [0, 0, 1e30, 1], "score": 1},
        {"image_id": 6, "category_id": 1, "bbox": [0, 0, 1e39, 1], "score": 1},
        {"file_name": "a/b.jpg", "bbox": [0.5, 0, 1, 1], "score": 1},
    ]
    found = read_detections(put(tmp_path / "d.json", entries))
    assert {key: len(boxes) for key, boxes in found.boxes.items()} == {5: 2, 6: 0, "a/b.jpg": 1}
    np.testing.assert_array_equal(found.boxes[5].xyxy, [[10, 20, 40, 60], [1, 2, 1, 6]])
    np.testing.assert_array_equal(found.boxes[5].scores, [0.5, 1])
    assert found.unusable == {
        6: [
            f"entry {number} of {tmp_path / 'd.json'}: bbox {why}"
            for number, why in (
                (3, "(nan, 0, 1, 1) is not finite"),
                (4, "(0, 0, -1, 1) has a negative size"),
                (5, "(0, 0, 1e+30, 1) is absurdly large"),
                (6, "(0, 0, 1e+39, 1) is absurdly large"),
            )
        ]
    }


def test_annotations_as_boxes(tmp_path: Path) -> None:
    data = {
        "images": [{"id": 1, "file_name": "x/1.jpg"}, {"id": 2, "file_name": "x/2.jpg"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 6], "iscrowd": 0},
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 60], "iscrowd": 1},
        ],
    }
    found = read_detections(put(tmp_path / "gt.json", data))
    assert {name: len(boxes) for name, boxes in found.boxes.items()} == {"x/1.jpg": 1, "x/2.jpg": 0}


def test_find_entry(tmp_path: Path) -> None:
    entries = [
        {"image_id": 397133, "bbox": [0, 0, 1, 1]},
        {"image_id": "stem", "bbox": [0, 0, 2, 2]},
        {"file_name": "a/b.jpg", "bbox": [0, 0, 3, 3]},
    ]
    boxes = read_detections(put(tmp_path / "d.json", entries)).boxes

    def width(name: str) -> float | None:
        found = find_entry(boxes, name)
        return None if found is None else float(found.xyxy[0, 2])

    assert width("val2017/000000397133.jpg") == 1
    assert width("/x/stem.png") == 2
    assert width("/data/a/b.jpg") == 3
    assert width("b.jpg") is None
    boxes = with_bare_names({**boxes, "x/c.jpg": boxes["a/b.jpg"], "y/c.jpg": boxes["a/b.jpg"]})
    assert width("b.jpg") == 3
    assert width("x/c.jpg") == 3
    assert width("c.jpg") is None  # two have this name
    assert width("000000000001.jpg") is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("not json", "not JSON (line 1"),
        ("[" * 100_000, "not JSON"),
        ({"a": 1}, "neither a list of COCO detections nor COCO annotations"),
        ([1], "entry 0: an object expected"),
        ([{"bbox": [0, 0, 1, 1]}], "entry 0: image_id (a number) or file_name (a text) expected, found None"),
        ([{"image_id": 1}], "entry 0: bbox: 4 numbers expected, found None"),
        ([{"image_id": 1, "bbox": [1, 2, 3]}], "entry 0: bbox: 4 numbers expected"),
        ([{"image_id": 1, "bbox": [1, 2, 3, "x"]}], "entry 0: bbox: 4 numbers expected"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 10**400]}], "entry 0: bbox: 4 numbers expected"),
        (f'[{{"image_id": 1, "bbox": [1, 2, 3, {"9" * 5000}]}}]', "a number has too many digits"),
        ({"images": [{"id": math.inf, "file_name": "a"}], "annotations": []}, "image 0: file_name and id"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": "high"}], "entry 0: score: a number expected"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 87}], "entry 0: score 87 does not lie in 0..1"),
        ({"images": {}, "annotations": []}, '"images" must be a list'),
        ({"images": [{"id": 1}], "annotations": []}, "image 0: file_name and id"),
        (
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "bbox": [0, 0, 1, 1]}]},
            "entry 0: image_id 2 is not among the images",
        ),
    ],
)
def test_wrong_detections(tmp_path: Path, data: Any, why: str) -> None:
    path = put(tmp_path / "d.json", data)
    with pytest.raises(InputError) as error:
        read_detections(path)
    assert str(error.value).startswith(f"{path}: ")
    assert why in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("categories", "category"),
    [
        ([{"id": 3, "name": "gymnast"}], 3),
        ([{"id": 1, "name": "dog"}, {"id": 7, "name": "person", "keypoints": ["nose"]}], 7),
        ([{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}], 1),
        ([{"id": 1, "name": "bicycle"}, {"id": 2, "name": "person"}], 2),
        ([3, {"id": "x"}], 1),
        (None, 1),
    ],
)
def test_which_category_is_the_person(
    tmp_path: Path, categories: Any, category: int, caplog: pytest.LogCaptureFixture
) -> None:
    people = [{"image_id": 1, "bbox": [0, 0, 4, 4], "category_id": number} for number in (1, 2, 3, 7)]
    data = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": people, "categories": categories}
    found = read_detections(put(tmp_path / "gt.json", data))
    assert len(found.boxes["a.jpg"]) == 1
    data["annotations"] = [person for person in people if person["category_id"] != category]
    others = ", ".join(str(person["category_id"]) for person in data["annotations"])
    assert caplog.messages == []
    assert len(read_detections(put(tmp_path / "gt.json", data)).boxes["a.jpg"]) == 0
    (line,) = caplog.messages
    assert line.endswith(f"gt.json: no box of category {category} (person), only of {others}")
    caplog.clear()
    data["annotations"].append({"image_id": 1, "bbox": [0, 0, 4, 4], "category_id": category, "iscrowd": 1})
    for people in (data["annotations"], []):  # a data set may show nobody
        data["annotations"] = people
        assert len(read_detections(put(tmp_path / "gt.json", data)).boxes["a.jpg"]) == 0
    assert caplog.messages == []


def test_missing_files(tmp_path: Path) -> None:
    for read in (read_detections, read_image_ids, read_poses_json):
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not JSON"):
        read_detections(tmp_path / "bytes.json")


def test_image_ids(tmp_path: Path) -> None:
    assert image_id_from_name("x9/COCO_val2014_000000397133.jpg") == 397133
    with pytest.raises(InputError, match="no digits"):
        image_id_from_name("dir12/photo.jpg")
    images = [{"file_name": n, "id": i} for i, n in enumerate(["a/x.jpg", "b/x.jpg", "c/y.jpg"], 10)]
    ids = read_image_ids(put(tmp_path / "ann.json", {"images": images}))
    assert ids("/anywhere/b/x.jpg") == 11
    assert ids("elsewhere/y.jpg") == 12
    with pytest.raises(InputError, match=r"x\.jpg stands more than once in"):
        ids("x.jpg")
    with pytest.raises(InputError, match="no such file_name in"):
        ids("z.jpg")
    with pytest.raises(InputError, match="not a COCO annotations file"):
        read_image_ids(put(tmp_path / "list.json", []))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": "other"}, "not a poses file"),
        ({"version": 2}, "version 2 of the poses format, this program reads 1"),
        ({"skeleton": None}, "skeleton or model is missing or wrong"),
        ({"images": 5}, '"images" must be a list'),
        ({"images": [{}]}, "image 0: 'persons' is missing"),
        (
            {"images": [{"persons": [{"keypoints": [[1, 2, 0.5, 1, 1]]}]}]},
            "image 0: keypoints of shape (1, 5)",
        ),
        ({"images": [{"persons": [{"keypoints": [[1, 2]]}]}]}, "image 0: "),
        ({"images": [{"persons": [{"keypoints": "text"}]}]}, "image 0: "),
    ],
)
def test_wrong_poses(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    skeleton = {"name": "two", "keypoint_names": ["a", "b"], "edges": [], "flip_pairs": [], "sigmas": [1, 1]}
    data = {"format": "ebapose-poses", "version": 1, "model": "m", "skeleton": skeleton, "images": [{}], **change}
    path = put(tmp_path / "p.json", data)
    with pytest.raises(InputError) as error:
        read_poses_json(path)
    assert str(error.value).startswith(f"{path}: ")
    assert why in str(error.value)


def test_boxes_may_begin_before_the_picture(tmp_path):
    """A person who is cut off by the picture's left or top edge has a box that begins before it."""
    (tmp_path / "d.json").write_text(json.dumps([{"image_id": 5, "bbox": [-10, -20.5, 30, 40], "score": 1}]))
    found = read_detections(tmp_path / "d.json")
    np.testing.assert_array_equal(found.boxes[5].xyxy, [[-10, -20.5, 20, 19.5]])
    assert not found.unusable
