"""Direct regression of normalised coordinates (TFPose)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.codecs.decoded import Decoded, Float32Array, require_finite


@dataclass(frozen=True)
class Coordinate:
    """The codec of one model.

    Attributes:
        size_hw: height and width of the crop in px.
        radius_px: (K,) distance in crop px that counts as right, see `ebapose.codecs.decoded`.
    """

    size_hw: tuple[int, int]
    radius_px: NDArray[np.float64] = field(default_factory=lambda: np.array([5.0]), repr=False, compare=False)

    def encode(self, keypoints: ArrayLike, visible: ArrayLike) -> tuple[Float32Array, Float32Array]:
        """Keypoints (..., K, 2) in crop px -> 0..1 of the crop's width and height, and weights (..., K).

        A pixel's centre x becomes (x + 0.5) / W. The weight is 0 for unlabelled keypoints and those outside the crop.
        """
        scaled = (np.asarray(keypoints, np.float64) + 0.5) / [self.size_hw[1], self.size_hw[0]]
        weights = (np.asarray(visible) > 0) & ((scaled >= 0) & (scaled <= 1)).all(axis=-1)
        return scaled.astype(np.float32), weights.astype(np.float32)

    def merge_flip(
        self, outputs: tuple[Float32Array, ...], mirrored: tuple[Float32Array, ...], flip_indices: NDArray[np.intp]
    ) -> tuple[Float32Array, ...]:
        """Average the coordinates (N, K, 2) of a crop with those of its mirror image."""
        back = mirrored[0][:, flip_indices] * np.array([-1, 1], np.float32) + np.array([1, 0], np.float32)
        return ((outputs[0] + back) * np.float32(0.5),)

    def decode(self, outputs: tuple[Float32Array, ...]) -> Decoded:
        """Crop px from coordinates (N, K, 2) in 0..1. Regression states no certainty: scores are 1, sigmas NaN.

        Raises ModelFileError for NaN or infinite outputs.
        """
        coordinates = np.asarray(outputs[0], np.float32)
        require_finite(coordinates)
        keypoints = coordinates * np.array([self.size_hw[1], self.size_hw[0]], np.float32) - np.float32(0.5)
        return Decoded(keypoints, np.ones(keypoints.shape[:2], np.float32), np.full_like(keypoints, np.nan))
