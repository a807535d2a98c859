"""Mish and bridge attention, the two ingredients that EBA-PRNetCC adds to a ResNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebapose.errors import UsageError

# e^20 squared still fits float32, and n / (n + 2) rounds to 1 long before.
_MISH_LIMIT = 20.0


class _MishFunction(torch.autograd.Function):
    """x tanh(softplus(x)) = x n / (n + 2) with n = e^x (e^x + 2): one exponential instead of three transcendentals.

    Saves only x. The derivative is n / (n + 2) + 4 x e^x (e^x + 1) / (n + 2)^2; written like this nothing cancels.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        e = wide.clamp(max=_MISH_LIMIT).exp()
        n = e * (e + 2)
        return (wide * (n / (n + 2))).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        limited = wide.clamp(max=_MISH_LIMIT)
        e = limited.exp()
        n = e * (e + 2)
        d = n + 2
        return (grad * (n / d + limited * ((e / d) * ((4 * e + 4) / d)))).to(x.dtype)


def mish(x: Tensor) -> Tensor:
    """Mish (Misra 2019), x tanh(ln(1 + e^x)), element by element; exact to rounding for every finite float32.

    Half-precision input is computed in float32. While exporting to ONNX it is torch's own operator, which inference
    engines recognise and fuse into the convolution before it.
    """
    if torch.onnx.is_in_onnx_export():
        return F.mish(x)
    return _MishFunction.apply(x)  # type: ignore[no-untyped-call]


class Mish(nn.Module):
    """`mish` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """See `mish`; any shape."""
        return mish(x)


def activation(name: str) -> nn.Module:
    """A new activation module by name: "mish" or "relu". Raises UsageError for another name."""
    if name == "mish":
        return Mish()
    if name == "relu":
        return nn.ReLU(inplace=True)
    raise UsageError(f"unknown activation {name!r}: mish or relu")


class BridgeAttention(nn.Module):
    """Channel attention fed by all of a block's features (EBA-PRNetCC eq. 1-3; Bridge Attention Net).

    S_i = BN_i(W_i GAP(F_i)) brings feature i to C_n / r numbers; their sum goes through the activation, a restoring
    linear layer and a sigmoid, and weighs the channels of the block's last feature.

    Args:
        channels: channels of the block's features, the last one being the feature that is weighed.
        reduction: r.
        activation_name: "mish" (EBA-PRNetCC) or "relu" (the original).

    In training the batch must hold at least two samples: the norms use the statistics of pooled features.
    """

    def __init__(self, channels: Sequence[int], reduction: int = 16, activation_name: str = "mish") -> None:
        super().__init__()
        hidden = max(1, channels[-1] // reduction)
        self.squeeze = nn.ModuleList(nn.Linear(c, hidden, bias=False) for c in channels)
        self.norm = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in channels)
        self.activation = activation(activation_name)
        self.restore = nn.Linear(hidden, channels[-1], bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Weights (B, C_n, 1, 1) between 0 and 1, to be multiplied with the last of the features (B, C_i, H, W)."""
        squeezed = [
            norm(squeeze(feature.mean(dim=(2, 3))))
            for squeeze, norm, feature in zip(self.squeeze, self.norm, features, strict=True)
        ]
        bridged = squeezed[0]
        for term in squeezed[1:]:
            bridged = bridged + term
        weights: Tensor = self.restore(self.activation(bridged)).sigmoid()
        return weights[:, :, None, None]
