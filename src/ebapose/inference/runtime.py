"""Runtimes: who multiplies the matrices. A picture batch goes in, the network's outputs come out.

Every runtime takes what the exported file takes. Pose models take crops as uint8 (N, H, W, 3) RGB; normalisation is
part of the exported graph.

Adding a new runtime: write a class with `name`, `precision` and `__call__`, give it a word in `RuntimeName` and a line
in `choose_runtime` and `load_model_file`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from ebapose.card import METADATA_KEY, ModelCard, parse_card, read_card, verify_sha256
from ebapose.codecs import output_shapes
from ebapose.errors import EbaposeError, MissingDependencyError, ModelFileError, UsageError

Float32Array = NDArray[np.float32]
Outputs = tuple[Float32Array, ...]
Shape = tuple[int | None, ...]  # None: any length
RuntimeName = Literal["auto", "openvino", "onnxruntime", "torch"]
# Under this name a file's metadata say what it is to be calculated in: "bf16" or "int8"; float32 where nothing is said.
PRECISION_KEY = "ebapose_precision"


class Runtime(Protocol):
    """A loaded network."""

    @property
    def name(self) -> str:
        """Which runtime: "openvino", "onnxruntime" or "torch"."""
        ...

    @property
    def precision(self) -> str:
        """What it calculates in: "f32", "bf16" or "int8"."""
        ...

    def __call__(self, batch: NDArray[Any]) -> Outputs:
        """Run one batch (N, ...) as the model file's input says; returns its outputs in order, float32."""
        ...


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _num_threads(threads: int | None) -> int:
    """All available cores by default. Raises UsageError for a number that is not positive."""
    if threads is None:
        return available_cores()
    if threads < 1:
        raise UsageError(f"threads {threads}: must be at least 1")
    return threads


@functools.cache
def openvino_core() -> Any:
    """The one `openvino.Core` of this process, which lives until its end.

    Its CPU plugin gives the thread an alternate signal stack and, when it goes, puts back the one it found, be that of
    another core that is gone already: the next signal (a child that ends is enough) would then end the process.

    Its threads are not pinned to CPU cores: several processes with a few threads each would all be pinned to the first
    cores and leave the others idle.
    """
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"ENABLE_CPU_PINNING": False})
    return core


class OpenVINORuntime:
    """OpenVINO on the CPU: the default, and the fastest of the three (it fuses Mish into the convolutions).

    A file that says itself what it is to be calculated in (see `PRECISION_KEY`) is obeyed, whatever `precision` says.
    Several threads may call it.
    """

    name = "openvino"

    def __init__(self, path: Path, threads: int | None = None, precision: str = "f32") -> None:
        num_threads = _num_threads(threads)
        core = openvino_core()
        _require_format(path)
        try:
            self.model = core.read_model(path)
            stored = _openvino_info(self.model, PRECISION_KEY)
            if stored == "int8" or (stored == "bf16" and self.has_bfloat16()):
                precision = stored
            self.precision = precision
            self._compiled = core.compile_model(
                self.model,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": num_threads,
                    "INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,  # of what is not int8
                },
            )
        except RuntimeError as error:
            raise ModelFileError(f"{path}: OpenVINO cannot load it ({_last_line(error)})") from None
        self._of_thread = threading.local()  # an infer request holds the inputs and outputs of one call
        self.input_shapes = _openvino_shapes(self._compiled.inputs)
        self.output_shapes = _openvino_shapes(self._compiled.outputs)

    @staticmethod
    def has_bfloat16() -> bool:
        """Whether this CPU multiplies bfloat16 matrices in hardware."""
        return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def __call__(self, batch: NDArray[Any]) -> Outputs:
        """See `Runtime`."""
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._compiled.create_infer_request()
        request.infer([np.ascontiguousarray(batch)], share_inputs=True)
        outputs = (request.get_output_tensor(i).data for i in range(len(self._compiled.outputs)))
        return tuple(np.array(output, dtype=np.float32) for output in outputs)


class OnnxRuntime:
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependencyError("onnxruntime", "onnxruntime", "--runtime onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _num_threads(threads)
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception classes share no base but Exception
            raise ModelFileError(f"{path}: ONNX Runtime cannot load it ({_last_line(error)})") from None
        stored = self.session.get_modelmeta().custom_metadata_map.get(PRECISION_KEY)
        self.precision = "int8" if stored == "int8" else "f32"  # it knows no bfloat16
        self._input = self.session.get_inputs()[0].name
        self.input_shapes = _onnx_shapes(self.session.get_inputs())
        self.output_shapes = _onnx_shapes(self.session.get_outputs())

    def __call__(self, batch: NDArray[Any]) -> Outputs:
        """See `Runtime`."""
        return tuple(self.session.run(None, {self._input: np.ascontiguousarray(batch)}))


class TorchRuntime:
    """PyTorch, eager: for checking the others, and for models that were just trained."""

    name = "torch"
    precision = "f32"

    def __init__(self, module: Any, card: ModelCard, threads: int | None = None) -> None:
        import torch

        self._torch = torch
        self._module = module.eval()
        self._mean = torch.tensor(card.input.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(card.input.std).view(1, 3, 1, 1)
        self._threads = None if threads is None else _num_threads(threads)

    def __call__(self, batch: NDArray[Any]) -> Outputs:
        """See `Runtime`."""
        torch = self._torch
        if self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            crops = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float()
            outputs = self._module((crops - self._mean) / self._std)
        return tuple(output.float().numpy() for output in outputs)


class VerifiedRuntime:
    """An exact runtime that gives way to a fast one, if there is enough to do and both agree on a real batch.

    Who asks for a picture or two does not wait for the fast one: opening it and its first run take the time that it
    saves in about 34 crops (the bundled network on two Zen 5 cores: 0.34 s, 10 ms a crop). Whoever has sent `WORTH_IT`,
    half as many, probably has many more. Several threads may call it.

    Args:
        exact: the one that works at first.
        open_fast: opens the other one; if it cannot, the exact one stays.
        agree: whether the outputs (exact, fast) of a batch mean the same; None where the batch cannot tell.
    """

    WORTH_IT = 16
    PATIENCE = 256

    def __init__(
        self, exact: Runtime, open_fast: Callable[[], Runtime], agree: Callable[[Outputs, Outputs], bool | None]
    ) -> None:
        self._chosen = exact
        self._open_fast, self._agree = open_fast, agree
        self._fast: Runtime | None = None
        self._decided = False
        self._crops = 0
        self._deciding = threading.Lock()

    @property
    def name(self) -> str:
        """Of the runtime in use."""
        return self._chosen.name

    @property
    def precision(self) -> str:
        """Of the runtime in use."""
        return self._chosen.precision

    def __call__(self, batch: NDArray[Any]) -> Outputs:
        """See `Runtime`. Once it is worth it, both run until a batch can tell; the fast one stays if they agree.

        Where nothing could tell in `PATIENCE` crops, the exact one stays: two cost more than either.
        """
        if self._decided:
            return self._chosen(batch)
        with self._deciding:
            outputs = self._chosen(batch)
            if self._crops >= self.WORTH_IT and not self._decided:
                self._decide(batch, outputs)
            self._crops += len(batch)
        return outputs

    def _decide(self, batch: NDArray[Any], outputs: Outputs) -> None:
        """Compare with what the exact one made of a batch, and let go of the one that is not kept."""
        try:
            fast = self._fast = self._fast or self._open_fast()
        except EbaposeError:
            self._decided = True
            return
        verdict = self._agree(outputs, fast(batch))
        if verdict is None and self._crops >= self.WORTH_IT + self.PATIENCE:
            verdict = False
        if verdict is not None:
            self._chosen, self._fast = (fast if verdict else self._chosen), None
            self._decided = True


def choose_runtime(path: Path, runtime: RuntimeName) -> RuntimeName:
    """The runtime that "auto" means for a model file. Raises UsageError for an unknown word."""
    if runtime not in get_args(RuntimeName):
        raise UsageError(f"unknown runtime {runtime!r}: choose from {', '.join(get_args(RuntimeName))}")
    if path.suffix == ".safetensors":
        if runtime not in ("auto", "torch"):
            raise UsageError(f"{path}: {runtime} cannot run safetensors; export it first or use --runtime torch")
        return "torch"
    if path.suffix == ".xml" and runtime not in ("auto", "openvino"):
        raise UsageError(f"{path}: {runtime} cannot run an OpenVINO file")
    if runtime != "auto":
        return runtime
    if importlib.util.find_spec("openvino") is None and importlib.util.find_spec("onnxruntime") is not None:
        return "onnxruntime"
    return "openvino"


def load_model_file(
    path: Path,
    runtime: RuntimeName = "auto",
    threads: int | None = None,
    precision: str = "f32",
) -> tuple[Runtime, ModelCard]:
    """Open a pose model file with its card.

    Args:
        path: .onnx, .xml (OpenVINO) or .safetensors.
        runtime: see `RuntimeName`.
        threads: CPU threads, all available ones by default.
        precision: "f32" or "bf16" (OpenVINO only); a file that says itself what to calculate in is obeyed.

    Raises:
        ModelFileError: the file is missing, not a model, has no card, differs from the card's sha256, or has inputs or
            outputs that the card does not describe.
        UsageError: this runtime cannot run this kind of file.
        MissingDependencyError: the runtime is not installed.
    """
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such model file") from None
    except OSError as error:
        why = "is a folder, not a model file" if isinstance(error, IsADirectoryError) else error.strerror
        raise ModelFileError(f"{path}: {why}") from None
    if path.suffix not in (".onnx", ".xml", ".safetensors"):
        raise ModelFileError(f"{path}: not a model file (expected .onnx, .xml or .safetensors)")
    chosen = choose_runtime(path, runtime)
    card = read_card(path)
    if card is not None:
        verify_sha256(path, card)
    if chosen == "torch":
        if importlib.util.find_spec("torch") is None:
            raise MissingDependencyError("torch", "torch", f"running {path.name} in PyTorch")
        from ebapose.models.weights import load_model

        module, card = load_model(path)
        return TorchRuntime(module, card, threads), card
    opened: OpenVINORuntime | OnnxRuntime
    opened = OnnxRuntime(path, threads) if chosen == "onnxruntime" else OpenVINORuntime(path, threads, precision)
    card = card or _card_inside(opened, path)
    height, width = card.input.size_hw
    _require_shapes(f"{path}: input", opened.input_shapes, ((None, height, width, 3),))
    _require_shapes(f"{path}: output", opened.output_shapes, tuple((None, *shape) for shape in output_shapes(card)))
    return opened, card


def _require_format(path: Path) -> None:
    """Look at the file before OpenVINO tries all its importers on it, some of which write to the terminal.

    Raises ModelFileError when it is not what its suffix says.
    """
    from openvino.frontend import FrontEndManager

    framework = {".onnx": "onnx", ".xml": "ir"}.get(path.suffix)
    if framework is not None and not FrontEndManager().load_by_framework(framework).supported(str(path)):
        kind = "an ONNX" if framework == "onnx" else "an OpenVINO"
        raise ModelFileError(f"{path}: not {kind} file, or damaged")


def _openvino_shapes(ports: Any) -> tuple[Shape, ...]:
    return tuple(tuple(d.get_length() if d.is_static else None for d in port.partial_shape) for port in ports)


def _onnx_shapes(values: Any) -> tuple[Shape, ...]:
    return tuple(tuple(d if isinstance(d, int) else None for d in value.shape) for value in values)


def _require_shapes(where: str, found: tuple[Shape, ...], expected: tuple[Shape, ...]) -> None:
    """Raises ModelFileError when a file's shapes cannot be those that its card describes."""
    fits = len(found) == len(expected) and all(
        len(a) == len(b) and all(None in (m, n) or m == n for m, n in zip(a, b, strict=True))
        for a, b in zip(found, expected, strict=True)
    )
    if not fits:
        texts = [
            " and ".join("x".join("N" if n is None else str(n) for n in s) for s in ss) for ss in (found, expected)
        ]
        raise ModelFileError(f"{where} of shape {texts[0]}, its card describes {texts[1]}")


def _card_inside(runtime: OpenVINORuntime | OnnxRuntime, path: Path) -> ModelCard:
    """The card that travels in the file's own metadata. Raises ModelFileError when there is none."""
    text: str | None = None
    if isinstance(runtime, OnnxRuntime):
        text = runtime.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    else:
        text = _openvino_info(runtime.model, METADATA_KEY)
    if not text:
        raise ModelFileError(f"{path}: no model card beside it or inside it, so its input and codec are unknown")
    return parse_card(text, str(path))


def _openvino_info(model: Any, key: str) -> str | None:
    """An entry of a model's metadata: where its ONNX file had it, or where an OpenVINO file has it."""
    for place in (["framework", key], [key]):
        if model.has_rt_info(place):
            return str(model.get_rt_info(place).astype(str))
    return None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def open_plain(path: Path, threads: int | None = None, *, bfloat16: bool = False) -> Runtime:
    """Open a model file that is not a pose model (a detector) in whatever runtime is installed.

    Args:
        path: .onnx.
        threads: CPU threads, all available ones by default.
        bfloat16: calculate in bfloat16 where the runtime and the CPU can.

    Raises:
        ModelFileError: it cannot be loaded. EbaposeError: no runtime is installed.
    """
    if choose_runtime(path, "auto") == "onnxruntime":
        return OnnxRuntime(path, threads)
    if importlib.util.find_spec("openvino") is None:
        raise EbaposeError('no runtime is installed: pip install openvino (or "ebapose[onnxruntime]")')
    precision = "bf16" if bfloat16 and OpenVINORuntime.has_bfloat16() else "f32"
    return OpenVINORuntime(path, threads, precision)
