"""ResNet with exchangeable activation and optional bridge attention, and PoseResNet: ResNet plus deconvolutions.

He et al., "Deep Residual Learning for Image Recognition"; in the bottleneck the stride sits on the 3x3 convolution.
With "relu" and no attention this is the backbone of Simple Baseline and SimCC, parameter names included; with "mish"
and attention it is that of EBA-PRNetCC.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ebapose.card import CodecSpec
from ebapose.errors import UsageError
from ebapose.models.attention import BridgeAttention, activation
from ebapose.models.heads import deconvolution_stack, map_layer
from ebapose.models.pose_model import PoseModel


class BasicBlock(nn.Module):
    """Two 3x3 convolutions. Bridged features: after the first activation; after the second norm."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, activation_name: str = "relu", reduction: int | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.activation = activation(activation_name)
        self.attention = BridgeAttention([width] * 2, reduction, activation_name) if reduction else None
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        first = self.activation(self.bn1(self.conv1(x)))
        last = self.bn2(self.conv2(first))
        if self.attention is not None:
            last = last * self.attention([first, last])
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.activation(last + shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions. Bridged features: after both activations; after the third norm."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, activation_name: str = "relu", reduction: int | None = None
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.activation = activation(activation_name)
        self.attention = (
            BridgeAttention([width, width, out_channels], reduction, activation_name) if reduction else None
        )
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        first = self.activation(self.bn1(self.conv1(x)))
        second = self.activation(self.bn2(self.conv2(first)))
        last = self.bn3(self.conv3(second))
        if self.attention is not None:
            last = last * self.attention([first, second, last])
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.activation(last + shortcut)
        return out


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


BLOCKS_OF_DEPTH: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    14: (Bottleneck, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """The four stages of a ResNet, without pooling and classifier.

    Args:
        depth: 18, 34, 50, 101 or 152 (10 and 14, one block per stage, for tests).
        activation_name: "relu" or "mish", used everywhere.
        reduction: r of the bridge attention in every block; None: no attention.
        width: channels of the stem; the stages have width * (1, 2, 4, 8), in bottlenecks times 4.
        num_stages: how many of the four stages there are.
    """

    def __init__(
        self,
        depth: int,
        activation_name: str = "relu",
        reduction: int | None = None,
        width: int = 64,
        num_stages: int = 4,
    ) -> None:
        super().__init__()
        block, blocks = BLOCKS_OF_DEPTH[depth]
        if reduction is not None and (isinstance(reduction, bool) or not isinstance(reduction, int) or reduction < 1):
            raise UsageError(
                f"reduction must be a whole number from 1 on (or None for no attention), not {reduction!r}"
            )
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.activation = activation(activation_name)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        in_channels = width
        self.num_stages = num_stages
        for stage, count in enumerate(blocks[:num_stages]):
            stage_width = width * 2**stage
            layers = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(block(in_channels, stage_width, stride, activation_name, reduction))
                in_channels = stage_width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.stage_channels = tuple(width * 2**stage * block.expansion for stage in range(num_stages))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, x: Tensor) -> Sequence[Tensor]:
        """Image (B, 3, H, W) to the stages' features, at strides 4, 8, 16 and 32."""
        x = self.maxpool(self.activation(self.bn1(self.conv1(x))))
        features = []
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            features.append(x)
        return features


class PoseResNet(ResNet, PoseModel):
    """ResNet, three deconvolutions and one map per keypoint; base of the heatmap and the SimCC models.

    Args:
        depth, activation_name, reduction, width: see `ResNet`.
        input_hw: crop size in px.
        num_keypoints: K.
        codec_spec: how the outputs encode keypoints.
        deconv_channels: channels of the three deconvolutions.
    """

    def __init__(
        self,
        depth: int,
        input_hw: tuple[int, int],
        num_keypoints: int,
        codec_spec: CodecSpec,
        *,
        activation_name: str,
        reduction: int | None,
        width: int = 64,
        deconv_channels: int = 256,
    ) -> None:
        super().__init__(depth, activation_name, reduction, width)
        self.input_hw = input_hw
        self.num_keypoints = num_keypoints
        self.codec_spec = codec_spec
        self.options = {}
        self.deconv_layers = deconvolution_stack(self.stage_channels[-1], deconv_channels, activation_name)
        self.final_layer = map_layer(deconv_channels, num_keypoints)

    @property
    def map_hw(self) -> tuple[int, int]:
        """Height and width of the keypoint maps: a quarter of the crop's."""
        return self.input_hw[0] // 4, self.input_hw[1] // 4

    def features(self, x: Tensor) -> Tensor:
        """Image (B, 3, H, W) to what the keypoint maps are made from (B, deconv_channels, H / 4, W / 4)."""
        features: Tensor = self.deconv_layers(self.stages(x)[-1])
        return features

    def maps(self, x: Tensor) -> Tensor:
        """Image (B, 3, H, W) to one map per keypoint (B, K, H / 4, W / 4)."""
        maps: Tensor = self.final_layer(self.features(x))
        return maps
