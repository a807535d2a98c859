"""The paper's tables, with our numbers beside the paper's: size, cost in three conventions, latency, accuracy.

Size and cost are computed from the models (`models.overview`), latency comes from one interleaved benchmark, accuracy
from evaluation reports. Where nothing was measured, the table says so. The paper's own numbering of its tables is not
kept: `evaluation.paper.TABLES` groups its rows by the question they answer.

Adding a table: a title and its rows in `evaluation.paper.TABLES`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebapose.errors import InputError, UsageError
from ebapose.evaluation.coco_ap import BoxMode
from ebapose.evaluation.paper import FINDINGS, METRICS, TABLES, PublishedRow
from ebapose.models.overview import CONVENTIONS, ModelRow, describe_models

NOT_MEASURED = "not measured"
_BOXES: dict[BoxMode, str] = {
    "gt": "ground-truth boxes",
    "detector": "detector boxes",
    "image": "whole pictures, no boxes",
    "unknown": "boxes not stated",
}


@dataclass(frozen=True)
class Latency:
    """Median over the rounds of one run in which all systems took turns.

    Attributes:
        ms_per_crop: at one crop per call.
        quartiles_ms: of the rounds.
        runtime: and precision, e.g. "openvino f32".
    """

    ms_per_crop: float
    quartiles_ms: tuple[float, float]
    runtime: str


@dataclass(frozen=True)
class Measured:
    """One evaluation report.

    Attributes:
        model: name of the model that it is about.
        data_set: name of the annotations.
        box_mode: see `evaluation.coco_ap.CocoAP`.
        num_persons: evaluated persons.
        accuracy: by name of `paper.METRICS`, per cent; None where there was nothing to measure.
        flip_test: whether mirrored crops were averaged in; None where the report does not say.
    """

    model: str
    data_set: str
    box_mode: BoxMode
    num_persons: int
    accuracy: Mapping[str, float | None]
    flip_test: bool | None = None

    @property
    def conditions(self) -> str:
        """Data set, boxes and number of passes, for a person."""
        passes = "" if self.flip_test is None else ", flip test" if self.flip_test else ", one pass"
        return f"{self.data_set} ({self.num_persons} persons), {_BOXES[self.box_mode]}{passes}"


def read_report(report: str | Path) -> Measured:
    """Read what `ebapose evaluate` wrote.

    Args:
        report: the report's folder or its `metrics.json`; `NAME=PATH` names the model that it is about, which is
            otherwise called by `model` in the file, or by the name of the folder.

    Raises:
        UsageError: nothing is there. InputError: it is no evaluation report.
    """
    name, separator, rest = (str(report), "", "") if Path(report).exists() else str(report).partition("=")
    if separator and not (name and rest):
        raise UsageError(f"report {str(report)!r}: write MODEL=PATH, or PATH alone")
    path = Path(rest if separator else name)
    path = path / "metrics.json" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"{path}: no evaluation report (metrics.json) there")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        stats = metrics["coco"]
        model = name if separator else metrics.get("model") or path.resolve().parent.name
        if metrics["box_mode"] not in list(_BOXES):  # of a dict, "in" would have to hash whatever stands there
            raise ValueError(f"box mode {metrics['box_mode']!r}")
        return Measured(
            str(model),
            str(metrics["data_set"]),
            metrics["box_mode"],
            int(metrics["num_persons"]),
            {metric: _per_cent(metric, stats[metric]) for metric in METRICS},
            metrics.get("flip_test"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{path}: not an evaluation report ({type(error).__name__}: {error})") from None


def _per_cent(metric: str, share: float | None) -> float | None:
    if share is None:
        return None
    if not 0 <= float(share) <= 1:  # not a number is refused with it
        raise ValueError(f"{metric} is {share}, expected a share of 0 to 1")
    return 100 * float(share)


def timed_models() -> tuple[str, ...]:
    """Every model of the tables, once."""
    return tuple(dict.fromkeys(row.model for _, rows in TABLES for row in rows))


def build_tables(reports: Sequence[Measured] = (), latencies: Mapping[str, Latency] | None = None) -> dict[str, Any]:
    """All tables as plain data, the content of `tables.json`.

    Args:
        reports: accuracies; those of models outside of the paper's tables come in `other_models`.
        latencies: by model name; None: not measured.

    Returns:
        `tables` (title, rows), `other_models` (reports on models that no table has) and `findings`. A row holds the
        model, `parameters_m` and `gmac` with the paper's number, ours and the difference (ours - paper), latency,
        the published accuracy and one entry per report.
    """
    models = describe_models()
    counted = {row.name: row for row in models if not row.options}  # of the options of their architecture
    known = {row.name: row for row in models}
    known.update({alias: row for row in models for alias in row.bundled})
    names = {row.name for row in known.values()} & set(timed_models())
    reports = [_canonical(report, known) for report in reports]
    latencies = latencies or {}
    return {
        "tables": [
            {"title": title, "rows": [_row(row, counted[row.model], reports, latencies) for row in rows]}
            for title, rows in TABLES
        ],
        "other_models": [
            _row(PublishedRow(name, name), known.get(name), reports, latencies)
            for name in dict.fromkeys(r.model for r in reports if r.model not in names)
        ],
        "findings": list(FINDINGS),
    }


def _canonical(report: Measured, known: Mapping[str, ModelRow]) -> Measured:
    """Call bundled weights ("default") by the name of their model."""
    name = known[report.model].name if report.model in known else report.model
    return replace(report, model=name)


def _row(
    row: PublishedRow, counted: ModelRow | None, reports: Sequence[Measured], latencies: Mapping[str, Latency]
) -> dict[str, Any]:
    parameters = counted.num_parameters / 1e6 if counted and counted.num_parameters is not None else None
    gmac = {name: counted.gmac[name] if counted and counted.gmac else None for name in CONVENTIONS}
    latency = latencies.get(row.model)
    return {
        "title": row.title,
        "model": row.model,
        "input_hw": list(counted.input_hw) if counted else None,
        "parameters_m": {
            "published": row.parameters_m,
            "ours": parameters,
            "difference": _minus(parameters, row.parameters_m),
        },
        "gmac": {
            "published": row.cost,
            "counted_as": row.counted_as if row.cost is not None else None,
            **{name: {"ours": gmac[name], "difference": _minus(gmac[name], row.cost)} for name in CONVENTIONS},
        },
        "latency": None
        if latency is None
        else {
            "ms_per_crop": latency.ms_per_crop,
            "quartiles_ms": list(latency.quartiles_ms),
            "runtime": latency.runtime,
        },
        "published_accuracy": {**dict.fromkeys(METRICS), **row.accuracy} if row.accuracy else None,
        "published_conditions": row.boxes or None,
        "measured_accuracy": [
            {
                "data_set": report.data_set,
                "box_mode": report.box_mode,
                "flip_test": report.flip_test,
                "conditions": report.conditions,
                **{metric: report.accuracy[metric] for metric in METRICS},
            }
            for report in reports
            if report.model == row.model
        ],
        "notes": list(row.notes),
    }


def _minus(ours: float | None, paper: float | None) -> float | None:
    return None if ours is None or paper is None else ours - paper


def tables_markdown(content: Mapping[str, Any], figures: Sequence[str] = (), about_latency: str = "") -> str:
    """The text of `tables.md`.

    Args:
        content: from `build_tables`.
        figures: paths relative to the text.
        about_latency: machine, versions and rounds; empty where latency was not measured.
    """
    parts = [
        "# The paper's tables",
        (
            "The paper's number, ours, and (ours - paper). Small raised numbers point to the findings below. GMAC: "
            "10^9 multiply-accumulates per crop; *true* counts everything, *paper* leaves transposed convolutions out, "
            "*HRNet* is the counter of HRNet and SimCC. The difference to the paper is bold in the column by which its "
            "number was counted, as far as that is known; the other differences only show what mixing conventions does."
            f" Latency: {about_latency or NOT_MEASURED}."
        ),
    ]
    groups = [*((table["title"], table["rows"]) for table in content["tables"])]
    if content["other_models"]:
        groups.append(("Other models", content["other_models"]))
    for title, rows in groups:
        parts += [f"## {title}", _size_table(rows), _accuracy_table(rows)]
    parts += ["## Findings", "\n".join(f"{i}. {text}" for i, text in enumerate(content["findings"], 1))]
    parts += [f"![{Path(path).stem.replace('_', ' ')}]({path})" for path in figures]
    return "\n\n".join(parts) + "\n"


def _size_table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        parameters, cost = row["parameters_m"], row["gmac"]
        latency = row["latency"]
        notes = f"<sup>{', '.join(map(str, row['notes']))}</sup>" if row["notes"] else ""
        lines.append(
            [
                row["title"] + notes,
                "x".join(map(str, row["input_hw"])) if row["input_hw"] else "-",
                _number(parameters["published"], 1),
                _ours(parameters, 3, True),
                _number(cost["published"], 1),
                *(_ours(cost[name], 3, name == cost["counted_as"]) for name in CONVENTIONS),
                NOT_MEASURED if latency is None else f"{latency['ms_per_crop']:.1f}",
            ]
        )
    head = ["model", "input", "M parameters, paper", "ours", "cost, paper"]
    return _markdown_table([*head, "GMAC true", "GMAC paper", "GMAC HRNet", "ms per crop"], lines, text_columns=2)


def _accuracy_table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        size = "x".join(map(str, row["input_hw"])) if row["input_hw"] else ""
        name = f"{row['title']} {size}".strip()
        if row["published_accuracy"] is not None:
            values = [_number(row["published_accuracy"][metric], 1) for metric in METRICS]
            lines.append([name, "paper", row["published_conditions"], *values])
        for measured in row["measured_accuracy"]:
            values = [_number(measured[metric], 1) for metric in METRICS]
            lines.append([name, "ours", measured["conditions"], *values])
        if not row["measured_accuracy"]:
            lines.append([name, "ours", NOT_MEASURED, *(["-"] * len(METRICS))])
    head = ["model", "whose", "data and boxes", *METRICS]
    return _markdown_table(head, lines, text_columns=3)


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int) -> str:
    align = ["---" if i < text_columns else "---:" for i in range(len(head))]
    lines = [head, align, *([cell.replace("|", "\\|") for cell in cells] for cells in rows)]  # "|" ends a cell
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _ours(value: Mapping[str, float | None], decimals: int, bold: bool) -> str:
    text = _number(value["ours"], decimals)
    # adding 0.0 turns a difference that rounds to -0 into 0
    if value["difference"] is not None:
        text += (
            f" (**{round(value['difference'], decimals) + 0.0:+.{decimals}f}**)"
            if bold
            else f" ({round(value['difference'], decimals) + 0.0:+.{decimals}f})"
        )
    return text
