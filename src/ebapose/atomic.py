"""Files that are either complete or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

_LONGEST_NAME = 255  # bytes, on nearly all file systems


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
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # tempfile's would be private
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
    stem, end = path.stem, f".{secrets.token_hex(6)}{path.suffix}"
    while stem and len(os.fsencode(f".{stem}{end}")) > _LONGEST_NAME:
        stem = stem[:-1]
    return f".{stem}{end}"


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
