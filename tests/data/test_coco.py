from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coco_entries import CATEGORY, person, picture
from ebapose.data.coco import load_coco
from ebapose.data.coco_file import category_skeleton, find_images_dir, load_skeleton
from ebapose.errors import EbaposeError, InputError, UsageError
from ebapose.skeleton import COCO17

HAND = {
    "id": 3,
    "name": "hand",
    "keypoints": ["thumb_left", "thumb_right", "wrist"],
    "skeleton": [[1, 3], [2, 3]],
    "flip_pairs": [[0, 1]],
    "sigmas": [0.05, 0.05, 0.07],
}


def test_records_hold_what_the_file_says(write_coco: Callable[..., Path]) -> None:
    hidden = person(7, 2, bbox=[1.5, 2, 30, 40], area=555.5, keypoint_weights=[0.5] * 17)
    hidden["keypoints"][:6] = [3.0, 4.0, 1, 9.0, 9.0, 0]
    path = write_coco([hidden, person(5, 1)], [picture(1), picture(2, ".png")])
    data = load_coco(path)
    assert [r.annotation_id for r in data] == [5, 7]  # by image, not by annotation order
    record = data[1]
    assert record.image_path == path.parent / "2.png"
    assert record.image_path.is_file()
    assert record.image_hw == (120, 160)
    assert record.image_id == 2
    assert record.box_xyxy.tolist() == [1.5, 2, 31.5, 42]
    assert record.area == 555.5
    assert record.keypoints[0].tolist() == [3, 4]
    assert record.keypoints[1].tolist() == [0, 0]  # not labelled
    assert record.visibility[:3].tolist() == [1, 0, 2]
    assert record.keypoint_weights[:3].tolist() == [0.5, 0, 0.5]
    assert record.num_keypoints == 16
    assert not record.iscrowd
    assert record.score == 1
    assert data[0].keypoint_weights.tolist() == [1.0] * 17
    assert data.skeleton is COCO17


def test_persons_leaves_out_what_cannot_be_trained_on(write_coco: Callable[..., Path]) -> None:
    people = [
        person(1),
        person(2, iscrowd=1),
        person(3, keypoints=[0] * 51),
        person(4, area=0),
        person(5, bbox=[170, 10, 20, 20]),
        person(6, bbox=[-10, -20, 400, 400]),
        person(7, keypoints=None),
    ]
    persons = load_coco(write_coco(people)).persons()
    assert persons.annotation_ids.tolist() == [1, 6]
    assert persons[1].box_xyxy.tolist() == [0, 0, 159, 119]


def test_file_names_in_other_bytes_than_utf8(write_coco: Callable[..., Path], tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.jpg")
    entries = [picture(1) | {"file_name": "ü.jpg"}, picture(2) | {"file_name": name}]
    data = load_coco(write_coco([person(image_id=2)], entries, pictures=False))
    assert data[0].image_path == tmp_path / name
    assert data.pictures_like("a*").tolist() == [True]


def test_a_byte_order_mark_is_no_mistake(write_coco: Callable[..., Path]) -> None:
    path = write_coco([person()])
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(load_coco(path)) == 1


def test_a_size_out_of_range_is_named_with_its_picture(write_coco: Callable[..., Path]) -> None:
    path = write_coco([], [picture(1), picture(2) | {"width": 2**31}], pictures=False)
    with pytest.raises(InputError, match=r"image 2: height and width must lie in 1\.\.1073741824"):
        load_coco(path)


def test_detections_replace_the_persons(write_coco: Callable[..., Path], tmp_path: Path) -> None:
    data = load_coco(write_coco([person()], [picture(1), picture(2)]))
    boxes = [
        {"image_id": 2, "category_id": 1, "bbox": [-5, 1, 20, 30], "score": 0.5},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.4},
        {"image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10], "score": 0.9},
        {"image_id": 99, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9},
    ]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(boxes))
    found = data.detections(path, threshold=0.5)
    assert len(found) == 1
    assert found[0].box_xyxy.tolist() == [-5, 1, 15, 31]
    assert found[0].image_id == 2
    assert found[0].score == 0.5
    assert found[0].num_keypoints == 0
    with pytest.raises(InputError, match=r"boxes.json.*0\.95"):
        data.detections(path, threshold=0.95)
    path.write_text(json.dumps([*boxes, boxes[0] | {"bbox": [1, 2, -3, 4]}]))
    with pytest.raises(InputError, match=r"boxes.json: detection 4: bbox has a negative width"):
        data.detections(path)
    for wrong in ({"score": 87}, {"score": -0.1}, {"bbox": [1e39, 0, 5, 5]}):
        path.write_text(json.dumps([*boxes, boxes[0] | wrong]))
        with pytest.raises(InputError, match=r"boxes.json: detection 4: bbox must be .* score lie in 0..1"):
            data.detections(path)
    for broken in ({}, [1], [{"image_id": 1}], [boxes[0] | {"bbox": [1, 2, 3]}], [boxes[0] | {"score": "high"}]):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"boxes.json"):
            data.detections(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": None}, "annotation 4: bbox is missing"),
        ({"bbox": [1, 2, 3]}, "annotation 4: bbox is not 4 finite numbers"),
        ({"bbox": "wide"}, "annotation 4: bbox"),
        ({"area": None}, "annotation 4: area is missing"),
        ({"area": float("nan")}, "annotation 4: area is not a finite number"),
        ({"keypoints": [1.0] * 50}, "annotation 4: keypoints is not 51 finite numbers"),
        ({"keypoints": [1, 1, 3] * 17}, "annotation 4: visibility"),
        ({"keypoint_weights": [1.0]}, "annotation 4: keypoint_weights"),
        ({"keypoint_weights": [-1.0] * 17}, "annotation 4: keypoint_weights"),
        ({"image_id": 8}, "annotation 4: image 8 is not listed"),
        ({"image_id": "1"}, "annotation 4: image_id"),
        ({"iscrowd": "no"}, "annotation 4: iscrowd"),
    ],
)
def test_a_bad_annotation_is_named(write_coco: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    path = write_coco([person(3), person(4, **change)])
    with pytest.raises(InputError, match=message) as caught:
        load_coco(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"images": []}',
        "[" * 100_000,
        '{"images": [1], "annotations": [], "categories": []}',
        "\x00",
    ],
)
def test_malformed_files_give_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json") as caught:
        load_coco(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"b\.json: No such file"):
        load_coco(tmp_path / "b.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["images", "annotations", "categories"]), st.data())
def test_any_odd_value_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, part: str, data: st.DataObject
) -> None:
    content = {"images": [picture()], "annotations": [person()], "categories": [dict(CATEGORY)]}
    key = data.draw(st.sampled_from(sorted(content[part][0])))
    content[part][0][key] = data.draw(json_values)
    path = tmp_path_factory.getbasetemp() / "odd.json"
    path.write_text(json.dumps(content))
    try:
        read = load_coco(path)
    except EbaposeError as error:
        message = str(error)
    else:
        message = ""
        assert np.isfinite(read.keypoints).all()
        assert len(read.persons()) <= 1
    assert "\n" not in message


def test_ids_that_stand_twice_are_refused(write_coco: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="several annotations have the same id 3"):
        load_coco(write_coco([person(3), person(3)]))
    with pytest.raises(InputError, match="several images have the same id 1"):
        load_coco(write_coco([person(3)], [picture(1), picture(1)]))


def test_detected_boxes_are_of_the_annotations_category(write_coco: Callable[..., Path], tmp_path: Path) -> None:
    data = load_coco(write_coco([person(1, category_id=7)], category=CATEGORY | {"id": 7}))
    assert data.category_id == 7
    box = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "score": 0.9}
    (tmp_path / "boxes.json").write_text(json.dumps([box]))
    assert len(data.detections(tmp_path / "boxes.json")) == 1


def test_custom_skeleton_from_the_category(write_coco: Callable[..., Path]) -> None:
    hand = person(1, category_id=3, keypoints=[1, 2, 2, 3, 4, 1, 0, 0, 0])
    other = person(2, category_id=9)
    path = write_coco([hand, other], categories=[{"id": 9, "name": "dog"}, HAND])
    data = load_coco(path)
    assert len(data) == 1
    assert data.skeleton.name == "hand"
    assert data.skeleton.edges == ((0, 2), (1, 2))
    assert data.skeleton.flip_indices.tolist() == [1, 0, 2]


@pytest.mark.parametrize("missing", [["sigmas"], ["flip_pairs"], ["flip_pairs", "sigmas"]])
def test_flip_pairs_and_sigmas_are_never_guessed(missing: list[str]) -> None:
    category = {key: value for key, value in HAND.items() if key not in missing}
    with pytest.raises(InputError, match=f"'hand' lacks {' and '.join(missing)}.*pass a skeleton"):
        category_skeleton(category, "x.json")


def test_wrong_skeletons_are_refused() -> None:
    for change in (
        {"flip_pairs": [[0, 2]]},
        {"flip_pairs": [[0]]},
        {"flip_pairs": 3},
        {"sigmas": [0.1]},
        {"sigmas": ["a", "b", "c"]},
        {"skeleton": [[1, 9]]},
        {"keypoints": []},
        {"keypoints": [1, 2, 3]},
    ):
        with pytest.raises(InputError, match=r"hand"):
            category_skeleton(HAND | change, "x.json")


def test_coco_names_are_coco_unless_other_sigmas_are_given() -> None:
    assert category_skeleton(CATEGORY, "x") is COCO17
    assert category_skeleton(CATEGORY | {"sigmas": list(COCO17.sigmas)}, "x") is COCO17
    own = category_skeleton(CATEGORY | {"sigmas": [0.1] * 17}, "x")
    assert own.sigmas == (0.1,) * 17
    assert own.flip_pairs == COCO17.flip_pairs


def test_load_skeleton(tmp_path: Path, write_coco: Callable[..., Path]) -> None:
    assert load_skeleton("coco17") is COCO17
    for name, dump in (("s.json", json.dumps), ("s.yaml", yaml.safe_dump)):
        (tmp_path / name).write_text(dump(COCO17.to_dict()))
        assert load_skeleton(tmp_path / name) == COCO17
    (tmp_path / "s.json").write_text('{"name": "x", "keypoint_names": 3, "edges": [], "flip_pairs": [], "sigmas": []}')
    with pytest.raises(InputError, match=r"s\.json: "):
        load_skeleton(tmp_path / "s.json")
    with pytest.raises(UsageError, match=r"nosuch: neither a file nor a known skeleton \(coco17, "):
        load_skeleton("nosuch")
    three = {"name": "hand", "keypoint_names": HAND["keypoints"], "edges": [], "flip_pairs": [[0, 1]]}
    (tmp_path / "hand.yaml").write_text(yaml.safe_dump(three | {"sigmas": HAND["sigmas"]}))
    with pytest.raises(InputError, match="17 keypoints, skeleton hand 3"):
        load_coco(write_coco([person()]), skeleton=tmp_path / "hand.yaml")


def test_several_keypoint_categories_need_a_name(write_coco: Callable[..., Path]) -> None:
    path = write_coco([person()], categories=[CATEGORY, HAND])
    with pytest.raises(InputError, match=r"several categories \(person, hand\)"):
        load_coco(path)
    assert len(load_coco(path, category="person")) == 1
    with pytest.raises(UsageError, match="no category 'cat'"):
        load_coco(path, category="cat")


@pytest.mark.parametrize("folder", ["images", "val2017", "images/val2017", "annotations/images", "annotations"])
def test_images_are_found_where_they_usually_are(tmp_path: Path, folder: str) -> None:
    annotations = tmp_path / "annotations" / "person_keypoints_val2017.json"
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "a.jpg").touch()
    assert find_images_dir(annotations, "a.jpg") == tmp_path / folder


def test_workers_get_arrays_not_objects(write_coco: Callable[..., Path]) -> None:
    people = [person(i) for i in range(1, 301)]
    data = load_coco(write_coco(people, pictures=False))
    assert data.nbytes < 300 * 600
    assert len(pickle.dumps(data)) < 300 * 600 + 5000
    copy = pickle.loads(pickle.dumps(data))
    assert copy[17].image_path == data[17].image_path
    with pytest.raises(IndexError):
        data[300]
    assert data.select([5, 3]).annotation_ids.tolist() == [6, 4]
