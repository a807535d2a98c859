"""Who takes part in a benchmark: models and other networks, each in every installed runtime that can run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebapose.benchmark.machine import is_installed
from ebapose.card import ModelCard
from ebapose.errors import MissingDependencyError, ModelFileError
from ebapose.inference.runtime import OnnxRuntime, OpenVINORuntime, Runtime, TorchRuntime, load_model_file
from ebapose.models.registry import create_model, default_card


@dataclass(frozen=True)
class Contender:
    """A network in a runtime; `run(n)` sends n crops through it."""

    system: str
    runtime: str
    precision: str
    run: Callable[[int], object]


def open_model(path: Path, threads: int, folder: Path, notes: list[str]) -> tuple[Path, ModelCard, list[Contender]]:
    """The model in every runtime that can run it, PyTorch among them if its weights can be read.

    Args:
        path: the model's file.
        threads: CPU threads.
        folder: for the file that other runtimes need of .safetensors weights.
        notes: gets a line if the weights cannot be read.

    Returns:
        The file that was opened, the model's card, and the contenders.

    Raises:
        ModelFileError: the file cannot be used. MissingDependencyError: what it needs is not installed.
    """
    module = None
    if path.suffix in (".onnx", ".safetensors") and is_installed("torch"):
        from ebapose.models.weights import load_model

        try:
            module, card = load_model(path)
        except (ModelFileError, MissingDependencyError) as error:
            if path.suffix == ".safetensors":
                raise
            notes.append(f"not timed in PyTorch: {error}")
        else:
            if path.suffix == ".safetensors":
                path = _export(module, card, folder)
    _, card = load_model_file(path, "auto", threads)
    return path, card, _in_all_runtimes(card.name, path, module, card, threads)


def open_registered(name: str, threads: int, folder: Path) -> list[Contender]:
    """A registered model with random weights in every runtime; its file is written to a folder of its own in `folder`.

    Raises UsageError where `create_model` does not take the name, MissingDependencyError without torch.
    """
    module, card, path = _with_random_weights(name, folder / "random", {})  # trained weights may have the same name
    return _in_all_runtimes(f"{name} (random weights)", path, module, card, threads)


def open_for_prediction(system: str, name: str, options: Mapping[str, Any], threads: int, folder: Path) -> Contender:
    """A registered model with random weights in float32 in the runtime that predicts; its file is written to `folder`.

    Raises UsageError where `create_model` does not take the name or the options, MissingDependencyError without torch.
    """
    _, card, path = _with_random_weights(name, folder, options)
    return _contender(system, load_model_file(path, "auto", threads)[0], card)


def _with_random_weights(name: str, folder: Path, options: Mapping[str, Any]) -> tuple[Any, ModelCard, Path]:
    if not is_installed("torch"):
        raise MissingDependencyError("torch", "torch", f"timing {name}")
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = create_model(name, **options).eval()
    card = default_card(module)
    return module, card, _export(module, card, folder)


def _export(module: Any, card: ModelCard, folder: Path) -> Path:
    from ebapose.export.onnx import export_onnx

    return export_onnx(module, card, folder / f"{card.name}.onnx")


def _in_all_runtimes(system: str, path: Path, module: Any, card: ModelCard, threads: int) -> list[Contender]:
    runtimes: list[Runtime] = []
    if module is not None:
        runtimes.append(TorchRuntime(module, card, threads))
    runtimes += _open_everywhere(path, threads)
    return [_contender(system, runtime, card) for runtime in runtimes]


def _contender(system: str, runtime: Runtime, card: ModelCard) -> Contender:
    crops = np.random.default_rng(0).integers(0, 256, (64, *card.input.size_hw, 3), dtype=np.uint8)

    def run(count: int) -> object:
        return runtime(np.resize(crops, (count, *crops.shape[1:])))

    return Contender(system, runtime.name, runtime.precision, run)


def _open_everywhere(path: Path, threads: int) -> list[OpenVINORuntime | OnnxRuntime]:
    """A model file in all installed runtimes, PyTorch aside."""
    opened: list[OpenVINORuntime | OnnxRuntime] = []
    if is_installed("openvino"):
        opened.append(OpenVINORuntime(path, threads))
        if opened[0].precision == "f32" and OpenVINORuntime.has_bfloat16():  # a file may insist on another
            opened.append(OpenVINORuntime(path, threads, "bf16"))
    if path.suffix == ".onnx" and is_installed("onnxruntime"):
        opened.append(OnnxRuntime(path, threads))
    if not opened:
        raise MissingDependencyError("onnxruntime", "onnxruntime", f"timing {path.name}")
    return opened


def open_other(path: Path, threads: int, size_hw: tuple[int, int]) -> list[Contender]:
    """Any network of one picture input; height and width in px are for inputs that leave them free.

    Raises ModelFileError where it cannot be fed.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    if path.suffix != ".onnx":
        raise ModelFileError(f"{path}: an ONNX file expected")
    contenders = []
    for runtime in _open_everywhere(path, threads):
        blob = _blob_for(runtime, path, size_hw)
        fixed = blob.shape[0]  # 0: the batch is free

        def run(count: int, runtime: Runtime = runtime, blob: NDArray[Any] = blob, fixed: int = fixed) -> None:
            for _ in range(-(-count // fixed) if fixed else 1):
                runtime(blob if fixed else np.zeros((count, *blob.shape[1:]), blob.dtype))

        try:
            run(1)
        except Exception as error:  # each runtime has exceptions of its own
            cause = " ".join(str(error).split())[:200]
            raise ModelFileError(f"{path}: {runtime.name} cannot run it on {blob.shape[1:]} input ({cause})") from None
        contenders.append(Contender(path.name, runtime.name, runtime.precision, run))
    return contenders


def _blob_for(runtime: OpenVINORuntime | OnnxRuntime, path: Path, size_hw: tuple[int, int]) -> NDArray[Any]:
    """Zeros of the shape and type that a network wants; batch 0 stands for a free one."""
    shape: list[int | None]
    if isinstance(runtime, OnnxRuntime):
        inputs = runtime.session.get_inputs()
        names = [i.type.removeprefix("tensor(").removesuffix(")") for i in inputs]
        shapes = [[n if isinstance(n, int) else None for n in i.shape] for i in inputs]
    else:
        inputs = runtime.model.inputs
        names = [i.get_element_type().get_type_name() for i in inputs]
        shapes = [
            [None if n.is_dynamic else n.get_length() for n in i.get_partial_shape()]
            if i.get_partial_shape().rank.is_static
            else []
            for i in inputs
        ]
    if len(inputs) != 1:
        raise ModelFileError(f"{path}: it has {len(inputs)} inputs, only networks with one picture input can be timed")
    types = {"u8": np.uint8, "uint8": np.uint8, "f32": np.float32, "float": np.float32, "f16": np.float16}
    types |= {"float16": np.float16, "i32": np.int32, "int32": np.int32}
    shape, name = shapes[0], names[0]
    if name not in types:
        raise ModelFileError(f"{path}: input of type {name}, expected uint8, int32, float16 or float32")
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        found = "x".join("?" if n is None else str(n) for n in shape)
        raise ModelFileError(f"{path}: input of shape {found or '?'}, expected NCHW or NHWC with 3 channels")
    height, width = size_hw
    usual = (0, 3, height, width) if shape[1] == 3 else (0, height, width, 3)
    return np.zeros([u if n is None else n for n, u in zip(shape, usual, strict=True)], types[name])
