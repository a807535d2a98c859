"""Codecs: how keypoints in crop px become a network's targets, and its outputs become keypoints again.

Adding a new codec: write a class with `encode`, `decode` and `merge_flip` in a file of its own, give it a name in
`ebapose.card.CodecSpec.type` and a line each in `build_codec`, `output_shapes`, `export.onnx.OUTPUT_NAMES`,
`training.loader.encode_targets` and `training.loss.compute_loss`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ebapose.card import CodecSpec, InputSpec, ModelCard
from ebapose.codecs.coordinate import Coordinate
from ebapose.codecs.decoded import (
    Decoded,
    Float32Array,
    apply_calibration,
    confident_distances,
    mean_but_jumps,
    nominal_radius_px,
)
from ebapose.codecs.heatmap import Heatmap
from ebapose.codecs.simcc import SimCC
from ebapose.skeleton import Skeleton

__all__ = [
    "Codec",
    "Coordinate",
    "Decoded",
    "Heatmap",
    "SimCC",
    "apply_calibration",
    "build_codec",
    "confident_distances",
    "mean_but_jumps",
    "output_shapes",
]


class Codec(Protocol):
    """What the predictor needs of a codec; `outputs` are the network's, each (N, K, ...) float32."""

    def decode(self, outputs: tuple[Float32Array, ...]) -> Decoded:
        """Keypoints in crop px."""
        ...

    def merge_flip(
        self, outputs: tuple[Float32Array, ...], mirrored: tuple[Float32Array, ...], flip_indices: NDArray[np.intp]
    ) -> tuple[Float32Array, ...]:
        """Outputs for a crop averaged with those for its mirror image."""
        ...


def build_codec(spec: CodecSpec, input_spec: InputSpec, skeleton: Skeleton) -> SimCC | Heatmap | Coordinate:
    """The codec that a model card describes."""
    radius = nominal_radius_px(skeleton.sigmas, input_spec.size_hw, input_spec.padding)
    if spec.type == "simcc":
        return SimCC(input_spec.size_hw, spec.split_ratio, spec.sigma, spec.targets, radius, spec.position)
    if spec.type == "heatmap":
        return Heatmap(input_spec.size_hw, spec.stride, spec.sigma[0], radius)
    return Coordinate(input_spec.size_hw, radius)


def output_shapes(card: ModelCard) -> tuple[tuple[int, ...], ...]:
    """Shape of each of the network's outputs for one crop, as the card describes them."""
    codec = build_codec(card.codec, card.input, card.skeleton)
    k = card.skeleton.num_keypoints
    if isinstance(codec, SimCC):
        return tuple((k, bins) for bins in codec.bins_wh)
    return ((k, *codec.map_hw),) if isinstance(codec, Heatmap) else ((k, 2),)
