"""What stands before or behind a training crop's person: patches, other persons, other surroundings.

Space: `crop` (px of the network input). What covers returns the mask of what is covered, for `hide`.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.data.transforms import AugmentConfig
from ebapose.skeleton import Skeleton
from ebapose.structures import UInt8Array


def hide(keypoints: NDArray[np.float32], visibility: NDArray[np.uint8], mask: UInt8Array) -> None:
    """Turn visible keypoints (2) under a mask (H, W; nonzero covers) into hidden ones (1), in place."""
    x, y = np.rint(keypoints).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0]) & (visibility == 2)
    rows = np.flatnonzero(inside)
    visibility[rows[mask[y[rows], x[rows]] > 0]] = 1


def coarse_dropout(crop: UInt8Array, config: AugmentConfig, rng: np.random.Generator) -> UInt8Array:
    """Cover random rectangles of the crop, in place; returns the mask (H, W) of what is covered."""
    height, width = crop.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, config.dropout_patches + 1))):
        sides = rng.uniform(0.05, max(config.dropout_fraction, 0.05), 2) * (height, width)
        h, w = np.maximum(np.rint(sides).astype(int), 1)
        top, left = int(rng.integers(0, max(height - h, 0) + 1)), int(rng.integers(0, max(width - w, 0) + 1))
        area = np.s_[top : top + h, left : left + w]
        if rng.random() < 0.5:
            crop[area] = rng.integers(0, 256, 3, np.uint8)
        else:
            crop[area] = rng.integers(0, 256, crop[area].shape, np.uint8)
        mask[area] = 255
    return mask


def person_mask(
    keypoints: NDArray[np.float32],
    visibility: NDArray[np.uint8],
    skeleton: Skeleton,
    size_hw: tuple[int, int],
    parts: Sequence[str] | None = None,
) -> UInt8Array:
    """A rough silhouette (H, W), 0 or 255: edges as thick strokes, the trunk filled.

    Annotations hold no outlines here; a hand's breadth too much or too little does not matter for an occluder.

    Args:
        keypoints, visibility: (K, 2) crop px and (K,). Where fewer than three are labelled the mask is empty.
        skeleton: whose edges are drawn.
        size_hw: height and width of the mask in px.
        parts: draw only between keypoints with one of these words in their names; None: all.
    """
    mask = np.zeros(size_hw, np.uint8)
    labelled = visibility > 0
    if np.count_nonzero(labelled) < 3:
        return mask
    points = np.clip(keypoints, -4 * max(size_hw), 4 * max(size_hw))
    extent = points[labelled].max(axis=0) - points[labelled].min(axis=0)
    stroke = max(2, round(0.13 * float(np.hypot(*extent))))
    names = [name.lower() for name in skeleton.keypoint_names]
    if parts is not None:
        labelled &= np.array([any(part in name for part in parts) for name in names])
    pixels = np.rint(points).astype(int)
    for a, b in skeleton.edges:
        if labelled[a] and labelled[b]:
            cv2.line(mask, pixels[a].tolist(), pixels[b].tolist(), 255, stroke)
    trunk = [i for i, name in enumerate(names) if "shoulder" in name or "hip" in name]
    trunk = [i for i in trunk if labelled[i]]
    if len(trunk) >= 3:
        cv2.fillConvexPoly(mask, cv2.convexHull(pixels[trunk].astype(np.int32)), 255)
    for i in np.flatnonzero(labelled):
        cv2.circle(mask, pixels[i].tolist(), stroke // 2, 255, -1)
    return mask


def paste(crop: UInt8Array, cutout: UInt8Array, cutout_mask: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Paste another person's cut-out over the crop, in place, scaled, turned, mirrored and moved at random.

    Args:
        crop: RGB uint8 (H, W, 3).
        cutout: RGB uint8 (h, w, 3) with its silhouette `cutout_mask` uint8 (h, w).
        rng: source of every random choice.

    Returns:
        The mask (H, W) of what is covered.
    """
    height, width = crop.shape[:2]
    scale = rng.uniform(0.5, 1.2) * height / len(cutout)
    angle = np.deg2rad(rng.uniform(-25, 25))
    mirror = rng.random() < 0.5
    # beside the person, most of the time: an occluder in the middle hides everything there is to learn
    side = -1.0 if rng.random() < 0.5 else 1.0
    target = np.array([width / 2 + side * rng.uniform(0.2, 0.6) * width, height / 2 + rng.uniform(-0.25, 0.5) * height])
    matrix = _placing(cutout.shape, target, scale, angle, mirror=mirror)
    mask = cv2.warpAffine(cutout_mask, matrix, (width, height), flags=cv2.INTER_LINEAR).astype(np.uint8)
    _blend(crop, cutout, matrix, mask)
    return (mask > 127).astype(np.uint8)


def put_behind(
    crop: UInt8Array,
    silhouette: UInt8Array,
    cutout: UInt8Array,
    cutout_mask: UInt8Array,
    rng: np.random.Generator,
) -> None:
    """Put another picture behind the crop's person, in place: in half of the calls all of it, else its person alone.

    What is pure black in the crop stays so: mostly, the picture ends there.

    Args:
        crop: RGB uint8 (H, W, 3).
        silhouette: uint8 (H, W), 255 where the person is; nothing changes where it is empty.
        cutout, cutout_mask, rng: as of `paste`.
    """
    height, width = crop.shape[:2]
    whole, mirror = rng.random(2) < 0.5
    middle = np.array([width, height]) / 2
    if whole:  # covers the crop wherever it is moved
        scale = rng.uniform(1.0, 1.6) * max(height / cutout.shape[0], width / cutout.shape[1])
        room = (scale * np.array(cutout.shape[1::-1]) - (width, height)) / 2
        matrix = _placing(cutout.shape, middle + rng.uniform(-1, 1, 2) * room, scale, 0.0, mirror=mirror)
    else:
        scale = rng.uniform(0.6, 1.3) * height / len(cutout)
        target = middle + rng.uniform(-0.5, 0.5, 2) * (width, height)
        matrix = _placing(cutout.shape, target, scale, np.deg2rad(rng.uniform(-15, 15)), mirror=mirror)
    if not silhouette.any():
        return
    # hair, clothes and hands reach farther than keypoints and their edges; a soft border gives no outline away
    margin = 2 * round(0.015 * height) + 1
    front = cv2.GaussianBlur(cv2.dilate(silhouette, np.ones((margin, margin), np.uint8)), (0, 0), margin / 3)
    shown = np.full_like(cutout_mask, 255) if whole else cutout_mask
    shown = np.minimum(cv2.warpAffine(shown, matrix, (width, height), flags=cv2.INTER_LINEAR), 255 - front)
    _blend(crop, cutout, matrix, np.where(crop.any(axis=2), shown, 0).astype(np.uint8))


def _placing(
    shape: tuple[int, ...], target: NDArray[np.float64], scale: float, angle: float, *, mirror: bool
) -> NDArray[np.float64]:
    """Matrix (2, 3) that puts the middle of a picture of this shape (h, w, ...) to `target` (x, y)."""
    sign = -1.0 if mirror else 1.0
    linear = scale * np.array([[np.cos(angle) * sign, np.sin(angle)], [-np.sin(angle) * sign, np.cos(angle)]])
    return np.concatenate([linear, (target - linear @ [shape[1] / 2, shape[0] / 2])[:, None]], axis=1)


def _blend(crop: UInt8Array, cutout: UInt8Array, matrix: NDArray[np.float64], mask: UInt8Array) -> None:
    """Show a cut-out, moved by the matrix, in the crop (H, W, 3) where the mask (H, W) is 255, in place."""
    moved = cv2.warpAffine(cutout, matrix, mask.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    left, top, wide, high = cv2.boundingRect(mask)
    covered = np.s_[top : top + high, left : left + wide]
    alpha = mask[covered][..., None].astype(np.uint16)
    crop[covered] = ((crop[covered] * (255 - alpha) + moved[covered] * alpha + 127) // 255).astype(np.uint8)
