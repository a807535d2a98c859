"""Opening a model: its file, the runtime that suits the CPU, the person detector beside it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from os.path import exists
from pathlib import Path
from typing import Literal

from ebapose import zoo
from ebapose.card import ModelCard
from ebapose.codecs import build_codec, confident_distances, mean_but_jumps
from ebapose.errors import EbaposeError, UsageError
from ebapose.inference.detector import NanoDet, PersonDetector, WholeImage
from ebapose.inference.predictor import Predictor
from ebapose.inference.runtime import (
    OpenVINORuntime,
    Outputs,
    Runtime,
    RuntimeName,
    VerifiedRuntime,
    load_model_file,
)
from ebapose.models.registry import list_models

# bfloat16 is used only where it moves keypoints by less than this on average (crop px).
BFLOAT16_TOLERANCE_PX = 0.1
# Box score of the bundled detector from which a convincing pose makes somebody a person.
DOUBTED_FROM = 0.2


def resolve_model(model: str | Path) -> Path:
    """The file of a bundled model's name, or the path itself.

    Raises:
        UsageError: neither a bundled model nor a file; the message suggests the nearest name.
    """
    bundled = zoo.bundled_models()
    text = str(model)
    if text in bundled:
        return bundled[text]
    if Path(text).suffix or "/" in text or exists(text):  # noqa: PTH110 (pathlib's raises)
        return Path(text)
    registered = [info.name for info in list_models()]
    near = difflib.get_close_matches(text, [*bundled, *registered], 1)
    if text in registered:
        raise UsageError(
            f"model {text!r} has no bundled weights: train it or give a file; bundled: {', '.join(bundled)}"
        )
    hint = f", did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"unknown model {text!r}{hint} (bundled: {', '.join(bundled)}; or give a model file)")


def bundled_detector(score: float | None = None, *, tiles: int = 1, threads: int | None = None) -> NanoDet:
    """The detector that `load` takes by default.

    Args:
        score: boxes from it on are persons, and no others; by default those that the detector is sure of, where it is
            in doubt those whose pose convinces.
        tiles: see `NanoDet`.
        threads: CPU threads, all available ones by default.

    Raises:
        UsageError: the score lies outside 0..1, or there are too many tiles.
        ModelFileError: the detector's file is missing or damaged.
    """
    if score is None:
        return NanoDet(threads=threads, doubted_from=DOUBTED_FROM, tiles=tiles)
    return NanoDet(score, threads=threads, tiles=tiles)


def load(
    model: str | Path = "default",
    runtime: RuntimeName = "auto",
    *,
    detector: PersonDetector | Literal["nanodet", "whole-image"] = "nanodet",
    flip_test: bool = False,
    batch_size: int = 16,
    threads: int | None = None,
) -> Predictor:
    """Open a pose model and a person detector.

    Args:
        model: name of a bundled model, or a file (.onnx, .xml, .safetensors).
        runtime: "auto" (OpenVINO), "openvino", "onnxruntime" or "torch".
        detector: "nanodet" (bundled; where it is in doubt, the pose decides), "whole-image" (one person fills the
            picture), or any `PersonDetector`.
        flip_test: also run the mirrored crops and average: a little more accurate, twice the cost.
        batch_size: most persons that go through the network at once.
        threads: CPU threads, all available ones by default.

    Returns:
        A `Predictor`: call it with a picture.

    Raises:
        UsageError: unknown model, runtime or detector.
        ModelFileError: the file is missing, damaged, not a model, or differs from its card.
        MissingDependencyError: the runtime is not installed.
    """
    path = resolve_model(model)
    opened: Runtime
    opened, card = load_model_file(path, runtime, threads)
    exact = opened.name == "openvino" and opened.precision == "f32"
    if exact and OpenVINORuntime.has_bfloat16():
        opened = VerifiedRuntime(
            opened, lambda: load_model_file(path, runtime, threads, precision="bf16")[0], _agreement(card)
        )
    if detector == "nanodet":
        detector = bundled_detector(threads=threads)
    elif detector == "whole-image":
        detector = WholeImage()
    elif not callable(detector):
        raise UsageError(f"unknown detector {detector!r}: choose 'nanodet', 'whole-image' or give a PersonDetector")
    return Predictor(card, opened, detector, flip_test=flip_test, batch_size=batch_size)


def _agreement(card: ModelCard) -> Callable[[Outputs, Outputs], bool | None]:
    """Whether two runtimes' outputs mean the same poses: mean distance of most confident keypoints, in crop px.

    None where no keypoint is confident: two places compete then, and a rounding error may decide between them.
    """
    codec = build_codec(card.codec, card.input, card.skeleton)

    def agree(exact: Outputs, fast: Outputs) -> bool | None:
        try:
            a, b = codec.decode(exact), codec.decode(fast)
        except (ValueError, EbaposeError):
            return False
        distances = confident_distances(a, b)
        return mean_but_jumps(distances) <= BFLOAT16_TOLERANCE_PX if distances.size else None

    return agree
