"""DARK: sub-cell refinement of a peak by a Taylor expansion of the smoothed log (Zhang et al. 2020, eq. 4-10)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def _smoothed_log(values: Float32Array, kernel_wh: tuple[int, int], floor: float) -> NDArray[np.float64]:
    """Log of one map (H, W), Gaussian-smoothed with a zero border and scaled back to its old maximum."""
    values = np.ascontiguousarray(values, np.float32)
    smooth = cv2.GaussianBlur(values, kernel_wh, 0, borderType=cv2.BORDER_CONSTANT).astype(np.float64)
    peak = smooth.max()
    if peak > 0:
        smooth *= float(values.max()) / peak
    return np.log(np.clip(smooth, floor, 50.0))


def dark_refine_1d(values: Float32Array, peak: NDArray[np.intp], sigma_bins: float) -> NDArray[np.float64]:
    """Refine the peaks of (..., bins) responses (positive, as RTMPose's), by one sigma at most; (...,) in bins.

    Constants as in MMPose, whose numbers it reproduces: kernel width, floor of the logarithm.
    """
    kernel = int((sigma_bins * 20 - 7) // 3)
    kernel = max(kernel - int(kernel % 2 == 0), 1)
    flat = values.reshape(-1, values.shape[-1])
    logs = np.stack([_smoothed_log(row[None], (kernel, 1), 1e-3)[0] for row in flat])
    padded = np.pad(logs, ((0, 0), (2, 2)), mode="edge")
    rows, columns = np.arange(len(flat)), peak.reshape(-1) + 2
    left2, left, middle, right, right2 = (padded[rows, columns + step] for step in (-2, -1, 0, 1, 2))
    # The second derivative spans two bins on each side, as in the published code.
    curvature = 0.25 * (right2 - 2 * middle + left2)
    offset = np.where(curvature < -1e-9, -0.5 * (right - left) / np.minimum(curvature, -1e-9), 0)
    return peak + np.clip(offset, -sigma_bins, sigma_bins).reshape(peak.shape)


def dark_refine_2d(maps: Float32Array, peak_xy: NDArray[np.intp], kernel: int = 11) -> NDArray[np.float64]:
    """Refine the peaks (N, K, 2) of (N, K, H, W) heatmaps; returns (N, K, 2) x, y in map px.

    The step is -H^-1 g of the smoothed log map; peaks beside the border, and those whose Hessian is not negative
    definite, stay where they are.
    """
    height, width = maps.shape[-2:]
    refined = peak_xy.astype(np.float64)
    for n, k in np.ndindex(*maps.shape[:2]):
        x, y = (int(v) for v in peak_xy[n, k])
        if not (1 < x < width - 2 and 1 < y < height - 2):
            continue
        m = _smoothed_log(maps[n, k], (kernel, kernel), 1e-10)
        gradient = 0.5 * np.array([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]])
        xx = 0.25 * (m[y, x + 2] - 2 * m[y, x] + m[y, x - 2])
        yy = 0.25 * (m[y + 2, x] - 2 * m[y, x] + m[y - 2, x])
        xy = 0.25 * (m[y + 1, x + 1] - m[y - 1, x + 1] - m[y + 1, x - 1] + m[y - 1, x - 1])
        determinant = xx * yy - xy * xy
        if determinant > 0 and xx < 0:
            step = -np.linalg.solve(np.array([[xx, xy], [xy, yy]]), gradient)
            refined[n, k] += np.clip(step, -1, 1)
    return refined
