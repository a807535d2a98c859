"""The text of an evaluation report, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from ebapose.evaluation.coco_ap import STAT_NAMES, BoxMode
from ebapose.evaluation.errors import ERROR_TYPES

BOX_MODE_TEXT: dict[BoxMode, str] = {
    "gt": "ground-truth boxes (annotated boxes were given; about 2 AP easier than detected ones on COCO)",
    "detector": "detector boxes",
    "image": "none (the network looks at whole pictures)",
    "unknown": "NOT STATED: do not compare AP with other reports",
}

_PASSES = {None: "", True: ", flip test", False: ", one pass"}
NO_POSES = "no poses at all: nobody was found"


def markdown(m: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """The text of report.md.

    Args:
        m: the content of metrics.json.
        pictures: paths relative to the report's folder.
    """
    found = m["poses"]
    sections = [
        [f"# {m['data_set']}"],
        [
            *([] if m["model"] is None else [f"- Model: {m['model']}{_PASSES[m['flip_test']]}"]),
            f"- Boxes: **{BOX_MODE_TEXT[m['box_mode']]}**",
            f"- {m['num_persons']} persons with labelled keypoints in {m['num_images']} pictures",
            (
                f"- {m['num_poses']} poses: {found['matched']} matched to a person, "
                f"{found['background']} where nobody is, {found['ignored']} ignored; "
                f"{found['persons_not_found']} persons not found"
            ),
            *([] if m["num_poses"] else [f"- **{NO_POSES[0].upper()}{NO_POSES[1:]}**"]),
            f"- Skeleton: {m['skeleton']}",
            *(f"- Not read, its persons count as not found: {line}" for line in m["unreadable_pictures"]),
        ],
        ["## COCO metrics (%)"],
        _table(STAT_NAMES, [[percent(m["coco"][name]) for name in STAT_NAMES]]),
        ["## PCK and distances"],
        _pck_lines(m),
        ["## Width / height of the persons' boxes"],
        _shape_table(m["box_shapes"]),
        ["## Do scores and sigmas mean what they say"],
        _calibration_lines(m),
        ["## Kinds of errors (%)"],
        _error_table(m["errors"]),
        [_in_turn(m)],
        ["## Keypoints"],
        _keypoint_table(m["keypoints"]),
    ]
    if pictures:
        sections += [["## Pictures"], *([f"![{PurePosixPath(path).stem}]({path})"] for path in pictures)]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def percent(value: float | None) -> str:
    """Like 73.4; "-" where there was nothing to measure."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _number(value: float | None, decimals: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{decimals}f}{unit}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    align = ["---:" if name else "---" for name in head]
    return ["| " + " | ".join(cells) + " |" for cells in (head, align, *rows)]


def _pck_lines(m: dict[str, Any]) -> list[str]:
    lines = []
    for size, values in m["pck"].items():
        numbers = [f"{name} {percent(v)}" for name, v in values.items() if name.startswith(("PCK", "AUC"))]
        error = _number(values["mean_relative_error"], 3)
        if size == "head":
            size += ": head_size of the annotations" if values["head_size_from"] == "annotations" else ": top to neck"
        lines.append(
            f"- relative to the {size} ({values['persons']} persons): {', '.join(numbers)}, mean error {error}"
        )
    px = _number(m["mean_error_px"], 1, " px")
    return [*lines, f"- of the matched persons: mean error {px}, mean OKS {percent(m['mean_oks'])}"]


def _shape_table(shapes: dict[str, Any]) -> list[str]:
    rows = []
    for group in shapes["groups"]:
        low, high = group["at_least"], group["below"]
        name = f"{low:g} or more" if high is None else f"{low:g} to {high:g}" if low else f"below {high:g}"
        rows.append([name, str(group["persons"]), percent(group["pck"]), percent(group["mean_oks"])])
    return _table(["", "persons", f"{shapes['pck']} %", "OKS %"], rows)


def _calibration_lines(m: dict[str, Any]) -> list[str]:
    scores, sigmas = m["scores"], m["sigmas"]
    why = "scores outside 0..1 are no probabilities" if m["poses"]["matched"] else "no pose is matched to a person"
    lines = [f"- Scores: not judged ({why})", "- Sigmas: none given"]
    if scores is not None:
        ece, brier = percent(scores["expected_calibration_error"]), scores["brier_score"]
        lines[0] = f"- Scores: calibration error {ece} %, Brier score {brier:.3f}, over {scores['count']} keypoints"
    if sigmas is not None:
        one, two = percent(sigmas["within_1_sigma"]), percent(sigmas["within_2_sigma"])
        lines[1] = f"- Sigmas: {one} % of the errors within one (should be 68.3), {two} % within two (should be 95.4)"
    if scores is not None and scores["unlabelled"]["count"]:
        others, sure = scores["unlabelled"]["count"], percent(scores["unlabelled"]["half_or_more"])
        lines.append(f"- Keypoints without a label (in COCO: out of sight): {others}, {sure} % score 0.5 and more")
    return lines


def _error_table(errors: dict[str, Any]) -> list[str]:
    shares, alone = errors["shares"] or {}, errors["ap_gain_alone"]
    return _table(
        ["", *ERROR_TYPES],
        [
            ["share of the keypoints", *(percent(shares.get(kind)) for kind in ERROR_TYPES)],
            ["AP gained if corrected alone", *(percent(alone.get(kind)) for kind in ERROR_TYPES)],
        ],
    )


def _in_turn(m: dict[str, Any]) -> str:
    gains = ", ".join(f"{kind} {percent(gain)}" for kind, gain in m["errors"]["ap_gain_in_turn"].items())
    return f"AP {percent(m['coco']['AP'])}; corrected one after the other regains: {gains}."


def _keypoint_table(keypoints: dict[str, Any]) -> list[str]:
    rows = [
        [
            name.replace("_", " "),
            str(values["labelled"]),
            percent(values["mean_oks"]),
            _number(values["mean_error_px"], 1),
            *(percent(values[kind]) for kind in ERROR_TYPES),
        ]
        for name, values in keypoints.items()
    ]
    return _table(["", "labelled", "OKS %", "error px", *(f"{kind} %" for kind in ERROR_TYPES)], rows)
