"""What a command of the command line left behind."""

from __future__ import annotations

from typing import Any


class Finished:
    """What a command left behind: its exit code, standard output, and the lines on standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.lines = code, out, err.splitlines()

    def line_about(self, name: Any) -> str:
        """The one line that names a file."""
        (line,) = [line for line in self.lines if str(name) in line]
        return line
