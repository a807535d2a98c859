"""EBA-PRNetCC: ResNet with Mish and bridge attention, three deconvolutions, a classifier of two layers per axis.

Zakir, Salman, Benitez-Garcia, Takahashi: "EBA-PRNetCC: An Efficient Bridge Attention-Integration PoseResNet for
Coordinate Classification in 2D Human Pose Estimation". The paper leaves open the split ratio k, the hidden width, the
reduction r and the width of the deconvolutions. k = 2, 256, 16 and 256 are the one design that reproduces all its
parameter counts and costs (`ebapose.models.complexity`, convention "paper"). Ablations are options:
activation="relu", reduction=None, and the `_slp` models with one layer per axis.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from ebapose.card import CodecSpec
from ebapose.errors import UsageError
from ebapose.models.heads import bin_counts, classify, linear_head, mlp_head
from ebapose.models.registry import register
from ebapose.models.resnet import PoseResNet


class EbaPrnetcc(PoseResNet):
    """The paper's network.

    Args:
        depth: of the ResNet.
        input_hw: crop size in px.
        num_keypoints: K.
        head: "mlp" (two layers per axis) or "slp" (one).
        split_ratio: bins per px (k).
        sigma: of the target Gaussian in bins.
        activation: "mish" or "relu", used everywhere.
        reduction: r of the bridge attention; None: no attention.
        dropout: probability of dropping a hidden unit of the two-layer head in training.
        width, deconv_channels: see `PoseResNet`.
    """

    def __init__(
        self,
        depth: int,
        input_hw: tuple[int, int],
        num_keypoints: int = 17,
        *,
        head: Literal["mlp", "slp"] = "mlp",
        split_ratio: float = 2.0,
        sigma: float = 6.0,
        activation: str = "mish",
        reduction: int | None = 16,
        dropout: float = 0.0,
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

        def axis_head(bins: int) -> nn.Module:
            in_features = self.map_hw[0] * self.map_hw[1]
            if head == "slp":
                return linear_head(in_features, bins)
            if head == "mlp":
                return mlp_head(in_features, bins, activation, dropout)
            raise UsageError(f"unknown head {head!r}: mlp or slp")

        self.mlp_head_x = axis_head(bins_x)
        self.mlp_head_y = axis_head(bins_y)
        self.hint: nn.Module | None = None  # while it learns from a teacher (`ebapose.training.teacher`)

    def forward(self, x: Tensor, return_maps: bool = False) -> tuple[Tensor, ...]:
        """Image (B, 3, H, W) to logits_x (B, K, int(W k)), logits_y (B, K, int(H k)).

        With `return_maps` the keypoint maps (B, K, H / 4, W / 4) in front of the head follow, for an auxiliary loss,
        and behind them what the hint makes of the features, if there is one.
        """
        features = self.features(x)
        maps = self.final_layer(features)
        logits = classify(maps, self.mlp_head_x, self.mlp_head_y)
        if not return_maps:
            return logits
        return (*logits, maps) if self.hint is None else (*logits, maps, self.hint(features))


@register
def eba_prnetcc18(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-18."""
    return EbaPrnetcc(18, input_hw, num_keypoints, **options)


@register
def eba_prnetcc34(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-34."""
    return EbaPrnetcc(34, input_hw, num_keypoints, **options)


@register
def eba_prnetcc50(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-50."""
    return EbaPrnetcc(50, input_hw, num_keypoints, **options)


@register
def eba_prnetcc101(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-101."""
    return EbaPrnetcc(101, input_hw, num_keypoints, **options)


@register
def eba_prnetcc152(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-152."""
    return EbaPrnetcc(152, input_hw, num_keypoints, **options)


@register
def eba_prnetcc18_slp(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-18 with the one-layer head."""
    return EbaPrnetcc(18, input_hw, num_keypoints, head="slp", **options)


@register
def eba_prnetcc34_slp(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-34 with the one-layer head."""
    return EbaPrnetcc(34, input_hw, num_keypoints, head="slp", **options)


@register
def eba_prnetcc50_slp(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-50 with the one-layer head."""
    return EbaPrnetcc(50, input_hw, num_keypoints, head="slp", **options)


@register
def eba_prnetcc101_slp(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-101 with the one-layer head."""
    return EbaPrnetcc(101, input_hw, num_keypoints, head="slp", **options)


@register
def eba_prnetcc152_slp(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:
    """EBA-PRNetCC on ResNet-152 with the one-layer head."""
    return EbaPrnetcc(152, input_hw, num_keypoints, head="slp", **options)


@register
def test_eba_prnetcc(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:  # noqa: PT028
    """One basic block per stage and few channels: for tests."""
    return EbaPrnetcc(10, input_hw, num_keypoints, **{"width": 8, "deconv_channels": 8, "reduction": 4, **options})


@register
def test_eba_prnetcc_bottleneck(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetcc:  # noqa: PT028
    """One bottleneck per stage and few channels: for tests."""
    return EbaPrnetcc(14, input_hw, num_keypoints, **{"width": 8, "deconv_channels": 8, "reduction": 4, **options})
