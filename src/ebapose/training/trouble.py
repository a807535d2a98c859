"""What a run says and keeps when something goes wrong: one line for a person, the batch to look at, an end in order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from ebapose.atomic import atomic_write
from ebapose.errors import EbaposeError, InputError
from ebapose.training.checkpoint import CHECKPOINT_NAME, Progress
from ebapose.training.loader import Batch


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Around what is written in a run's folder. Raises EbaposeError, one line, where that fails (a full disk).

    TensorBoard takes no folder whose name is not UTF-8.
    """
    try:
        yield
    except (OSError, SafetensorError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise EbaposeError(f"{out}: the run's files cannot be written ({cause})") from error


def note_broken(messages: Sequence[str], progress: Progress, limit: int, note: Callable[[str], None]) -> None:
    """Report pictures that could not be used, each once. Raises InputError when there are too many."""
    for message in messages:
        if message not in progress.broken:
            progress.broken.append(message)
            note(f"skipped: {message}")
    if len(progress.broken) > limit:
        raise InputError(
            f"more than {limit} pictures cannot be used (data.max_broken), the last: {progress.broken[-1]}"
        )


def not_finite(what: str, value: float, step: int, batch: Batch, out: Path, rank: int) -> EbaposeError:
    """The error for a loss or gradient that is not finite; the batch is saved, if that is possible."""
    try:
        kept = f"the batch is saved in {_save_batch(out, batch, step, rank)}"
    except OSError as error:
        kept = f"the batch cannot be saved in {out} ({error.strerror or error})"
    # every step follows from the recipe and the step's number, so going on ends here again
    way = "lower optim.lr in a new run"
    if (out / CHECKPOINT_NAME).exists():
        way = f"the last checkpoint in {out} is intact, but resuming meets the same step: {way}"
    return EbaposeError(f"the {what} of step {step} is {value}: {kept}; {way}")


def _save_batch(out: Path, batch: Batch, step: int, rank: int) -> Path:
    """Keep a batch that broke the training, for inspection with numpy."""
    path = out / f"bad_batch_step{step}_process{rank}.npz"
    arrays: dict[str, Any] = {f"target_{i}": t.numpy() for i, t in enumerate(batch.targets)}
    with atomic_write(path) as temporary:
        np.savez_compressed(
            temporary,
            images=batch.images.permute(0, 2, 3, 1).numpy(),
            weights=batch.weights.numpy(),
            keypoints=np.stack([s["keypoints"] for s in batch.samples]),
            sources=np.array([s.get("source", 0) for s in batch.samples]),  # of data.train, from 0
            indices=np.array([s["index"] for s in batch.samples]),  # of its persons
            **arrays,
        )
    return path


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM; the first one lets the step end and a checkpoint be written, a second one kills."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
