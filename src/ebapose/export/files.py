"""Any model as a file for another runtime: ONNX or OpenVINO, in four precisions, each proven before it is there.

| precision | weights in the file | calculated in | tolerance against PyTorch float32 |
|---|---|---|---|
| fp32 | float32 | float32 | no confident keypoint moves by more than 0.01 crop px |
| fp16 | float16 | float32 | 0.1 crop px on average, without the farthest hundredth |
| bf16 | float16 | bfloat16 where the CPU and the runtime have it | the same |
| int8 | int8, sensitive layers float32 | int8 | 0.5 AP where annotations are given, else 1 crop px, likewise |

Random weights (a registered name) have no poses: there the outputs themselves are compared. A CPU without bfloat16
cannot prove a bf16 file, so the file written there does not insist on bfloat16: `load` compares, as with any other.
"""

from __future__ import annotations

import errno
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ebapose.card import ModelCard, card_path, refuse_shared_card
from ebapose.data.coco import CocoKeypoints, load_coco
from ebapose.data.coco_file import SkeletonLike
from ebapose.errors import EbaposeError, InputError, UsageError
from ebapose.evaluation.run import evaluate_model, refuse_other_skeleton
from ebapose.export.onnx import export_onnx
from ebapose.export.openvino import export_openvino
from ebapose.export.quantize import Quantized, export_int8, output_error
from ebapose.export.verify import (
    ARITHMETIC_TOLERANCE_PX,
    STORAGE_TOLERANCE_PX,
    Difference,
    compare,
    example_crops,
    installed_runtimes,
    open_module,
    verify,
    weights_file,
)
from ebapose.geometry.crop import image_to_crop_matrix, warp_crop
from ebapose.inference.runtime import OpenVINORuntime, TorchRuntime
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
        note: what else a person should know.
    """

    path: Path
    precision: Precision
    crops: str
    differences: dict[str, Difference]
    quantized: Quantized | None = None
    ap: tuple[float, float] | None = None
    note: str = ""

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
        if self.note:
            lines.append(f"  {self.note}")
        return "\n".join(lines)


def export_model(
    model: str | Path,
    out: str | Path,
    *,
    format: Format = "onnx",  # noqa: A002 - the option's name
    precision: Precision = "fp16",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    skeleton: SkeletonLike | None = None,
    category: str | None = None,
) -> ExportedModel:
    """Write a model as a file with its card, after proving that its poses are PyTorch's.

    It is called NAME.onnx or NAME.openvino.xml; .fp32, .bf16 or .int8 stands before the suffix where that is the
    precision.

    Args:
        model: weights (.safetensors, or .onnx written by ebapose), a bundled model's name, or a registered name with
            its size (random weights from seed 0, for timing).
        out: folder, made if missing.
        format: "onnx" (for ONNX Runtime and OpenVINO) or "openvino".
        precision: see the module's text.
        annotations: COCO keypoints; int8 is calibrated on some of the persons, and the file's AP is compared.
        images: folder of the pictures; found beside the annotations by default.
        skeleton: where the annotations do not say enough, see `ebapose.data.coco.load_coco`.
        category: name of the category, if several have keypoints.

    Raises:
        EbaposeError: the file's poses differ by more than the tolerance, or the disk is full; nothing was written.
        UsageError: unknown model, annotations that cannot be used, or a folder that cannot be written.
        ModelFileError: the weights cannot be used.
        MissingDependencyError: something that this needs is not installed.
    """
    for name, value in (("images", images), ("skeleton", skeleton), ("category", category)):
        if annotations is None and value is not None:
            raise UsageError(f"export: --{name} needs --annotations")
    module, card = open_module(model)
    persons = None if annotations is None else _judges(card, annotations, images, skeleton, category)
    trained = weights_file(model) is not None
    out = Path(out)
    target = out / _file_name(card, format, precision)
    for path in (target, target.with_suffix(".bin"), card_path(target)):
        if path.is_dir():
            raise UsageError(f"{path}: is a folder, the export writes a file of that name")
    if target.parent != out:
        raise UsageError(f"{model}: its card calls it {card.name!r}, which is no name for a file")
    refuse_shared_card(target)
    try:
        out.mkdir(parents=True, exist_ok=True)
        workplace = tempfile.TemporaryDirectory(prefix=".export-", dir=out)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror})") from None
    in_bfloat16 = precision == "bf16" and _has_bfloat16()
    ap = None
    try:
        with workplace as name:
            written = Path(name) / target.name
            stated = precision if precision == "int8" or in_bfloat16 else ""
            quantized = _write(module, card, written, precision, stated, persons)
            differences, crops = _compare(module, card, written, precision, trained, judged=persons is not None)
            if persons is not None:
                ap = _compare_ap(module, card, written, persons)
            card_path(target).unlink(missing_ok=True)  # an interruption must not leave a card that contradicts the file
            if target.suffix == ".xml":
                written.with_suffix(".bin").replace(target.with_suffix(".bin"))
            written.replace(target)
            card_path(written).replace(card_path(target))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise EbaposeError(f"{out}: cannot be written ({error.strerror})") from None
    note = ""
    if precision == "bf16" and not in_bfloat16:
        note = "this CPU has no bfloat16: proven in float32 only; where a CPU has it, the first pictures decide"
    return ExportedModel(target, precision, crops, differences, quantized, ap, note)


def _file_name(card: ModelCard, format: Format, precision: Precision) -> str:  # noqa: A002
    """Files of one folder must not share a card, so the suffix alone cannot tell them apart."""
    stated = "" if precision == "fp16" else f".{precision}"
    return f"{card.name}.openvino{stated}.xml" if format == "openvino" else f"{card.name}{stated}.onnx"


def _has_bfloat16() -> bool:
    return importlib.util.find_spec("openvino") is not None and OpenVINORuntime.has_bfloat16()


def _judges(
    card: ModelCard,
    annotations: str | Path,
    images: str | Path | None,
    skeleton: SkeletonLike | None,
    category: str | None,
) -> CocoKeypoints:
    """The annotated persons that calibrate and judge. Raises UsageError where they cannot, before any work is done."""
    try:
        records = load_coco(annotations, images, skeleton, category).persons()
    except InputError as error:
        raise UsageError(str(error)) from None
    refuse_other_skeleton(card, records)
    if not len(records):
        raise UsageError(f"{annotations}: no person with labelled keypoints")
    paths = [records.image_path(index) for index in np.unique(records.image_indices).tolist()]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such picture ({len(missing)} of {len(paths)} are missing)")
    return records


def _write(
    module: Any, card: ModelCard, path: Path, precision: Precision, stated: str, persons: CocoKeypoints | None
) -> Quantized | None:
    """The file, not yet verified; `stated`: what it tells runtimes to calculate in."""
    half = precision in ("fp16", "bf16")
    onnx_path = path.with_suffix(".onnx")
    quantized = None
    if precision == "int8":
        check, _ = example_crops(card)
        # Mirrored, so that the file is not verified on the very crops that set its ranges.
        calibration = check[:, :, ::-1] if persons is None else annotated_crops(card, persons)
        quantized = export_int8(module, card, onnx_path, calibration, check)
    else:
        export_onnx(module, card, onnx_path, half=half and path.suffix == ".onnx", precision=stated)
    if path.suffix == ".xml":
        export_openvino(onnx_path, card, path, half=half, precision=stated)
    return quantized


def annotated_crops(card: ModelCard, records: CocoKeypoints) -> NDArray[np.uint8]:
    """Crops of annotated persons, evenly spread over the file: uint8 (N, H, W, 3), at most `CALIBRATION_CROPS`.

    Raises InputError when a picture cannot be read.
    """
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
    for runtime in installed_runtimes(path):
        outputs = runtime(crops)
        difference = compare(exact, outputs, card)
        error = output_error(exact, outputs)
        if not trained:
            within = error <= OUTPUT_TOLERANCE[precision]
            limit = f"an error of {OUTPUT_TOLERANCE[precision]} is tolerated"
        elif precision == "fp32":
            within = difference.largest_px <= ARITHMETIC_TOLERANCE_PX
            limit = f"at most {ARITHMETIC_TOLERANCE_PX} px are tolerated"
        else:
            tolerance = INT8_TOLERANCE_PX if precision == "int8" else STORAGE_TOLERANCE_PX
            within = difference.mean_px <= tolerance or (judged and precision == "int8")
            limit = f"at most {tolerance} px on average are tolerated"
        if not (within and np.isfinite(error)):
            raise EbaposeError(
                f"{card.name}: {runtime.name} {precision} is too far from PyTorch float32, nothing was written: "
                f"{difference}; error of the outputs {error:.4f} ({limit})"
            )
        differences[f"{runtime.name} {runtime.precision} against PyTorch float32"] = difference
    return differences, f"{len(crops)} {origin}"


def _compare_ap(module: Any, card: ModelCard, path: Path, persons: CocoKeypoints) -> tuple[float, float]:
    """AP of PyTorch float32 and of the file, without flip test. Raises EbaposeError beyond the tolerance."""
    from ebapose.models.weights import save_weights

    folder = path.parent
    reference = folder / "reference.safetensors"
    save_weights(reference, module.state_dict(), card)
    found = []
    for number, (file, runtime) in enumerate(((reference, "torch"), (path, "auto"))):
        report = evaluate_model(
            file,
            persons.source,
            folder / f"report{number}",
            images_dir=persons.images_dir,
            skeleton=persons.skeleton,
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
