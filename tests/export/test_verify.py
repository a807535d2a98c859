"""Exports that prove themselves: every family in every runtime, and a file that differs does not come into being."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from ebapose import zoo  # noqa: E402
from ebapose.card import ModelCard, card_path, read_card, verify_sha256  # noqa: E402
from ebapose.errors import EbaposeError, ModelFileError, UsageError  # noqa: E402
from ebapose.export import files, verify  # noqa: E402
from ebapose.export.files import export_model  # noqa: E402
from ebapose.export.onnx import export_onnx, rounded_to_half  # noqa: E402
from ebapose.export.verify import compare, example_crops, open_module, weights_file  # noqa: E402
from ebapose.inference.runtime import load_model_file  # noqa: E402
from ebapose.models import registry  # noqa: E402
from ebapose.models.weights import save_weights  # noqa: E402
from ebapose.skeleton import COCO17  # noqa: E402

EVERY = [info.architecture for info in registry.list_models(include_test=True)]
TINY = [name for name in EVERY if name.startswith("test_")]
# Deeper networks repeat the blocks of 18 layers, or of 50, and graphs take long to trace: one of 50 stands for all.
TRACED = [name for name in EVERY if not re.search("34|50|101|152", name)] + ["eba_prnetcc50"]


@pytest.mark.parametrize("architecture", TRACED)
def test_all_runtimes_give_the_outputs_of_pytorch(architecture: str, tmp_path: Path) -> None:
    half = architecture in TINY
    out = tmp_path / "out"
    source = f"{architecture}_64x64"
    result = export_model(source, out, precision="fp16" if half else "fp32")
    name = source + ("" if half else ".fp32")
    assert result.path == out / f"{name}.onnx"
    assert [key.partition(" ")[0] for key in result.differences] == ["openvino", "onnxruntime", "16"][: 2 + half]
    for key, found in result.differences.items():
        if not key.startswith("16 bit"):
            assert found.outputs < 1e-4
            assert found.largest_px < 0.01
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.card.json", f"{name}.onnx"]
    card = read_card(result.path)
    assert card is not None
    assert card.sha256
    verify_sha256(result.path, card)
    lines = result.summary().splitlines()
    assert lines[0].startswith(f"{result.path}: ")
    assert len(lines) == 3 + half

    # Measured here, apart from what the export says of itself: any batch size, and all keypoints.
    module, _ = open_module(source)
    module = rounded_to_half(module) if half else module
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    planes = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.input.mean, card.input.std))
    with torch.inference_mode():
        expected = tuple(output.numpy() for output in module((planes - mean) / std))
    for name in ("openvino", "onnxruntime"):
        runtime, _ = load_model_file(result.path, name)  # type: ignore[arg-type]
        for num in (3, 1):
            for a, b in zip(expected, runtime(crops[:num]), strict=True):
                np.testing.assert_allclose(a[:num], b, atol=2e-4 * np.abs(a).max())


class Bent:
    """A runtime that puts out something else."""

    name, precision = "bent", "f32"

    def __init__(self, change: Callable[[np.ndarray], np.ndarray], path: Path) -> None:
        self.runtime, _ = load_model_file(path, "onnxruntime")
        self.change = change

    def __call__(self, batch: Any) -> tuple[np.ndarray, ...]:
        return tuple(self.change(output) for output in self.runtime(batch))


@pytest.mark.parametrize(
    "change",
    [lambda a: np.roll(a, 1, axis=-1), lambda a: a * 1.01, lambda a: a * np.nan],
    ids=["moved", "scaled", "NaN"],
)
def test_a_file_that_differs_is_not_written(
    change: Callable[[np.ndarray], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "installed_runtimes", lambda path: [Bent(change, path)])
    with pytest.raises(EbaposeError, match=r"test_simple_baseline_64x64: bent does not .* 0\.01 px and 1e-03 are tol"):
        export_model("test_simple_baseline_64x64", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_16_bit_cannot_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def coarse(model: Any) -> Any:
        rounded = rounded_to_half(model)
        with torch.no_grad():
            for parameter in rounded.parameters():
                parameter.copy_((parameter * 4).round() / 4)
        return rounded

    monkeypatch.setattr(verify, "rounded_to_half", coarse)
    monkeypatch.setattr("ebapose.export.onnx.rounded_to_half", coarse)
    with pytest.raises(EbaposeError, match="16 bit weights change the poses"):
        export_model("test_simple_baseline_64x64", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_older_export_survives_a_failed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_simple_baseline_64x64.onnx").write_text("the older file")
    (tmp_path / "test_simple_baseline_64x64.card.json").write_text("its card")
    monkeypatch.setattr(verify, "installed_runtimes", lambda path: [Bent(lambda a: a * 2, path)])
    with pytest.raises(EbaposeError):
        export_model("test_simple_baseline_64x64", tmp_path)
    assert (tmp_path / "test_simple_baseline_64x64.onnx").read_text() == "the older file"
    assert (tmp_path / "test_simple_baseline_64x64.card.json").read_text() == "its card"


def test_compare_measures_px_of_confident_keypoints() -> None:
    model = registry.create_model("test_simcc_64x64")
    card = registry.default_card(model)
    card = card.model_copy(update={"codec": card.codec.model_copy(update={"sigma": (1.0, 1.0)})})
    from ebapose.codecs import build_codec

    codec: Any = build_codec(card.codec, card.input, card.skeleton)
    points = np.full((2, 17, 2), 30.0)
    moved = points + np.array([0.3, 0.4])
    moved[1] = points[1]
    difference = compare(codec.perfect_logits(points), codec.perfect_logits(moved), card)
    confident = codec.decode(codec.perfect_logits(points)).scores >= 0.5
    assert difference.num_keypoints == confident.sum() > 10
    assert difference.largest_px == pytest.approx(0.5, abs=0.01)
    assert difference.mean_px == pytest.approx(0.25, abs=0.01)
    nothing = tuple(np.ones_like(array) for array in codec.perfect_logits(points))
    assert "no keypoint is confident" in str(compare(nothing, nothing, card))


def test_example_crops_are_the_same_every_time() -> None:
    card = registry.default_card(registry.create_model("test_simcc_64x64"))
    crops, origin = example_crops(card)
    assert crops.shape == (17, 64, 64, 3)
    assert origin == "crops (5 of photographs, 12 of drawn people)"
    np.testing.assert_array_equal(crops, example_crops(card)[0])
    assert (crops.std(axis=(1, 2, 3)) > 10).all()  # all show something


@pytest.mark.parametrize(
    ("model", "error", "cause"),
    [
        ("test_simc_64x64", UsageError, "did you mean 'test_simcc_64x64'"),
        ("test_simcc", UsageError, "add the input size"),
        ("gone.safetensors", ModelFileError, "gone.safetensors: no such file"),
        ("folder", ModelFileError, "folder: is a folder, not a model file"),
        ("", UsageError, "unknown model ''"),
    ],
)
def test_wrong_models(
    model: str, error: type[EbaposeError], cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(error, match=cause):
        export_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: cannot be written"):
        export_model("test_simcc_64x64", tmp_path / "file")


def test_a_folder_of_the_files_name_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_simcc_64x64.onnx").mkdir()
    (tmp_path / "test_simcc_64x64.card.json").write_text("its card")
    monkeypatch.setattr(files, "_write", None)
    with pytest.raises(UsageError, match=r"test_simcc_64x64\.onnx: is a folder"):
        export_model("test_simcc_64x64", tmp_path)
    assert (tmp_path / "test_simcc_64x64.card.json").read_text() == "its card"


def test_no_export_takes_the_card_of_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("test_simcc_64x64").mkdir()  # a folder of the network's name hides no network
    Path("own").mkdir()
    module, card = open_module("test_simcc_64x64")
    weights = Path("own/test_simcc_64x64.safetensors")
    save_weights(weights, module.state_dict(), card)
    monkeypatch.setattr(files, "_write", None)
    with pytest.raises(UsageError, match=r"test_simcc_64x64\.safetensors beside it has the card of that name"):
        export_model(weights, "own")
    for name in ("../evil", "a/b"):
        save_weights("named.safetensors", module.state_dict(), card.model_copy(update={"name": name}))
        with pytest.raises(UsageError, match="which is no name for a file"):
            export_model("named.safetensors", "own")
    assert {path.name for path in Path("own").iterdir()} == {weights.name, "test_simcc_64x64.card.json"}
    Path("named.onnx").touch()
    with pytest.raises(UsageError, match=r"named\.onnx beside it has the card"):
        save_weights("named.safetensors", module.state_dict(), card)


def test_a_full_disk_names_the_folder_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onnx.save", full)
    with pytest.raises(EbaposeError, match=f"{tmp_path}: cannot be written .No space left"):
        export_model("test_simcc_64x64", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_weights_come_from(tmp_path: Path) -> None:
    bundled = zoo.bundled_models()["default"]
    assert weights_file("default") == weights_file(zoo.bundled_card(bundled).name) == bundled
    assert weights_file(tmp_path / "a.onnx") == tmp_path / "a.onnx"
    assert weights_file("eba_prnetcc34_256x192") is None


def test_annotations_that_cannot_judge_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_write", None)
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.keypoint_names)}
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    person |= {"keypoints": [4, 4, 2] * 17, "num_keypoints": 17}
    picture = {"id": 1, "file_name": "gone.jpg", "width": 9, "height": 9}
    content = {"images": [picture], "annotations": [person], "categories": [category]}
    annotations = tmp_path / "people.json"
    for wrong, cause in (
        (content, r"gone\.jpg: no such picture \(1 of 1 are missing\)"),
        (content | {"annotations": []}, "no person with labelled keypoints"),
        (content | {"categories": [category, category | {"id": 2, "name": "dog"}]}, "several categories"),
        (content | {"images": 3}, "not a COCO keypoint file"),
    ):
        annotations.write_text(json.dumps(wrong))
        with pytest.raises(UsageError, match=cause):
            export_model("test_simcc_64x64", tmp_path / "out", annotations=annotations, images=tmp_path)
    assert not (tmp_path / "out").exists()
    two = content | {"categories": [category, category | {"id": 2, "name": "dog"}]}
    annotations.write_text(json.dumps(two))
    for name, cause in (("person", r"gone\.jpg: no such picture"), ("dog", "no person with"), ("cat", "no category")):
        with pytest.raises(UsageError, match=cause):
            export_model("test_simcc_64x64", tmp_path, annotations=annotations, images=tmp_path, category=name)
    with pytest.raises(UsageError, match="--category needs --annotations"):
        export_model("test_simcc_64x64", tmp_path, category="person")


def test_random_weights_are_the_same_every_time() -> None:
    """For timing: two exports of a name are comparable, and the caller's random state is left alone."""
    before = torch.random.get_rng_state()
    a, b = (open_module("test_simcc_64x64")[0].state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(before, torch.random.get_rng_state())


def test_export_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = registry.create_model("test_simcc_64x64").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    card: ModelCard = registry.default_card(model)
    path = export_onnx(model, card, tmp_path / "a.onnx", half=True)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert card_path(path).is_file()
