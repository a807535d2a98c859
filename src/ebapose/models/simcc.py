"""SimCC: Simple Baseline's network, with one linear classifier per axis instead of heatmaps.

Li et al.: "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation". Parameter names are those
of the published checkpoints.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ebapose.card import CodecSpec
from ebapose.models.heads import bin_counts, classify, linear_head
from ebapose.models.registry import register
from ebapose.models.resnet import PoseResNet


class SimCC(PoseResNet):
    """The coordinate classification model with one linear layer per axis, shared by all keypoints.

    Args:
        depth: of the ResNet.
        input_hw: crop size in px.
        num_keypoints: K.
        split_ratio: bins per px (k).
        sigma: of the target Gaussian in bins.
        activation: "relu" (published) or "mish".
        reduction: r of the bridge attention; None (published): no attention.
        width, deconv_channels: see `PoseResNet`.
    """

    def __init__(
        self,
        depth: int,
        input_hw: tuple[int, int],
        num_keypoints: int = 17,
        *,
        split_ratio: float = 2.0,
        sigma: float = 6.0,
        activation: str = "relu",
        reduction: int | None = None,
        width: int = 64,
        deconv_channels: int = 256,
    ) -> None:
        bins_x, bins_y = bin_counts(input_hw, split_ratio)
        super().__init__(
            depth,
            input_hw,
            num_keypoints,
            CodecSpec(type="simcc", split_ratio=split_ratio, sigma=(sigma, sigma)),
            activation_name=activation,
            reduction=reduction,
            width=width,
            deconv_channels=deconv_channels,
        )
        self.mlp_head_x = linear_head(self.map_hw[0] * self.map_hw[1], bins_x)
        self.mlp_head_y = linear_head(self.map_hw[0] * self.map_hw[1], bins_y)

    def forward(self, x: Tensor, return_maps: bool = False) -> tuple[Tensor, ...]:
        """Image (B, 3, H, W) to logits_x (B, K, int(W k)), logits_y (B, K, int(H k)).

        With `return_maps` the keypoint maps (B, K, H / 4, W / 4) in front of the head follow, for an auxiliary loss.
        """
        maps = self.maps(x)
        logits = classify(maps, self.mlp_head_x, self.mlp_head_y)
        return (*logits, maps) if return_maps else logits


@register
def simcc18(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimCC:
    """SimCC on ResNet-18."""
    return SimCC(18, input_hw, num_keypoints, **options)


@register
def simcc34(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimCC:
    """SimCC on ResNet-34."""
    return SimCC(34, input_hw, num_keypoints, **options)


@register
def simcc50(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimCC:
    """SimCC on ResNet-50."""
    return SimCC(50, input_hw, num_keypoints, **options)


@register
def simcc101(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimCC:
    """SimCC on ResNet-101."""
    return SimCC(101, input_hw, num_keypoints, **options)


@register
def simcc152(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimCC:
    """SimCC on ResNet-152."""
    return SimCC(152, input_hw, num_keypoints, **options)


@register
def test_simcc(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimCC:  # noqa: PT028
    """One block per stage and few channels: for tests."""
    return SimCC(10, input_hw, num_keypoints, **{"width": 8, "deconv_channels": 8, **options})
