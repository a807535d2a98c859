"""What the verbs print: for a person on a terminal, for a script on a pipe."""

from __future__ import annotations

import re
import sys
from typing import Any


def count_of(number: int, what: str) -> str:
    """A number with what it counts: 1 person, 2 persons."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def list_stages(milliseconds: dict[str, float]) -> str:
    """The time that each stage took, in ms."""
    return ", ".join(f"{name} {ms:.1f}" for name, ms in milliseconds.items())


def print_rich(renderable: Any) -> None:
    """A table or text; as wide as the terminal, or 160 characters where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout is None or sys.stdout.isatty() else 160).print(renderable)


def print_json(value: Any) -> None:
    """For scripts."""
    import json

    print(json.dumps(value, indent=2))


def print_error(line: str) -> None:
    """One line on standard error, also where a file's name holds line breaks or other control characters."""
    one_line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], line)
    print(f"ebapose: {one_line}", file=sys.stderr, flush=True)


class ProgressBar:
    """A progress bar on standard error where a person looks at it, nothing elsewhere."""

    def __init__(self, what: str, unit: str, quiet: bool) -> None:
        self._what, self._unit = what, unit
        self._visible = not quiet and sys.stderr.isatty()

    def __enter__(self) -> ProgressBar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn(self._what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(self._unit),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._visible,
            transient=True,
        )
        self._bar.__enter__()
        self._task = self._bar.add_task(self._what, total=None)
        return self

    def start(self, total: int) -> None:
        """Say how many there will be."""
        self._bar.update(self._task, total=total or None)

    def advance(self, name: str) -> None:
        """One more is done."""
        self._bar.advance(self._task)

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(None, None, None)
