"""The evaluation report: everything about one results file, of any tool, in one folder.

`metrics.json` for programs, `report.md` for people, plots, and pictures of the worst poses where the photographs are
there. `docs/evaluation.md` says how to read it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from os.path import exists
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebapose.atomic import write_text
from ebapose.data.coco_file import SkeletonLike
from ebapose.errors import MissingDependencyError, UsageError
from ebapose.evaluation import plots
from ebapose.evaluation.calibration import (
    Reliability,
    SigmaCalibration,
    reliability,
    right_keypoints,
    sigma_calibration,
)
from ebapose.evaluation.coco_ap import BoxMode, CocoAP, check_box_mode, coco_ap, require_cocoeval
from ebapose.evaluation.errors import ERROR_TYPES, LostAP, classify_keypoints, error_shares, lost_ap
from ebapose.evaluation.inputs import Annotations, Results, read_annotations, read_results
from ebapose.evaluation.markdown import NO_POSES, markdown, percent
from ebapose.evaluation.matching import Matches, match_persons
from ebapose.evaluation.pck import box_sizes, head_sizes, mean_error, pck, pck_auc, relative_errors, torso_sizes
from ebapose.evaluation.worst import draw_worst, remove_worst
from ebapose.geometry.oks import keypoint_similarity

FloatArray = NDArray[np.float64]

# size -> (thresholds, upper end of the area under the curve)
_PCK = {"torso": ((0.1, 0.2), 0.5), "box": ((0.05, 0.1), 0.2), "head": ((0.5, 0.1), 0.5)}

_PLOTS = ("precision_recall.png", "keypoints.png", "errors.png", "scores.png", "sigmas.png")

# width / height of the annotated box, where groups of persons end
_SHAPES = (0.0, 0.65, 0.85, 1.2, math.inf)


@dataclass(frozen=True, eq=False)
class Report:
    """What `evaluate_predictions` found.

    Attributes:
        out_dir: the folder it was written to.
        metrics: content of `metrics.json`: plain numbers, None where there was nothing to measure.
        files: everything that was written.
    """

    out_dir: Path
    metrics: dict[str, Any]
    files: tuple[Path, ...]

    def summary(self) -> str:
        """One line for a person."""
        m = self.metrics
        parts = [f"AP {percent(m['coco']['AP'])}", f"AR {percent(m['coco']['AR'])}"]
        if "torso" in m["pck"]:
            parts.append(f"PCK@0.2 {percent(m['pck']['torso']['PCK@0.2'])}")
        if not m["num_poses"]:
            parts.append(NO_POSES)
        if m["unreadable_pictures"]:
            parts.append(f"{len(m['unreadable_pictures'])} pictures could not be read")
        return f"{m['data_set']}: {', '.join(parts)} ({m['num_persons']} persons, box mode {m['box_mode']})"


@dataclass(frozen=True, eq=False)
class _Measured:
    """What the plots and the text are made of."""

    truth: Annotations
    poses: Results
    matches: Matches
    ap: CocoAP
    similarity: FloatArray  # (N, K), NaN where not labelled or not matched
    pck: dict[str, dict[str, Any]]
    pck_per_keypoint: tuple[str, FloatArray]
    shapes: list[dict[str, Any]]
    error_px: FloatArray  # (N, K)
    kinds: NDArray[np.int8]
    lost: LostAP
    scores: Reliability | None
    unlabelled_scores: FloatArray  # (n,) of the counted and matched persons' keypoints without a label
    sigmas: SigmaCalibration | None


def evaluate_predictions(
    annotations: Annotations | str | Path | Mapping[str, Any],
    predictions: Results | str | Path | Sequence[Mapping[str, Any]],
    out_dir: str | Path,
    box_mode: BoxMode = "unknown",
    *,
    images_dir: str | Path | None = None,
    skeleton: SkeletonLike | None = None,
    category: str | None = None,
    worst: int = 12,
    with_plots: bool = True,
    unreadable: Mapping[int, str] | None = None,
    model: str | None = None,
    flip_test: bool | None = None,
) -> Report:
    """Judge a COCO keypoint results file of any tool and write a folder about it.

    Args:
        annotations: COCO keypoint annotations: a file, its content, or read ones.
        predictions: COCO results, the same way. Extra keys that are used: `annotation_id`, `keypoint_sigmas` (see
            `ebapose.evaluation.inputs`).
        out_dir: the report's folder; its older report is replaced (but for a `coco_results.json`, which a model wrote).
        box_mode: where the person boxes came from, see `ebapose.evaluation.coco_ap.CocoAP`.
        images_dir: folder of the photographs, for pictures of the worst poses; None: no such pictures.
        skeleton: see `read_annotations`; default: the annotations' own.
        category: name of the category to judge on, see `read_annotations`; results of others are left out.
        worst: how many of the worst poses to draw.
        with_plots: draw the plots.
        unreadable: id of a picture that could not be predicted -> why, one line for the report.
        model: whose predictions they are; None: not known.
        flip_test: whether mirrored crops were averaged in; None: not known.

    Raises:
        InputError: annotations or predictions cannot be read; the message names the entry.
        UsageError: unknown box mode, nobody to evaluate, or `out_dir` is a file.
        MissingDependencyError: faster-coco-eval or matplotlib is not installed.
    """
    check_box_mode(box_mode)
    folder = Path(out_dir)
    require_report(folder, with_plots)
    if images_dir is not None and not Path(images_dir).is_dir():
        raise UsageError(f"{images_dir}: no such folder of pictures")
    truth = annotations if isinstance(annotations, Annotations) else read_annotations(annotations, skeleton, category)
    if not truth.counted.any():
        raise UsageError(f"{truth.name}: no person with labelled keypoints to evaluate")
    poses = predictions if isinstance(predictions, Results) else read_results(predictions, truth)

    unreadable = unreadable or {}
    measured = _measure(truth, poses, box_mode)
    metrics = {"model": model, "flip_test": flip_test, **_metrics(measured)}
    metrics["unreadable_pictures"] = list(unreadable.values())
    drawn: list[Path] = []
    if images_dir is not None:  # first: where no photograph can be read, an older report stays as it was
        drawn = draw_worst(truth, poses, measured.matches, Path(images_dir), folder / "worst", worst, set(unreadable))
    else:
        remove_worst(folder / "worst")
    for plot in _plots_of_older(folder):
        plot.unlink(missing_ok=True)
    files = [*(_draw_plots(measured, folder) if with_plots else []), *drawn]
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    write_text(folder / "report.md", markdown(metrics, [path.relative_to(folder).as_posix() for path in files]))
    return Report(folder, metrics, (folder / "metrics.json", folder / "report.md", *files))


def _plots_of_older(folder: Path) -> list[Path]:
    """The plots that an older report shows: files of these names may be somebody's."""
    try:
        text = (folder / "report.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return [folder / name for name in _PLOTS if f"({name})" in text]


def require_report(out_dir: str | Path, with_plots: bool) -> None:
    """What can be known beforehand about whether a report can be written: hours of predicting may come first.

    Raises:
        UsageError: `out_dir` is a file.
        MissingDependencyError: faster-coco-eval or matplotlib is not installed.
    """
    if exists(out_dir) and not Path(out_dir).is_dir():  # noqa: PTH110 (pathlib's raises where a path is too long)
        raise UsageError(f"{out_dir}: is a file, not a folder for a report")
    require_cocoeval()
    if with_plots and find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", "train", "drawing plots")


def _measure(truth: Annotations, poses: Results, box_mode: BoxMode) -> _Measured:
    matches = match_persons(truth, poses, box_mode)
    predicted = matches.predicted(poses.keypoints)
    counted = truth.labelled & truth.counted[:, None]
    delta = predicted - truth.keypoints
    error_px = np.where(counted, np.linalg.norm(delta, axis=-1), np.nan)
    similarity = keypoint_similarity(error_px**2, truth.areas[:, None], truth.skeleton.sigmas)

    sizes: dict[str, FloatArray] = {}
    if truth.head_sizes is not None:  # a head's measured rectangle and top of the head to neck do not mix
        sizes["head"] = truth.head_sizes
    for name, measure in (("torso", torso_sizes), ("head", head_sizes)):
        if name in sizes:
            continue
        try:
            sizes[name] = measure(truth.keypoints, truth.labelled, truth.skeleton)
        except UsageError:
            continue  # this skeleton has no such size
    sizes["box"] = box_sizes(truth.boxes_xywh)
    pcks: dict[str, dict[str, Any]] = {}
    first: tuple[str, FloatArray] | None = None
    shapes: list[dict[str, Any]] = []
    names = truth.skeleton.keypoint_names
    for size, (thresholds, auc_end) in _PCK.items():
        if size not in sizes:
            continue
        errors = relative_errors(predicted, truth.keypoints, counted, sizes[size])
        results = [pck(errors, threshold) for threshold in thresholds]
        main = results[-1] if size != "head" else results[0]
        persons = int((~np.isnan(errors)).any(axis=1).sum())
        pcks[size] = {
            "persons": persons,
            **{f"PCK@{r.threshold:g}": r.overall for r in results},
            f"AUC@{auc_end:g}": pck_auc(errors, auc_end),
            "mean_relative_error": mean_error(errors),
            f"per_keypoint@{main.threshold:g}": dict(zip(names, main.per_keypoint.tolist(), strict=True)),
        }
        if first is None and persons:
            first = (f"PCK@{main.threshold:g} ({size})", main.per_keypoint)
            shapes = _by_shape(truth, matches.oks, errors, main.threshold)
    if "head" in pcks:
        pcks["head"]["head_size_from"] = "keypoints" if truth.head_sizes is None else "annotations"

    kinds = classify_keypoints(truth, poses, matches)
    matched = np.isfinite(error_px)
    keypoint_scores = np.where(matched, matches.predicted(poses.keypoint_scores), np.nan)
    known = keypoint_scores[matched]
    unlabelled = matches.predicted(poses.keypoint_scores)[truth.counted[:, None] & ~truth.labelled]
    probabilities = known.size > 0 and known.min() >= 0 and known.max() <= 1
    scores = None
    if probabilities:
        right = right_keypoints(error_px, truth.areas, truth.skeleton.sigmas)
        scores = reliability(keypoint_scores, right)
    sigmas = None
    if poses.sigmas_px is not None:
        sigmas = sigma_calibration(np.where(counted[..., None], delta, np.nan), matches.predicted(poses.sigmas_px))
    return _Measured(
        truth=truth,
        poses=poses,
        matches=matches,
        ap=coco_ap(truth, poses, box_mode),
        similarity=similarity,
        pck=pcks,
        pck_per_keypoint=first or ("PCK", np.full(len(names), np.nan)),
        shapes=shapes,
        error_px=error_px,
        kinds=kinds,
        lost=lost_ap(truth, poses, matches, kinds),
        scores=scores,
        unlabelled_scores=unlabelled[np.isfinite(unlabelled)],
        sigmas=sigmas if sigmas is not None and sigmas.count else None,
    )


def _by_shape(truth: Annotations, oks: FloatArray, errors: FloatArray, threshold: float) -> list[dict[str, Any]]:
    """Accuracy by the form of the annotated box: crops of one form show the others smaller, and averages hide it."""
    width, height = truth.boxes_xywh[:, 2:].astype(np.float64).T
    shape = np.divide(width, height, out=np.full(len(width), np.nan), where=height > 0)
    groups = []
    for low, high in itertools.pairwise(_SHAPES):
        rows = truth.counted & (shape >= low) & (shape < high)
        groups.append(
            {
                "at_least": low,
                "below": high,  # None: without end
                "persons": int(rows.sum()),
                "pck": pck(errors[rows], threshold).overall,
                "mean_oks": _mean(oks[rows]),
            }
        )
    return groups


def _metrics(m: _Measured) -> dict[str, Any]:
    """The content of metrics.json."""
    names = m.truth.skeleton.keypoint_names
    background = ~m.matches.ignored
    background[m.matches.poses] = False
    counted = int(m.truth.counted.sum())
    shares = error_shares(m.kinds)
    samples = m.kinds[m.kinds >= 0]
    overall = np.bincount(samples, minlength=len(ERROR_TYPES)) / max(samples.size, 1)
    metrics: dict[str, Any] = {
        "data_set": m.truth.name,
        "skeleton": m.truth.skeleton.name,
        "box_mode": m.ap.box_mode,
        "num_images": m.ap.num_images,
        "num_persons": counted,
        "num_poses": m.ap.num_poses,
        "poses": {
            "matched": len(m.matches.poses),
            "background": int(background.sum()),
            "ignored": int(m.matches.ignored.sum()),
            "persons_not_found": counted - len(m.matches.persons),
        },
        "coco": m.ap.stats,
        "mean_oks": float(np.nanmean(m.matches.oks)) if len(m.matches.persons) else float("nan"),
        "pck": m.pck,
        "box_shapes": {"pck": m.pck_per_keypoint[0], "groups": m.shapes},
        "mean_error_px": mean_error(m.error_px),
        "scores": None
        if m.scores is None
        else {
            "expected_calibration_error": m.scores.expected_calibration_error,
            "brier_score": m.scores.brier_score,
            "count": int(m.scores.counts.sum()),
            "bin_counts": m.scores.counts.tolist(),
            "bin_mean_scores": m.scores.mean_scores.tolist(),
            "bin_right_shares": m.scores.right_shares.tolist(),
            "unlabelled": {
                "count": len(m.unlabelled_scores),
                "half_or_more": _mean((m.unlabelled_scores >= 0.5).astype(np.float64)),
            },
        },
        "sigmas": None
        if m.sigmas is None
        else {
            "within_1_sigma": m.sigmas.within_1_sigma,
            "within_2_sigma": m.sigmas.within_2_sigma,
            "expected_calibration_error": m.sigmas.expected_calibration_error,
            "count": m.sigmas.count,
            "promised": m.sigmas.promised.tolist(),
            "observed": m.sigmas.observed.tolist(),
        },
        "errors": {
            "shares": dict(zip(ERROR_TYPES, overall.tolist(), strict=True)) if samples.size else None,
            "ap_gain_alone": m.lost.alone,
            "ap_gain_in_turn": m.lost.steps,
        },
        "keypoints": {
            name: {
                "labelled": int((m.truth.labelled & m.truth.counted[:, None])[:, k].sum()),
                "mean_oks": _mean(m.similarity[:, k]),
                "mean_error_px": mean_error(m.error_px[:, k]),
                **dict(zip(ERROR_TYPES, shares[k].tolist(), strict=True)),
            }
            for k, name in enumerate(names)
        },
    }
    plain: dict[str, Any] = _without_nan(metrics)
    return plain


def _draw_plots(m: _Measured, folder: Path) -> list[Path]:
    names = m.truth.skeleton.keypoint_names
    label, values = m.pck_per_keypoint
    oks = np.array([_mean(m.similarity[:, k]) for k in range(len(names))])
    files = [
        plots.plot_precision_recall(m.ap, folder / "precision_recall.png"),
        plots.plot_keypoints(names, values, label, oks, folder / "keypoints.png"),
        plots.plot_errors(names, error_shares(m.kinds), m.lost, folder / "errors.png"),
    ]
    if m.scores is not None:
        files.append(plots.plot_scores(m.scores, folder / "scores.png"))
    if m.sigmas is not None:
        files.append(plots.plot_sigmas(m.sigmas, folder / "sigmas.png"))
    return files


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None says that there was nothing to measure."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
