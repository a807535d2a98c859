"""TFPose: a transformer that regresses keypoint coordinates directly.

Mao et al.: "TFPose: Direct Human Pose Estimation with Transformers". Its code was never published. Known: ResNet-50
features of several levels, each a 1x1 convolution to 256 channels and GroupNorm 32; sine positions plus a level
embedding; six encoder layers of multi-scale deformable attention (Zhu et al., "Deformable DETR": 8 heads, 4 points per
level, FFN 1024); K learned queries; six decoder layers of self-attention, deformable cross-attention and FFN, each
refining the previous point, sigmoid(delta + logit(point)); an L1 loss after every decoder layer, and an auxiliary
heatmap loss. The paper quotes 38.0 M parameters and 20.4 GFLOPs at 384x288.

Chosen here, because nothing says otherwise:

- the levels are strides 8, 16 and 32: with stride 4 the encoder alone would cost twice the quoted total, with these
  three the network has 36.7 M parameters and 20.5 GMAC (20.3 of them in convolutions and linear layers);
- norms after the residual addition, ReLU in the FFN, dropout 0.1, each attention head's points start on a ray of its
  own, all as in Deformable DETR;
- the first points come from a linear layer on the query's position embedding; a layer takes the points before it as
  they are, both where it samples and where it refines: no gradient passes through them to the decoder layers before;
- delta is predicted by three linear layers per decoder layer, not shared;
- the auxiliary maps come from the encoder's stride-8 output through one 4x4 stride-2 transposed convolution, batch
  norm, ReLU and a 1x1 convolution, so they have a quarter of the crop's size, as all maps of this package; in eval
  mode this branch does not run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebapose.card import CodecSpec
from ebapose.errors import UsageError
from ebapose.models.pose_model import PoseModel
from ebapose.models.registry import register
from ebapose.models.resnet import ResNet

STRIDES = (8, 16, 32)


class DeformableAttention(nn.Module):
    """Each query samples every level at a few learned places around its reference point and averages them.

    Args:
        channels: of queries and values.
        heads: attention heads; each samples its own places in its share of the channels.
        level_hw: height and width of every level's map.
        points: places per head and level.
    """

    def __init__(self, channels: int, heads: int, level_hw: Sequence[tuple[int, int]], points: int) -> None:
        super().__init__()
        self.heads, self.level_hw, self.points = heads, tuple(level_hw), points
        self.offsets = nn.Linear(channels, heads * len(level_hw) * points * 2)
        self.weights = nn.Linear(channels, heads * len(level_hw) * points)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1)
        start = rays[:, None, None, :] * steps[None, None, :, None]  # (heads, 1, points, 2), in cells of the map
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(heads, len(level_hw), points, 2).flatten())
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, reference: Tensor, memory: Tensor) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            reference: (B or 1, Q, 2), x and y as fractions of the picture.
            memory: (B, S, C), the levels' maps, flattened row by row and joined.

        Returns (B, Q, C).
        """
        batch, num_queries, channels = query.shape
        levels = len(self.level_hw)
        offsets = self.offsets(query).view(batch, num_queries, self.heads, levels, self.points, 2)
        weights = self.weights(query).view(batch, num_queries, self.heads, levels * self.points).softmax(-1)
        values = self.value(memory).split([h * w for h, w in self.level_hw], dim=1)
        sampled = []
        for level, (h, w) in enumerate(self.level_hw):
            maps = values[level].transpose(1, 2).reshape(batch * self.heads, channels // self.heads, h, w)
            size_wh = torch.tensor([w, h], dtype=query.dtype, device=query.device)
            places = reference[:, :, None, None] + offsets[:, :, :, level] / size_wh  # (B, Q, heads, points, 2)
            grid = (2 * places - 1).transpose(1, 2).reshape(batch * self.heads, num_queries, self.points, 2)
            sampled.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        # (B heads, C / heads, Q, levels points) weighed by (B heads, 1, Q, levels points)
        weighed = torch.cat(sampled, -1) * weights.transpose(1, 2).reshape(batch * self.heads, 1, num_queries, -1)
        merged: Tensor = self.output(weighed.sum(-1).view(batch, channels, num_queries).transpose(1, 2))
        return merged

    def own_macs(self, inputs: tuple[Any, ...], output: Tensor) -> int:
        """Four products per bilinear sample and one for its weight, in every channel."""
        return int(output.numel()) * len(self.level_hw) * self.points * 5


class SelfAttention(nn.Module):
    """Ordinary multi-head attention of the keypoint queries among each other."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, query: Tensor, value: Tensor) -> Tensor:
        """Query (= key) and value (B, K, C) to (B, K, C)."""

        def split(x: Tensor) -> Tensor:
            return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            split(self.query(query)), split(self.key(query)), split(self.value(value))
        )
        merged: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return merged

    def own_macs(self, inputs: tuple[Any, ...], output: Tensor) -> int:
        """Scores and weighted sum: K products each per number of the output."""
        return 2 * int(output.numel()) * int(output.shape[1])


class FeedForward(nn.Sequential):
    """Two linear layers with ReLU between."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels))


class EncoderLayer(nn.Module):
    """Deformable self-attention of all cells of all levels, and FFN."""

    def __init__(self, channels: int, hidden: int, dropout: float, attention: DeformableAttention) -> None:
        super().__init__()
        self.attention = attention
        self.norm1 = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, hidden, dropout)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor) -> Tensor:
        """Memory (B, S, C), its positions (S, C) and reference points (1, S, 2) to memory (B, S, C)."""
        x = self.norm1(x + self.dropout(self.attention(x + position, reference, x)))
        out: Tensor = self.norm2(x + self.dropout(self.feed_forward(x)))
        return out


class DecoderLayer(nn.Module):
    """Self-attention of the queries, deformable attention to the memory, FFN, and the offset of the points."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float, attention: DeformableAttention) -> None:
        super().__init__()
        self.self_attention = SelfAttention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attention = attention
        self.norm2 = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, hidden, dropout)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        last = nn.Linear(channels, 2)
        nn.init.normal_(last.weight, std=1e-3)  # begin with the points as they come
        nn.init.zeros_(last.bias)
        self.delta = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), last
        )

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, K, C), positions (K, C), points (B, K, 2) and memory (B, S, C) to queries and new points."""
        x = self.norm1(x + self.dropout(self.self_attention(x + position, x)))
        x = self.norm2(x + self.dropout(self.cross_attention(x + position, reference.detach(), memory)))
        x = self.norm3(x + self.dropout(self.feed_forward(x)))
        return x, torch.sigmoid(self.delta(x) + _logit(reference))


class TFPose(PoseModel):
    """The regression transformer.

    Args:
        depth: of the ResNet.
        input_hw: crop size in px.
        num_keypoints: K.
        channels: of the transformer; divisible by `heads` and by 4.
        heads: attention heads.
        points: sampled places per head and level.
        hidden: width of the FFN.
        encoder_layers, decoder_layers: their numbers.
        dropout: in the transformer, in training.
        width: channels of the ResNet's stem.
        activation: of the ResNet, "relu" or "mish".
        reduction: r of the bridge attention in the ResNet; None: no attention.

    Raises UsageError where the numbers do not go together.
    """

    def __init__(
        self,
        depth: int,
        input_hw: tuple[int, int],
        num_keypoints: int = 17,
        *,
        channels: int = 256,
        heads: int = 8,
        points: int = 4,
        hidden: int = 1024,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        dropout: float = 0.1,
        width: int = 64,
        activation: str = "relu",
        reduction: int | None = None,
    ) -> None:
        super().__init__()
        if channels % heads or channels % 4:
            raise UsageError(f"channels must be divisible by heads ({heads}) and by 4, not {channels}")
        for name, number in {
            "points": points,
            "encoder_layers": encoder_layers,
            "decoder_layers": decoder_layers,
        }.items():
            if number < 1:
                raise UsageError(f"{name} must be at least 1, not {number}")
        self.input_hw = input_hw
        self.num_keypoints = num_keypoints
        self.codec_spec = CodecSpec(type="coordinate")
        self.options = {}
        self.level_hw = tuple((input_hw[0] // s, input_hw[1] // s) for s in STRIDES)
        self.backbone = ResNet(depth, activation, reduction, width)
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1), nn.GroupNorm(min(32, channels // 4), channels))
            for c in self.backbone.stage_channels[1:]
        )
        self.level_embedding = nn.Parameter(torch.randn(len(STRIDES), channels))

        def attention() -> DeformableAttention:
            return DeformableAttention(channels, heads, self.level_hw, points)

        self.encoder = nn.ModuleList(
            EncoderLayer(channels, hidden, dropout, attention()) for _ in range(encoder_layers)
        )
        self.query = nn.Parameter(torch.randn(num_keypoints, channels))
        self.query_position = nn.Parameter(torch.randn(num_keypoints, channels))
        self.first_point = nn.Linear(channels, 2)
        nn.init.xavier_uniform_(self.first_point.weight)
        nn.init.zeros_(self.first_point.bias)
        self.decoder = nn.ModuleList(
            DecoderLayer(channels, heads, hidden, dropout, attention()) for _ in range(decoder_layers)
        )
        self.auxiliary_maps = nn.Sequential(
            nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_keypoints, 1),
        )
        centres = [_cell_centres(h, w) for h, w in self.level_hw]
        self.register_buffer("cell_centres", torch.cat(centres)[None], persistent=False)  # (1, S, 2)
        self.register_buffer("cell_positions", sine_positions(torch.cat(centres), channels), persistent=False)  # (S, C)
        self.cell_centres: Tensor
        self.cell_positions: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, 3, H, W) to coordinates (B, K, 2), x and y as fractions 0..1 of the crop.

        In training mode: the coordinates after every decoder layer (layers, B, K, 2), and the auxiliary heatmaps
        (B, K, H / 4, W / 4).
        """
        memory = self.encode(x)
        reference = self.first_point(self.query_position).sigmoid().expand(x.shape[0], -1, -1)
        queries = self.query.expand(x.shape[0], -1, -1)
        refined = []
        for layer in self.decoder:
            queries, reference = layer(queries, self.query_position, reference, memory)
            refined.append(reference)
            reference = reference.detach()
        if not self.training:
            return (refined[-1],)
        h, w = self.level_hw[0]
        finest = memory[:, : h * w].transpose(1, 2).reshape(x.shape[0], -1, h, w)
        return torch.stack(refined), self.auxiliary_maps(finest)

    def encode(self, x: Tensor) -> Tensor:
        """Image (B, 3, H, W) to the encoder's memory (B, S, C): all cells of the three levels."""
        features = self.backbone.stages(x)[1:]
        tokens = [project(f).flatten(2).transpose(1, 2) for project, f in zip(self.project, features, strict=True)]
        memory = torch.cat(tokens, 1)
        levels = [e.expand(h * w, -1) for e, (h, w) in zip(self.level_embedding, self.level_hw, strict=True)]
        position = self.cell_positions + torch.cat(levels)
        for layer in self.encoder:
            memory = layer(memory, position, self.cell_centres)
        return memory


def _logit(fraction: Tensor, margin: float = 1e-5) -> Tensor:
    """Inverse of the sigmoid, finite at 0 and 1."""
    fraction = fraction.clamp(margin, 1 - margin)
    return torch.log(fraction / (1 - fraction))


def _cell_centres(h: int, w: int) -> Tensor:
    """(h * w, 2) centres of a map's cells, x and y as fractions of the picture, row by row."""
    ys, xs = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return torch.stack([xs.flatten(), ys.flatten()], -1)


def sine_positions(points: Tensor, channels: int) -> Tensor:
    """Points (N, 2), fractions, to (N, channels): sines and cosines of y in the first half, of x in the second.

    As in DETR (Carion et al.): one turn over the picture, wavelengths growing up to a factor of 10000.
    """
    frequencies = 10000 ** (-torch.arange(0, channels // 2, 2) / (channels // 2))
    angles = points.flip(-1)[:, :, None] * 2 * math.pi * frequencies  # (N, 2, channels / 4)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


@register
def tfpose50(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> TFPose:
    """TFPose on ResNet-50, as in the paper."""
    return TFPose(50, input_hw, num_keypoints, **options)


@register
def tfpose18_small(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> TFPose:
    """A small TFPose for studies: ResNet-18, 128 channels, two encoder and three decoder layers."""
    small = {"channels": 128, "hidden": 512, "encoder_layers": 2, "decoder_layers": 3}
    return TFPose(18, input_hw, num_keypoints, **{**small, **options})


@register
def test_tfpose(input_hw: tuple[int, int], num_keypoints: int = 17, **options: Any) -> TFPose:  # noqa: PT028
    """One block per stage, one encoder and two decoder layers, few channels: for tests."""
    tiny = {"channels": 16, "heads": 2, "points": 2, "hidden": 32, "encoder_layers": 1, "decoder_layers": 2}
    return TFPose(10, input_hw, num_keypoints, **{**tiny, "dropout": 0.0, "width": 8, **options})
