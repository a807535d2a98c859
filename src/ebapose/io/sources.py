"""What `ebapose predict SOURCE...` accepts, turned into frames one at a time.

A source is a picture, a video, a folder (with its sub-folders, in natural order), a glob pattern, a `.txt` file with
one path per line, `-` for such a list on standard input, or (from Python) an RGB array or a `Frame`. Everything is
lazy: one frame is alive at a time, whatever the number of inputs. One bad input does not end the run: it is yielded as
a `FailedInput` in its place.

Every frame gets a `stem`, the relative path of its outputs without a suffix, unique within the run: relative to the
folder or to the fixed part of the pattern it came from, else the bare file name. When two would be the same
(regardless of case), the later one gets its suffix (`photo_png`), parent folders (`b/photo`) or a number (`photo_2`).
Frames of a video get `VIDEO/000012`.

Adding a new kind of source: yield `Source`s for it in `_Lister.expand`, or frames for it in `read_frames`.
"""

# ruff: noqa: PTH110, PTH112, PTH113, PTH114 - before Python 3.14 pathlib's raise for a path that is too long or cannot be
# reached, os.path's say no
from __future__ import annotations

import glob
import io
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os.path import exists, isdir, isfile, islink, realpath
from pathlib import Path
from typing import TextIO

import numpy as np

from ebapose.errors import EbaposeError, InputError
from ebapose.io.overlays import is_overlay
from ebapose.io.pictures import PICTURE_SUFFIXES, read_image
from ebapose.io.video import open_video, without_secrets
from ebapose.io.video_summary import is_output
from ebapose.structures import Frame, UInt8Array

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts"}
    | {".mts", ".m2ts", ".mxf", ".h264", ".ogv", ".vob", ".y4m"}
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A picture or video file to read, and the `stem` of its outputs."""

    path: Path
    stem: str

    @property
    def name(self) -> str:
        """The path, as it was given."""
        return str(self.path)

    @property
    def is_video(self) -> bool:
        """Whether `read_frames` gives many frames for it."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class FailedInput:
    """An input that cannot be used. `str()` is one line that names it and the cause."""

    name: str
    error: EbaposeError

    def __str__(self) -> str:
        return str(self.error)


SourceLike = str | os.PathLike[str] | UInt8Array | Frame | Source | FailedInput


def list_sources(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    stdin: TextIO | None = None,
    exclude: str | Path | None = None,
) -> Iterator[Source | FailedInput]:
    """The files that `sources` name, lazily and in order; see the module's text.

    Files in a folder (or matched by a pattern) that are not pictures are skipped and counted in one log warning.

    Args:
        sources: paths, patterns, list files, "-".
        stdin: where "-" reads from; default the process's standard input.
        exclude: a folder that is not entered: the output folder, which may lie inside an input folder.
    """
    lister = _Lister(stdin, exclude)
    for source in [sources] if isinstance(sources, str | os.PathLike) else sources:
        yield from lister.expand(os.fspath(source))


def read_frames(
    sources: SourceLike | Iterable[SourceLike], *, stdin: TextIO | None = None, exclude: str | Path | None = None
) -> Iterator[Frame | FailedInput]:
    """Every frame of `sources`, one at a time; an input that cannot be read is a `FailedInput` in its place.

    Args:
        sources: as for `list_sources`, what it yields, RGB uint8 (H, W, 3) arrays, or frames.
        stdin, exclude: as for `list_sources`.
    """
    lister = _Lister(stdin, exclude)
    single = isinstance(sources, str | os.PathLike | np.ndarray | Frame | Source | FailedInput)
    items: Iterable[SourceLike] = [sources] if single else sources  # type: ignore[list-item,assignment]
    for number, item in enumerate(items):
        if isinstance(item, np.ndarray):
            yield _array_frame(item, number)
        elif isinstance(item, Frame | FailedInput):
            yield item
        elif isinstance(item, Source):
            yield from _read_source(item)
        else:
            for source in lister.expand(os.fspath(item)):
                yield from _read_source(source)


def _array_frame(image: UInt8Array, number: int) -> Frame | FailedInput:
    name = f"array {number}"
    try:
        return Frame(image, name, index=number, stem=f"array_{number:06d}")
    except InputError as error:
        return FailedInput(name, error)


def _read_source(source: Source | FailedInput) -> Iterator[Frame | FailedInput]:
    if isinstance(source, FailedInput):
        yield source
        return
    try:
        if source.is_video:
            with open_video(source.path, stem=source.stem) as frames:
                yield from frames
        else:
            yield read_image(source.path, stem=source.stem)
    except InputError as error:
        yield FailedInput(source.name, error)


@dataclass
class _Lister:
    """Expands sources to files and keeps the stems of a run apart."""

    stdin: TextIO | None
    exclude: str | Path | None
    used: dict[str, Path] = field(default_factory=dict)  # stem, case folded -> the file that has it
    numbers: Counter[str] = field(default_factory=Counter)  # stem, case folded -> how many got a number

    def expand(self, source: str, *, in_list: bool = False) -> Iterator[Source | FailedInput]:
        """Files of one source. A list inside of a list is not followed."""
        path = Path(source)
        if source == "-" and not in_list:
            lines = sys.stdin if self.stdin is None else self.stdin
            if isinstance(lines, io.TextIOWrapper):
                lines.reconfigure(errors="surrogateescape")  # names of files may be no UTF-8
            yield from self._from_lines(lines, "standard input", None)
        elif re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", source):
            yield _failed(without_secrets(source), "is an address, not a file; download it first")
        elif not source or "\0" in source:
            yield _failed(repr(source), "not a path")
        elif isdir(path):
            yield from self._from_folder(path)
        elif path.suffix.lower() == ".txt" and not in_list and isfile(path):
            yield from self._from_list_file(path)
        elif glob.has_magic(source) and not exists(path):
            yield from self._from_pattern(source)
        else:
            yield self._source(path, None)

    def _from_list_file(self, path: Path) -> Iterator[Source | FailedInput]:
        try:
            with path.open(encoding="utf-8-sig") as lines:
                yield from self._from_lines(lines, str(path), path.parent)
        except UnicodeDecodeError:
            yield _failed(str(path), "a list of paths must be UTF-8 text")
        except OSError as error:
            yield _failed(str(path), f"cannot be read ({error.strerror})")

    def _from_lines(self, lines: Iterable[str], name: str, folder: Path | None) -> Iterator[Source | FailedInput]:
        """One path per line; a relative one is looked for in the working folder, then in the list's own."""
        empty = True
        for line in lines:
            entry = line.rstrip("\r\n")
            if not entry.strip():
                continue
            empty = False
            if folder is not None and not exists(entry) and exists(folder / entry):
                entry = str(folder / entry)
            yield from self.expand(entry, in_list=True)
        if empty:
            yield _failed(name, "no paths in this list")

    def _from_folder(self, folder: Path) -> Iterator[Source | FailedInput]:
        skipped: Counter[str] = Counter()
        unreadable: list[OSError] = []
        pictures = videos = drawn = 0
        seen: set[tuple[int, int]] = set()
        waiting = [str(folder)]  # folders that links lead to come last, and each folder once: links may form a circle
        while waiting:
            for parent, folders, files in os.walk(waiting.pop(0), onerror=unreadable.append):
                here = Path(parent)
                status = here.stat()
                if (status.st_dev, status.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                inside = (f for f in folders if f[0] != "." and not self._is_excluded(here / f))
                folders[:] = sorted(inside, key=natural_key)
                waiting += [str(here / f) for f in folders if islink(here / f)]
                for name in sorted(files, key=natural_key):
                    path = here / name
                    suffix = path.suffix.lower()
                    if name.startswith("."):
                        continue
                    if _is_ours(path):
                        drawn += 1
                    elif suffix in PICTURE_SUFFIXES:
                        pictures += 1
                        yield self._source(path, folder)
                    elif suffix in VIDEO_SUFFIXES:
                        videos += 1
                    else:
                        skipped[suffix or name] += 1
        _report_skipped(str(folder), skipped, drawn)
        for error in unreadable:
            yield _failed(str(error.filename), f"the folder cannot be read ({error.strerror})")
        hint = f"{videos} video{'s' if videos > 1 else ''} skipped: name each, or a pattern such as {folder}/*.mp4"
        if not pictures and not unreadable:
            yield _failed(str(folder), f"no pictures in this folder{f' ({hint})' if videos else ''}")
        elif videos:
            _logger.warning("%s: %s", folder, hint)

    def _from_pattern(self, pattern: str) -> Iterator[Source | FailedInput]:
        parts = Path(pattern).parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        base = Path(*parts[:fixed])
        skipped: Counter[str] = Counter()
        found, drawn = False, 0
        for match in sorted(glob.glob(pattern, recursive=True), key=natural_key):  # noqa: PTH207 (pathlib finds hidden files)
            path = Path(match)
            inside = path.relative_to(base).parents  # what the pattern names outright is meant
            if isdir(path) or any(self._is_excluded(base / parent) for parent in inside if parent.parts):
                continue
            if _is_ours(path):
                drawn += 1
            elif path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
                found = True
                yield self._source(path, base)
            else:
                skipped[path.suffix.lower() or path.name] += 1
        _report_skipped(pattern, skipped, drawn)
        if not found:
            yield _failed(pattern, "no picture or video matches this pattern")

    def _is_excluded(self, folder: Path) -> bool:
        return self.exclude is not None and realpath(folder) == realpath(self.exclude)

    def _source(self, path: Path, base: Path | None) -> Source:
        for stem in self._stems(path, base):
            if self.used.setdefault(stem.casefold(), path) is path:
                return Source(path, stem)
        raise AssertionError("unreachable: there is always a further number")

    def _stems(self, path: Path, base: Path | None) -> Iterator[str]:
        """Stems that a file may get, best first, without end."""
        relative = path.relative_to(base) if base is not None else Path(path.name)
        stem = relative.with_suffix("") if relative.name else Path("picture")
        name = stem.as_posix()
        yield name
        owner = self.used.get(name.casefold())
        if owner is not None and owner.parent == path.parent and owner.suffix != path.suffix:
            yield f"{name}_{path.suffix[1:]}"
        # abspath, as resolve() would follow links
        parents = Path(os.path.abspath(path)).parts[1 : -len(relative.parts)]  # noqa: PTH100
        for num in range(1, len(parents) + 1):
            yield Path(*parents[-num:], stem).as_posix()
        while True:
            self.numbers[name.casefold()] += 1
            yield f"{name}_{self.numbers[name.casefold()] + 1}"


def natural_key(name: str) -> tuple[tuple[int | str, ...], str]:
    """Sort key that puts `frame2` before `frame10`, whatever the case."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def _is_ours(path: Path) -> bool:
    """Whether an earlier run has drawn this picture, video or plot."""
    return is_overlay(path) or (path.suffix.lower() in {".mp4", ".png"} and is_output(path))


def _failed(name: str, why: str) -> FailedInput:
    return FailedInput(name, InputError(f"{name}: {why}"))


def _report_skipped(name: str, skipped: Counter[str], drawn: int) -> None:
    if drawn:
        _logger.warning("%s: %d files skipped that an earlier run has drawn", name, drawn)
    if skipped:
        kinds = ", ".join(kind for kind, _ in skipped.most_common(5))
        _logger.warning("%s: %d files skipped that are not pictures (%s)", name, skipped.total(), kinds)
