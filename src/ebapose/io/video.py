"""Video in: files, cameras, network streams, numbered pictures and standard input, as frames with real time stamps.

PyAV (`pip install "ebapose[video]"`) reads everything but cameras; without it OpenCV does, with less: its time stamps
are coarser, and neither damaged frames nor audio are seen. What a frame becomes:

- The rotation that a phone wrote into the file is applied, so that coordinates are those of the upright picture.
- 10 bit and every pixel format become RGB uint8; transparency is composited on white, as in photographs.
- `time_s` counts from the start of the file (the earlier of picture and sound) or from the first frame of a camera.
- Damaged frames, and those made from them, are left out and counted. A stream that breaks off is opened again, with
  growing pauses.

Live sources (cameras, streams without an end) are read by a thread that keeps only the newest frame: what comes too
fast is dropped, never queued.

Adding a new kind of source: write a generator of (image, time_s) with its `VideoInfo`, and choose it in `open_video`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ebapose.errors import InputError
from ebapose.io.overlays import is_overlay
from ebapose.io.pictures import PICTURE_SUFFIXES, read_image
from ebapose.io.video_av import import_av, open_with_av
from ebapose.io.video_opencv import open_with_opencv
from ebapose.io.video_source import ReadCounts, TimedImage, VideoInfo
from ebapose.structures import Frame, UInt8Array

STANDARD_INPUT = "pipe:0"

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_CAMERA = re.compile(r"(?:/dev/video)?([0-9]{1,2})")
_logger = logging.getLogger(__name__)


class VideoReader:
    """Frames of one video, one at a time; an iterator and a context manager. Made by `open_video`.

    Attributes:
        info: see `VideoInfo`.
        counts: see `ReadCounts`.
        path: of a file or folder, else None.
        stem: start of the names of what is written.
        arrived_s: `time.monotonic()` when the last frame was there: where latency starts to count.
    """

    def __init__(
        self, info: VideoInfo, images: Iterator[TimedImage], counts: ReadCounts, stem: str, path: Path | None = None
    ) -> None:
        self.info, self.counts, self.path = info, counts, path
        self.arrived_s = 0.0
        self.stem = stem
        self._index = 0
        self._newest = _Newest(images, counts) if info.live else None
        self._images = images

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self._newest is not None:
            image, time_s, self.arrived_s = self._newest.take()
        else:
            image, time_s = next(self._images)
            self.arrived_s = time.monotonic()
        stem = f"{self.stem}/{self._index:06d}"
        frame = Frame(image, self.info.name, self._index, time_s, stem)
        self._index += 1
        return frame

    def close(self) -> None:
        """Release the file, camera or connection."""
        if self._newest is not None:
            self._newest.close()
        elif hasattr(self._images, "close"):
            self._images.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Newest:
    """A thread that reads all the time and keeps only the newest frame."""

    def __init__(self, images: Iterator[TimedImage], counts: ReadCounts) -> None:
        self._images, self._counts = images, counts
        self._ready = threading.Condition()
        self._waiting: tuple[UInt8Array, float, float] | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._stop = False
        self._thread = threading.Thread(target=self._read, name="ebapose-video", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for image, time_s in self._images:
                with self._ready:
                    if self._stop:
                        break
                    self._counts.dropped += self._waiting is not None
                    self._waiting = (image, time_s, time.monotonic())
                    self._ready.notify()
        except Exception as error:  # it belongs to the thread that takes the frames
            self._error = error
        finally:
            if hasattr(self._images, "close"):
                self._images.close()
            with self._ready:
                self._ended = True
                self._ready.notify()

    def take(self) -> tuple[UInt8Array, float, float]:
        """The newest frame, its time stamp and when it came. Waits for one; StopIteration at the end."""
        with self._ready:
            while self._waiting is None and not self._ended:
                self._ready.wait(0.5)  # with a limit, so that Ctrl-C gets through on every system
            if self._waiting is None:
                if self._error is not None:
                    raise self._error
                raise StopIteration
            taken, self._waiting = self._waiting, None
            return taken

    def close(self) -> None:
        with self._ready:
            self._stop = True
        self._thread.join(timeout=2.0)  # a read that hangs ends by its own limit, in a daemon thread


def is_video_source(source: str) -> bool:
    """Whether a word of a command line names a camera ("0", "/dev/video0"), a stream's address or standard input
    ("pipe:0")."""
    camera = _camera_number(source) is not None
    address = _ADDRESS.match(source) is not None and Path(source.split("?")[0]).suffix.lower() not in PICTURE_SUFFIXES
    return camera or source == STANDARD_INPUT or address


def _camera_number(source: str) -> int | None:
    """0 for "0" and "/dev/video0"; None for what is no camera, also for a file that is called "0"."""
    match = _CAMERA.fullmatch(source)
    return int(match[1]) if match and (source.startswith("/dev/") or not Path(source).exists()) else None


def without_secrets(address: str) -> str:
    """An address as it may stand in logs and results: no user, no password, no query."""
    scheme, rest = re.split(r"[?#]", address, maxsplit=1)[0].split("://", 1)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rsplit('@', 1)[-1]}{slash}{path}"


def open_video(
    source: str | Path | int | BinaryIO, *, fps: float | None = None, live: bool | None = None, stem: str = ""
) -> VideoReader:
    """Open a video for reading.

    Args:
        source: a video file, a camera (0, "0", "/dev/video0"), an address (rtsp://, http://, ...), a folder of numbered
            pictures, "pipe:0" or "-" for standard input, or an open binary file.
        fps: frames per s of a folder of pictures, or to overrule a file's.
        live: drop frames that come too fast; by default for cameras and for addresses without an end.
        stem: start of the frames' stems; default the name of the file without suffix.

    Returns:
        A `VideoReader`: iterate over it, close it (or use `with`).

    Raises:
        InputError: one line that names the source and the cause.
    """
    is_text = isinstance(source, str | Path | int)
    text = str(source if is_text else getattr(source, "name", "video stream"))
    is_address = is_text and _ADDRESS.match(text) is not None
    camera = source if isinstance(source, int) else _camera_number(text) if is_text else None
    if fps is not None and not 0 < fps <= 1000:
        raise InputError(f"{text}: {fps:g} frames per s is not possible")
    counts = ReadCounts()
    path: Path | None = None
    if camera is not None:
        info, images = open_with_opencv(camera, f"camera {camera}", counts, is_address=False)
        stem = stem or f"camera_{camera}"
    elif is_text and text not in ("-", STANDARD_INPUT) and not is_address:
        path = Path(text)
        stem = stem or path.stem or path.resolve().name
        # before Python 3.14 pathlib's raise for a path that is too long or cannot be reached, os.path's say no
        if os.path.isdir(path):  # noqa: PTH112
            info, images = _open_pictures(path, counts)
        elif not os.path.exists(path):  # noqa: PTH110
            raise InputError(f"{text}: no such file")
        else:
            info, images = _open_stream(text, text, counts, live)
    else:
        opened = sys.stdin.buffer if text in ("-", STANDARD_INPUT) else source
        text = without_secrets(text) if is_address else text
        name = "standard input" if text in ("-", STANDARD_INPUT) else text
        stem = stem or re.sub(r"[^\w.-]+", "_", text.split("://")[-1]).strip("._-") or "video"
        info, images = _open_stream(opened, name, counts, live)
    stem = "video" if stem == "pipe_0" else stem
    if fps is not None:
        info, images = replace(info, fps=fps), _at_rate(images, fps, counts)
    return VideoReader(info if live is None else replace(info, live=live), images, counts, stem, path)


def _at_rate(images: Iterator[TimedImage], fps: float, counts: ReadCounts) -> Iterator[TimedImage]:
    """At a constant rate; what was left out as damaged keeps its time."""
    for index, (image, _) in enumerate(images):
        yield image, (index + counts.corrupt) / fps


def _open_stream(
    source: Any, name: str, counts: ReadCounts, live: bool | None
) -> tuple[VideoInfo, Iterator[TimedImage]]:
    is_address = isinstance(source, str) and _ADDRESS.match(source) is not None
    av = import_av()
    if av is not None:
        return open_with_av(av, source, name, counts, live, is_address=is_address)
    if not isinstance(source, str):
        raise InputError(f'{name}: reading this needs PyAV: pip install "ebapose[video]"')
    _logger.warning(
        '%s: read with OpenCV; pip install "ebapose[video]" adds exact time stamps, sound and a count of damaged '
        "frames",
        name,
    )
    return open_with_opencv(source, name, counts, is_address=is_address)


def _open_pictures(folder: Path, counts: ReadCounts) -> tuple[VideoInfo, Iterator[TimedImage]]:
    """A folder of numbered pictures as a video of `DEFAULT_FPS`; pictures that cannot be read leave a gap in time.

    What an earlier run has drawn is passed over.
    """
    from ebapose.io.sources import natural_key  # which reads videos itself

    try:
        named = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    files = sorted((p for p in named if not is_overlay(p)), key=lambda p: natural_key(p.name))
    first: UInt8Array | None = None
    for path in files:
        try:
            first = read_image(path).image
            break
        except InputError:
            continue
    if first is None:
        raise InputError(f"{folder}: no pictures in this folder")
    info = VideoInfo(str(folder), first.shape[:2], num_frames=len(files), codec="pictures")

    def images() -> Iterator[TimedImage]:
        for number, path in enumerate(files):
            try:
                yield read_image(path).image, number / info.fps
            except InputError as error:
                _logger.warning("%s", error)
                counts.corrupt += 1

    return info, images()
