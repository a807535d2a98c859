"""AP and AR after COCO's keypoint protocol, for any skeleton.

Ten OKS thresholds 0.50:0.05:0.95, 101 recall points, the 20 best poses per picture, areas all, medium (32^2 to 96^2
px^2) and large. OKS is ours, the matching is done by faster-coco-eval; the numbers are those of pycocotools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ebapose.errors import MissingDependencyError, UsageError
from ebapose.evaluation.inputs import Annotations, Results, read_annotations, read_results
from ebapose.geometry.oks import group_rows, paired_oks

STAT_NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
RECALLS = np.linspace(0, 1, 101)
AREA_NAMES = ("all", "medium", "large")

MAX_POSES = 20  # per picture
_PAIRS_AT_ONCE = 100_000

BoxMode = Literal["gt", "detector", "image", "unknown"]


@dataclass(frozen=True, eq=False)
class CocoAP:
    """COCO's keypoint metrics.

    Attributes:
        stats: the ten numbers, in the order of `STAT_NAMES`, 0..1; NaN where the set has no person of that size.
        precision: (10, 101, 3) at each OKS threshold, recall and area; NaN where the set has no person of that size.
        recall: (10, 3) best recall at each threshold and area.
        scores: (10, 101, 3) pose score at each point of the precision.
        box_mode: where the person boxes came from: "gt" (annotated), "detector", "image" (none: a network that looks
            at the whole picture) or "unknown". Annotated boxes are worth about 2 AP on COCO: only equal modes may be
            compared.
        num_images, num_persons, num_poses: what was evaluated; persons without crowds and unlabelled ones.
    """

    stats: dict[str, float]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]
    box_mode: BoxMode
    num_images: int
    num_persons: int
    num_poses: int


def coco_ap(
    annotations: Annotations | str | Path | Mapping[str, Any],
    results: Results | str | Path | Sequence[Mapping[str, Any]],
    box_mode: BoxMode,
) -> CocoAP:
    """Evaluate poses against annotations.

    Args:
        annotations: COCO keypoint annotations: read ones, a file, or its content.
        results: COCO results: read ones, a file, or its content. Their scores are taken as they are: rescoring and
            OKS-NMS (`ebapose.geometry.oks`) come before.
        box_mode: see `CocoAP`; it changes no number, but has to be said.

    Raises:
        InputError: annotations or results cannot be read.
        UsageError: unknown box mode.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    check_box_mode(box_mode)
    truth = annotations if isinstance(annotations, Annotations) else read_annotations(annotations)
    poses = results if isinstance(results, Results) else read_results(results, truth)
    evaluator = run_cocoeval(truth, poses)
    precision, recall, scores = (
        np.array(evaluator.eval[name], np.float64)[..., 0, :, 0] for name in ("precision", "recall", "scores")
    )
    precision, recall = (np.where(values < 0, np.nan, values) for values in (precision, recall))
    return CocoAP(
        stats=_summary(precision, recall),
        precision=precision,
        recall=recall,
        scores=scores,
        box_mode=box_mode,
        num_images=len(truth.image_ids),
        num_persons=int(truth.counted.sum()),
        num_poses=len(poses),
    )


def average_precision(annotations: Annotations, results: Results) -> float:
    """AP over all areas alone, 0..1: for callers that need it many times."""
    precision = np.array(run_cocoeval(annotations, results, areas=("all",)).eval["precision"], np.float64)
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")


@dataclass(frozen=True, eq=False)
class ImageOks:
    """OKS of the poses of one picture with its annotated persons.

    Attributes:
        poses: (D,) rows of the results, best score first.
        persons: (G,) rows of the annotations.
        oks: (D, G), crowds and unlabelled persons as COCO compares them.
    """

    poses: NDArray[np.intp]
    persons: NDArray[np.intp]
    oks: NDArray[np.float64]


def image_oks(truth: Annotations, poses: Results, at_most: int | None = None) -> dict[int, ImageOks]:
    """`ImageOks` of every picture that has poses, by picture id. One pass over all pairs, in bounded memory.

    Args:
        truth, poses: what was read.
        at_most: poses of a picture, the best scored ones; None: all.
    """
    none = np.zeros(0, np.intp)
    persons_on = {int(truth.person_image_ids[rows[0]]): rows for rows in group_rows(truth.person_image_ids)}
    found: list[tuple[int, NDArray[np.intp], NDArray[np.intp]]] = []
    for rows in group_rows(poses.image_ids):
        image_id = int(poses.image_ids[rows[0]])
        ranked = rows[np.argsort(-poses.scores[rows], kind="stable")][:at_most]
        found.append((image_id, ranked, persons_on.get(image_id, none)))
    pose_rows = np.concatenate([none, *(np.repeat(ranked, len(people)) for _, ranked, people in found)])
    person_rows = np.concatenate([none, *(np.tile(people, len(ranked)) for _, ranked, people in found)])
    values = np.empty(len(pose_rows))
    for begin in range(0, len(values), _PAIRS_AT_ONCE):
        pose, person = pose_rows[begin : begin + _PAIRS_AT_ONCE], person_rows[begin : begin + _PAIRS_AT_ONCE]
        values[begin : begin + _PAIRS_AT_ONCE] = paired_oks(
            poses.keypoints[pose],
            truth.keypoints[person],
            truth.labelled[person],
            truth.areas[person],
            truth.skeleton.sigmas,
            truth.boxes_xywh[person],
        )
    ends = np.cumsum([len(ranked) * len(people) for _, ranked, people in found])
    return {
        image_id: ImageOks(
            ranked, people, values[end - len(ranked) * len(people) : end].reshape(len(ranked), len(people))
        )
        for (image_id, ranked, people), end in zip(found, ends.tolist(), strict=True)
    }


def check_box_mode(box_mode: str) -> None:
    """Raise UsageError, naming the choices, unless `box_mode` is a `BoxMode`."""
    if box_mode not in get_args(BoxMode):
        raise UsageError(f"box mode {box_mode!r}: choose one of {', '.join(get_args(BoxMode))}")


def require_cocoeval() -> None:
    """Raise MissingDependencyError where there is no evaluator: before work that it would judge."""
    if find_spec("faster_coco_eval") is None:
        raise MissingDependencyError("faster-coco-eval", "train", "COCO evaluation")


def run_cocoeval(truth: Annotations, poses: Results, areas: Sequence[str] = AREA_NAMES) -> Any:
    """faster-coco-eval's evaluator after `evaluate` and `accumulate`, over the chosen areas."""
    require_cocoeval()
    from faster_coco_eval import COCO, COCOeval_faster

    def silent(*_: object) -> None:
        pass

    num_keypoints = truth.skeleton.num_keypoints
    images = [{"id": i} for i in truth.image_ids.tolist()]
    categories = [{"id": 1, "name": "person"}]
    # Numbered from 1: pycocotools takes a match with annotation 0 for no match.
    persons = [
        {
            "id": i + 1,
            "image_id": image_id,
            "category_id": 1,
            "keypoints": keypoints,
            "bbox": box,
            "area": area,
            "iscrowd": crowd,
            "num_keypoints": count,
        }
        for i, (image_id, keypoints, box, area, crowd, count) in enumerate(
            zip(
                truth.person_image_ids.tolist(),
                np.concatenate([truth.keypoints, truth.visibility[..., None]], axis=-1).reshape(
                    len(truth), 3 * num_keypoints
                ),
                truth.boxes_xywh.tolist(),
                truth.areas.tolist(),
                truth.iscrowd.astype(int).tolist(),
                truth.num_keypoints.tolist(),
                strict=True,
            )
        )
    ]
    # The area of a pose, its extent, decides whether an unmatched pose counts as a medium or large false positive.
    extents = np.prod(poses.keypoints.max(axis=1) - poses.keypoints.min(axis=1), axis=-1) if len(poses) else np.zeros(0)
    triples = np.concatenate([poses.keypoints, poses.keypoint_scores[..., None]], axis=-1).reshape(
        len(poses), 3 * num_keypoints
    )
    detections = [
        {
            "id": i + 1,
            "image_id": image_id,
            "category_id": 1,
            "keypoints": triples[i],
            "score": score,
            "area": area,
            "bbox": [0.0, 0.0, 0.0, 0.0],
            "iscrowd": 0,
        }
        for i, (image_id, score, area) in enumerate(
            zip(poses.image_ids.tolist(), poses.scores.tolist(), extents.tolist(), strict=True)
        )
    ]
    gt = COCO({"images": images, "annotations": persons, "categories": categories}, print_function=silent)
    dt = COCO({"images": images, "annotations": detections, "categories": categories}, print_function=silent)
    sigmas = np.asarray(truth.skeleton.sigmas)
    # separate_eval: the plain evaluate and accumulate, without the library's table of matches
    evaluator = COCOeval_faster(
        gt, dt, iouType="keypoints", print_function=silent, kpt_oks_sigmas=sigmas, separate_eval=True
    )
    params = evaluator.params
    params.catIds = [1]
    params.areaRng = [r for r, name in zip(params.areaRng, AREA_NAMES, strict=True) if name in areas]
    params.areaRngLbl = list(areas)
    # The library computes OKS picture by picture in Python; ours, all at once, is several times faster.
    similarity = image_oks(truth, poses, MAX_POSES)
    evaluator.computeOks = lambda image_id, _category: similarity[image_id].oks
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _summary(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    """The ten means of COCO's summary; the thresholds 0.5 and 0.75 are rows 0 and 5."""

    def mean(values: NDArray[np.float64]) -> float:
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else float("nan")

    parts = (
        [mean(precision[..., 0]), mean(precision[0, :, 0]), mean(precision[5, :, 0])]
        + [mean(precision[..., area]) for area in (1, 2)]
        + [mean(recall[:, 0]), mean(recall[0, 0]), mean(recall[5, 0])]
        + [mean(recall[:, area]) for area in (1, 2)]
    )
    return dict(zip(STAT_NAMES, parts, strict=True))
