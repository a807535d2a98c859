from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

import ebapose.training.loader as loader
from ebapose.config import parse_config
from ebapose.data.coco import load_coco
from ebapose.errors import InputError
from ebapose.skeleton import COCO17
from ebapose.training.config import DataConfig
from ebapose.training.loader import load_records


def test_an_annotation_file_without_names_takes_a_given_skeleton(people, tmp_path):
    data = json.loads((people / "val" / "annotations.json").read_text())
    for key in ("keypoints", "skeleton", "flip_pairs", "sigmas"):
        data["categories"][0].pop(key, None)
    (tmp_path / "bare.json").write_text(json.dumps(data))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(COCO17.to_dict()))

    def read(skeleton):
        source = {"annotations": "bare.json", "images": str(people / "val" / "images"), "skeleton": skeleton}
        config = parse_config(DataConfig, {"root": str(tmp_path), "train": source}, "data")
        return load_records(config)[0][0].skeleton

    assert read("coco17") == read("own.yaml") == read(COCO17.to_dict()) == COCO17
    with pytest.raises(InputError, match="no keypoint names"):
        read(None)
    with pytest.raises(InputError, match="sigmas missing"):
        read({"name": "x", "keypoint_names": [], "edges": [], "flip_pairs": []})


def test_a_source_may_be_some_of_the_pictures_only(people):
    def read(pattern):
        source = {"annotations": "val/annotations.json", "images": "val/images", "only": pattern}
        config = parse_config(DataConfig, {"root": str(people), "train": source}, "data")
        return load_records(config)[0][0]

    everyone = read("*")
    chosen = read("00000[13]*")
    names = [everyone[i].image_path.name for i in range(len(everyone))]
    expected = [name for name in names if name[5] in "13" and name.startswith("00000")]
    assert 0 < len(expected) < len(names)
    assert [chosen[i].image_path.name for i in range(len(chosen))] == expected
    with pytest.raises(InputError, match=r"annotations\.json: no person .* in a picture like 'dogs/\*'"):
        read("dogs/*")


def test_a_source_may_leave_small_persons_out(people):
    def read(**choice):
        source = {"annotations": "val/annotations.json", "images": "val/images", **choice}
        return load_records(parse_config(DataConfig, {"root": str(people), "train": source}, "data"))[0][0]

    width, height = (read().boxes_xyxy[:, 2:] - read().boxes_xyxy[:, :2]).T
    sizes = np.maximum(height, width / 0.75)  # of the crops
    limit = float(np.sort(sizes)[len(sizes) // 2])
    kept = read(smallest_px=limit).boxes_xyxy
    assert 0 < len(kept) < len(sizes)
    np.testing.assert_array_equal(kept, read().boxes_xyxy[sizes >= limit - 1e-3])
    with pytest.raises(
        InputError, match=r"no person with a labelled keypoint in a picture like '0\*' of 9000 px and more"
    ):
        read(only="0*", smallest_px=9000)


def test_a_file_of_several_sources_is_read_once(people, monkeypatch):
    read = []
    monkeypatch.setattr(loader, "load_coco", lambda path, *rest: [read.append(path), load_coco(path, *rest)][1])
    file = {"annotations": "val/annotations.json", "images": "val/images"}
    sources = [file, {**file, "only": "00000[13]*", "repeat": 2}, {**file, "skeleton": "coco17"}]
    train, val = load_records(parse_config(DataConfig, {"root": str(people), "train": sources, "val": file}, "data"))
    assert read == [people / "val/annotations.json"] * 2  # another skeleton would be another reading of it
    assert len(train[0]) == len(train[2]) == len(val) > len(train[1]) > 0


def test_one_of_several_categories_can_be_chosen(people, tmp_path):
    data = json.loads((people / "val" / "annotations.json").read_text())
    dog = {"id": 9, "name": "dog", "keypoints": ["nose", "tail"], "flip_pairs": [], "sigmas": [0.1, 0.1]}
    data["categories"].append(dog)
    data["annotations"][0] |= {"category_id": 9, "keypoints": [5, 5, 2, 9, 9, 2], "num_keypoints": 2}
    (tmp_path / "zoo.json").write_text(json.dumps(data))
    source = {"annotations": "zoo.json", "images": str(people / "val" / "images")}

    def read(*names):
        sources = [{**source, "category": name} for name in names]
        return load_records(parse_config(DataConfig, {"root": str(tmp_path), "train": sources}, "data"))[0]

    assert [(r.category_id, len(r)) for r in read("dog", "dog")] == [(9, 1), (9, 1)]
    assert len(read("person")[0]) == len(data["annotations"]) - 1
    with pytest.raises(InputError, match=r"several categories \(person, dog\): choose one by its name"):
        read(None)
    with pytest.raises(InputError, match=r"zoo\.json: keypoints .* differ"):
        read("person", "dog")
