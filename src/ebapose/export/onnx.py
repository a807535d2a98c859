"""ONNX files: the network with its normalisation, its parameters under their own names, its card inside.

The exported graph takes crops as uint8 (N, H, W, 3) RGB and returns what the PyTorch module returns. Weights may be
stored in half precision; they are cast to float32 in the graph, so every runtime calculates in float32 (and runtimes
fold the cast away when they load the file).
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ebapose.atomic import atomic_write, write_text
from ebapose.card import METADATA_KEY, ModelCard, card_path, sha256_of
from ebapose.errors import MissingDependencyError
from ebapose.inference.runtime import PRECISION_KEY

if TYPE_CHECKING:
    import torch

OPSET = 18
OUTPUT_NAMES = {"simcc": ("logits_x", "logits_y"), "heatmap": ("heatmaps",), "coordinate": ("coordinates",)}


def export_onnx(
    model: torch.nn.Module, card: ModelCard, path: str | Path, *, half: bool = False, precision: str = ""
) -> Path:
    """Write a model as ONNX, with its card inside and beside it.

    Args:
        model: the PyTorch module; normalised float32 (N, 3, H, W) in, a tuple of outputs out.
        card: of the model; its sha256 is set to the new file's.
        path: the .onnx file.
        half: store the weights in float16.
        precision: what runtimes are to calculate in, "bf16" or "int8"; nothing: float32.

    Returns:
        The path of the file.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise MissingDependencyError(error.name or "onnx", "export", "exporting to ONNX") from None
    if half:
        model = rounded_to_half(model)  # before anything is calculated from the weights and folded into a constant
    proto = _to_proto(model, card)
    if half:
        _store_half(proto.graph)
    return write_onnx(proto, card, path, precision)


def write_onnx(proto: Any, card: ModelCard, path: str | Path, precision: str = "") -> Path:
    """Write an ONNX graph as a model file, with its card (and what to calculate in) inside and its card beside it."""
    import onnx

    path = Path(path)
    _set_metadata(proto, card, precision)
    onnx.checker.check_model(proto)
    with atomic_write(path) as temporary:
        onnx.save(proto, temporary)
    write_text(card_path(path), card.to_json(sha256=sha256_of(path)))
    return path


def _to_proto(model: torch.nn.Module, card: ModelCard) -> Any:
    """The ONNX graph, parameters still float32 and named as in the state dict."""
    import onnxscript.optimizer
    import torch

    class WithNormalisation(torch.nn.Module):
        """uint8 NHWC crops in; the registered buffers keep their names out of the model's."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()
            self.input_mean = torch.nn.Buffer(torch.tensor(card.input.mean).view(1, 3, 1, 1))
            self.input_scale = torch.nn.Buffer(1 / torch.tensor(card.input.std).view(1, 3, 1, 1))

        def forward(self, crops: torch.Tensor) -> Any:
            planes = crops.permute(0, 3, 1, 2).to(torch.float32)
            return self.model((planes - self.input_mean) * self.input_scale)

    height, width = card.input.size_hw
    crops = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    quiet = contextlib.redirect_stdout(io.StringIO())
    with _paused_garbage_collection(), warnings.catch_warnings(), quiet, torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own exporter, nothing a user could act on
        program = torch.onnx.export(
            WithNormalisation(),
            (crops,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["crops"],
            output_names=list(OUTPUT_NAMES[card.codec.type]),
            dynamic_shapes={"crops": {0: torch.export.Dim("persons", min=1)}},
            optimize=False,
            verbose=False,
        )
    assert program is not None
    # Constants are folded, batch norms are not (torch's own optimisation would fuse them into the convolutions): so the
    # file still holds the state dict, and training can go on from it. Runtimes fuse when they load it.
    onnxscript.optimizer.fold_constants(
        program.model, should_fold=lambda node: False if node.op_type == "Transpose" else None
    )
    onnxscript.optimizer.remove_unused_nodes(program.model)
    proto = program.model_proto
    for initializer in proto.graph.initializer:
        _rename(proto.graph, initializer.name, initializer.name.removeprefix("model."))
    return proto


@contextlib.contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Tracing keeps what it makes, millions of objects that the collector would look through again and again in vain.

    That is about a tenth of the time of tracing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _rename(graph: Any, old: str, new: str) -> None:
    if old == new:
        return
    for initializer in graph.initializer:
        if initializer.name == old:
            initializer.name = new
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def rounded_to_half(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model with its weights rounded as `export_onnx(half=True)` stores them, still float32."""
    import torch

    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in rounded.state_dict().items():
            if _is_stored_half(name, tensor.dim()):
                tensor.copy_(tensor.half())
    return rounded


def _is_stored_half(name: str, dimensions: int) -> bool:
    """Whether `half` stores this entry of the state dict in 16 bit: the matrices and kernels of layers."""
    return dimensions >= 2 and "." in name


def _store_half(graph: Any) -> None:
    """Store the weights of convolutions and linear layers as float16, behind a Cast node.

    Vectors (biases, batch norms) stay float32: they are small, and OpenVINO fuses a batch norm only if its numbers are
    plain constants (a quarter of the network's time).
    """
    import onnx

    casts = []
    for initializer in graph.initializer:
        name = initializer.name
        if initializer.data_type != onnx.TensorProto.FLOAT or not _is_stored_half(name, len(initializer.dims)):
            continue
        values = onnx.numpy_helper.to_array(initializer).astype(np.float16)
        initializer.CopyFrom(onnx.numpy_helper.from_array(values, name))
        for node in graph.node:
            for i, used in enumerate(node.input):
                if used == name:
                    node.input[i] = f"{name}/float32"
        casts.append(onnx.helper.make_node("Cast", [name], [f"{name}/float32"], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _set_metadata(proto: Any, card: ModelCard, precision: str) -> None:
    import onnx

    proto.producer_name = "ebapose"
    del proto.metadata_props[:]
    for node in proto.graph.node:  # torch writes source lines and paths into every node
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    properties = {METADATA_KEY: card.to_json(sha256="")}
    if precision:
        properties[PRECISION_KEY] = precision
    onnx.helper.set_model_props(proto, properties)
