"""Object keypoint similarity (OKS): how alike two poses are, and what follows from it for overlapping poses.

The similarity of one keypoint at distance d from the truth is exp(-d^2 / (2 area (2 sigma)^2)): 1 on the spot, 0.5 at
d^2 = 2 ln 2 area (2 sigma)^2. OKS is its mean over the labelled keypoints. sigma is the skeleton's, area is the
person's segment area in px^2 (COCO keypoint evaluation, https://cocodataset.org/#keypoints-eval; k_i there is 2
sigma_i).

All coordinates are in image px.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_EPS = np.spacing(1.0)  # as pycocotools: keeps an area of 0 finite

# Share of a person's bounding box that its segmentation covers, on average over COCO: stands in for an unknown area.
SEGMENT_SHARE = 0.53
RESCORE_THRESHOLD = 0.2  # keypoint scores above it make a pose's score, see `pose_scores`


def keypoint_similarity(distance_sq: ArrayLike, area: ArrayLike, sigmas: ArrayLike) -> FloatArray:
    """exp(-d^2 / (2 area (2 sigma)^2)), element by element.

    Args:
        distance_sq: (..., K) squared distance in px^2.
        area: broadcastable to it, px^2.
        sigmas: (K,) OKS sigmas of the skeleton.

    Returns:
        (..., K) in 0..1.
    """
    variance = (2 * np.asarray(sigmas, np.float64)) ** 2
    e = np.asarray(distance_sq, np.float64) / variance / (np.asarray(area, np.float64) + _EPS) / 2
    return np.exp(-e)


def oks(
    poses: ArrayLike,
    truth: ArrayLike,
    labelled: ArrayLike,
    areas: ArrayLike,
    sigmas: ArrayLike,
    boxes_xywh: ArrayLike | None = None,
) -> FloatArray:
    """OKS of every pose with every person of one picture.

    Args:
        poses: (N, K, 2) predicted keypoints.
        truth: (M, K, 2) annotated keypoints.
        labelled: (M, K) true where the annotation has the keypoint (COCO visibility 1 or 2).
        areas: (M,) annotated area in px^2.
        sigmas: (K,) of the skeleton.
        boxes_xywh: (M, 4) annotated boxes. With them a person without any labelled keypoint is compared as COCO does,
            by how far the keypoints lie outside the doubled box; without them its OKS is 0.

    Returns:
        (N, M) in 0..1.
    """
    points, centres = np.asarray(poses, np.float64)[:, None], np.asarray(truth, np.float64)[None]
    mask, area = np.asarray(labelled, bool)[None], np.asarray(areas, np.float64)[None]
    boxes = None if boxes_xywh is None else np.asarray(boxes_xywh, np.float64)[None]
    return paired_oks(points, centres, mask, area, sigmas, boxes)


def paired_oks(
    poses: FloatArray,
    truth: FloatArray,
    labelled: NDArray[np.bool_],
    areas: FloatArray,
    sigmas: ArrayLike,
    boxes_xywh: FloatArray | None = None,
) -> FloatArray:
    """OKS of pairs: `oks` with any leading axes (broadcast together) instead of every pose with every person.

    Args:
        poses: (..., K, 2); truth: (..., K, 2); labelled: (..., K); areas: (...,); boxes_xywh: (..., 4).
        sigmas: (K,).

    Returns:
        (...,) in 0..1.
    """
    delta = poses - truth
    mask = np.broadcast_to(labelled, delta.shape[:-1])
    if boxes_xywh is not None:
        unlabelled = np.broadcast_to(~labelled.any(axis=-1), delta.shape[:-2])
        if unlabelled.any():
            corner, size = boxes_xywh[..., None, :2], boxes_xywh[..., None, 2:]
            outside = np.maximum(corner - size - poses, 0) + np.maximum(poses - (corner + 2 * size), 0)
            delta = np.where(unlabelled[..., None, None], outside, delta)
            mask = mask | unlabelled[..., None]
    similarity = keypoint_similarity((delta**2).sum(-1), areas[..., None], sigmas)
    count = mask.sum(axis=-1)
    total = np.where(mask, similarity, 0.0).sum(-1)
    return np.asarray(np.divide(total, count, out=np.zeros_like(total), where=count > 0))


def pose_oks(keypoints: ArrayLike, areas: ArrayLike, sigmas: ArrayLike, visible: ArrayLike | None = None) -> FloatArray:
    """OKS between predicted poses of one picture; the area of a pair is the mean of the two.

    Args:
        keypoints: (N, K, 2).
        areas: (N,) px^2, usually of the padded boxes.
        sigmas: (K,) of the skeleton.
        visible: (N, K) bool; a keypoint then counts only for pairs where both poses have it. (The published SimCC and
            HRNet code asks the second pose only, but never uses this.)

    Returns:
        (N, N), symmetric.
    """
    points, area = np.asarray(keypoints, np.float64), np.asarray(areas, np.float64)
    distance_sq = ((points[:, None] - points[None]) ** 2).sum(-1)
    similarity = keypoint_similarity(distance_sq, ((area[:, None] + area[None]) / 2)[..., None], sigmas)
    if visible is None:
        return np.asarray(similarity.mean(-1))
    seen = np.asarray(visible, bool)
    both = seen[:, None] & seen[None]
    count = both.sum(-1)
    return np.asarray(np.divide((similarity * both).sum(-1), count, out=np.zeros(count.shape), where=count > 0))


def pose_scores(box_scores: ArrayLike, keypoint_scores: ArrayLike, threshold: float = RESCORE_THRESHOLD) -> FloatArray:
    """Score of each pose: box score times the mean of its keypoint scores above `threshold` (0 if there is none).

    The threshold belongs to the scale of the keypoint scores: 0.2 fits heatmap peaks and probabilities, raw SimCC peaks
    (0.07 for sigma 6) need one near 0. 0 or less is never above: -1 keeps every keypoint.

    Args:
        box_scores: (N,).
        keypoint_scores: (N, K).
        threshold: strictly above it counts.

    Returns:
        (N,).
    """
    scores = np.asarray(keypoint_scores, np.float64)
    above = scores > threshold
    count = above.sum(axis=1)
    total = np.where(above, scores, 0.0).sum(axis=1)
    mean = np.divide(total, count, out=np.zeros(len(scores)), where=count > 0)
    return np.asarray(np.asarray(box_scores, np.float64) * mean)


def oks_nms(
    keypoints: ArrayLike, scores: ArrayLike, areas: ArrayLike, sigmas: ArrayLike, threshold: float = 0.9
) -> NDArray[np.intp]:
    """Keep the best of poses that are nearly the same: greedy, by falling score, dropping OKS > `threshold`.

    Args:
        keypoints: (N, K, 2) of one picture.
        scores: (N,); equal scores keep their order.
        areas: (N,) px^2.
        sigmas: (K,) of the skeleton.
        threshold: 0.9 is the field's custom (Papandreou et al. 2017 introduced OKS-NMS).

    Returns:
        Indices of the kept poses, best first.
    """
    similarity = pose_oks(keypoints, areas, sigmas)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    keep = []
    while order.size:
        keep.append(order[0])
        rest = order[1:]
        order = rest[similarity[order[0], rest] <= threshold]
    return np.array(keep, np.intp)


def decay_scores(
    overlap: ArrayLike, scores: ArrayLike, threshold: float, kind: Literal["gaussian", "linear"] = "gaussian"
) -> FloatArray:
    """Scores after a better pose with the given OKS was chosen (soft NMS, Bodla et al. 2017).

    gaussian: score * exp(-OKS^2 / threshold). linear: score * (1 - OKS) where OKS >= threshold.
    """
    similarity, before = np.asarray(overlap, np.float64), np.asarray(scores, np.float64)
    if kind == "gaussian":
        return np.asarray(before * np.exp(-(similarity**2) / threshold))
    return np.where(similarity >= threshold, before * (1 - similarity), before)


def soft_oks_nms(
    keypoints: ArrayLike,
    scores: ArrayLike,
    areas: ArrayLike,
    sigmas: ArrayLike,
    threshold: float = 0.9,
    max_poses: int = 20,
) -> NDArray[np.intp]:
    """Select up to `max_poses` poses, each time the best after Gaussian decay by those chosen before.

    Only selects and orders, as the published code does: results carry the undecayed scores. Arguments as `oks_nms`.

    Returns:
        Indices of the kept poses in the order of selection.
    """
    similarity = pose_oks(keypoints, areas, sigmas)
    remaining = np.asarray(scores, np.float64)
    order = np.argsort(-remaining, kind="stable")
    remaining = remaining[order]
    keep: list[np.intp] = []
    while order.size and len(keep) < max_poses:
        keep.append(order[0])
        remaining = decay_scores(similarity[order[0], order[1:]], remaining[1:], threshold)
        resorted = np.argsort(-remaining, kind="stable")
        order, remaining = order[1:][resorted], remaining[resorted]
    return np.array(keep, np.intp)


def select_poses(
    image_ids: ArrayLike,
    keypoints: ArrayLike,
    scores: ArrayLike,
    areas: ArrayLike,
    sigmas: ArrayLike,
    threshold: float = 0.9,
    soft: bool = False,
) -> NDArray[np.intp]:
    """OKS-NMS picture by picture over a whole data set.

    Args:
        image_ids: (N,) picture of each pose.
        keypoints, scores, areas, sigmas, threshold: as `oks_nms`.
        soft: use `soft_oks_nms`.

    Returns:
        Indices of the kept poses: pictures by first appearance, inside a picture in the order of selection.
    """
    points, score, area = (np.asarray(v, np.float64) for v in (keypoints, scores, areas))
    suppress = soft_oks_nms if soft else oks_nms
    kept = [rows[suppress(points[rows], score[rows], area[rows], sigmas, threshold)] for rows in group_rows(image_ids)]
    return np.concatenate(kept) if kept else np.zeros(0, np.intp)


def group_rows(ids: ArrayLike) -> list[NDArray[np.intp]]:
    """Row numbers that share an id, groups by first appearance, rows in rising order."""
    values = np.asarray(ids)
    if values.size == 0:
        return []
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rows = np.argsort(inverse, kind="stable")
    groups = np.split(rows, np.flatnonzero(np.diff(inverse[rows])) + 1)
    return [groups[i] for i in np.argsort(first)]
