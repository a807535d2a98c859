"""Export that ends in a proof: the new file gives the same poses as PyTorch, or it does not come into being.

Two questions, each with its own tolerance (crop px):

- arithmetic: every installed runtime of the file against PyTorch float32 running the very weights that the file
  stores; the largest difference of a confident keypoint, and of any number that the network puts out;
- storage: the rounded weights against the full ones (half storage only), both in PyTorch; the mean difference of
  confident keypoints but the farthest hundredth.

Adding a new runtime or file format: name it in `installed_runtimes`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ebapose import zoo
from ebapose.card import ModelCard
from ebapose.codecs import build_codec, confident_distances, mean_but_jumps
from ebapose.data.synthetic import draw_people
from ebapose.errors import EbaposeError, InputError, MissingDependencyError, UsageError
from ebapose.export.onnx import rounded_to_half
from ebapose.geometry.crop import image_to_crop_matrix, warp_crop
from ebapose.inference.detector import NanoDet
from ebapose.inference.runtime import OnnxRuntime, OpenVINORuntime, Outputs, Runtime, TorchRuntime
from ebapose.io.pictures import read_image
from ebapose.models.registry import create_model, default_card, parse_name

if TYPE_CHECKING:
    import torch

ARITHMETIC_TOLERANCE_PX = 0.01
ARITHMETIC_TOLERANCE_OUTPUTS = 1e-3  # of the outputs' largest absolute value
STORAGE_TOLERANCE_PX = 0.1
NUM_DRAWN_CROPS = 12
EXAMPLES = Path(__file__).parents[3] / "examples"  # in a checkout; an installed package has drawn people only


@dataclass(frozen=True)
class Difference:
    """Distances between the keypoints of two networks for the same crops, in crop px.

    Attributes:
        largest_px, mean_px: over confident keypoints, the mean without the farthest hundredth (see
            `codecs.mean_but_jumps`); 0 where there are none.
        num_keypoints: confident ones.
        outputs: largest difference of any output, as a fraction of the largest output.
    """

    largest_px: float
    mean_px: float
    num_keypoints: int
    outputs: float

    def __str__(self) -> str:
        if not self.num_keypoints:
            return f"outputs differ by {self.outputs:.1e} of the largest (no keypoint is confident)"
        return (
            f"{self.num_keypoints} confident keypoints differ by {self.largest_px:.4f} px at most, "
            f"{self.mean_px:.5f} px on average without the farthest hundredth; "
            f"outputs by {self.outputs:.1e} of the largest"
        )


@dataclass(frozen=True)
class Verification:
    """What was measured on a model file.

    Attributes:
        crops: how many were compared, and where they came from.
        runtimes: difference to PyTorch with the stored weights, by runtime.
        storage: difference of the stored to the full weights; None where they are the same.
    """

    crops: str
    runtimes: dict[str, Difference]
    storage: Difference | None


def open_module(model: str | Path) -> tuple[torch.nn.Module, ModelCard]:
    """The PyTorch module that an export starts from, and its card.

    Args:
        model: weights (.safetensors, or .onnx written by ebapose), a bundled model's name, or a registered name with
            its size (random weights from seed 0, for timing).

    Raises:
        UsageError: unknown model. ModelFileError: the weights cannot be used.
        MissingDependencyError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("torch", "torch", "exporting a model")
    file = weights_file(model)
    if file is not None:
        from ebapose.models.weights import load_model

        return load_model(file)
    parse_name(str(model))
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        created = create_model(str(model)).eval()
    return created, default_card(created)


def weights_file(model: str | Path) -> Path | None:
    """Where `open_module` takes the weights from; None for a registered name, which has random ones."""
    bundled, text = zoo.bundled_models(), str(model)
    path = bundled.get(text, Path(text))
    if path.is_dir():  # of a run, say, that is called as its network
        with contextlib.suppress(UsageError):
            parse_name(text)
            return None
    return path if text in bundled or (text and (path.suffix or path.exists())) else None


def verify(module: torch.nn.Module, card: ModelCard, path: Path, *, half: bool) -> Verification:
    """Compare an exported file with the module that it came from; see the module's text.

    Args:
        module: with its full weights; left as it is.
        card: of the module.
        path: the .onnx file.
        half: whether the file stores rounded weights.

    Raises EbaposeError beyond the tolerance.
    """
    crops, origin = example_crops(card)
    stored = rounded_to_half(module) if half else module
    exact = TorchRuntime(stored, card)(crops)
    runtimes = {runtime.name: compare(exact, runtime(crops), card) for runtime in installed_runtimes(path)}
    for name, found in runtimes.items():
        if found.largest_px > ARITHMETIC_TOLERANCE_PX or not found.outputs <= ARITHMETIC_TOLERANCE_OUTPUTS:
            raise EbaposeError(
                f"{card.name}: {name} does not give PyTorch's poses, nothing was written: {found} "
                f"(at most {ARITHMETIC_TOLERANCE_PX} px and {ARITHMETIC_TOLERANCE_OUTPUTS:.0e} are tolerated)"
            )
    storage = compare(TorchRuntime(module, card)(crops), exact, card) if half else None
    if storage is not None and storage.mean_px > STORAGE_TOLERANCE_PX:
        raise EbaposeError(
            f"{card.name}: 16 bit weights change the poses (store them in 32 bit instead): {storage} "
            f"(at most {STORAGE_TOLERANCE_PX} px on average are tolerated)"
        )
    return Verification(f"{len(crops)} {origin}", runtimes, storage)


def installed_runtimes(path: Path) -> list[Runtime]:
    """Every installed runtime of a model file."""
    known: tuple[tuple[str, Callable[[Path], Runtime]], ...] = (
        ("openvino", OpenVINORuntime),
        ("onnxruntime", OnnxRuntime),
    )
    able = known if path.suffix == ".onnx" else known[:1]
    opened = [make(path) for package, make in able if importlib.util.find_spec(package) is not None]
    if not opened:
        raise MissingDependencyError("onnxruntime", "onnxruntime", "verifying an exported file")
    return opened


def compare(expected: Outputs, found: Outputs, card: ModelCard) -> Difference:
    """How far two networks' outputs for the same crops are apart."""
    largest = max(float(np.abs(output).max()) for output in expected)
    apart = float(np.max([np.abs(a - b).max() for a, b in zip(expected, found, strict=True)]))
    if not np.isfinite(apart):
        return Difference(0.0, 0.0, 0, apart)
    codec = build_codec(card.codec, card.input, card.skeleton)
    a, b = codec.decode(expected), codec.decode(found)
    distances = confident_distances(a, b)
    if not distances.size:
        return Difference(0.0, 0.0, 0, apart / largest)
    return Difference(float(distances[-1]), mean_but_jumps(distances), distances.size, apart / largest)


def example_crops(card: ModelCard) -> tuple[NDArray[np.uint8], str]:
    """The same crops every time, uint8 (N, H, W, 3), and what they show.

    Persons of the example pictures where those are there (in a checkout), and drawn people.
    """
    size_hw = card.input.size_hw
    scenes: list[tuple[Any, Any]] = []
    pictures = sorted(EXAMPLES.glob("*.jpg"))
    detector = NanoDet() if pictures else None
    for path in pictures:
        try:
            frame = read_image(path)
        except InputError:
            continue
        assert detector is not None
        scenes.append((frame.image, detector(frame).xyxy))
    num_real = sum(len(boxes) for _, boxes in scenes)
    drawn = [draw_people((320, 240), seed, num_people=1) for seed in range(NUM_DRAWN_CROPS)]
    scenes += [(scene.image, scene.boxes_xyxy) for scene in drawn]
    crops = [
        warp_crop(image, matrix, size_hw)
        for image, boxes in scenes
        for matrix in image_to_crop_matrix(boxes, size_hw, card.input.padding, card.input.crop_center)
    ]
    origin = f"crops ({num_real} of photographs, {len(crops) - num_real} of drawn people)"
    return np.stack(crops), origin
