"""The paper's tables and figures in one folder: `ebapose tables`. What they hold is in `ebapose.evaluation.tables`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebapose.atomic import write_text
from ebapose.errors import EbaposeError, UsageError
from ebapose.evaluation.figures import FIGURE_5, FIGURE_6, draw_conditions, picture_files, plot_accuracy
from ebapose.evaluation.tables import Latency, build_tables, read_report, tables_markdown, timed_models
from ebapose.inference.loading import load

EXAMPLES = Path("examples")
MAX_PICTURES = 4


@dataclass(frozen=True)
class Comparison:
    """What was written.

    Attributes:
        files: tables.json, tables.md and the figures.
        notes: what was left out, and why.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]

    def summary(self) -> str:
        """One line per file and note."""
        return "\n".join([*map(str, self.files), *(f"note: {note}" for note in self.notes)])


def write_comparison(
    out: str | Path,
    reports: Sequence[str | Path] = (),
    *,
    latency: bool = True,
    repeats: int = 20,
    threads: int | None = None,
    pictures: str | Path | None = None,
    model: str | Path = "default",
) -> Comparison:
    """Write the paper's tables and its figures 5 and 6, with our numbers.

    Args:
        out: folder for `tables.json`, `tables.md` and the figures.
        reports: evaluation reports, see `evaluation.tables.read_report`.
        latency: time every system of the tables (needs torch: random weights are exported first).
        repeats: timed rounds; the systems take turns within each.
        threads: CPU threads, all available ones by default.
        pictures: folder of the pictures of figure 6; default: `examples`, where there is such a folder.
        model: that predicts figure 6.

    Raises:
        UsageError: a report or the folder of pictures is not there.
        InputError: a report or a picture cannot be read.
        MissingDependencyError: torch (latency) or matplotlib (figure 5) is not installed.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, not a folder for tables")
    measured = [read_report(report) for report in reports]
    files, notes = _pictures(pictures), []
    if not files:
        notes.append(f"figure 6 is not drawn: no pictures in a folder {EXAMPLES} here; name one with --pictures")
    untimed = build_tables(measured)
    notes += [
        f"{row['model']}: not a model of `ebapose models`, so its size and cost are not known; MODEL=PATH names another"
        for row in untimed["other_models"]
        if row["input_hw"] is None
    ]
    # The figures come first: what is wrong with pictures, model or folder shows before minutes of timing.
    predictor = load(model, threads=threads) if files else None
    written = [plot_accuracy(untimed, folder / FIGURE_5)]
    if predictor is not None:
        written.append(draw_conditions(predictor, files, folder / FIGURE_6))
    latencies, about = _latencies(repeats, threads) if latency else (None, "")
    content: dict[str, Any] = {**build_tables(measured, latencies), "latency": about or None}
    text = tables_markdown(content, [path.name for path in written], about)
    try:
        write_text(folder / "tables.json", json.dumps(content, indent=1) + "\n")
        write_text(folder / "tables.md", text)
    except OSError as error:
        raise EbaposeError(f"{folder}: cannot be written ({error.strerror})") from None
    return Comparison((folder / "tables.json", folder / "tables.md", *written), tuple(notes))


def _pictures(folder: str | Path | None) -> list[Path]:
    if folder is None:
        return picture_files(EXAMPLES, MAX_PICTURES) if EXAMPLES.is_dir() else []
    if not Path(folder).is_dir():
        raise UsageError(f"{folder}: no such folder of pictures")
    files = picture_files(Path(folder), MAX_PICTURES)
    if not files:
        raise UsageError(f"{folder}: no pictures in it")
    return files


def _latencies(repeats: int, threads: int | None) -> tuple[dict[str, Latency], str]:
    """Median latency of every system in one run and one runtime, and what was measured where."""
    from ebapose.benchmark.run import time_registered

    timings, about = time_registered({name: (name, {}) for name in timed_models()}, repeats, threads)
    rows = timings.items()
    return {name: Latency(t.ms_per_crop, t.quartiles_ms, f"{t.runtime} {t.precision}") for name, t in rows}, about
