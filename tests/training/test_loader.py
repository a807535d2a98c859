from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

import ebapose.training.loader as loader
from ebapose.card import InputSpec
from ebapose.codecs import Heatmap, SimCC
from ebapose.config import parse_config
from ebapose.data.coco import load_coco
from ebapose.errors import InputError
from ebapose.skeleton import COCO17
from ebapose.training.config import DataConfig, TrainConfig
from ebapose.training.loader import TrainCollate, TrainSamples, load_records


def test_an_annotation_file_without_names_takes_a_given_skeleton(people, tmp_path):
    data = json.loads((people / "val" / "annotations.json").read_text())
    for key in ("keypoints", "skeleton", "flip_pairs", "sigmas"):
        data["categories"][0].pop(key, None)
    data["categories"][0]["name"] = "gymnast"
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


def _cut_off(size_px: int = 64) -> dict:
    """A sample of four keypoints: labelled, estimated, labelled outside of the crop, cut off."""
    return {
        "image": np.zeros((size_px, size_px, 3), np.uint8),
        "keypoints": np.array([[20, 30], [40, 50], [200, 30], [0, 0]], np.float32),
        "visibility": np.array([2, 1, 2, 0], np.uint8),
        "weights": np.array([1, 0.3, 1, 1], np.float32),
        "absent": np.array([False, False, False, True]),
    }


def test_what_is_absent_is_in_no_place_more_than_in_another():
    codec = SimCC((64, 64), 2.0, (3.0, 3.0))
    batch, usual = (TrainCollate(codec, weight)([(_cut_off(), [])]) for weight in (0.5, 0.0))
    assert usual.weights.tolist() == [[1, pytest.approx(0.3), 0, 0]]
    assert batch.weights.tolist() == [[1, pytest.approx(0.3), 0.5, 0.5]]
    for target, before in zip(batch.targets, usual.targets, strict=True):
        np.testing.assert_array_equal(target[0, :2], before[0, :2])
        np.testing.assert_allclose(target[0, 2:], 1 / 128)
        assert not before[0, 2:].any()


def test_what_is_absent_is_on_no_heatmap():
    batch = TrainCollate(Heatmap((64, 64)), 0.5)([(_cut_off(), [])])
    assert batch.weights[0, 2:].tolist() == [0.5, 0.5]
    assert batch.targets[0][0, 0].max() > 0.5
    assert not batch.targets[0][0, 2:].any()


def test_what_is_cut_off_is_absent_and_what_a_complete_source_leaves_out(recipe):
    config = parse_config(
        TrainConfig, recipe | {"augment": {"truncation_probability": 1.0, "rotation_deg": 0}}, "recipe"
    )
    records, _ = load_records(config.data)
    records[0].visibility[:, 9] = 0  # nobody's left wrist is labelled
    spec = InputSpec(size_hw=(64, 64))
    for complete in (False, True):
        source = config.data.train[0].model_copy(update={"complete": complete})
        own = config.model_copy(update={"data": config.data.model_copy(update={"train": (source,)})})
        samples = [TrainSamples(records, own, spec, seed=0)[0, i][0] for i in range(len(records[0]))]
        absent = np.stack([sample["absent"] for sample in samples])
        flipped = np.array([np.linalg.det(sample["matrix"][:, :2]) < 0 for sample in samples])
        assert absent[~flipped, 9].all() == absent[flipped, 10].all() == complete
        cut_off = np.delete(absent, [9, 10], axis=1)
        assert cut_off.any()
        assert not cut_off.all()
        assert not np.stack([sample["visibility"] for sample in samples])[absent].any()
