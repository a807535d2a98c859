"""ONNX files: the card travels inside, parameters keep their names, and half storage is exactly that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from ebapose.card import METADATA_KEY, Calibration, ModelCard, card_path, read_card, sha256_of  # noqa: E402
from ebapose.export.onnx import export_onnx, rounded_to_half  # noqa: E402
from ebapose.inference.runtime import TorchRuntime, load_model_file  # noqa: E402
from ebapose.models import create_model, default_card  # noqa: E402
from ebapose.models.weights import load_model, load_weights  # noqa: E402
from ebapose.skeleton import Skeleton  # noqa: E402

SKELETON = Skeleton(
    name="stick",
    keypoint_names=("top", "left_end", "right_end"),
    edges=((0, 1), (0, 2)),
    flip_pairs=((1, 2),),
    sigmas=(0.05, 0.1, 0.1),
)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    return create_model("test_simcc_64x64", SKELETON.num_keypoints).eval()


@pytest.fixture(scope="module")
def card(model: Any) -> ModelCard:
    """With everything that a card can hold."""
    card = default_card(model, name="stick", skeleton=SKELETON)
    calibration = Calibration(
        score_scale=(1.5, 1, 1), score_shift=(0, 0.25, 0), sigma_scale=(2, 1, 1), measured_on="nothing"
    )
    about = {"training": {"samples": 130_000}, "note": "é 人"}
    changes = {"license": "Apache-2.0", "calibration": calibration, "about": about}
    return card.model_copy(update={**changes, "input": card.input.model_copy(update={"mean": (1.0, 2.0, 3.5)})})


@pytest.fixture(scope="module")
def files(model: Any, card: ModelCard, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The exported file with full weights (False) and with half weights (True)."""
    folder = tmp_path_factory.mktemp("exports")
    return {half: export_onnx(model, card, folder / f"{half}.onnx", half=half) for half in (False, True)}


@pytest.mark.parametrize("half", [False, True])
def test_the_card_beside_the_file(half: bool, files: dict[bool, Path], card: ModelCard) -> None:
    beside = read_card(files[half])
    assert beside == card.model_copy(update={"sha256": sha256_of(files[half])})


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
def test_the_card_inside_of_the_file(runtime: Any, files: dict[bool, Path], card: ModelCard, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(files[True].read_bytes())
    assert not card_path(alone).exists()
    assert load_model_file(alone, runtime)[1] == card


def test_nothing_of_the_machine_is_in_the_file(files: dict[bool, Path]) -> None:
    proto = onnx.load(files[False])
    assert [entry.key for entry in proto.metadata_props] == [METADATA_KEY]
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)
    assert b"/site-packages/" not in files[False].read_bytes()


def test_parameters_keep_their_names_and_values(files: dict[bool, Path], model: Any) -> None:
    found, _ = load_weights(files[False])
    expected = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_half_storage_rounds_matrices_and_nothing_else(files: dict[bool, Path], model: Any) -> None:
    full = {t.name: t for t in onnx.load(files[False]).graph.initializer}
    half = {t.name: t for t in onnx.load(files[True]).graph.initializer}
    state = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert set(state) <= set(half)
    for name, tensor in state.items():
        kind = onnx.TensorProto.FLOAT16 if tensor.ndim >= 2 else onnx.TensorProto.FLOAT
        assert half[name].data_type == kind, name
        assert full[name].data_type == onnx.TensorProto.FLOAT
    stored, _ = load_weights(files[True])
    for name, tensor in state.items():
        expected = tensor.half().float() if tensor.ndim >= 2 else tensor
        assert torch.equal(stored[name], expected), name
    saved = files[False].stat().st_size - files[True].stat().st_size
    assert saved == pytest.approx(2 * sum(t.numel() for t in state.values() if t.ndim >= 2), rel=0.05)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
def test_files_calculate_what_their_weights_say(
    runtime: Any, half: bool, files: dict[bool, Path], model: Any, card: ModelCard
) -> None:
    pytest.importorskip(runtime)
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    expected = TorchRuntime(rounded_to_half(model) if half else model, card)(crops)
    found = load_model_file(files[half], runtime)[0](crops)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape == (3, 3, 128)
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())
    if half:  # the rounding is seen at all, so the comparison above means something
        plain = TorchRuntime(model, card)(crops)
        assert max(np.abs(a - b).max() for a, b in zip(plain, expected, strict=True)) > 1e-6


def test_training_can_go_on_from_the_file(files: dict[bool, Path]) -> None:
    module, _ = load_model(files[True])
    assert any(name.endswith("running_mean") for name in module.state_dict())  # batch norms were not fused
    module.train()
    outputs = module(torch.zeros(2, 3, 64, 64))
    sum(output.sum() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
