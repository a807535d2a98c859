"""Losses. Pure functions of logits, targets and keypoint weights.

Targets come from the codecs (`ebapose.codecs`), which hold the only copy of the Gaussian formulas; nothing here makes
one. All arithmetic is float32 (float64 stays float64), whatever the network computed in, so that the losses stay finite
under bfloat16 and float16. A keypoint with weight 0 contributes exactly 0 to the value and to every gradient.

Shapes: B batch, K keypoints, Nx = W * split_ratio and Ny = H * split_ratio bins, h x w map cells, L decoder layers.

Adding a new loss: write the function here, add its name to `training.config.LossConfig` and its call to `compute_loss`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ebapose.training.config import LossConfig

Reduction = Literal["paper", "reference", "nmt", "mmpose"]


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: half precision cannot hold a log-softmax over hundreds of bins."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def smooth_labels(target: Tensor, smoothing: float) -> Tensor:
    """One-hot targets (..., N) with 1 - smoothing at the label, smoothing / (N - 1) elsewhere (SimCC, section 3.2)."""
    if smoothing == 0:
        return target
    return target * (1 - smoothing) + (1 - target) * (smoothing / (target.shape[-1] - 1))


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """KL(target || softmax(logits)) summed over the last axis: (..., N), (..., N) -> (...).

    0 log 0 counts as 0. The target need not sum to 1: a Gaussian cut off at the border sums to less (EBA-PRNetCC
    eq. 5).
    """
    target = _wide(target)
    return (torch.xlogy(target, target) - target * F.log_softmax(_wide(logits), dim=-1)).sum(-1)


def simcc_loss(
    logits_x: Tensor,
    logits_y: Tensor,
    target_x: Tensor,
    target_y: Tensor,
    weights: Tensor,
    *,
    reduction: Reduction = "paper",
    label_smoothing: float = 0.0,
    beta: float = 1.0,
    label_beta: float | None = None,
) -> Tensor:
    """Classification loss of the two axes, a scalar.

    Args:
        logits_x, logits_y: (B, K, Nx) and (B, K, Ny).
        target_x, target_y: the codec's targets, same shapes; Gaussian or one-hot.
        weights: (B, K), 0 for keypoints that must not be learned.
        reduction: how divergences become one number.
            "paper": mean over batch and keypoints of weight * (KL_x + KL_y), bins summed (EBA-PRNetCC eq. 4-5).
            "reference": as the published SimCC code: the same, but the mean over each axis' bins, so much smaller.
            "nmt": bins and keypoints summed, mean over the batch (SimCC's loss for one-hot targets).
            "mmpose": mean over bins, sum over the batch, mean over keypoints; grows with the batch.
        label_smoothing: for one-hot targets.
        beta: the logits are multiplied by it (RTMPose: 10).
        label_beta: if given, the targets become softmax(label_beta * target) (RTMPose: 10).
    """
    total = _wide(logits_x).new_zeros(())
    batch, keypoints = weights.shape
    weights = _wide(weights)
    for logits, target in ((logits_x, target_x), (logits_y, target_y)):
        if label_beta is not None:
            target = torch.softmax(_wide(target) * label_beta, dim=-1)
        value = (weights * divergence(_wide(logits) * beta, smooth_labels(_wide(target), label_smoothing))).sum()
        bins = logits.shape[-1]
        if reduction == "paper":
            value = value / (batch * keypoints)
        elif reduction == "reference":
            value = value / (batch * keypoints * bins)
        elif reduction == "nmt":
            value = value / batch
        else:
            value = value / (keypoints * bins)
        total = total + value
    return total


def heatmap_loss(heatmaps: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Half the mean over batch, keypoints and cells of (weight * (heatmap - target))^2 (Simple Baseline).

    heatmaps and target (B, K, h, w), weights (B, K) or None; a scalar.
    """
    error = _wide(heatmaps) - _wide(target)
    if weights is not None:
        error = error * _wide(weights)[..., None, None]
    return 0.5 * error.square().mean()


def coordinate_loss(coordinates: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """L1 on normalised coordinates, summed over decoder layers (TFPose).

    coordinates (L, B, K, 2) or (B, K, 2), target (B, K, 2), weights (B, K); mean over batch, keypoints and axes.
    """
    layers = coordinates if coordinates.ndim == 4 else coordinates[None]
    error = (_wide(layers) - _wide(target)).abs() * _wide(weights)[..., None]
    return error.mean(dim=(1, 2, 3)).sum()


def map_loss(maps: Tensor, target_x: Tensor, target_y: Tensor, weights: Tensor) -> Tensor:
    """Auxiliary spatial cross entropy: each keypoint map, as a softmax over its cells, shall peak at the keypoint.

    The head of a coordinate classifier sees only flattened maps; telling the maps directly where the keypoint is makes
    early training much faster. The target is the product of the two axes' targets, pooled to the map's cells.

    maps (B, K, h, w) before the head, target_x (B, K, Nx), target_y (B, K, Ny), weights (B, K); mean over batch and
    keypoints.
    """
    height, width = maps.shape[-2:]
    columns = F.adaptive_avg_pool1d(_wide(target_x), width)
    rows = F.adaptive_avg_pool1d(_wide(target_y), height)
    # A keypoint outside the crop leaves only a tail inside, or nothing: normalise what there is, never divide by 0.
    inside = (columns.sum(-1) > 1e-6) & (rows.sum(-1) > 1e-6)
    columns = columns / columns.sum(-1, keepdim=True).clamp_min(1e-6)
    rows = rows / rows.sum(-1, keepdim=True).clamp_min(1e-6)
    log_probability = F.log_softmax(_wide(maps).flatten(-2), dim=-1).reshape(maps.shape)
    cross_entropy = -torch.einsum("bkyx,bky,bkx->bk", log_probability, rows, columns)
    return (cross_entropy * _wide(weights) * inside).mean()


def compute_loss(
    outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...], weights: Tensor, codec_type: str, config: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a recipe, and its parts by name (detached).

    Args:
        outputs: the network's in training mode; a SimCC model's keypoint maps may follow its two logits.
        targets: the codec's, in the order of the outputs; heatmaps follow the coordinates.
        weights: (B, K).
        codec_type: "simcc", "heatmap" or "coordinate" (`ebapose.card.CodecSpec.type`).
        config: reduction, smoothing and weight of the auxiliary loss.
    """
    if codec_type == "heatmap":
        parts = {"heatmap": heatmap_loss(outputs[0], targets[0], weights)}
    elif codec_type == "coordinate":
        parts = {"coordinate": coordinate_loss(outputs[0], targets[0], weights)}
        if len(outputs) > 1:
            parts["maps"] = config.map_weight * heatmap_loss(outputs[1], targets[1], weights)
    else:
        parts = {
            "simcc": simcc_loss(
                outputs[0],
                outputs[1],
                targets[0],
                targets[1],
                weights,
                reduction=config.reduction,
                label_smoothing=config.label_smoothing,
            )
        }
        if config.map_weight:
            parts["maps"] = config.map_weight * map_loss(outputs[2], targets[0], targets[1], weights)
    return torch.stack(list(parts.values())).sum(), {name: value.detach() for name, value in parts.items()}
