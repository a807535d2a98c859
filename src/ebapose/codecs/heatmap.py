"""Heatmaps: one map per keypoint with a Gaussian at its place (Xiao et al. 2018, Simple Baseline)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.codecs.dark import dark_refine_2d
from ebapose.codecs.decoded import Decoded, Float32Array, require_finite


@dataclass(frozen=True)
class Heatmap:
    """The codec of one model.

    Attributes:
        size_hw: height and width of the crop in px.
        stride: crop px per map px.
        sigma: standard deviation of the target Gaussian in map px.
        radius_px: (K,) distance in crop px that counts as right, see `ebapose.codecs.decoded`.
    """

    size_hw: tuple[int, int]
    stride: int = 4
    sigma: float = 2.0
    radius_px: NDArray[np.float64] = field(default_factory=lambda: np.array([5.0]), repr=False, compare=False)

    @property
    def map_hw(self) -> tuple[int, int]:
        """Height and width of the maps."""
        return self.size_hw[0] // self.stride, self.size_hw[1] // self.stride

    def encode(self, keypoints: ArrayLike, visible: ArrayLike) -> tuple[Float32Array, Float32Array]:
        """Target maps: exp(-d^2 / (2 sigma^2)) about the nearest cell, 0 beyond three sigma along an axis.

        Args:
            keypoints: (..., K, 2) in crop px.
            visible: (..., K), 0 where a keypoint is not labelled.

        Returns:
            maps (..., K, H/stride, W/stride) and weights (..., K) of 0 and 1, float32. The weight is 0 where the
            window of three sigma misses the map.
        """
        height, width = self.map_hw
        centers = np.trunc(np.asarray(keypoints, np.float64) / self.stride + 0.5)
        reach = 3 * self.sigma
        low, high = np.trunc(centers - reach), np.trunc(centers + reach + 1)
        weights = (np.asarray(visible) > 0) & ((low < [width, height]) & (high >= 0)).all(axis=-1)
        axes = []
        for axis, num in ((0, width), (1, height)):
            offset = np.arange(num) - centers[..., axis, None]
            axes.append(np.where(np.abs(offset) <= reach, np.exp(-(offset**2) / (2 * self.sigma**2)), 0.0))
        maps = axes[1][..., :, None] * axes[0][..., None, :] * weights[..., None, None]
        return maps.astype(np.float32), weights.astype(np.float32)

    def merge_flip(
        self,
        outputs: tuple[Float32Array, ...],
        mirrored: tuple[Float32Array, ...],
        flip_indices: NDArray[np.intp],
        shift_cells: int = 1,
    ) -> tuple[Float32Array, ...]:
        """Average the maps of a crop with those of its mirror image.

        The reversed maps lie stride - 1 crop px too far left; `shift_cells` moves them right by whole cells (1 as
        published, column 0 keeps its value).
        """
        back = mirrored[0][:, flip_indices, :, ::-1].copy()
        if shift_cells:
            back[..., shift_cells:] = back[..., :-shift_cells].copy()
        return ((outputs[0] + back) * np.float32(0.5),)

    def decode(
        self, outputs: tuple[Float32Array, ...], refine: Literal["quarter", "none", "dark"] = "quarter"
    ) -> Decoded:
        """Keypoints from maps (N, K, h, w): the largest cell, moved 0.25 cells towards the higher neighbour.

        The score is the map's peak, clipped to 0..1; maps predict no standard deviation (NaN). A map without a
        positive value gives cell (0, 0), as in the reference. Raises ModelFileError for NaN or infinite maps.
        """
        maps = np.asarray(outputs[0], np.float32)
        num, k, height, width = maps.shape
        flat = maps.reshape(num, k, height * width)
        best, peaks = flat.argmax(axis=-1), flat.max(axis=-1)
        require_finite(peaks)
        cells = np.stack([best % width, best // width], axis=-1) * (peaks > 0)[..., None]
        positions = cells.astype(np.float64)
        if refine == "quarter":
            x, y = cells[..., 0], cells[..., 1]
            inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
            n, j = np.nonzero(inner)
            x, y = x[inner], y[inner]
            positions[n, j, 0] += 0.25 * np.sign(maps[n, j, y, x + 1] - maps[n, j, y, x - 1])
            positions[n, j, 1] += 0.25 * np.sign(maps[n, j, y + 1, x] - maps[n, j, y - 1, x])
        elif refine == "dark":
            positions = dark_refine_2d(maps, cells)
        return Decoded(
            (positions * self.stride).astype(np.float32),
            np.clip(peaks, 0, 1),
            np.full((num, k, 2), np.nan, np.float32),
        )
