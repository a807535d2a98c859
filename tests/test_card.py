from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from ebapose.card import (
    Calibration,
    CodecSpec,
    InputSpec,
    ModelCard,
    card_path,
    parse_card,
    read_card,
    sha256_of,
    verify_sha256,
)
from ebapose.errors import ModelFileError
from ebapose.skeleton import COCO17, Skeleton

FACE = Skeleton("face", ("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)), ((1, 2),), (0.02, 0.03, 0.03))


def make_card(**changes) -> ModelCard:
    return ModelCard(
        name="eba_prnetcc18_128x96",
        architecture="eba_prnetcc18",
        options={"attention": False},
        input=InputSpec(size_hw=(128, 96)),
        codec=CodecSpec(sigma=(3.0, 4.0)),
        about={"data": ["COCO"], "ap": 0.5},
        **changes,
    )


@pytest.mark.parametrize(
    "card",
    [
        make_card(),
        make_card(skeleton=FACE),
        make_card(skeleton=replace(COCO17, sigmas=(0.1,) * 17)),  # a built-in name, but not the built-in skeleton
        make_card(calibration=Calibration(score_scale=(1.0,) * 17, sigma_scale=(0.5,) * 17, measured_on="val2017")),
    ],
)
def test_json_round_trip(card):
    assert parse_card(card.to_json(), "a.card.json") == card


def test_built_in_skeletons_are_written_by_name():
    assert json.loads(make_card().to_json())["skeleton"] == "coco17"
    assert json.loads(make_card(skeleton=FACE).to_json())["skeleton"]["keypoint_names"] == list(FACE.keypoint_names)
    assert json.loads(make_card().to_json(skeleton=FACE, sha256="ab"))["skeleton"]["name"] == "face"
    assert json.loads(make_card().to_json(sha256="ab"))["sha256"] == "ab"


def changed(**changes) -> str:
    data = json.loads(make_card().to_json())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            data[section][name] = value
        else:
            data[section] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ('{"name": "a"', "not JSON"),
        ("[]", "valid dictionary"),
        ("{}", "name: Field required"),
        (changed(colour=1), "unknown key 'colour'"),
        (changed(licence="MIT"), "unknown key 'licence', did you mean 'license'"),
        (changed(input__size=[1, 2]), "unknown key 'input.size', did you mean 'input.size_hw'"),
        (changed(input__size_hw=[100, 96]), "input size 100x96 is not divisible by 32"),
        (changed(input__size_hw=[0, 96]), "not divisible"),
        (changed(input__size_hw=[96]), "input.size_hw"),
        (changed(input__std=[1, 0, 1]), "input.std.1: Input should be greater than 0"),
        (changed(input__padding=0), "input.padding: Input should be greater than 0"),
        (changed(input__crop_center="left"), "input.crop_center"),
        (changed(codec__type="rle"), "codec.type"),
        (changed(codec__type="heatmap", codec__position="expected"), "this one is heatmap"),
        (changed(codec__sigma=[0, 1]), "codec.sigma.0: Input should be greater than 0"),
        (changed(codec__split_ratio=float("nan")), "codec.split_ratio"),
        (changed(skeleton="coco18"), "unknown skeleton 'coco18'; built in: coco17"),
        (changed(skeleton={"name": "a"}), "keypoint_names, edges, flip_pairs, sigmas missing"),
        (changed(skeleton=FACE.to_dict() | {"flip_pairs": []}), "left_eye has a mirror image right_eye"),
        (changed(skeleton=FACE.to_dict() | {"edges": [3]}), "edges cannot be"),
        (changed(skeleton=3), "skeleton"),
        (changed(calibration__score_scale=[1.0] * 16), "calibration.score_scale: one number per keypoint"),
        (changed(calibration__sigma_scale=[1.0]), "calibration.sigma_scale: one number per keypoint"),
    ],
)
def test_wrong_cards_are_refused_in_one_line(text, why):
    with pytest.raises(ModelFileError, match=why) as caught:
        parse_card(text, "a.card.json")
    assert str(caught.value).startswith("a.card.json: ")
    assert "\n" not in str(caught.value)


def test_cards_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        make_card().name = "other"


@pytest.mark.parametrize(
    ("model", "card"),
    [("a/b.onnx", "a/b.card.json"), ("b.int8.onnx", "b.int8.card.json"), ("b", "b.card.json")],
)
def test_the_card_lies_beside_its_model(model, card):
    assert card_path(Path(model)) == Path(card)


def test_cards_are_read_from_beside_the_model(tmp_path):
    model = tmp_path / "b.onnx"
    assert read_card(model) is None
    (tmp_path / "b.card.json").write_text(make_card().to_json())
    assert read_card(model) == make_card()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"null"])
def test_damaged_cards_are_named(tmp_path, content):
    (tmp_path / "b.card.json").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"b\.card\.json"):
        read_card(tmp_path / "b.onnx")


def test_a_folder_is_no_card(tmp_path):
    (tmp_path / "b.card.json").mkdir()
    with pytest.raises(ModelFileError, match=r"b\.card\.json"):
        read_card(tmp_path / "b.onnx")


def test_the_file_must_be_the_one_of_the_card(tmp_path):
    model = tmp_path / "b.onnx"
    model.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert sha256_of(model) == digest
    verify_sha256(model, make_card(sha256=digest))
    verify_sha256(model, make_card())
    model.write_bytes(b"weightz")
    with pytest.raises(ModelFileError, match=r"b\.onnx: sha256 differs from its card b\.card\.json"):
        verify_sha256(model, make_card(sha256=digest))
    model.unlink()
    with pytest.raises(ModelFileError, match=r"b\.onnx: No such file"):
        verify_sha256(model, make_card(sha256=digest))


def test_the_weights_of_an_openvino_model_are_part_of_it(tmp_path):
    model = tmp_path / "b.xml"
    model.write_bytes(b"graph")
    (tmp_path / "b.bin").write_bytes(b"weights")
    card = make_card(sha256=sha256_of(model))
    assert card.sha256 == hashlib.sha256(b"graphweights").hexdigest()
    (tmp_path / "b.bin").write_bytes(b"weightz")
    with pytest.raises(ModelFileError, match=r"b\.xml: sha256 differs from its card"):
        verify_sha256(model, card)
    (tmp_path / "b.bin").unlink()
    with pytest.raises(ModelFileError, match=r"b\.bin: No such file"):
        verify_sha256(model, card)
