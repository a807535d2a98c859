"""OpenVINO files: NAME.xml (the graph) with NAME.bin (the numbers), the card in the graph's own metadata.

They are made from an ONNX file that ebapose wrote, so both kinds hold the same graph; loading one skips OpenVINO's
conversion. The batch is free, input and outputs are those of the ONNX file.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ebapose.atomic import write_text
from ebapose.card import METADATA_KEY, ModelCard, card_path, sha256_of
from ebapose.errors import EbaposeError, MissingDependencyError
from ebapose.inference.runtime import PRECISION_KEY, openvino_core


def export_openvino(
    onnx_path: str | Path, card: ModelCard, path: str | Path, *, half: bool = False, precision: str = ""
) -> Path:
    """Write an ONNX file of ebapose's as OpenVINO files, the card inside and beside.

    Args:
        onnx_path: what to convert.
        card: of the model; its sha256 is set to that of both files.
        path: the .xml file; the .bin is written beside it.
        half: store numbers in float16.
        precision: what to calculate in, "bf16" or "int8"; nothing: float32.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        EbaposeError: the files cannot be written.
    """
    try:
        import openvino
    except ImportError:
        raise MissingDependencyError("openvino", "openvino", "exporting to OpenVINO") from None
    path = Path(path)
    model = openvino_core().read_model(onnx_path)
    one_line = json.dumps(json.loads(card.to_json(sha256="")))  # an XML attribute holds no line breaks
    model.set_rt_info(one_line, METADATA_KEY)
    if precision:
        model.set_rt_info(precision, PRECISION_KEY)
    for port, node in zip(model.outputs, model.get_results(), strict=True):
        node.friendly_name = port.any_name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".openvino-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        try:
            openvino.save_model(model, written, compress_to_fp16=half)
        except RuntimeError as error:  # a full disk, in OpenVINO's words: "iostream error"
            cause = str(error).strip().splitlines()[-1]
            raise EbaposeError(f"{path}: cannot be written (OpenVINO: {cause}); is the disk full?") from None
        sha256 = sha256_of(written)
        card_path(path).unlink(missing_ok=True)  # an interruption must not leave a card that contradicts the files
        written.with_suffix(".bin").replace(path.with_suffix(".bin"))
        written.replace(path)
    write_text(card_path(path), card.to_json(sha256=sha256))
    return path
