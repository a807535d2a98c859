"""Parameters and multiply-accumulates (MACs) of a model, and the conventions by which the literature counts them.

Published figures of the same network differ by up to a factor of two, because the counters differ. Compare figures of
one convention only:

- "true": every convolution, transposed convolution and linear layer, and what modules with products of their own
  report; in units of 10^9.
- "paper": how EBA-PRNetCC's figures come about: Conv2d and Linear only, transposed convolutions left out; 10^9.
- "hrnet": the counter of HRNet, reused by SimCC: a transposed convolution counts its weights times its *output* size (4
  times too much at stride 2), a Linear its outputs times dimension 1 of its input, which for a SimCC head is the number
  of keypoints instead of the number of features (almost nothing); in units of 1024^3.

All of them leave out biases, norms, activations and pooling. Networks are run on torch's meta device: shapes only, so
the largest takes well under a second and no memory.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebapose.models.pose_model import PoseModel
from ebapose.models.registry import create_model

Convention = Literal["true", "paper", "hrnet"]
CONVENTIONS: tuple[Convention, ...] = ("true", "paper", "hrnet")


@dataclass(frozen=True)
class LayerCost:
    """One layer that multiplies, for one sample.

    Attributes:
        name: of the module within the model.
        type: its class, e.g. "Conv2d".
        macs: multiply-accumulates.
        hrnet_macs: what the "hrnet" counter makes of it.
    """

    name: str
    type: str
    macs: int
    hrnet_macs: int


@dataclass(frozen=True)
class Complexity:
    """Cost of a model for one crop.

    Attributes:
        num_parameters: trainable numbers.
        layers: every layer that multiplies, in order of execution.
    """

    num_parameters: int
    layers: tuple[LayerCost, ...]

    def gmac(self, convention: Convention = "true") -> float:
        """Cost by one of `CONVENTIONS`, see the module's text."""
        if convention == "paper":
            return sum(layer.macs for layer in self.layers if layer.type in ("Conv2d", "Linear")) / 1e9
        if convention == "hrnet":
            return sum(layer.hrnet_macs for layer in self.layers) / 1024**3
        return sum(layer.macs for layer in self.layers) / 1e9


def measure(model: PoseModel) -> Complexity:
    """Count a model as it runs in eval mode on one crop. The model is left as it is."""
    meta = copy.deepcopy(model).to("meta").eval()
    layers: list[LayerCost] = []
    names = {module: name for name, module in meta.named_modules()}

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        macs = _macs(module, inputs, output)
        if macs is not None:
            layers.append(LayerCost(names[module], type(module).__name__, macs, _hrnet_macs(module, inputs, output)))

    for module in names:
        module.register_forward_hook(count)
    with torch.no_grad():
        meta(torch.empty(1, 3, *meta.input_hw, device="meta"))
    return Complexity(
        num_parameters=sum(p.numel() for p in model.parameters()),
        layers=tuple(layers),
    )


def measure_name(name: str, num_keypoints: int = 17, **options: Any) -> Complexity:
    """Count a model by its name without making its weights. Raises UsageError as `create_model` does."""
    with torch.device("meta"):
        model = create_model(name, num_keypoints, **options)
    return measure(model)


def _macs(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int | None:
    """Multiply-accumulates of one call of one module; None for a module without any of its own.

    A module whose forward multiplies tensors outside of its children (attention) says how much in a method
    `own_macs(inputs, output)`.
    """
    if isinstance(module, nn.ConvTranspose2d):  # every input cell meets the whole kernel
        return module.weight.numel() * math.prod(inputs[0].shape[2:])
    if isinstance(module, nn.Conv2d):
        return module.weight.numel() * math.prod(output.shape[2:])
    if isinstance(module, nn.Linear):
        return int(output.numel()) * module.in_features
    own = getattr(module, "own_macs", None)
    return None if own is None else int(own(inputs, output))


def _hrnet_macs(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return module.weight.numel() * math.prod(output.shape[2:])
    if isinstance(module, nn.Linear):
        features: Tensor = inputs[0]
        return int(output.numel()) * features.shape[1]
    return 0
