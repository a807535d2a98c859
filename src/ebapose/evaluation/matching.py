"""Which predicted pose stands for which annotated person.

AP does its own matching at every threshold, among the 20 best poses of a picture. Everything else (PCK, calibration,
kinds of errors) needs one answer, given here, among all poses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebapose.evaluation.coco_ap import BoxMode, check_box_mode, image_oks
from ebapose.evaluation.inputs import NO_ANNOTATION, Annotations, Results


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of poses and persons.

    Attributes:
        pose_of: (N,) row of the results for each annotated person, -1 where none was found.
        oks: (N,) OKS of that pose; NaN where none was found or nothing is labelled.
        ignored: (P,) poses that belong to a crowd or an unlabelled person: neither right nor wrong.
    """

    pose_of: NDArray[np.intp]
    oks: NDArray[np.float64]
    ignored: NDArray[np.bool_]

    @property
    def persons(self) -> NDArray[np.intp]:
        """Annotated persons that have a pose."""
        return np.flatnonzero(self.pose_of >= 0)

    @property
    def poses(self) -> NDArray[np.intp]:
        """Their poses, in the same order."""
        return self.pose_of[self.pose_of >= 0]

    def predicted(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of the poses (P, ...) in the order of the persons (N, ...), NaN where a person has no pose."""
        missing = np.full((len(self.pose_of), *values.shape[1:]), np.nan)
        missing[self.persons] = values[self.poses]
        return missing


def match_persons(truth: Annotations, poses: Results, box_mode: BoxMode, min_oks: float = 0.1) -> Matches:
    """Pair poses with annotated persons, picture by picture.

    1. A result that names its `annotation_id` belongs to that person (the best scored one if several do).
    2. The others, by falling score, each take the free person of the highest OKS, if it is at least `min_oks` (0.1 as
       Ronchi and Perona 2017: below that a pose says nothing about a person).
    3. Where boxes were given (box mode "gt"), every pose was asked about some person: what remains is paired by
       nearness.

    Crowds and persons without labels are never paired; poses that overlap them by `min_oks` are ignored.

    Args:
        truth, poses: what was read.
        box_mode: see `ebapose.evaluation.coco_ap.CocoAP`.
        min_oks: see above.
    """
    check_box_mode(box_mode)
    pose_of = np.full(len(truth), -1, np.intp)
    person_oks = np.full(len(truth), np.nan)
    ignored = np.zeros(len(poses), bool)
    row_of_id = {int(i): row for row, i in enumerate(truth.ids)}
    for image in image_oks(truth, poses).values():
        ranked, people, similarity = image.poses, image.persons, image.oks
        column_of = {int(person): column for column, person in enumerate(people)}
        free = truth.counted[people]
        waiting = []
        pairs: list[tuple[int, int]] = []  # row and column of `similarity`
        for row, pose in enumerate(ranked):
            owner = NO_ANNOTATION if poses.annotation_ids is None else int(poses.annotation_ids[pose])
            column = column_of[row_of_id[owner]] if owner != NO_ANNOTATION else -1
            if column >= 0 and free[column]:
                free[column] = False
                pairs.append((row, column))
            else:
                waiting.append(row)
        left = []
        for row in waiting:
            candidates = np.where(free, similarity[row], -1.0)
            column = int(candidates.argmax()) if len(people) else -1
            if column >= 0 and candidates[column] >= min_oks:
                free[column] = False
                pairs.append((row, column))
            elif (similarity[row, ~truth.counted[people]] >= min_oks).any():
                ignored[ranked[row]] = True
            else:
                left.append(row)
        if box_mode == "gt":
            pairs += _nearest(truth, poses, ranked, people, left, free)
        for row, column in pairs:
            pose_of[people[column]] = ranked[row]
            person_oks[people[column]] = similarity[row, column]
    return Matches(pose_of, person_oks, ignored)


def _nearest(
    truth: Annotations,
    poses: Results,
    ranked: NDArray[np.intp],
    people: NDArray[np.intp],
    left: list[int],
    free: NDArray[np.bool_],
) -> list[tuple[int, int]]:
    """Pairs of the remaining poses and persons, smallest mean distance of the labelled keypoints first."""
    columns = np.flatnonzero(free).tolist()
    distances = []
    for row in left:
        for column in columns:
            person = people[column]
            mask = truth.labelled[person]
            delta = poses.keypoints[ranked[row], mask] - truth.keypoints[person, mask]
            distances.append((float(np.linalg.norm(delta, axis=-1).mean()) if mask.any() else np.inf, row, column))
    pairs: list[tuple[int, int]] = []
    for _, row, column in sorted(distances):
        if all(row != r and column != c for r, c in pairs):
            pairs.append((row, column))
    return pairs
