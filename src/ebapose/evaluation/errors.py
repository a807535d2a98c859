"""What goes wrong, and what it costs: kinds of errors after Ronchi and Perona.

Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation", ICCV 2017. Every labelled
keypoint of a matched person is, by its similarity to the truth (ks, see `ebapose.geometry.oks`):

- good: ks >= 0.85, what human annotators reach among themselves;
- jitter: 0.5 <= ks < 0.85, near the right place;
- inversion: elsewhere, but within ks 0.5 of the same person's keypoint of the other side (left wrist on the right one);
- swap: elsewhere, but within ks 0.5 of this keypoint, or that of the other side, of another person;
- miss: elsewhere.

Whole poses are matched, or background (no person there), and persons without a pose are not found.

What a kind of error costs is measured by correcting it: its keypoints are put onto the truth, and AP is taken again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ebapose.evaluation.coco_ap import average_precision
from ebapose.evaluation.inputs import Annotations, Results
from ebapose.evaluation.matching import Matches
from ebapose.geometry.oks import group_rows, keypoint_similarity

ERROR_TYPES = ("good", "jitter", "inversion", "swap", "miss")
GOOD, JITTER, INVERSION, SWAP, MISS = range(5)
NOT_COUNTED = -1

GOOD_SIMILARITY = 0.85
NEAR_SIMILARITY = 0.5

# Ronchi and Perona correct the grossest errors first; what good keypoints lack to the very spot comes last.
_ORDER = (MISS, SWAP, INVERSION, JITTER, GOOD)


@dataclass(frozen=True, eq=False)
class LostAP:
    """Where the AP between the measured one and 1 is lost.

    Attributes:
        ap: AP as measured, 0..1.
        alone: kind of error -> AP gained when only this kind is corrected.
        steps: kind -> AP gained when the kinds are corrected one after the other, in this order: miss, swap, inversion,
            jitter, good (put onto the very spot), "score" (matched poses ranked before all others), "background" (poses
            of nobody removed), "not found" (persons without a pose: the rest). They add up to 1 - ap.
    """

    ap: float
    alone: dict[str, float]
    steps: dict[str, float]


def classify_keypoints(truth: Annotations, poses: Results, matches: Matches) -> NDArray[np.int8]:
    """(N, K) kind of each keypoint (index into `ERROR_TYPES`); NOT_COUNTED where not labelled or no pose was
    matched."""
    kinds = np.full(truth.visibility.shape, NOT_COUNTED, np.int8)
    flip = truth.skeleton.flip_indices
    sigmas = np.asarray(truth.skeleton.sigmas)

    def similarity(points: NDArray[np.float64], owner: NDArray[np.intp], mirrored: bool) -> NDArray[np.float64]:
        """Similarity of (..., K, 2) points with the keypoints of the owners (or their mirror images); 0: not
        labelled."""
        index = flip if mirrored else np.arange(len(flip))
        distance_sq = ((points - truth.keypoints[owner][..., index, :]) ** 2).sum(-1)
        near = keypoint_similarity(distance_sq, truth.areas[owner][..., None], sigmas[index])
        return np.where(truth.labelled[owner][..., index], near, 0.0)

    persons = matches.persons
    points = poses.keypoints[matches.poses]
    own = similarity(points, persons, mirrored=False)
    inverted = np.where(flip == np.arange(len(flip)), 0.0, similarity(points, persons, mirrored=True))
    swapped = np.zeros_like(own)
    counted = np.flatnonzero(truth.counted)
    position = {int(person): i for i, person in enumerate(persons)}
    for rows in group_rows(truth.person_image_ids[counted]):
        people = counted[rows]
        if len(people) < 2:
            continue
        for person in people:
            i = position.get(int(person))
            if i is not None:
                others = people[people != person]
                here = np.broadcast_to(points[i], (len(others), *points[i].shape))
                near = np.maximum(similarity(here, others, mirrored=False), similarity(here, others, mirrored=True))
                swapped[i] = near.max(axis=0)
    other = np.where(
        np.maximum(inverted, swapped) < NEAR_SIMILARITY, MISS, np.where(inverted >= swapped, INVERSION, SWAP)
    )
    kind = np.where(own >= GOOD_SIMILARITY, GOOD, np.where(own >= NEAR_SIMILARITY, JITTER, other))
    kinds[persons] = np.where(truth.labelled[persons], kind, NOT_COUNTED)
    return kinds


def error_shares(kinds: NDArray[np.int8]) -> NDArray[np.float64]:
    """(K, 5) share of each kind among the counted samples of each keypoint; NaN where there are none."""
    counts = np.stack([(kinds == kind).sum(axis=0) for kind in range(len(ERROR_TYPES))], axis=-1)
    total = counts.sum(axis=-1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def lost_ap(truth: Annotations, poses: Results, matches: Matches, kinds: NDArray[np.int8]) -> LostAP:
    """Correct the kinds of errors one by one and one after the other, and measure AP each time.

    Args:
        truth, poses: what was read.
        matches: from `match_persons`.
        kinds: from `classify_keypoints`.
    """
    ap = average_precision(truth, poses)
    alone, steps = {}, {}
    present = [kind for kind in _ORDER if (kinds == kind).any()]
    for kind in _ORDER[:-1]:
        fixed = average_precision(truth, _corrected(truth, poses, matches, kinds == kind)) if kind in present else ap
        alone[ERROR_TYPES[kind]] = fixed - ap

    before, current = ap, poses
    wrong = np.zeros(kinds.shape, bool)
    for number, kind in enumerate(_ORDER):
        after = before
        if kind in present:
            wrong |= kinds == kind
            current = _corrected(truth, poses, matches, wrong)
            after = before + alone[ERROR_TYPES[kind]] if number == 0 else average_precision(truth, current)
        steps[ERROR_TYPES[kind]] = after - before
        before = after
    # The best scores possible: matched poses before all others, the order among equals unchanged.
    matched = np.zeros(len(poses))
    matched[matches.poses] = 1.0
    rank = np.argsort(np.argsort(-poses.scores, kind="stable"), kind="stable")
    current = replace(current, scores=matched - rank / (4.0 * max(len(poses), 1)))
    after = average_precision(truth, current)
    steps["score"] = after - before
    before = after
    nobody = ~matches.ignored
    nobody[matches.poses] = False
    after = average_precision(truth, current[~nobody])
    steps["background"] = after - before
    steps["not found"] = 1 - after
    return LostAP(ap, alone, steps)


def _corrected(truth: Annotations, poses: Results, matches: Matches, wrong: NDArray[np.bool_]) -> Results:
    """The poses with the keypoints marked in `wrong` (N, K), in the order of the persons, put onto the truth."""
    keypoints = poses.keypoints.copy()
    persons, rows = matches.persons, matches.poses
    keypoints[rows] = np.where(wrong[persons][..., None], truth.keypoints[persons], keypoints[rows])
    return replace(poses, keypoints=keypoints)
