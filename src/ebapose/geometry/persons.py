"""Which of a detector's boxes are persons: where it is in doubt, the pose decides; and nobody is shown twice.

A detector is unsure of people in unusual poses, whom the pose network knows well, and takes hands, shadows and chairs
for people, in whom the network finds nothing. What judging by the pose is worth, and the numbers below, are in
docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.geometry import boxes as box_geometry
from ebapose.geometry.oks import SEGMENT_SHARE, keypoint_similarity
from ebapose.structures import Boxes, Poses

MOST_DOUBTED = 8  # doubted boxes of a picture whose poses are looked at: bounds what doubt may cost
SMALLEST_DOUBTED = 0.25  # of the largest sure box's area: those who were overlooked in front, not everybody far away
OVERLAP = 0.5  # IoU with a sure box from which a doubted one shows the same person
INSIDE = 0.7  # share of a doubted box inside another from which it shows a part of that person
CONVINCING = 0.5  # mean keypoint score: keypoints are more likely right than not
FEW = 3  # keypoints: a pose whose best ones do not convince either is hopeless
SAME_POSE = 0.7  # OKS of two poses from which they are one person's
SAME_DOUBTED = 0.5  # the same for a doubted box


@dataclass(frozen=True)
class Doubt:
    """How far the scores of a detector are trusted.

    Attributes:
        sure: a box from this score on is a person, unless not even a few keypoints convince; below, only if all do, on
            average.
        certain: a box from this score on is a person, whatever the pose.
    """

    sure: float
    certain: float


def worth_a_look(boxes: Boxes, sure_score: float) -> NDArray[np.bool_]:
    """Which boxes should get a pose: sure ones, and doubted ones that may be somebody else.

    Args:
        boxes: of one picture, in image px.
        sure_score: see `Doubt.sure`.

    Returns:
        (N,). Of the doubted boxes, at most `MOST_DOUBTED`, the best ones.
    """
    sure = boxes.scores >= sure_score
    candidate = ~sure
    if sure.any() and candidate.any():
        areas = box_geometry.area(boxes.xyxy)
        candidate &= areas >= SMALLEST_DOUBTED * areas[sure].max()
        candidate &= (box_geometry.iou(boxes.xyxy, boxes.xyxy[sure]) <= OVERLAP).all(axis=1)
        candidate &= (_share_inside(boxes.xyxy, boxes.xyxy[sure]) <= INSIDE).all(axis=1)
    rows = np.flatnonzero(candidate)
    candidate[rows[np.argsort(-boxes.scores[rows], kind="stable")[MOST_DOUBTED:]]] = False
    return sure | candidate


def believed(poses: Poses, doubt: Doubt, known: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Which poses are persons: those that are believed as `doubt` says, and of two that are nearly the same the better.

    Better is the greater product of the box score and the mean keypoint score; a sure box comes before a doubted one.
    A model that predicts no standard deviations (NaN) states no probabilities either: its poses neither convince nor
    are hopeless.

    Args:
        poses: N of one picture.
        doubt: which box scores are trusted.
        known: (N,) bool, persons in any case: they come before all others.

    Returns:
        (N,).
    """
    boxes, points = poses.boxes, poses.keypoints.astype(np.float64)
    scores = poses.scores.astype(np.float64)
    means, best = scores.mean(axis=1), np.sort(scores, axis=1)[:, -FEW:].mean(axis=1)
    sure, certain = boxes.scores >= doubt.sure, boxes.scores >= doubt.certain
    stated = np.isfinite(poses.sigmas_px).any(axis=(1, 2))
    credible = certain | np.where(stated, np.where(sure, best, means) >= CONVINCING, sure)
    given = np.zeros(len(boxes), bool) if known is None else np.asarray(known, bool)
    areas, sigmas = SEGMENT_SHARE * box_geometry.area(boxes.xyxy), poses.skeleton.sigmas
    inside = _share_inside(boxes.xyxy, boxes.xyxy)
    kept = np.flatnonzero(given).tolist()
    for n in np.lexsort((-boxes.scores * means, ~sure)):
        if given[n] or not credible[n] or (not sure[n] and (inside[n, kept] > INSIDE).any()):
            continue
        distance_sq = ((points[kept] - points[n]) ** 2).sum(axis=-1)
        alike = keypoint_similarity(distance_sq, (areas[kept] + areas[n])[:, None] / 2, sigmas).mean(axis=-1)
        if (alike <= (SAME_POSE if sure[n] else SAME_DOUBTED)).all():
            kept.append(n)
    chosen = np.zeros(len(boxes), bool)
    chosen[kept] = True
    return chosen


def _share_inside(boxes_a_xyxy: ArrayLike, boxes_b_xyxy: ArrayLike) -> NDArray[np.float64]:
    """(A, B) which share of the area of each a lies inside each b; 0 for an a without area."""
    shared = box_geometry.intersection(boxes_a_xyxy, boxes_b_xyxy)
    areas = np.broadcast_to(box_geometry.area(boxes_a_xyxy)[:, None], shared.shape)
    return np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0)
