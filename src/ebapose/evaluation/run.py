"""Run a model over an annotated data set and judge its poses: the network half of `ebapose evaluate`."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ebapose import zoo
from ebapose.atomic import atomic_write
from ebapose.card import Calibration, ModelCard, refuse_shared_card
from ebapose.data.coco import CocoKeypoints, load_coco
from ebapose.data.coco_file import SkeletonLike
from ebapose.errors import InputError, UsageError
from ebapose.evaluation.calibration_fit import CalibrationGain, Judged, calibrate, judge
from ebapose.evaluation.coco_ap import BoxMode
from ebapose.evaluation.inputs import NO_ANNOTATION, Results, read_annotations
from ebapose.evaluation.report import Report, evaluate_predictions, require_report
from ebapose.geometry.crop import fit_boxes
from ebapose.geometry.oks import RESCORE_THRESHOLD, pose_scores, select_poses
from ebapose.inference.detector import WholeImage
from ebapose.inference.loading import load
from ebapose.inference.predictor import Predictor
from ebapose.inference.runtime import RuntimeName, load_model_file
from ebapose.io.pictures import read_image
from ebapose.models.registry import model_name
from ebapose.structures import Boxes, Frame

NMS_OKS = 0.9
NMS_PADDING = 1.25  # by which the published protocols enlarge the boxes whose areas OKS-NMS compares

_logger = logging.getLogger(__name__)


def evaluate(
    model: str | Path | None,
    annotations: str | Path,
    out_dir: str | Path,
    *,
    predictions: str | Path | Sequence[Mapping[str, Any]] | None = None,
    images_dir: str | Path | None = None,
    boxes: str | Path | None = None,
    skeleton: SkeletonLike | None = None,
    category: str | None = None,
    worst: int = 12,
    with_plots: bool = True,
    **options: Any,
) -> Report:
    """Judge a model, or any tool's COCO results, on COCO keypoint annotations; writes a report folder.

    Args:
        model: bundled model or model file, see `ebapose.load`; None with `predictions`.
        annotations: COCO keypoint annotations.
        out_dir: for the report.
        predictions: COCO keypoint results (file or content) to judge instead of running a model.
        images_dir: folder of the pictures; found beside the annotations by default.
        boxes: "gt" (default for a model) or a COCO detections file; with `predictions` it only names what they were
            made with.
        skeleton: where the annotations do not say enough, see `ebapose.data.coco.load_coco`.
        category: name of the category to judge on, where several have keypoints; results of others are left out.
        worst, with_plots: see `evaluate_predictions`.
        options: further ones of `evaluate_model`: flip_test, runtime, detector_score, batch_size, threads, ...

    Raises:
        UsageError: neither or both of `model` and `predictions`, options of a model beside `predictions`, they do not
            fit the annotations, or a file is not there.
        InputError: a file cannot be read.
    """
    if (model is None) == (predictions is None):
        raise UsageError("evaluate: give either a model or predictions")
    if worst < 0:
        raise UsageError(f"evaluate: {worst} of the worst poses cannot be drawn")
    if predictions is not None:
        if options:
            raise UsageError(f"evaluate: predictions are judged as they are, without {', '.join(options)}")
        mode: BoxMode = "unknown" if boxes is None else _box_mode(boxes)
        return evaluate_predictions(
            annotations,
            predictions,
            out_dir,
            mode,
            images_dir=images_dir,
            skeleton=skeleton,
            category=category,
            worst=worst,
            with_plots=with_plots,
        )
    return evaluate_model(
        model or "",
        annotations,
        out_dir,
        images_dir=images_dir,
        boxes="gt" if boxes is None else boxes,
        skeleton=skeleton,
        category=category,
        worst=worst,
        with_plots=with_plots,
        **options,
    )


def _box_mode(boxes: str | Path) -> Literal["gt", "detector"]:
    if str(boxes) == "gt":
        return "gt"
    if not Path(boxes).is_file():
        raise UsageError(f"boxes {boxes}: neither gt nor a file of detections")
    return "detector"


def evaluate_model(
    model: str | Path,
    annotations: str | Path,
    out_dir: str | Path,
    *,
    images_dir: str | Path | None = None,
    boxes: str | Path = "gt",
    skeleton: SkeletonLike | None = None,
    category: str | None = None,
    flip_test: bool = True,
    runtime: RuntimeName = "auto",
    detector_score: float = 0.0,
    batch_size: int = 16,
    threads: int | None = None,
    worst: int = 12,
    with_plots: bool = True,
    on_start: Callable[[int], None] = lambda total: None,
    on_image: Callable[[str], None] = lambda name: None,
) -> Report:
    """Predict every person of a COCO keypoint data set and write the evaluation report.

    With "gt" every annotated person's own box is given (crowds and persons without labels are left out; those without
    area, or with a box outside of the picture, count as not found). With a detections file each of its boxes is given;
    poses are then rescored (box score times the mean of the keypoint scores above 0.2) and those nearly the same as a
    better one are dropped, as the published protocols do: OKS-NMS at 0.9, where a pose's area is that of its box, grown
    to the form of the network's input and by a factor of 1.25. Pictures that cannot be read are logged and named in the
    report; their persons have no pose and count as not found.

    Args:
        model: bundled model or model file, see `ebapose.load`.
        annotations: COCO keypoint annotations.
        out_dir: for the report; `coco_results.json` is written there too.
        images_dir: folder of the pictures; found beside the annotations by default.
        boxes: "gt" or a COCO detections file.
        skeleton: where the annotations do not say enough, see `ebapose.data.coco.load_coco`.
        category: name of the category, where several have keypoints.
        flip_test, runtime, batch_size, threads: see `ebapose.load`.
        detector_score: boxes of a detections file below it are left out.
        worst, with_plots: see `evaluate_predictions`.
        on_start: called once with the number of pictures.
        on_image: called after each picture.

    Raises:
        UsageError: the model's skeleton is not the data's (both lists of names are given), nobody to evaluate, or a
            file is not there.
        InputError: annotations, detections or all of the pictures cannot be read.
        MissingDependencyError: see `evaluate_predictions`; nothing was predicted.
    """
    mode = _box_mode(boxes)
    if mode == "gt" and detector_score:
        raise UsageError("detector_score: ground-truth boxes have no scores")
    out = Path(out_dir)
    require_report(out, with_plots)
    records = load_coco(annotations, images_dir, skeleton, category)
    truth = read_annotations(annotations, records.skeleton, category)  # judges more of the file than the line above
    nobody = UsageError(f"{annotations}: no person with labelled keypoints to evaluate")
    if not truth.counted.any():
        raise nobody
    records = records.persons() if mode == "gt" else records.detections(boxes, detector_score)
    if not len(records):
        raise nobody
    predictor = load(
        model, runtime, detector="whole-image", flip_test=flip_test, batch_size=batch_size, threads=threads
    )
    refuse_other_skeleton(predictor.card, records)
    out.mkdir(parents=True, exist_ok=True)
    on_start(len(np.unique(records.image_indices)))
    rows, results, unreadable = _predict(predictor, records, on_image)
    if mode == "detector":
        results = results[_suppress(results, records.select(rows), predictor.card.input.size_hw)]
    with atomic_write(out / "coco_results.json") as temporary, temporary.open("w", encoding="utf-8") as file:
        entries = results.to_json(records.category_id)
        file.write("[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")
    return evaluate_predictions(
        truth,
        results,
        out,
        mode,
        images_dir=records.images_dir,
        worst=worst,
        with_plots=with_plots,
        unreadable=unreadable,
        model=model_of_card(predictor.card),
        flip_test=flip_test,
    )


def model_of_card(card: ModelCard) -> str:
    """What a report calls a network: its registered name, or, where it was made with options, the card's own name.

    Options make it another design than the one that is registered (and published) under that name: where the card's
    name is that one, they follow in brackets. Bundled weights are known by their name.
    """
    registered = model_name(card.architecture, card.input.size_hw)
    if not card.options or card.name != registered:
        return card.name if card.options else registered
    bundled = (zoo.bundled_card(path) for path in zoo.bundled_models().values())
    if any((other.name, other.options) == (card.name, card.options) for other in bundled):
        return card.name
    return f"{registered} ({', '.join(f'{option}={value}' for option, value in sorted(card.options.items()))})"


def refuse_other_skeleton(card: ModelCard, records: CocoKeypoints) -> None:
    """Raise UsageError, with both lists of names, where model and data do not have the same keypoints."""
    of_model, of_data = card.skeleton.keypoint_names, records.skeleton.keypoint_names
    if of_model != of_data:
        raise UsageError(
            f"{records.source}: other keypoints than {card.name}: data {list(of_data)}, model {list(of_model)}"
        )


def calibrate_weights(
    weights: str | Path,
    annotations: Sequence[str | Path],
    *,
    images_dir: str | Path | None = None,
    skeleton: SkeletonLike | None = None,
    category: str | None = None,
    position: Literal["peak", "expected"] | None = None,
    on_start: Callable[[int], None] = lambda total: None,
    on_image: Callable[[str], None] = lambda name: None,
) -> CalibrationGain:
    """Measure how far a model's scores and sigmas can be trusted, and write the corrections into its card.

    The model runs as `predict` runs it: one pass, each annotated person's own box. Only the card changes.

    Args:
        weights: a .safetensors file; it is replaced atomically.
        annotations: one or more COCO keypoint files with persons that the model was not trained on; each file counts
            alike, however many persons it has.
        images_dir: folder of the pictures; found beside the annotations by default.
        skeleton: where the annotations do not say enough, see `ebapose.data.coco.load_coco`.
        category: name of the category in each of the files, where several have keypoints.
        position: how keypoints are read from now on, see `ebapose.card.CodecSpec`; None leaves it as it is.
        on_start, on_image: as for `evaluate_model`.

    Returns:
        What the corrections are worth on persons that they were not fitted to.

    Raises:
        ModelFileError, InputError, UsageError: a file cannot be read, or model and data do not go together.
    """
    from ebapose.models.weights import load_weights, save_weights

    if not annotations:
        raise UsageError("calibrate: name at least one file of annotations")
    if Path(weights).suffix != ".safetensors" and Path(weights).exists():
        raise UsageError(f"{weights}: only .safetensors weights can be calibrated; export them again afterwards")
    refuse_shared_card(Path(weights))
    state_dict, card = load_weights(weights)
    card = card.model_copy(update={"calibration": Calibration()})
    if position is not None:
        if card.codec.type != "simcc":
            raise UsageError(f"{weights}: position: {card.name} has no SimCC head")
        card = card.model_copy(update={"codec": card.codec.model_copy(update={"position": position})})
    runtime, _ = load_model_file(Path(weights), "torch")
    predictor = Predictor(card, runtime, WholeImage())
    sets = [(path, load_coco(path, images_dir, skeleton, category).persons()) for path in annotations]
    on_start(sum(len(np.unique(records.image_indices)) for _, records in sets))
    judged, names = [], []
    unreadable: list[str] = []
    for path, records in sets:
        refuse_other_skeleton(card, records)
        _, results, missed = _predict(predictor, records, on_image)
        unreadable += missed.values()
        judged.append(judge(read_annotations(path, records.skeleton, category), results, "gt"))
        names.append(f"{Path(path).name}: {len(results)} persons")
    calibration, gain = calibrate(Judged.balanced(judged), ", ".join(names))
    card = card.model_copy(update={"calibration": calibration})
    save_weights(weights, state_dict, card, dtype="float16" if _is_half(Path(weights)) else "float32")
    return replace(gain, unreadable=tuple(unreadable))


def _is_half(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return all(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118 - not a dict


def _predict(
    predictor: Predictor, records: CocoKeypoints, on_image: Callable[[str], None]
) -> tuple[NDArray[np.intp], Results, dict[int, str]]:
    """Every record's pose, in the order of the records, as plain arrays (about 700 bytes each for 17 keypoints).

    In front of them the rows of the records that have a pose, and behind, by the id of its picture, one line about each
    picture that cannot be read. InputError if none can.
    """
    order = np.argsort(records.image_indices, kind="stable")
    rows_of: dict[int, NDArray[np.intp]] = {}
    images, starts = np.unique(records.image_indices[order], return_index=True)
    for image, rows in zip(images.tolist(), np.split(order, starts[1:]), strict=True):
        rows_of[image] = rows
    num, k = len(records), records.skeleton.num_keypoints
    keypoints, scores, sigmas = np.zeros((num, k, 2)), np.zeros((num, k)), np.full((num, k, 2), np.nan)

    unreadable: dict[int, str] = {}

    def pictures() -> Iterator[tuple[Frame, NDArray[np.intp]]]:
        for image, rows in rows_of.items():
            try:
                yield read_image(records.image_path(image)), rows
            except InputError as error:
                unreadable[int(records.image_ids[image])] = str(error)
                _logger.warning("%s", error)
                on_image(str(records.image_path(image)))

    for_frames, for_boxes, for_rows = itertools.tee(pictures(), 3)
    frames = (frame for frame, _ in for_frames)
    boxes = (Boxes.from_xyxy(records.boxes_xyxy[rows], records.scores[rows]) for _, rows in for_boxes)
    done = np.zeros(num, bool)
    for prediction, (_, rows) in zip(predictor.stream(frames, boxes), for_rows, strict=True):
        rows = rows[prediction.used]  # boxes outside the picture have no pose
        keypoints[rows], scores[rows] = prediction.poses.keypoints, prediction.poses.scores
        sigmas[rows] = prediction.poses.sigmas_px
        done[rows] = True
        on_image(prediction.frame.name)
    if rows_of and len(unreadable) == len(rows_of):
        raise InputError(f"{records.source}: none of its pictures can be read ({next(iter(unreadable.values()))})")
    box_scores = records.scores.astype(np.float64)
    results = Results(
        image_ids=records.image_ids[records.image_indices],
        keypoints=keypoints,
        keypoint_scores=scores,
        scores=pose_scores(box_scores, scores, RESCORE_THRESHOLD),
        sigmas_px=sigmas,
        annotation_ids=np.where(records.annotation_ids < 0, NO_ANNOTATION, records.annotation_ids),
    )
    rows = np.flatnonzero(done)
    return rows, results[rows], unreadable


def _suppress(results: Results, records: CocoKeypoints, size_hw: tuple[int, int]) -> NDArray[np.intp]:
    """Rows that survive OKS-NMS within their picture, by the areas of the boxes in the form of the network's crops."""
    _, sizes_wh = fit_boxes(records.boxes_xyxy, size_hw, NMS_PADDING)
    areas = sizes_wh.prod(axis=1)
    return np.sort(
        select_poses(results.image_ids, results.keypoints, results.scores, areas, records.skeleton.sigmas, NMS_OKS)
    )
