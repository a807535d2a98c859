"""Signals that end a run: its files are completed before the process ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """While it is entered, in the main thread, SIGTERM and SIGHUP end a run as Ctrl-C does.

    After `ignore` neither they nor Ctrl-C do anything any more, until it is left: a second Ctrl-C must not cut off the
    completing of the files. What the caller handles (or ignores) otherwise stays as it is.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}

    def _set(self, names: tuple[str, ...], mine: Any, instead_of: tuple[Any, ...]) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            if signal.getsignal(number) in instead_of:
                self._before.setdefault(number, signal.signal(number, mine))

    @staticmethod
    def _interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def ignore(self) -> None:
        """No more interruptions, from now on."""
        ours = (self._interrupt, signal.default_int_handler)
        self._set(("SIGINT", "SIGTERM", "SIGHUP"), signal.SIG_IGN, ours)

    def __enter__(self) -> StopSignals:
        self._set(("SIGTERM", "SIGHUP"), self._interrupt, (signal.SIG_DFL,))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
