"""Overlay pictures: each frame with its poses drawn on it.

No picture is overwritten that an earlier run has not written: our JPEGs carry a mark.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from os.path import isfile, realpath
from pathlib import Path, PurePosixPath

from ebapose.atomic import atomic_write
from ebapose.errors import EbaposeError, InputError
from ebapose.io.pictures import encode_picture
from ebapose.structures import Frame, Poses, UInt8Array

Draw = Callable[[UInt8Array, Poses], UInt8Array]
_MARK = b"ebapose overlay"  # a comment in our overlays

# What keeps one file from being written while others can be
_OF_THIS_NAME = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EINVAL}


class Overlays:
    """One JPEG per frame, under the frame's stem."""

    def __init__(self, out_dir: Path, draw: Draw) -> None:
        self._out_dir = out_dir
        self._draw = draw
        self._written: set[str] = set()

    def write(self, frame: Frame, poses: Poses) -> None:
        """Draw and write a frame. Raises InputError where only this one cannot be, EbaposeError where none can."""
        target = self._target(frame)
        image = self._draw(frame.image, poses)
        try:
            data = encode_picture(image)
        except ValueError as error:
            raise InputError(f"{frame.name}: {error}") from None
        try:
            with atomic_write(target, flush=False) as temporary:
                temporary.write_bytes(marked(data))
        except OSError as error:
            why = f"{target}: cannot be written ({error.strerror})"
            if error.errno in _OF_THIS_NAME:
                raise InputError(f"{frame.name}: {why}") from None
            raise EbaposeError(why) from error

    def _target(self, frame: Frame) -> Path:
        """The first of its names that is free, or taken by an overlay of an earlier run."""
        for target in overlay_paths(self._out_dir, frame):
            name = str(target).casefold()
            if name not in self._written and not _is_foreign(target):
                self._written.add(name)
                return target
        raise AssertionError("unreachable: there is always a further number")

    def close(self) -> None:
        """Nothing is left to do: each file is complete."""


def overlay_paths(out_dir: Path, frame: Frame) -> Iterator[Path]:
    """Where a frame's overlay may go, best first: `OUT_DIR/STEM.jpg`, unless the original lies in that folder, then
    `STEM_pose.jpg`, `STEM_pose_2.jpg`, ...

    Raises:
        InputError: the stem leads out of the folder.
    """
    stem = PurePosixPath(frame.stem or Path(frame.name).stem or "image")
    if stem.is_absolute() or ".." in stem.parts:
        raise InputError(f"{frame.name}: its output {str(stem)!r} would lie outside of {out_dir}")
    target = out_dir / f"{stem}.jpg"
    original = Path(frame.name)
    beside = realpath(original.parent) == realpath(target.parent)
    if not (beside and isfile(original)):  # noqa: PTH113 (pathlib's raises for a path that is too long)
        yield target
    yield out_dir / f"{stem}_pose.jpg"
    for number in itertools.count(2):
        yield out_dir / f"{stem}_pose_{number}.jpg"


def marked(jpeg: bytes) -> bytes:
    """A JPEG with our mark as a comment after its first segment, which JFIF wants to be its own."""
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:end] + b"\xff\xfe" + (len(_MARK) + 2).to_bytes(2, "big") + _MARK + jpeg[end:]


def is_overlay(path: Path) -> bool:
    """Whether this is a JPEG that an earlier run has drawn, by its mark; False where it cannot be read."""
    if path.suffix.lower() != ".jpg" or not isfile(path):  # noqa: PTH113 (as above); opening a pipe would wait
        return False
    try:
        with path.open("rb") as file:
            return _MARK in file.read(64)
    except OSError:
        return False


def _is_foreign(path: Path) -> bool:
    """Whether a file is there that is no overlay of ours: somebody's picture, which must survive."""
    return isfile(path) and not is_overlay(path)  # noqa: PTH113 (as above)
