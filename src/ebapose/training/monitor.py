"""What a run shows while it goes: a CSV table, TensorBoard curves and pictures, a progress line."""

from __future__ import annotations

import contextlib
import csv
import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ebapose.atomic import write_text
from ebapose.skeleton import Skeleton
from ebapose.structures import UInt8Array
from ebapose.training.trouble import writing

COLUMNS = (
    "step",
    "epoch",
    "samples",
    "loss",
    "lr",
    "gradient_norm",
    "samples_per_s",
    "val_pck",
    "val_oks",
    "val_ap",
)


class Monitor:
    """Context manager of a run's logs; in processes other than the main one it only warns.

    Args:
        out: the run's folder; `log.csv` and `tensorboard/` are written there.
        active: whether this is the main process.
        first_step: steps done before; rows of later steps (written after the checkpoint that is resumed) are dropped.
        num_steps: steps of the whole run.
        title: shown in front of the progress line.

    Its methods raise EbaposeError where the logs cannot be written.
    """

    def __init__(self, out: Path, active: bool, first_step: int, num_steps: int, title: str) -> None:
        self.active, self.out = active, out
        self.csv_path = out / "log.csv"
        self.console = Console(stderr=True, quiet=not active)
        self.num_steps = num_steps
        if not active:
            return
        # tensorboard is slow to import and only the main process writes
        from torch.utils.tensorboard import SummaryWriter

        with writing(out):
            drop_later_rows(self.csv_path, first_step)
            self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=first_step + 1 if first_step else None)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=num_steps, completed=first_step, status="")
        self.started = time.monotonic()
        self.first_step = first_step

    def __enter__(self) -> Monitor:
        if self.active:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            self.bar.stop()
            # what stopped the run matters more than the end of its log
            with writing(self.out) if value is None else contextlib.suppress(OSError):
                self.writer.close()

    def note(self, text: str) -> None:
        """A line for the person who watches."""
        self.console.print(text, highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """A line that is shown whichever process has it to say."""
        (self.console if self.active else Console(stderr=True)).print(text, highlight=False, markup=False)

    def tick(self, step: int, status: str) -> None:
        """Move the progress line."""
        if self.active:
            self.bar.update(self.task, completed=step, status=status)

    def row(self, values: Mapping[str, Any], extra: Mapping[str, float] | None = None) -> None:
        """Add a row to the table and its numbers, with `extra` ones, to the curves; keys as in `COLUMNS`."""
        if self.active:
            with writing(self.out):
                self._write_row(values, extra or {})

    def _write_row(self, values: Mapping[str, Any], extra: Mapping[str, float]) -> None:
        new = not self.csv_path.exists()
        with self.csv_path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()})
        step = values["step"]
        for name, value in {**values, **extra}.items():
            if name not in ("step", "epoch", "samples") and math.isfinite(value):
                place = f"validation/{name.removeprefix('val_')}" if name.startswith("val_") else f"training/{name}"
                self.writer.add_scalar(place, value, step)
        self.writer.flush()

    def pictures(self, step: int, panel: UInt8Array) -> None:
        """Show a picture (H, W, 3) of validation samples in TensorBoard."""
        if self.active:
            with writing(self.out):
                self.writer.add_image("validation/samples", panel, step, dataformats="HWC")

    def eta(self, step: int) -> str:
        """Remaining time at the mean speed of this session, "1:23:45"."""
        if not self.active:
            return ""
        done = max(step - self.first_step, 1)
        return str(timedelta(seconds=round((time.monotonic() - self.started) / done * (self.num_steps - step))))


def drop_later_rows(path: Path, last_step: int) -> None:
    """Remove rows of a CSV table with a step after `last_step`, and broken ones, atomically."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
    kept = [row for row in rows[1:] if row[0].isdigit() and int(row[0]) <= last_step]
    write_text(path, "".join(",".join(row) + "\n" for row in [list(COLUMNS), *kept]))


def draw_samples(
    crops: Sequence[UInt8Array],
    found: NDArray[np.float32],
    truth: NDArray[np.float32],
    labelled: NDArray[np.bool_],
    skeleton: Skeleton,
) -> UInt8Array:
    """Crops side by side, four in a row, twice their size: found poses as lines, truth as green dots.

    crops: N pictures (H, W, 3); found and truth (N, K, 2) in crop px; labelled (N, K).
    """
    panels = []
    for crop, pose, true, known in zip(crops, found, truth, labelled, strict=True):
        panel = cv2.resize(crop, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        for a, b in skeleton.edges:
            ends = [np.rint(2 * pose[i] + 0.5).astype(int).tolist() for i in (a, b)]
            cv2.line(panel, ends[0], ends[1], (255, 160, 0), 1, cv2.LINE_AA)
        for point in true[known]:
            cv2.circle(panel, np.rint(2 * point + 0.5).astype(int).tolist(), 2, (0, 220, 0), -1)
        panels.append(panel)
    while len(panels) % 4:
        panels.append(np.zeros_like(panels[0]))
    rows = [np.concatenate(panels[i : i + 4], axis=1) for i in range(0, len(panels), 4)]
    return np.concatenate(rows, axis=0)
