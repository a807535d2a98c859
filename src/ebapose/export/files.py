"""Any model as a file for another runtime: ONNX or OpenVINO, in four precisions, each proven before it is there.

| precision | weights in the file | calculated in | tolerance against PyTorch float32 |
|---|---|---|---|
| fp32 | float32 | float32 | no confident keypoint moves by more than 0.01 crop px |
| fp16 | float16 | float32 | 0.1 crop px on average |
| bf16 | float16 | bfloat16 where the CPU and the runtime have it | 0.1 crop px on average |
| int8 | int8, sensitive layers float32 | int8 | 0.5 AP where annotations are given, else 1 crop px on average |

Random weights (a registered name) have no poses: there the outputs themselves are compared.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ebapose.card import ModelCard, card_path
from ebapose.data.coco import load_coco
from ebapose.errors import EbaposeError, UsageError
from ebapose.evaluation.run import evaluate_model, refuse_other_skeleton
from ebapose.export.onnx import export_onnx
from ebapose.export.openvino import export_openvino
from ebapose.export.quantize import Quantized, export_int8, output_error
from ebapose.export.verify import (
    ARITHMETIC_TOLERANCE_PX,
    STORAGE_TOLERANCE_PX,
    Difference,
    _runtimes,
    compare,
    example_crops,
    open_module,
    verify,
)
from ebapose.geometry.crop import image_to_crop_matrix, warp_crop
from ebapose.inference.runtime import TorchRuntime
from ebapose.io.pictures import read_image

Format = Literal["onnx", "openvino"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

INT8_TOLERANCE_PX = 1.0  # mean, where no annotations can judge
AP_TOLERANCE = 0.005
OUTPUT_TOLERANCE = {"fp32": 1e-3, "fp16": 0.01, "bf16": 0.1, "int8": 0.5}  # of random weights, see `output_error`
CALIBRATION_CROPS = 128  # of an annotated data set


@dataclass(frozen=True)
class ExportedModel:
    """A written model file and what was measured on it.

    Attributes:
        path: of the file; its card lies beside it, and the .bin of an OpenVINO file.
        precision: see the module's text.
        crops: how many were compared, and where they came from.
        differences: to PyTorch float32, by runtime.
        quantized: how int8 came about.
        ap: of PyTorch float32 and of the file, 0..1, where annotations were given.
    """

    path: Path
    precision: Precision
    crops: str
    differences: dict[str, Difference]
    quantized: Quantized | None = None
    ap: tuple[float, float] | None = None

    def summary(self) -> str:
        """A few lines for a person."""
        size = sum(p.stat().st_size for p in (self.path, self.path.with_suffix(".bin")) if p.exists())
        lines = [f"{self.path}: {self.precision}, {size / 1e6:.1f} MB, verified on {self.crops}"]
        lines += [f"  {name}: {found}" for name, found in self.differences.items()]
        if self.quantized is not None:
            lines.append(self.quantized.summary())
        if self.ap is not None:
            before, after = (100 * ap for ap in self.ap)
            lines.append(f"  AP {before:.2f} in PyTorch float32, {after:.2f} from the file ({after - before:+.2f})")
        return "\n".join(lines)


def export_model(
    model: str | Path,
    out: str | Path,
    *,
    format: Format = "onnx",  # noqa: A002 - the option's name
    precision: Precision = "fp16",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> ExportedModel:
    """Write a model as a file with its card, after proving that its poses are PyTorch's.

    It is called NAME.onnx or NAME.openvino.xml; .bf16 or .int8 stands before the suffix where that is the precision.

    Args:
        model: weights (.safetensors, or .onnx written by ebapose), a bundled model's name, or a registered name with
            its size (random weights from seed 0, for timing).
        out: folder, made if missing.
        format: "onnx" (for ONNX Runtime and OpenVINO) or "openvino".
        precision: see the module's text.
        annotations: COCO keypoints; int8 is calibrated on some of the persons, and the file's AP is compared.
        images: folder of the pictures; found beside the annotations by default.

    Raises:
        EbaposeError: the file's poses differ by more than the tolerance; nothing was written.
        UsageError: unknown model, or annotations of another skeleton. ModelFileError: the weights cannot be used.
        MissingDependencyError: something that this needs is not installed.
    """
    if images is not None and annotations is None:
        raise UsageError("export: --images needs --annotations")
    module, card = open_module(model)
    trained = Path(str(model)).exists() or card.name != str(model)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        workplace = tempfile.TemporaryDirectory(prefix=".export-", dir=out)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror})") from None
    with workplace as name:
        folder = Path(name)
        written, quantized = _write(module, card, folder, format, precision, annotations, images)
        differences, crops = _compare(module, card, written, precision, trained, judged=annotations is not None)
        ap = None
        if annotations is not None:
            ap = _compare_ap(module, card, written, folder, annotations, images)
        target = out / written.name
        card_path(target).unlink(missing_ok=True)  # an interruption must not leave a card that contradicts the file
        if written.suffix == ".xml":
            written.with_suffix(".bin").replace(target.with_suffix(".bin"))
        written.replace(target)
        card_path(written).replace(card_path(target))
    return ExportedModel(target, precision, crops, differences, quantized, ap)


def _write(
    module: Any,
    card: ModelCard,
    folder: Path,
    format: Format,  # noqa: A002
    precision: Precision,
    annotations: str | Path | None,
    images: str | Path | None,
) -> tuple[Path, Quantized | None]:
    """The file, not yet verified."""
    stated = precision if precision in ("bf16", "int8") else ""
    half = precision in ("fp16", "bf16")
    # Files of one folder must not share a card.
    suffixes = (".openvino" if format == "openvino" else "") + (f".{stated}" if stated else "")
    path = folder / f"{card.name}{suffixes}.onnx"
    quantized = None
    if precision == "int8":
        check, _ = example_crops(card)
        # Mirrored, so that the file is not verified on the very crops that set its ranges.
        calibration = check[:, :, ::-1] if annotations is None else annotated_crops(card, annotations, images)
        quantized = export_int8(module, card, path, calibration, check)
    else:
        export_onnx(module, card, path, half=half and format == "onnx", precision=stated)
    if format == "openvino":
        path = export_openvino(path, card, path.with_suffix(".xml"), half=half, precision=stated)
    return path, quantized


def annotated_crops(card: ModelCard, annotations: str | Path, images: str | Path | None = None) -> NDArray[np.uint8]:
    """Crops of annotated persons, evenly spread over the file: uint8 (N, H, W, 3), at most `CALIBRATION_CROPS`.

    Raises UsageError when the skeleton is another, or nobody is annotated; InputError as reading the files does.
    """
    records = load_coco(annotations, images).persons()
    refuse_other_skeleton(card, records)
    if not len(records):
        raise UsageError(f"{annotations}: no person with labelled keypoints")
    spec = card.input
    crops = []
    for row in np.unique(np.linspace(0, len(records) - 1, CALIBRATION_CROPS).astype(int)).tolist():
        record = records[row]
        matrix = image_to_crop_matrix(record.box_xyxy[None], spec.size_hw, spec.padding, spec.crop_center)[0]
        crops.append(warp_crop(read_image(record.image_path).image, matrix, spec.size_hw))
    return np.stack(crops)


def _compare(
    module: Any, card: ModelCard, path: Path, precision: Precision, trained: bool, judged: bool
) -> tuple[dict[str, Difference], str]:
    """Differences by runtime and what was compared. Raises EbaposeError beyond the tolerance."""
    if path.suffix == ".onnx" and precision in ("fp32", "fp16"):
        half = precision == "fp16"
        result = verify(module, card, path, half=half)
        weights = "PyTorch float32 with the 16 bit weights" if half else "PyTorch float32"
        found = {f"{name} against {weights}": difference for name, difference in result.runtimes.items()}
        if result.storage is not None:
            found["16 bit weights against full ones"] = result.storage
        return found, result.crops
    crops, origin = example_crops(card)
    exact = TorchRuntime(module, card)(crops)
    differences = {}
    for runtime in _runtimes(path):
        outputs = runtime(crops)
        difference = compare(exact, outputs, card)
        error = output_error(exact, outputs)
        if not trained:
            within = error <= OUTPUT_TOLERANCE[precision]
        elif precision == "fp32":
            within = difference.largest_px <= ARITHMETIC_TOLERANCE_PX
        else:
            tolerance = INT8_TOLERANCE_PX if precision == "int8" else STORAGE_TOLERANCE_PX
            within = difference.mean_px <= tolerance or (judged and precision == "int8")
        if not (within and np.isfinite(error)):
            raise EbaposeError(
                f"{card.name}: {runtime.name} {precision} is too far from PyTorch float32, nothing was written: "
                f"{difference}; error of the outputs {error:.4f}"
            )
        differences[f"{runtime.name} {runtime.precision} against PyTorch float32"] = difference
    return differences, f"{len(crops)} {origin}"


def _compare_ap(
    module: Any, card: ModelCard, path: Path, folder: Path, annotations: str | Path, images: str | Path | None
) -> tuple[float, float]:
    """AP of PyTorch float32 and of the file, without flip test. Raises EbaposeError beyond the tolerance."""
    from ebapose.models.weights import save_weights

    reference = folder / "reference.safetensors"
    save_weights(reference, module.state_dict(), card)
    found = []
    for number, (file, runtime) in enumerate(((reference, "torch"), (path, "auto"))):
        report = evaluate_model(
            file,
            annotations,
            folder / f"report{number}",
            images_dir=images,
            flip_test=False,
            runtime=runtime,  # type: ignore[arg-type]
            worst=0,
            with_plots=False,
        )
        found.append(float(report.metrics["coco"]["AP"]))
    before, after = found
    if not after >= before - AP_TOLERANCE:
        raise EbaposeError(
            f"{card.name}: AP falls from {100 * before:.2f} to {100 * after:.2f}, nothing was written "
            f"(at most {100 * AP_TOLERANCE:.1f} are tolerated)"
        )
    return before, after
