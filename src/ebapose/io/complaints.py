"""What decoders print on the terminal: heard where it tells of damage, kept away where it is noise.

libjpeg complains on standard error only, and does not name the picture. So the process's standard error goes to a file
for as long as one picture is decoded; what is in it afterwards, and is not libjpeg's, is passed on. Threads that decode
JPEGs take turns, or nobody could tell whose complaint it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

import cv2

_STANDARD_ERROR = 2
_LIBJPEG = re.compile(
    rb"(?:Corrupt JPEG data: |Premature end of JPEG|Inconsistent progression|Invalid SOS parameters|Unknown Adobe color"
    rb"|Warning: unknown JFIF|Application transferred|Unsupported marker)[^\n]*\n"
)
# Bytes too many after the last or between two scans: cameras leave them, the picture is whole
_HARMLESS = re.compile(rb"extraneous bytes before marker 0x(?!d[0-7])|bad ICC marker|unknown JFIF|Unknown Adobe")


_opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved its log level there
_SILENT = 0  # LOG_LEVEL_SILENT, which OpenCV 4 does not name


class _State:
    """What the threads of one process share."""

    def __init__(self) -> None:
        self.listening = threading.Lock()
        self.file: IO[bytes] | None = None
        self.counting = threading.Lock()
        self.num_silent = 0  # threads that want OpenCV to be silent now
        self.level = _SILENT  # OpenCV's before the first of them


_state = _State()


def _renew() -> None:
    """In a forked child, which must share neither locks nor the file: the other threads are not there to free them."""
    global _state
    if _state.num_silent:
        _opencv_log.setLogLevel(_state.level)
    _state = _State()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew)


@contextlib.contextmanager
def silent_opencv() -> Iterator[None]:
    """Keep OpenCV's own log lines off the terminal: what matters of them is said in one line of ours.

    The level is the process's: the last of several threads brings back what the first one found.
    """
    state = _state
    with state.counting:
        if not state.num_silent:
            state.level = _opencv_log.getLogLevel()
            _opencv_log.setLogLevel(_SILENT)
        state.num_silent += 1
    try:
        yield
    finally:
        with state.counting:
            state.num_silent -= 1
            if not state.num_silent:
                _opencv_log.setLogLevel(state.level)


@contextlib.contextmanager
def listening(complaints: list[str]) -> Iterator[None]:
    """Adds to `complaints` what libjpeg complained about in the block, when that is left.

    Complaints that do not touch the picture are left out. Without a standard error nothing is heard.
    """
    state = _state
    with state.listening:
        file = state.file = state.file or tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (as long as the process)
        try:
            usual = os.dup(_STANDARD_ERROR)
        except OSError:
            yield
            return
        try:
            os.dup2(file.fileno(), _STANDARD_ERROR)
            try:
                yield
            finally:
                os.dup2(usual, _STANDARD_ERROR)
            if file.tell():
                file.seek(0)
                text = file.read()
                file.seek(0)
                file.truncate()
                found = _LIBJPEG.findall(text)
                complaints += [line.decode().strip() for line in found if not _HARMLESS.search(line)]
                os.write(usual, _LIBJPEG.sub(b"", text))
        finally:
            os.close(usual)
