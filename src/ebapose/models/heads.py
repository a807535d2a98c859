"""From features to keypoints: the deconvolution stack and the classifiers of x and y."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebapose.errors import UsageError
from ebapose.models.attention import activation

HIDDEN_WIDTH = 256  # of the two-layer head; the one width that reproduces every parameter count of the paper


def deconvolution_stack(in_channels: int, channels: int, activation_name: str) -> nn.Sequential:
    """Three 4x4 stride-2 transposed convolutions (no bias), each with batch norm and activation: 8 times the size."""
    layers: list[nn.Module] = []
    for i in range(3):
        deconv = nn.ConvTranspose2d(in_channels if i == 0 else channels, channels, 4, stride=2, padding=1, bias=False)
        # Every output cell sees a quarter of the 4x4 kernel.
        nn.init.normal_(deconv.weight, std=math.sqrt(2 / (deconv.in_channels * 4)))
        layers += [deconv, nn.BatchNorm2d(channels), activation(activation_name)]
    return nn.Sequential(*layers)


def map_layer(in_channels: int, num_keypoints: int) -> nn.Conv2d:
    """The 1x1 convolution (with bias) to one map per keypoint."""
    layer = nn.Conv2d(in_channels, num_keypoints, 1)
    nn.init.normal_(layer.weight, std=math.sqrt(1 / in_channels))
    return layer


def linear_head(in_features: int, bins: int) -> nn.Linear:
    """One layer from a flattened map to the logits of one axis ("SLP", and SimCC's own head)."""
    return _small_output(nn.Linear(in_features, bins))


def mlp_head(in_features: int, bins: int, activation_name: str, dropout: float = 0.0) -> nn.Sequential:
    """Two layers from a flattened map to the logits of one axis ("MLP"), with an activation between.

    Dropout, if any, stands in the activation's place of the sequence so that the layers keep the names 0 and 2.
    """
    hidden = nn.Linear(in_features, HIDDEN_WIDTH)
    nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
    nn.init.zeros_(hidden.bias)
    middle = activation(activation_name)
    if dropout:
        middle = nn.Sequential(middle, nn.Dropout(dropout))
    return nn.Sequential(hidden, middle, _small_output(nn.Linear(HIDDEN_WIDTH, bins)))


def _small_output(layer: nn.Linear) -> nn.Linear:
    """Logits that start near zero: the loss begins at ln(bins) whatever the size of the maps."""
    nn.init.normal_(layer.weight, std=0.2 / math.sqrt(layer.in_features))
    nn.init.zeros_(layer.bias)
    return layer


def bin_counts(input_hw: tuple[int, int], split_ratio: float) -> tuple[int, int]:
    """Number of bins (x, y) of a crop: int(W * k), int(H * k). Raises UsageError unless 0 < k."""
    if not split_ratio > 0:
        raise UsageError(f"split_ratio must be positive, not {split_ratio}")
    return int(input_hw[1] * split_ratio), int(input_hw[0] * split_ratio)


def classify(maps: Tensor, head_x: nn.Module, head_y: nn.Module) -> tuple[Tensor, Tensor]:
    """Keypoint maps (B, K, h, w), flattened row by row, to logits (B, K, bins_x) and (B, K, bins_y).

    Under autocast they come back as float32: the softmax over hundreds of bins follows.
    """
    flat = maps.flatten(2)
    logits_x, logits_y = head_x(flat), head_y(flat)
    if logits_x.dtype in (torch.float16, torch.bfloat16):
        return logits_x.float(), logits_y.float()
    return logits_x, logits_y
