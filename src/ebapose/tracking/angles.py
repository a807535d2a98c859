"""Joint angles with the standard deviation that follows from that of their keypoints."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.skeleton import Skeleton

Float64Array = NDArray[np.float64]

_JOINTS = (  # joint: from, at, to
    ("elbow", "shoulder", "elbow", "wrist"),
    ("shoulder", "hip", "shoulder", "elbow"),
    ("hip", "shoulder", "hip", "knee"),
    ("knee", "hip", "knee", "ankle"),
)


def joint_triplets(skeleton: Skeleton) -> dict[str, tuple[int, int, int]]:
    """The joints that a skeleton has by its keypoints' names, e.g. "left_knee": (hip, knee, ankle) as indices."""
    index = {name: i for i, name in enumerate(skeleton.keypoint_names)}
    joints = {}
    for joint, *parts in _JOINTS:
        for side in ("left", "right"):
            names = [f"{side}_{part}" for part in parts]
            if all(name in index for name in names):
                first, middle, last = (index[name] for name in names)
                joints[f"{side}_{joint}"] = (first, middle, last)
    return joints


def joint_angles(first: ArrayLike, middle: ArrayLike, last: ArrayLike) -> Float64Array:
    """(...) angle in deg, 0..180, between the limbs middle-first and middle-last; points (..., 2) in px."""
    at = np.asarray(middle, np.float64)
    a, b = np.asarray(first, np.float64) - at, np.asarray(last, np.float64) - at
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return np.degrees(np.abs(np.arctan2(cross, (a * b).sum(axis=-1))))


def joint_angle_sigmas(points: ArrayLike, sigmas_px: ArrayLike) -> Float64Array:
    """(...) standard deviation in deg of the angle at the second of three points.

    First order: the points' errors are independent, and small beside the limbs. It cannot exceed 180 / sqrt(12), what
    knowing nothing means.

    Args:
        points: (..., 3, 2) px.
        sigmas_px: (..., 3, 2), standard deviations of x and y.
    """
    points, variances = np.asarray(points, np.float64), np.asarray(sigmas_px, np.float64) ** 2
    gradient = np.zeros_like(points)
    for end, sign in ((0, -1.0), (2, 1.0)):
        limb = points[..., end, :] - points[..., 1, :]
        # a direction turns by the part of a step across it, divided by the limb's length
        across = np.stack([-limb[..., 1], limb[..., 0]], axis=-1)
        gradient[..., end, :] = sign * across / np.maximum((limb**2).sum(axis=-1, keepdims=True), 1e-9)
    gradient[..., 1, :] = -gradient[..., 0, :] - gradient[..., 2, :]
    sigma = np.degrees(np.sqrt((gradient**2 * variances).sum(axis=(-1, -2))))
    return np.asarray(np.minimum(sigma, 180 / np.sqrt(12)))
