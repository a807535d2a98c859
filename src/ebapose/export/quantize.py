"""int8: post-training quantisation by NNCF, with the layers that suffer most left in float32.

Which ones is measured, layer group by layer group: everything is quantised, then each small group in turn is left out,
and what that does to the network's outputs is compared with PyTorch float32. Groups that together do at most
`FLOAT_BUDGET` of the multiplications stay in float32, those first that buy most per multiplication.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ebapose.card import ModelCard
from ebapose.errors import EbaposeError, MissingDependencyError
from ebapose.export.onnx import export_onnx, write_onnx
from ebapose.inference.runtime import Outputs, TorchRuntime, open_plain
from ebapose.models.complexity import measure

if TYPE_CHECKING:
    import torch

FLOAT_BUDGET = 0.1  # share of the multiply-accumulates that may stay in float32
WORTH = 0.02  # a group stays in float32 if that takes away this share of the error
SEARCH_CROPS = 16  # calibrate the trials of the search; the final file uses all crops
PRODUCTS = "products"  # multiplications of two calculated things, without weights

UInt8Crops = NDArray[np.uint8]


@dataclass(frozen=True)
class Sensitivity:
    """What one group of layers does to the accuracy.

    Attributes:
        group: "attention", "head", or a module of the network, e.g. "conv1".
        mac_share: of the network's multiply-accumulates.
        error: of the outputs when everything but this group is int8, see `output_error`.
        in_float: the group stays in float32.
    """

    group: str
    mac_share: float
    error: float
    in_float: bool = False


@dataclass(frozen=True)
class Quantized:
    """A written int8 file. `error_all_int8`: of the outputs with nothing left out, `error`: of the file."""

    path: Path
    error_all_int8: float
    error: float
    groups: tuple[Sensitivity, ...]

    def summary(self) -> str:
        """A few lines for a person."""
        kept = [s.group for s in self.groups if s.in_float]
        tried = ", ".join(f"without {s.group} ({100 * s.mac_share:.1f} % of MACs) {s.error:.4f}" for s in self.groups)
        return (
            f"  error of the outputs, all int8: {self.error_all_int8:.4f}; {tried}\n"
            f"  left in float32: {', '.join(kept) or 'nothing'}; error of the file {self.error:.4f}"
        )


def export_int8(
    module: torch.nn.Module, card: ModelCard, path: str | Path, calibration: UInt8Crops, check: UInt8Crops
) -> Quantized:
    """Write a model as int8 ONNX (QuantizeLinear and DequantizeLinear), with its card inside and beside it.

    Args:
        module: with its full weights; left as it is.
        card: of the module.
        path: the .onnx file.
        calibration: uint8 (N, H, W, 3), crops that show what the network will see; they set the ranges.
        check: uint8 (N, H, W, 3), crops to measure the sensitivity on.

    Raises:
        MissingDependencyError: nncf, onnx, onnxscript or onnxruntime is not installed.
        EbaposeError: NNCF cannot quantise this network.
    """
    for package in ("nncf", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "export", "quantising to int8")
    import onnx

    exact = TorchRuntime(module, card)(check)
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=path.parent) as folder:
        proto = onnx.load(export_onnx(module, card, Path(folder) / "float32.onnx"))
        trial = Path(folder) / "trial.onnx"
        nodes = group_nodes(proto)
        shares = _mac_shares(module)

        def attempt(left_out: Sequence[str], crops: UInt8Crops, target: Path) -> float:
            names = [name for group in left_out for name in nodes[group]]
            write_onnx(_quantize(proto, crops, names, card.name), card, target, "int8")
            return output_error(exact, open_plain(target)(check))

        few = calibration[:: max(1, len(calibration) // SEARCH_CROPS)][:SEARCH_CROPS]
        error_all = attempt([], few, trial)
        small = [group for group in nodes if shares.get(group, 0.0) <= FLOAT_BUDGET]
        groups = [Sensitivity(group, shares.get(group, 0.0), attempt([group], few, trial)) for group in small]
        groups = _choose(groups, error_all)
    error = attempt([s.group for s in groups if s.in_float], calibration, path)
    return Quantized(path, error_all, error, tuple(groups))


def _choose(groups: Sequence[Sensitivity], error_all: float) -> list[Sensitivity]:
    """Mark the groups that stay in float32, within the budget."""
    budget = FLOAT_BUDGET
    chosen = []
    for s in sorted(groups, key=lambda s: (s.error - error_all) / max(s.mac_share, 1e-4)):
        in_float = error_all - s.error > WORTH * error_all and s.mac_share <= budget
        budget -= s.mac_share if in_float else 0.0
        chosen.append(Sensitivity(s.group, s.mac_share, s.error, in_float))
    return chosen


def output_error(exact: Outputs, found: Outputs) -> float:
    """Root mean square of the difference over the standard deviation of the exact numbers, the worst of the outputs."""
    errors = []
    for a, b in zip(exact, found, strict=True):
        difference = float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))
        errors.append(difference / max(float(a.std()), 1e-12))
    return max(errors)


def group_nodes(proto: Any) -> dict[str, list[str]]:
    """Names of the nodes that multiply, by group: where in the network their weights are."""
    source = {initializer.name: initializer.name for initializer in proto.graph.initializer}
    groups: dict[str, list[str]] = {}
    for node in proto.graph.node:
        if node.op_type in ("Transpose", "Cast", "Reshape") and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            weights = [source[name] for name in node.input if name in source]
            groups.setdefault(_group(weights[0]) if weights else PRODUCTS, []).append(node.name)
    return groups


def _group(name: str) -> str:
    """The group of a weight, by its name in the state dict."""
    parts = name.split(".")
    if "attention" in parts:
        return "attention"
    if parts[0].startswith("mlp_head"):
        return "head"
    return parts[0]


def _mac_shares(module: Any) -> Mapping[str, float]:
    """Share of the multiply-accumulates of every group."""
    weighted = {name.rpartition(".")[0] for name, _ in module.named_parameters()}
    macs: dict[str, float] = {}
    for layer in measure(module).layers:
        group = _group(layer.name) if layer.name in weighted else PRODUCTS
        macs[group] = macs.get(group, 0.0) + layer.macs
    total = sum(macs.values())
    return {group: count / total for group, count in macs.items()}


def _quantize(proto: Any, crops: UInt8Crops, float_nodes: Sequence[str], name: str) -> Any:
    """The graph with every layer but some in int8. Raises EbaposeError where NNCF fails."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # NNCF draws progress bars
        warnings.simplefilter("ignore")
        import nncf

        # nncf.set_log_level would also silence handlers that are not its own
        logging.getLogger("nncf").setLevel(logging.ERROR)
        data = nncf.Dataset([crops[i : i + 1] for i in range(len(crops))], lambda crop: {"crops": crop})
        scope = nncf.IgnoredScope(names=list(float_nodes)) if float_nodes else None
        try:
            return nncf.quantize(proto, data, subset_size=len(crops), ignored_scope=scope)
        except Exception as error:  # NNCF's exceptions share no base
            raise EbaposeError(f"{name}: NNCF cannot quantise it ({' '.join(str(error).split())[:200]})") from None
