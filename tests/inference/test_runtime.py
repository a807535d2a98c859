"""Runtimes: the same poses from each, and clear words about files that none of them can run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebapose import zoo
from ebapose.card import ModelCard, card_path
from ebapose.codecs import build_codec
from ebapose.errors import ModelFileError, UsageError
from ebapose.inference.detector import NanoDet
from ebapose.inference.loading import _agreement
from ebapose.inference.predictor import Predictor
from ebapose.inference.runtime import (
    OpenVINORuntime,
    Outputs,
    Runtime,
    VerifiedRuntime,
    available_cores,
    choose_runtime,
    load_model_file,
)
from ebapose.structures import Frame

TOLERANCE_PX = 0.05  # of the picture; what is measured is 0.001
MODEL = zoo.bundled_models()["default"]
CARD = zoo.bundled_card(MODEL)
HEIGHT, WIDTH = CARD.input.size_hw


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_runtimes_give_the_poses_of_openvino(
    runtime: Any, network: tuple[Runtime, ModelCard], nanodet: NanoDet, examples: list[Frame]
) -> None:
    pytest.importorskip(runtime)
    opened, card = network
    other, other_card = load_model_file(MODEL, runtime)
    assert (other.name, other_card) == (runtime, card)
    boxes = [nanodet(frame) for frame in examples]
    expected = Predictor(card, opened, nanodet, flip_test=True)(examples, boxes)
    found = Predictor(card, other, nanodet, flip_test=True)(examples, boxes)
    assert sum(len(poses) for poses in expected) == 5
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=TOLERANCE_PX)
        np.testing.assert_allclose(a.sigmas_px, b.sigmas_px, atol=TOLERANCE_PX)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_several_threads_may_call(network: tuple[Runtime, ModelCard]) -> None:
    batches = list(np.random.default_rng(0).integers(0, 256, (8, 2, HEIGHT, WIDTH, 3), np.uint8))
    expected = [network[0](batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(network[0], batches), expected, strict=True):
            for a, b in zip(found, alone, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not say where threads may run")
@pytest.mark.skipif(available_cores() < 2, reason="needs two CPU cores")
def test_threads_may_run_on_every_core() -> None:
    """Else the threads of several processes would share the first cores."""
    run = OpenVINORuntime(MODEL, threads=1)
    narrowest = available_cores()
    with ThreadPoolExecutor(1) as pool:
        works = pool.submit(lambda: [run(np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)) for _ in range(10)])
        while not works.done():
            for thread in Path("/proc/self/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    narrowest = min(narrowest, len(os.sched_getaffinity(int(thread.name))))
    assert len(works.result()) == 10
    assert narrowest == available_cores()


CHILD_ENDS = """
import gc, signal, subprocess, sys
from pathlib import Path
from ebapose.inference.runtime import OpenVINORuntime
signal.signal(signal.SIGCHLD, lambda *_: None)
runtimes = [OpenVINORuntime(Path(sys.argv[1])) for _ in range(3)]
while runtimes:
    del runtimes[0]
    gc.collect()
    subprocess.run([sys.executable, "-c", ""])
print("alive")
"""


def test_signals_arrive_after_runtimes_are_gone() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD_ENDS, str(MODEL)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def linked(folder: Path, **changes: Any) -> Path:
    """The bundled model with another card."""
    path = folder / "model.onnx"
    path.symlink_to(MODEL)
    card = json.loads(card_path(MODEL).read_text(encoding="utf-8"))
    for key, value in changes.items():
        card[key] = {**card[key], **value} if isinstance(value, dict) else value
        if value is None:
            del card[key]
    card_path(path).write_text(json.dumps(card), encoding="utf-8")
    return path


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {"input": {"size_hw": [HEIGHT + 32, WIDTH]}},
            f"input of shape Nx{HEIGHT}x{WIDTH}x3, its card describes Nx{HEIGHT + 32}x{WIDTH}x3",
        ),
        (
            {"codec": {"split_ratio": CARD.codec.split_ratio + 1}},
            f"output of shape Nx17x{int(WIDTH * CARD.codec.split_ratio)} and .*, its card describes Nx17x",
        ),
        (
            {"codec": {"type": "heatmap", "position": "peak"}},
            f"output of shape .*, its card describes Nx17x{HEIGHT // 4}x{WIDTH // 4}$",
        ),
        ({"codec": {"type": "coordinate", "position": "peak"}}, "its card describes Nx17x2$"),
        ({"skeleton": "mpii16", "calibration": None}, "its card describes Nx16x"),
        ({"sha256": "0" * 64}, r"sha256 differs from its card model\.card\.json: damaged or replaced"),
    ],
)
def test_a_card_that_is_not_the_files_is_refused(
    changes: dict[str, Any], cause: str, runtime: Any, tmp_path: Path
) -> None:
    pytest.importorskip(runtime)
    path = linked(tmp_path, **changes)
    with pytest.raises(ModelFileError, match=cause) as caught:
        load_model_file(path, runtime)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("m.onnx", "openvino"),
        ("m.onnx", "onnxruntime"),
        ("m.onnx", "torch"),
        ("m.xml", "openvino"),
        ("m.safetensors", "torch"),
        ("m.pth", "openvino"),
    ],
)
@pytest.mark.parametrize(
    "content", [b"", b"no model at all\n", MODEL.read_bytes()[:50_000]], ids=["empty", "text", "cut"]
)
def test_a_file_that_is_no_model(
    name: str, runtime: Any, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(runtime)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        load_model_file(path, runtime)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # the runtimes keep quiet


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(ModelFileError, match=r"m\.onnx: is a folder, not a model file"):
        load_model_file(tmp_path / "m.onnx")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # a mode of 000 does not stop root
    with pytest.raises(ModelFileError, match="Permission denied"):
        load_model_file(MODEL)


def test_a_model_without_a_card(tmp_path: Path) -> None:
    path = tmp_path / "detector.onnx"
    path.symlink_to(zoo.DETECTOR)
    with pytest.raises(ModelFileError, match="no model card beside it or inside it"):
        load_model_file(path)


def test_the_file_alone_is_enough(tmp_path: Path, network: tuple[Runtime, ModelCard]) -> None:
    path = tmp_path / "alone.onnx"
    path.symlink_to(MODEL)
    card = load_model_file(path)[1]
    assert (card.input, card.codec, card.skeleton) == (network[1].input, network[1].codec, network[1].skeleton)


@pytest.mark.parametrize(
    ("name", "runtime", "cause"),
    [
        ("a.safetensors", "openvino", "cannot run safetensors"),
        ("a.xml", "torch", "cannot run an OpenVINO file"),
        ("a.onnx", "caffe", "unknown runtime 'caffe'"),
    ],
)
def test_runtimes_that_cannot_run_a_kind_of_file(name: str, runtime: Any, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        choose_runtime(Path(name), runtime)
    assert choose_runtime(Path("a.safetensors"), "auto") == "torch"
    assert choose_runtime(Path("a.onnx"), "auto") == "openvino"


class Fixed:
    """A runtime that always answers the same."""

    name = "openvino"

    def __init__(self, precision: str, outputs: Outputs) -> None:
        self.precision, self.outputs, self.calls = precision, outputs, 0

    def __call__(self, batch: np.ndarray) -> Outputs:
        self.calls += 1
        return self.outputs


def logits(card: ModelCard, offset_px: float) -> Outputs:
    codec: Any = build_codec(card.codec, card.input, card.skeleton)
    return codec.perfect_logits(np.full((1, 17, 2), 40 + offset_px))


@pytest.mark.parametrize(
    ("offset_px", "chosen"), [(0.02, "bf16"), (0.5, "f32"), (float("nan"), "f32")], ids=["close", "apart", "NaN"]
)
def test_a_fast_runtime_must_agree_before_it_is_used(
    offset_px: float, chosen: str, network: tuple[Runtime, ModelCard]
) -> None:
    card = network[1]
    sharp = card.model_copy(update={"codec": card.codec.model_copy(update={"sigma": (1.0, 1.0)})})
    exact, fast = Fixed("f32", logits(sharp, 0.0)), Fixed("bf16", logits(sharp, offset_px))
    assert build_codec(sharp.codec, sharp.input, sharp.skeleton).decode(exact.outputs).scores.max() > 0.5
    runtime = VerifiedRuntime(exact, lambda: fast, _agreement(sharp))
    batch = np.zeros((VerifiedRuntime.WORTH_IT, 8, 8, 3), np.uint8)
    for _ in range(2):
        assert runtime(batch) is exact.outputs
    assert runtime.precision == chosen
    assert runtime(batch) is (fast if chosen == "bf16" else exact).outputs
    assert (exact.calls, fast.calls) == ((2, 2) if chosen == "bf16" else (3, 1))


def test_a_fast_runtime_is_not_opened_for_a_few_crops() -> None:
    exact = Fixed("f32", ())
    opened = []

    def open_fast() -> Runtime:
        opened.append(1)
        raise ModelFileError("it cannot be opened")

    runtime = VerifiedRuntime(exact, open_fast, lambda exact, fast: True)
    for _ in range(2):
        runtime(np.zeros((VerifiedRuntime.WORTH_IT // 2, 8, 8, 3), np.uint8))
    assert (opened, exact.calls) == ([], 2)
    for _ in range(2):
        runtime(np.zeros((1, 8, 8, 3), np.uint8))
    assert (opened, exact.calls, runtime.precision) == ([1], 4, "f32")


def test_a_batch_without_a_confident_keypoint_decides_nothing(network: tuple[Runtime, ModelCard]) -> None:
    card = network[1]
    vague = tuple(np.zeros_like(array) for array in logits(card, 0.0))
    exact, fast = Fixed("f32", vague), Fixed("bf16", vague)
    runtime = VerifiedRuntime(exact, lambda: fast, _agreement(card))
    for _ in range(3):
        assert runtime(np.zeros((VerifiedRuntime.WORTH_IT, 8, 8, 3), np.uint8)) is vague
        assert runtime.precision == "f32"
    assert (exact.calls, fast.calls) == (3, 2)
    for _ in range(VerifiedRuntime.PATIENCE // VerifiedRuntime.WORTH_IT + 3):  # it gives up some time
        runtime(np.zeros((VerifiedRuntime.WORTH_IT, 8, 8, 3), np.uint8))
    assert exact.calls > fast.calls + 3
    assert runtime.precision == "f32"
