"""Simple Baseline: ResNet, three deconvolutions, one heatmap per keypoint.

Xiao, Wu, Wei: "Simple Baselines for Human Pose Estimation and Tracking". Targets are Gaussians of peak 1 and sigma 2 px
of the map at 256x192, 3 px at 384x288. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ebapose.card import CodecSpec
from ebapose.models.registry import register
from ebapose.models.resnet import PoseResNet


class SimpleBaseline(PoseResNet):
    """The heatmap model.

    Args:
        depth: of the ResNet.
        input_hw: crop size in px.
        num_keypoints: K.
        sigma: of the target Gaussian in map px; None: 3 from a height of 384 px on, else 2, as published.
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
        sigma: float | None = None,
        activation: str = "relu",
        reduction: int | None = None,
        width: int = 64,
        deconv_channels: int = 256,
    ) -> None:
        if sigma is None:
            sigma = 3.0 if input_hw[0] >= 384 else 2.0
        super().__init__(
            depth,
            input_hw,
            num_keypoints,
            CodecSpec(type="heatmap", sigma=(sigma, sigma), stride=4),
            activation_name=activation,
            reduction=reduction,
            width=width,
            deconv_channels=deconv_channels,
        )

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Image (B, 3, H, W) to heatmaps (B, K, H / 4, W / 4)."""
        return (self.maps(x),)


@register
def simple_baseline18(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimpleBaseline:
    """Simple Baseline on ResNet-18."""
    return SimpleBaseline(18, input_hw, num_keypoints, **options)


@register
def simple_baseline34(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimpleBaseline:
    """Simple Baseline on ResNet-34."""
    return SimpleBaseline(34, input_hw, num_keypoints, **options)


@register
def simple_baseline50(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimpleBaseline:
    """Simple Baseline on ResNet-50."""
    return SimpleBaseline(50, input_hw, num_keypoints, **options)


@register
def simple_baseline101(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimpleBaseline:
    """Simple Baseline on ResNet-101."""
    return SimpleBaseline(101, input_hw, num_keypoints, **options)


@register
def simple_baseline152(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimpleBaseline:
    """Simple Baseline on ResNet-152."""
    return SimpleBaseline(152, input_hw, num_keypoints, **options)


@register
def test_simple_baseline(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> SimpleBaseline:  # noqa: PT028
    """One block per stage and few channels: for tests."""
    return SimpleBaseline(10, input_hw, num_keypoints, **{"width": 8, "deconv_channels": 8, **options})
