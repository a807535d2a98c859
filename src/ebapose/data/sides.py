"""Whether left and right are where they should be in a set of annotated persons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ebapose.skeleton import Skeleton, name_side


def swapped_sides(persons: NDArray[np.float64], skeleton: Skeleton) -> list[str]:
    """Compare, over all persons (N, K, 3), which side of the picture each pair's left keypoint is on.

    A face that looks at the viewer has its left eye on the right of the picture, so names can be checked there; any
    other pair must mostly agree with the rest of its body. Fewer than ten persons prove nothing.

    Returns:
        One line for each pair that looks swapped.
    """
    if not skeleton.flip_pairs:
        return []
    lines: list[str] = []
    names = skeleton.keypoint_names
    pairs = [(b, a) if name_side(names[a]) == "right" else (a, b) for a, b in skeleton.flip_pairs]
    left, right = (np.array(side) for side in zip(*pairs, strict=True))
    labelled = (persons[:, left, 2] > 0) & (persons[:, right, 2] > 0)
    across = persons[:, left, 0] - persons[:, right, 0]
    everything = np.where(persons[..., 2] > 0, persons[..., 0], np.nan)
    with np.errstate(invalid="ignore"):
        extent = np.nan_to_num(np.nanmax(everything, axis=1) - np.nanmin(everything, axis=1))
    clear = labelled & (np.abs(across) > 0.1 * extent[:, None])
    side = np.sign(across) * clear

    for i, (a, b) in enumerate(pairs):
        others = np.delete(side, i, axis=1).sum(axis=1)
        usable = (side[:, i] != 0) & (others != 0)
        agreeing = int(np.count_nonzero(usable & (side[:, i] == np.sign(others))))
        total = int(np.count_nonzero(usable))
        if total >= 10 and agreeing < 0.5 * total:
            lines.append(
                f"{names[a]} / {names[b]}: on the same side as the other pairs in {agreeing} of {total} persons",
            )

    if {"nose", "left_eye", "right_eye"} <= set(names):
        nose, left_eye, right_eye = (names.index(n) for n in ("nose", "left_eye", "right_eye"))
        facing = (persons[:, [nose, left_eye, right_eye], 2] == 2).all(axis=1)
        facing &= _upright(persons, names)
        total = int(np.count_nonzero(facing))
        good = int(np.count_nonzero(facing & (persons[:, left_eye, 0] > persons[:, right_eye, 0])))
        if total >= 10 and good < 0.5 * total:
            lines.append(
                f"left_eye is left of right_eye in the picture for {total - good} of {total} faces: the body's left is "
                "on the right of the picture when a person faces the camera",
            )
    return lines


def _upright(persons: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.bool_]:
    """(N,) whether the eyes are above the shoulders; True where no shoulder is labelled."""
    eyes = persons[:, [i for i, n in enumerate(names) if "eye" in n], 1].mean(axis=1)
    shoulders = [i for i, n in enumerate(names) if "shoulder" in n]
    if not shoulders:
        return np.ones(len(persons), np.bool_)
    seen = persons[:, shoulders, 2] > 0
    lowest = np.where(seen, persons[:, shoulders, 1], np.inf).min(axis=1)
    upright: NDArray[np.bool_] = eyes < lowest
    return upright
