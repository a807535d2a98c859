"""What libjpeg complains about while it decodes: it does so on standard error only, and does not name the picture.

So the process's standard error goes to a file for as long as one picture is decoded; what is in it afterwards, and is
not libjpeg's, is passed on. Threads that decode JPEGs take turns, or nobody could tell whose complaint it is.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

_STANDARD_ERROR = 2
_LIBJPEG = re.compile(
    rb"(?:Corrupt JPEG data: |Premature end of JPEG|Inconsistent progression|Invalid SOS parameters|Unknown Adobe color"
    rb"|Warning: unknown JFIF|Application transferred|Unsupported marker)[^\n]*\n"
)
# Bytes too many after the last or between two scans: cameras leave them, the picture is whole
_HARMLESS = re.compile(rb"extraneous bytes before marker 0x(?!d[0-7])|bad ICC marker|unknown JFIF|Unknown Adobe")


@functools.cache
def _ear(process: int) -> tuple[threading.Lock, IO[bytes]]:
    """The lock and the file of this process: a forked child must share neither."""
    return threading.Lock(), tempfile.TemporaryFile(buffering=0)


@contextlib.contextmanager
def listening(complaints: list[str]) -> Iterator[None]:
    """Adds to `complaints` what libjpeg complained about in the block, when that is left.

    Complaints that do not touch the picture are left out. Without a standard error nothing is heard.
    """
    lock, file = _ear(os.getpid())
    with lock:
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
