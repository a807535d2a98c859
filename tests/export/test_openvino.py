"""OpenVINO files and the precisions of `export_model`: a file alone is enough, and gives PyTorch's poses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

from ebapose.card import card_path
from ebapose.cli import main
from ebapose.errors import EbaposeError, ModelFileError, UsageError
from ebapose.export import files
from ebapose.export.files import export_model
from ebapose.export.openvino import export_openvino
from ebapose.export.verify import compare, example_crops, open_module
from ebapose.inference.loading import load
from ebapose.inference.runtime import OpenVINORuntime, TorchRuntime, VerifiedRuntime, load_model_file

TINY = ["test_eba_prnetcc_64x64", "test_simcc_64x64", "test_simple_baseline_64x64", "test_tfpose_64x64"]


@pytest.mark.parametrize("name", TINY)
def test_an_xml_alone_gives_the_poses_of_pytorch_at_any_batch_size(name: str, tmp_path: Path) -> None:
    path = export_model(name, tmp_path, format="openvino", precision="fp32").path
    assert path.name == f"{name}.openvino.fp32.xml"
    card_path(path).unlink()  # the one inside must do
    runtime, card = load_model_file(path)
    module, expected = open_module(name)
    assert card == expected
    crops = example_crops(card)[0]
    for count in (1, 5):
        found = compare(TorchRuntime(module, card)(crops[:count]), runtime(crops[:count]), card)
        assert found.outputs < 1e-4
        assert found.largest_px < 0.01


def test_a_trained_model_keeps_its_poses_in_every_precision(tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "fp16", "bf16"):
        result = export_model("default", tmp_path, format="openvino", precision=precision)
        (found,) = result.differences.values()
        assert found.mean_px < 0.1
        sizes[precision] = result.path.with_suffix(".bin").stat().st_size
        opened, _ = load_model_file(result.path)
        assert opened.precision == ("bf16" if precision == "bf16" and OpenVINORuntime.has_bfloat16() else "f32")
        assert result.note == "" or precision == "bf16"
    assert sizes["fp16"] == sizes["bf16"] < 0.6 * sizes["fp32"]


def test_bfloat16_that_was_not_proven_is_not_insisted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written on a CPU without bfloat16 and carried to one with it: there `load` compares before it trusts."""
    monkeypatch.setattr(OpenVINORuntime, "has_bfloat16", staticmethod(lambda: False))
    for kind in ("onnx", "openvino"):
        result = export_model(TINY[0], tmp_path, format=kind, precision="bf16")  # type: ignore[arg-type]
        assert "this CPU has no bfloat16: proven in float32 only" in result.summary()
        monkeypatch.setattr(OpenVINORuntime, "has_bfloat16", staticmethod(lambda: True))
        assert load_model_file(result.path)[0].precision == "f32"
        assert isinstance(load(result.path, detector="whole-image").runtime, VerifiedRuntime)
        monkeypatch.setattr(OpenVINORuntime, "has_bfloat16", staticmethod(lambda: False))


def test_predict_needs_nothing_but_the_file(tmp_path: Path) -> None:
    path = export_model("default", tmp_path / "model", format="openvino", precision="fp32").path
    card_path(path).unlink()
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((120, 90, 3), 128, np.uint8))
    picture, out = str(tmp_path / "grey.png"), str(tmp_path / "out")
    assert main(["predict", picture, "--whole-image", "--model", str(path), "--out", out, "--quiet"]) == 0
    from_file = load(path, "openvino", detector="whole-image")(np.full((120, 90, 3), 128, np.uint8))
    bundled = load("default", "openvino", detector="whole-image")(np.full((120, 90, 3), 128, np.uint8))
    np.testing.assert_allclose(from_file.scores, bundled.scores, atol=0.02)


def test_onnx_and_openvino_files_lie_in_one_folder(tmp_path: Path) -> None:
    for kind in ("onnx", "openvino"):
        for precision in ("fp32", "fp16", "bf16"):
            export_model("test_simcc_64x64", tmp_path, format=kind, precision=precision)  # type: ignore[arg-type]
    models = sorted(p for p in tmp_path.iterdir() if p.suffix in (".onnx", ".xml"))
    assert len(models) == 6
    for path in models:
        load_model_file(path)  # compares the sha256


def test_a_file_that_differs_does_not_come_into_being(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "OUTPUT_TOLERANCE", dict.fromkeys(files.OUTPUT_TOLERANCE, 0.0))
    with pytest.raises(EbaposeError, match=r"openvino fp16 is too far .* nothing was written: .*0\.0 is tolerated"):
        export_model("test_simcc_64x64", tmp_path, format="openvino", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_damage_and_wrong_usage_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--images needs --annotations"):
        export_model("test_simcc_64x64", tmp_path, images=tmp_path)
    with pytest.raises(UsageError, match="--skeleton needs --annotations"):
        export_model("test_simcc_64x64", tmp_path, skeleton="coco17")
    path = export_model("test_simcc_64x64", tmp_path, format="openvino").path
    path.with_suffix(".bin").unlink()
    with pytest.raises(ModelFileError, match=r"\.bin: No such file"):
        load_model_file(path)
    card_path(path).unlink()
    with pytest.raises(ModelFileError, match="OpenVINO cannot load it"):
        load_model_file(path)
    with pytest.raises(UsageError, match="cannot run an OpenVINO file"):
        load_model_file(path, "onnxruntime")


def test_an_interruption_leaves_the_older_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    card = open_module(TINY[0])[1]
    source = export_model(TINY[0], tmp_path / "onnx", precision="fp32").path
    path = export_openvino(source, card, tmp_path / "m.xml")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert set(before) == {"m.xml", "m.bin", "m.card.json"}

    def interrupted(model: object, written: Path, **_: object) -> None:
        written.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino, "save_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_openvino(source, card, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["onnx"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Exception from src/frontends:\nbasic_ios::clear: iostream error")

    source = export_model(TINY[0], tmp_path / "onnx", precision="fp32").path
    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(EbaposeError, match=r"m\.xml: cannot be written .*iostream error\); is the disk full"):
        export_openvino(source, open_module(TINY[0])[1], tmp_path / "out" / "m.xml")
    assert list((tmp_path / "out").iterdir()) == []
