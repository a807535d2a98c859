"""EBA-PRNetCC lite: the same ideas at half the cost. Our own variant, not a published network.

In the small-scale study (`docs/results.md`, `benchmarks/study.py`) lite18 loses no accuracy against EBA-PRNetCC18
beyond the spread. That study trains for a short time, which favours a small network; nothing is known about long
training, and about lite34.

What is expensive in EBA-PRNetCC on ResNet-18 are the three deconvolutions (2.5 of 6.6 GMAC at 384x288) and, in
parameters, the fourth stage (8.4 of 11.2 M). Here the ResNet ends after its third stage, at stride 16, and two
sub-pixel steps of depthwise and 1x1 convolutions (Shi et al., "Real-Time Single Image and Video Super-Resolution Using
an Efficient Sub-Pixel Convolutional Neural Network") bring its map to stride 4. Mish, bridge attention and the head of
two layers per axis, which sees the whole map, are EBA-PRNetCC's. At 384x288, lite18 has half of the true
multiply-accumulates and a third of the parameters of `eba_prnetcc18`. Stem and stages have the names of EBA-PRNetCC, so
training can start from its weights (`model.new_head: true`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ebapose.card import CodecSpec
from ebapose.models.attention import activation as make_activation
from ebapose.models.heads import bin_counts, classify, map_layer, mlp_head
from ebapose.models.pose_model import PoseModel
from ebapose.models.registry import register
from ebapose.models.resnet import ResNet


class EbaPrnetccLite(ResNet, PoseModel):
    """Three stages, sub-pixel upsampling, two-layer classifiers.

    Args:
        depth: of the ResNet whose first three stages these are.
        input_hw: crop size in px.
        num_keypoints: K.
        split_ratio: bins per px (k).
        sigma: of the target Gaussian in bins.
        activation: "mish" or "relu", used everywhere.
        reduction: r of the bridge attention; None: no attention.
        dropout: probability of dropping a hidden unit of the head in training.
        width: see `ResNet`.
        up_channels: channels of the upsampling.
    """

    def __init__(
        self,
        depth: int,
        input_hw: tuple[int, int],
        num_keypoints: int = 17,
        *,
        split_ratio: float = 2.0,
        sigma: float = 6.0,
        activation: str = "mish",
        reduction: int | None = 16,
        dropout: float = 0.0,
        width: int = 64,
        up_channels: int = 128,
    ) -> None:
        bins_x, bins_y = bin_counts(input_hw, split_ratio)
        super().__init__(depth, activation, reduction, width, num_stages=3)
        self.input_hw = input_hw
        self.num_keypoints = num_keypoints
        self.codec_spec = CodecSpec(type="simcc", split_ratio=split_ratio, sigma=(sigma, sigma))
        self.options = {}
        self.reduce = nn.Sequential(
            nn.Conv2d(self.stage_channels[-1], up_channels, 1, bias=False),
            nn.BatchNorm2d(up_channels),
            make_activation(activation),
        )
        self.upsample = nn.Sequential(*(_sub_pixel_step(up_channels, activation) for _ in range(2)))
        self.final_layer = map_layer(up_channels, num_keypoints)
        in_features = self.map_hw[0] * self.map_hw[1]
        self.mlp_head_x = mlp_head(in_features, bins_x, activation, dropout)
        self.mlp_head_y = mlp_head(in_features, bins_y, activation, dropout)

    @property
    def map_hw(self) -> tuple[int, int]:
        """Height and width of the keypoint maps: a quarter of the crop's."""
        return self.input_hw[0] // 4, self.input_hw[1] // 4

    def maps(self, x: Tensor) -> Tensor:
        """Image (B, 3, H, W) to one map per keypoint (B, K, H / 4, W / 4)."""
        maps: Tensor = self.final_layer(self.upsample(self.reduce(self.stages(x)[-1])))
        return maps

    def forward(self, x: Tensor, return_maps: bool = False) -> tuple[Tensor, ...]:
        """Image (B, 3, H, W) to logits_x (B, K, int(W k)), logits_y (B, K, int(H k)).

        With `return_maps` the keypoint maps (B, K, H / 4, W / 4) in front of the head follow, for an auxiliary loss.
        """
        maps = self.maps(x)
        logits = classify(maps, self.mlp_head_x, self.mlp_head_y)
        return (*logits, maps) if return_maps else logits


def _sub_pixel_step(channels: int, activation_name: str) -> nn.Sequential:
    """(B, C, h, w) to (B, C, 2 h, 2 w): a depthwise 3x3 convolution, then a 1x1 to four times the channels, which
    become the four pixels of each cell.
    """
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, 4 * channels, 1, bias=False),
        nn.PixelShuffle(2),
        nn.BatchNorm2d(channels),
        make_activation(activation_name),
    )


@register
def eba_prnetcc_lite18(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetccLite:
    """EBA-PRNetCC lite on three stages of ResNet-18."""
    return EbaPrnetccLite(18, input_hw, num_keypoints, **options)


@register
def eba_prnetcc_lite34(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetccLite:
    """EBA-PRNetCC lite on three stages of ResNet-34."""
    return EbaPrnetccLite(34, input_hw, num_keypoints, **options)


@register
def test_eba_prnetcc_lite(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> EbaPrnetccLite:  # noqa: PT028
    """One basic block per stage and few channels: for tests."""
    return EbaPrnetccLite(10, input_hw, num_keypoints, **{"width": 8, "up_channels": 8, "reduction": 4, **options})
