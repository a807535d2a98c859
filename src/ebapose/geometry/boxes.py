"""Boxes as plain arrays: conversions, IoU, suppression. All in image px, edges continuous."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> Float64Array:
    """(..., 4) left, top, width, height -> left, top, right, bottom."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> Float64Array:
    """(..., 4) left, top, right, bottom -> left, top, width, height."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def area(boxes_xyxy: ArrayLike) -> Float64Array:
    """(...,) area in px^2; 0 for boxes whose right edge is left of their left edge."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return sides[..., 0] * sides[..., 1]


def clip(boxes_xyxy: ArrayLike, image_hw: tuple[int, int]) -> Float64Array:
    """Boxes cut off at the picture's edges."""
    height, width = image_hw
    return np.clip(np.asarray(boxes_xyxy, dtype=np.float64), 0, [width, height, width, height])


def intersection(boxes_a_xyxy: ArrayLike, boxes_b_xyxy: ArrayLike) -> Float64Array:
    """(A, B) shared area in px^2 of every pair."""
    a, b = _rows(boxes_a_xyxy)[:, None], _rows(boxes_b_xyxy)[None]
    top_left, bottom_right = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    return area(np.concatenate([top_left, bottom_right], axis=-1))


def iou(boxes_a_xyxy: ArrayLike, boxes_b_xyxy: ArrayLike) -> Float64Array:
    """(A, B) intersection over union of every pair; 0 where both areas are 0."""
    shared = intersection(boxes_a_xyxy, boxes_b_xyxy)
    union = area(_rows(boxes_a_xyxy))[:, None] + area(_rows(boxes_b_xyxy))[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _rows(boxes_xyxy: ArrayLike) -> Float64Array:
    return np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)


def nms(boxes_xyxy: ArrayLike, scores: ArrayLike, iou_threshold: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices to keep, best score first; suppressed when IoU > threshold."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    keep = []
    while len(order):
        best, rest = order[0], order[1:]
        keep.append(best)
        order = rest[iou(boxes[best : best + 1], boxes[rest])[0] <= iou_threshold]
    return np.asarray(keep, dtype=np.intp)
