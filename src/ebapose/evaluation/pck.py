"""PCK: the share of keypoints that lie within a part of the body's size from the truth, and what goes with it.

A size per person turns px errors into relative ones; keypoints of persons whose size cannot be measured do not count.
Three sizes are in use in the literature and their numbers cannot be compared with each other: torso, box, head (PCKh).

All coordinates are in image px.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.errors import UsageError
from ebapose.skeleton import Skeleton

FloatArray = NDArray[np.float64]

_HEAD_TOP = ("head_top", "top_head", "top_of_head", "head")
_NECK = ("upper_neck", "neck")


@dataclass(frozen=True, eq=False)
class Pck:
    """Share of right keypoints.

    Attributes:
        threshold: largest relative error that counts as right.
        overall: over all countable keypoints together, 0..1; NaN if there are none.
        per_keypoint: (K,) the same for each keypoint; NaN where none was countable.
        counts: (K,) number of countable keypoints.
    """

    threshold: float
    overall: float
    per_keypoint: FloatArray
    counts: NDArray[np.intp]


def torso_sizes(truth: ArrayLike, labelled: ArrayLike, skeleton: Skeleton) -> FloatArray:
    """(N,) distance left shoulder - right hip in px, NaN where one of the two is not labelled or both coincide.

    Args:
        truth: (N, K, 2) annotated keypoints.
        labelled: (N, K) bool.
        skeleton: must have `left_shoulder` and `right_hip`, else UsageError.
    """
    names = skeleton.keypoint_names
    if "left_shoulder" not in names or "right_hip" not in names:
        raise UsageError(f"skeleton {skeleton.name!r} has no left_shoulder and right_hip: no torso size")
    return _distances(truth, labelled, names.index("left_shoulder"), names.index("right_hip"))


def head_sizes(truth: ArrayLike, labelled: ArrayLike, skeleton: Skeleton) -> FloatArray:
    """(N,) distance top of the head - neck in px, NaN where one of the two is not labelled.

    Raises UsageError for skeletons without such keypoints (COCO's 17 are one). MPII's official head size is instead
    0.6 times the diagonal of its head rectangle: the report takes that where annotations have it (`head_size`).
    """
    names = [name.lower() for name in skeleton.keypoint_names]
    top = next((names.index(n) for n in _HEAD_TOP if n in names), None)
    neck = next((names.index(n) for n in _NECK if n in names), None)
    if top is None or neck is None:
        raise UsageError(f"skeleton {skeleton.name!r} has no top of the head and neck: no head size")
    return _distances(truth, labelled, top, neck)


def box_sizes(boxes_xywh: ArrayLike) -> FloatArray:
    """(N,) longer side of each box in px, NaN for an empty box."""
    size = np.asarray(boxes_xywh, np.float64).reshape(-1, 4)[:, 2:].max(axis=1)
    return np.where(size > 0, size, np.nan)


def _distances(truth: ArrayLike, labelled: ArrayLike, a: int, b: int) -> FloatArray:
    points, mask = np.asarray(truth, np.float64), np.asarray(labelled, bool)
    size = np.linalg.norm(points[:, a] - points[:, b], axis=-1)
    return np.where(mask[:, a] & mask[:, b] & (size > 0), size, np.nan)


def relative_errors(poses: ArrayLike, truth: ArrayLike, labelled: ArrayLike, sizes: ArrayLike) -> FloatArray:
    """Distance to the truth divided by the person's size.

    Args:
        poses: (N, K, 2) predicted keypoints of the same persons; NaN (no prediction) counts as infinitely wrong.
        truth: (N, K, 2).
        labelled: (N, K) bool.
        sizes: (N,) px, NaN where unknown.

    Returns:
        (N, K): NaN where nothing can be said (not labelled, no size), infinity where nothing was predicted.
    """
    size = np.asarray(sizes, np.float64)[:, None]
    error = np.linalg.norm(np.asarray(poses, np.float64) - np.asarray(truth, np.float64), axis=-1) / size
    error = np.where(np.isnan(error), np.inf, error)
    return np.where(np.asarray(labelled, bool) & np.isfinite(size), error, np.nan)


def pck(errors: ArrayLike, threshold: float) -> Pck:
    """Share of keypoints with a relative error of at most `threshold`.

    Args:
        errors: (N, K) from `relative_errors`.
        threshold: e.g. 0.2 of the torso, 0.5 of the head.
    """
    relative = np.asarray(errors, np.float64)
    countable = ~np.isnan(relative)
    right = countable & (relative <= threshold)
    counts = countable.sum(axis=0)
    per_keypoint = np.divide(right.sum(axis=0), counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    overall = float(right.sum() / counts.sum()) if counts.sum() else float("nan")
    return Pck(threshold, overall, per_keypoint, counts)


def pck_auc(errors: ArrayLike, max_threshold: float) -> float:
    """Mean PCK over all thresholds from 0 to `max_threshold` (exact area under the curve, divided by its width).

    A keypoint with relative error e is right for the share 1 - e / max_threshold of the thresholds.
    """
    relative = np.asarray(errors, np.float64)
    known = relative[~np.isnan(relative)]
    if known.size == 0:
        return float("nan")
    return float(np.clip(1 - known / max_threshold, 0, 1).mean())


def mean_error(errors: ArrayLike) -> float:
    """Mean of the finite errors (EPE if they are in px, normalised EPE if relative); NaN if there are none."""
    values = np.asarray(errors, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")
