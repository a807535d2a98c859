"""Other clothes for a training crop's person: the same few people must not be known by what they wear.

Space: `crop` (px of the network input). No pixel moves, so no label changes.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.data.occlusion import person_mask
from ebapose.data.photometric import color_matrix, tone_table
from ebapose.skeleton import Skeleton
from ebapose.structures import UInt8Array

# which keypoints a garment reaches: with short or long sleeves, with short or long legs
_UPPER = (("shoulder", "hip", "elbow"), ("shoulder", "hip", "elbow", "wrist"))
_LOWER = (("hip", "knee"), ("hip", "knee", "ankle"))
_WORN = 0.8  # how often each of the two changes
_PATTERNED = 0.3
_NEGATIVE = 0.25  # light becomes dark: no turn of the hue makes a white shirt a black one


def other_clothes(
    crop: UInt8Array,
    keypoints: NDArray[np.float32],
    visibility: NDArray[np.uint8],
    skeleton: Skeleton,
    pattern: UInt8Array,
    rng: np.random.Generator,
) -> None:
    """Give the upper and the lower body other colours, each in four of five calls, in place.

    Folds and shadows stay, as lightness. Where they are is a guess from the keypoints (`occlusion.person_mask`): some
    skin and some of what is behind changes, too. Nothing changes where fewer than three keypoints are labelled.

    Args:
        crop: RGB uint8 (H, W, 3).
        keypoints, visibility: (K, 2) crop px and (K,).
        skeleton: whose shoulders, hips and so on are recognised by the names of its keypoints; nothing changes where
            there are none.
        pattern: RGB uint8 (h, w, 3), any other picture: what patterned clothes are made of.
        rng: source of every random choice.
    """
    size_hw = (crop.shape[0], crop.shape[1])
    softness = max(0.008 * size_hw[0], 0.5)
    for lengths in (_LOWER, _UPPER):
        worn, patterned, negative, opacity = rng.random(4)
        parts = lengths[int(rng.integers(2))]
        hue, saturation, gamma, brightness = rng.uniform(-1, 1, 4)
        corner, part_of = rng.random(2), rng.uniform(0.1, 0.5)
        mask = person_mask(keypoints, visibility, skeleton, size_hw, parts)
        if worn >= _WORN or not mask.any():
            continue
        soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), softness), np.uint8)
        left, top, width, height = cv2.boundingRect(soft)
        area = np.s_[top : top + height, left : left + width]
        old, alpha = crop[area], (soft[area] * (0.6 + 0.4 * opacity)).astype(np.uint16)[..., None]
        tones = tone_table(0.15 * brightness, 0.9, 2.0**gamma)
        new = np.asarray(cv2.LUT(old, tones[::-1] if negative < _NEGATIVE else tones), np.uint8)
        new = np.asarray(cv2.transform(new, color_matrix(1 + saturation, np.pi * hue)), np.uint8)
        if patterned < _PATTERNED:
            new = _printed(new, pattern, corner, part_of)
        alpha[~old.any(axis=2)] = 0  # pure black: mostly, the picture ends there
        crop[area] = (old * (255 - alpha) + new * alpha + 127) // 255


def _printed(cloth: UInt8Array, pattern: UInt8Array, corner: NDArray[np.float64], part_of: float) -> UInt8Array:
    """A part of the pattern, enlarged to the cloth's size, with the cloth's light and shadow."""
    height, width = cloth.shape[:2]
    sides = np.maximum(np.rint(part_of * np.array(pattern.shape[:2])).astype(int), 1)
    top, left = np.floor(corner * (np.array(pattern.shape[:2]) - sides + 1)).astype(int)
    piece = cv2.resize(pattern[top : top + sides[0], left : left + sides[1]], (width, height))
    light = cv2.cvtColor(cloth, cv2.COLOR_RGB2GRAY).astype(np.uint32)[..., None] + 64
    return np.minimum(piece * light // 192, 255).astype(np.uint8)
