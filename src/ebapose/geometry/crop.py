"""From a person box to the network's input and back: one matrix, one warp.

Spaces: `image` (px of the picture) and `crop` (px of the network input); in both the centre of a pixel has integer
coordinates. Mirroring a crop of width W is x' = W - 1 - x. All matrices are 2x3 and map column vectors (x, y, 1).
"""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.errors import InputError
from ebapose.structures import UInt8Array

Float64Array = NDArray[np.float64]
_WARP_LIMIT = 2**15 - 1  # OpenCV 4 stores source positions in 16 bits
CropCenter = Literal["symmetric", "corner"]


def fit_boxes(boxes_xyxy: ArrayLike, size_hw: tuple[int, int], padding: float) -> tuple[Float64Array, Float64Array]:
    """Centres and sizes of boxes, grown to the crop's aspect and padded.

    The short side grows until width : height equals the crop's, then both sides are multiplied by `padding`
    (Xiao et al. 2018, Simple Baseline, section 3; 1.25 throughout the literature).

    Args:
        boxes_xyxy: (N, 4) in image px.
        size_hw: height and width of the crop in px.
        padding: factor, usually 1.25.

    Returns:
        centers (N, 2) and sizes_wh (N, 2), float64, image px.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    aspect = size_hw[1] / size_hw[0]
    sizes = np.empty_like(centers)
    np.maximum(width, height * aspect, out=sizes[:, 0])
    np.maximum(height, width / aspect, out=sizes[:, 1])
    return centers, sizes * padding


def image_to_crop_matrix(
    boxes_xyxy: ArrayLike,
    size_hw: tuple[int, int],
    padding: float = 1.25,
    crop_center: CropCenter = "symmetric",
    *,
    rotation_deg: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
    flip: ArrayLike = False,
    shift: ArrayLike = (0.0, 0.0),
) -> Float64Array:
    """The matrices that map image px to crop px, one per box.

    Args:
        boxes_xyxy: (N, 4) in image px, of positive width or height.
        size_hw: height and width of the crop in px.
        padding: enlargement of the aspect-corrected box.
        crop_center: where the box centre lands, see `ebapose.card.InputSpec`.
        rotation_deg: scalar or (N,), turns what is seen counter-clockwise on the screen by this angle.
        scale: scalar or (N,), multiplies the padded box (above 1: the person appears smaller).
        flip: scalar or (N,), mirror left and right (about the box centre, before the rotation). The caller swaps the
            labels: `Skeleton.flip_indices`.
        shift: (2,) or (N, 2), moves the box centre by this fraction of the padded box, (x, y).

    Returns:
        (N, 2, 3) float64.

    Raises:
        InputError: a box has neither width nor height, or is not finite.
    """
    # The loader calls this for every sample with one box: few array operations, no stacking and broadcasting of parts.
    centers, sizes_wh = fit_boxes(boxes_xyxy, size_hw, padding)
    if not np.isfinite(centers).all() or not ((sizes_wh > 0) & (sizes_wh < np.inf)).all():
        good = np.isfinite(centers).all(axis=1) & ((sizes_wh > 0) & (sizes_wh < np.inf)).all(axis=1)
        found = ", ".join(f"{value:g}" for value in np.reshape(boxes_xyxy, (-1, 4))[good.argmin()])
        raise InputError(f"box ({found}): left, top, right, bottom must be finite and enclose an area")
    scale, angle, shift = (np.asarray(values, np.float64) for values in (scale, np.deg2rad(rotation_deg), shift))
    sizes_wh = sizes_wh * scale[..., None]
    centers = centers + sizes_wh * shift
    factor = size_hw[1] / sizes_wh[:, 0]
    half_pixel = 1 if crop_center == "symmetric" else 0
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    mirror = np.where(flip, -1.0, 1.0)
    matrices = np.empty((len(centers), 2, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = cos * mirror, sin
    matrices[:, 1, 0], matrices[:, 1, 1] = -sin * mirror, cos
    for axis, target in enumerate(((size_hw[1] - half_pixel) / 2, (size_hw[0] - half_pixel) / 2)):
        matrices[:, axis, 2] = target - (matrices[:, axis, :2] * centers).sum(axis=1)
    return matrices


def invert(matrices: ArrayLike) -> Float64Array:
    """Inverse of (..., 2, 3) affine matrices."""
    matrices = np.asarray(matrices, dtype=np.float64)
    linear = np.linalg.inv(matrices[..., :2])
    return np.concatenate([linear, -linear @ matrices[..., 2:]], axis=-1)


def compose(second: ArrayLike, first: ArrayLike) -> Float64Array:
    """The matrix that applies `first`, then `second`; both (..., 2, 3)."""
    second, first = np.asarray(second, dtype=np.float64), np.asarray(first, dtype=np.float64)
    linear = second[..., :2] @ first[..., :2]
    return np.concatenate([linear, second[..., :2] @ first[..., 2:] + second[..., 2:]], axis=-1)


def transform_points(points: ArrayLike, matrices: ArrayLike) -> Float64Array:
    """Map points (..., K, 2) by matrices (..., 2, 3) with the same leading axes."""
    points, matrices = np.asarray(points, dtype=np.float64), np.asarray(matrices, dtype=np.float64)
    return points @ np.swapaxes(matrices[..., :2], -1, -2) + np.swapaxes(matrices[..., 2:], -1, -2)


def image_to_crop(points: ArrayLike, matrices: ArrayLike) -> Float64Array:
    """Keypoints (N, K, 2) from image px to crop px; `matrices` (N, 2, 3) from `image_to_crop_matrix`."""
    return transform_points(points, matrices)


def crop_to_image(points: ArrayLike, matrices: ArrayLike) -> Float64Array:
    """Keypoints (N, K, 2) from crop px to image px; `matrices` (N, 2, 3) from `image_to_crop_matrix`."""
    return transform_points(points, invert(matrices))


def crop_scale(matrices: ArrayLike) -> Float64Array:
    """(...,) crop px per image px of (..., 2, 3) matrices (they scale both axes alike)."""
    m = np.asarray(matrices, dtype=np.float64)
    scale: Float64Array = np.sqrt(np.abs(m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]))
    return scale


def warp_crop(image: UInt8Array, matrix: ArrayLike, size_hw: tuple[int, int], *, antialias: bool = True) -> UInt8Array:
    """Cut one crop out of a picture, bilinear, black outside.

    Args:
        image: uint8 (H, W, 3).
        matrix: (2, 3), image px to crop px.
        size_hw: height and width of the crop in px.
        antialias: shrink the part of the picture that is needed by area averaging first, where the crop is smaller
            by a factor of two or more: bilinear sampling alone would skip pixels there.

    Returns:
        uint8 (crop height, crop width, 3).
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if antialias:
        image, matrix = _shrink(image, matrix, size_hw)
    crop = cv2.warpAffine(image, matrix, (size_hw[1], size_hw[0]), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, np.uint8)


def _shrink(image: UInt8Array, matrix: Float64Array, size_hw: tuple[int, int]) -> tuple[UInt8Array, Float64Array]:
    """The needed part of the picture, area-averaged by a whole factor, and the matrix from there to the crop.

    The averaged blocks lie symmetrically about the crop's centre, so that the crop of a mirrored picture is the
    mirrored crop. With an odd number of pixels per block they can, whether the centre is on a pixel or between two.
    """
    # Every person of every picture and of every training batch comes by here: numbers of Python, which are ten times
    # faster than arrays of two.
    (a, b, c), (d, e, f) = matrix.tolist()
    determinant = a * e - b * d
    image_hw = image.shape[:2]
    factor = 2 * int(min(0.5 / max(math.sqrt(abs(determinant)), 1e-9), min(image_hw) / 16)) + 1
    if factor == 1 and max(image_hw) < _WARP_LIMIT:
        return image, matrix
    half_w, half_h = (size_hw[1] - 1) / 2, (size_hw[0] - 1) / 2
    across, down = half_w - c, half_h - f
    x, y = (e * across - b * down) / determinant, (a * down - d * across) / determinant  # the crop's centre
    reach_x = (abs(e) * (half_w + 1) + abs(b) * (half_h + 1)) / abs(determinant)  # from there to its outermost corner
    reach_y = (abs(d) * (half_w + 1) + abs(a) * (half_h + 1)) / abs(determinant)
    left, right = _blocks(x, reach_x, factor, image_hw[1])
    top, bottom = _blocks(y, reach_y, factor, image_hw[0])
    if left >= right or top >= bottom:
        return image, matrix
    small = image[max(top, 0) : bottom, max(left, 0) : right]
    if factor > 1:
        # blocks that reach beyond the picture: it is black there, as in the warp
        beyond = (max(-top, 0), max(bottom - image_hw[0], 0), max(-left, 0), max(right - image_hw[1], 0))
        if any(beyond):
            small = np.asarray(cv2.copyMakeBorder(small, *beyond, cv2.BORDER_CONSTANT), np.uint8)
        blocks = (right - left) // factor, (bottom - top) // factor
        small = np.asarray(cv2.resize(small, blocks, interpolation=cv2.INTER_AREA), np.uint8)
    # A pixel of the small picture is the mean of a block, and lies in its middle.
    x, y = left + factor // 2, top + factor // 2
    return small, np.array([[a * factor, b * factor, a * x + b * y + c], [d * factor, e * factor, d * x + e * y + f]])


def _blocks(center: float, reach: float, factor: int, size: int) -> tuple[int, int]:
    """First pixel and end of the blocks along one axis that cover what is needed; they may begin before the picture.

    Args:
        center: the crop's centre in image px.
        reach: from there to the crop's border, in image px.
        factor: odd, pixels per block.
        size: the picture's, in px.
    """
    low, high = max(center - reach - 2 * factor, 0), min(center + reach + 2 * factor, size)
    if low >= high:
        return 0, 0
    # Counted from the picture's outer edge: pixel i reaches from i to i + 1. Rounded, so that a tie stays a tie.
    edge = round(center + 0.5, 6)
    on_a_pixel = abs(edge % 1 - 0.5) <= 0.25
    grid = math.floor(edge) - factor // 2 if on_a_pixel else round(edge)  # where one of the blocks begins
    return grid + math.floor((low - grid) / factor) * factor, grid + math.ceil((high - grid) / factor) * factor
