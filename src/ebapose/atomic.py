"""Files that are either complete or not there, and files that hold whole records while they grow."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

LONGEST_NAME = 255  # bytes, on nearly all file systems
_SPARE_RECORDS = 64  # newest records of a growing file that may be given up for its tail


@contextlib.contextmanager
def atomic_write(path: str | Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and takes the place of `path`.

    On any exception the temporary file is removed and an older `path` stays as it was. The temporary name keeps the
    suffix, because encoders choose the format by it. Permissions follow the umask. Raises OSError; where `path` is a
    folder, before anything is written.

    Args:
        path: the file.
        flush: wait for the disk, so that the file is whole after a power cut too. That takes a fraction of a ms on an
            SSD and 10 ms on a rotating disk: not for thousands of files that are quickly made again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(_temporary_name(path))
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # tempfile's would be private
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None  # not the temporary name
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(stat.S_IMODE(mode))  # safetensors replaces the file by a private one
        if flush:
            with temporary.open("r+b") as file:  # Windows flushes only files that are open for writing
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary_name(path: Path) -> str:
    """`.STEM.TOKEN.SUFFIX`, with as much of the stem as a name has room for."""
    end = f".{secrets.token_hex(6)}{path.suffix}"
    return f".{shortened(path.stem, LONGEST_NAME - 1 - len(os.fsencode(end)))}{end}"


def shortened(name: str, most_bytes: int) -> str:
    """As much of the start of a file name as takes no more bytes than that."""
    while name and len(os.fsencode(name)) > most_bytes:
        name = name[:-1]
    return name


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, UTF-8.

    What UTF-8 does not have, a name in other bytes, is written as in JSON: \\udcff.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


class GrowingText:
    """A text file that grows record by record and can be completed after a failure or an interruption at any point.

    It has no buffer and is cut back to its last whole record when something goes wrong: what it holds can always be
    read, up to where the disk was full.

    Args:
        path: made, or emptied if it is there. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._ends = deque([0], maxlen=_SPARE_RECORDS)  # of the newest records, in bytes

    def append(self, record: str) -> None:
        """Add a record. Raises OSError; the records before it stay."""
        try:
            end = self._ends[-1] + self._write(record)
        except OSError:
            self._cut()
            raise
        self._ends.append(end)

    def finish(self, tail: str = "") -> None:
        """Close the file with a last piece of text.

        Where there is no room for that, the newest records make some: a file without its end might not be readable.
        Raises OSError where that is not enough.
        """
        with self._file:
            while True:
                self._cut()
                try:
                    self._write(tail)
                    return
                except OSError:
                    self._ends.pop()
                    if not self._ends or not self._ends[-1]:  # a tail alone is no file
                        raise

    def abandon(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _write(self, text: str) -> int:
        data = memoryview(text.encode())
        written = 0
        while written < len(data):  # the last piece that fits on a full disk is written without an error
            written += self._file.write(data[written:])
        return written

    def _cut(self) -> None:
        self._file.truncate(self._ends[-1])
        self._file.seek(self._ends[-1])
