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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, BinaryIO

import cv2
import numpy as np

from ebapose.errors import EbaposeError, InputError
from ebapose.io.pictures import MAX_PIXELS, PICTURE_SUFFIXES, read_image, silent_opencv
from ebapose.structures import Frame, UInt8Array

STANDARD_INPUT = "pipe:0"
DEFAULT_FPS = 30.0
OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
RECONNECT_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # after as many failures in a row a stream has ended

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_CAMERA = re.compile(r"(?:/dev/video)?([0-9]{1,2})")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before its frames are read.

    Attributes:
        name: path, address (without user, password and query) or "camera 0".
        hw: height and width in px of the upright picture.
        fps: mean frames per s; `DEFAULT_FPS` where the source does not say.
        num_frames: as the file claims (0: unknown).
        live: frames arrive whether they are taken or not.
        pixel_aspect: width of a pixel divided by its height, as the video is meant to be shown.
        has_audio: whether there is sound.
        codec: short name.
    """

    name: str
    hw: tuple[int, int]
    fps: float = DEFAULT_FPS
    num_frames: int = 0
    live: bool = False
    pixel_aspect: float = 1.0
    has_audio: bool = False
    codec: str = ""


@dataclass
class ReadCounts:
    """What went wrong while reading.

    Attributes:
        corrupt: frames (or packets of them) that were damaged and left out.
        missing: frames that the file's header promises (in number or by its duration) and that are not there: it was
            cut off.
        dropped: frames of a live source that nobody took in time.
        reconnects: how often a stream was opened again.
    """

    corrupt: int = 0
    missing: int = 0
    dropped: int = 0
    reconnects: int = 0


_Timed = tuple[UInt8Array, float]


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
        self, info: VideoInfo, images: Iterator[_Timed], counts: ReadCounts, stem: str, path: Path | None = None
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

    def __init__(self, images: Iterator[_Timed], counts: ReadCounts) -> None:
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
        info, images = _open_with_opencv(camera, f"camera {camera}", counts)
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
        info, images = replace(info, fps=fps), _at_rate(images, fps)
    return VideoReader(info if live is None else replace(info, live=live), images, counts, stem, path)


def _at_rate(images: Iterator[_Timed], fps: float) -> Iterator[_Timed]:
    for index, (image, _) in enumerate(images):
        yield image, index / fps


def import_av() -> ModuleType | None:
    """PyAV, None where it is not installed."""
    try:
        import av
    except ImportError:
        return None
    av.logging.set_level(None)  # what matters is said in our own words
    return av


def _open_stream(source: Any, name: str, counts: ReadCounts, live: bool | None) -> tuple[VideoInfo, Iterator[_Timed]]:
    av = import_av()
    if av is None:
        if not isinstance(source, str):
            raise InputError(f'{name}: reading this needs PyAV: pip install "ebapose[video]"')
        _logger.warning(
            '%s: read with OpenCV; pip install "ebapose[video]" adds exact time stamps, sound and a count of damaged '
            "frames",
            name,
        )
        return _open_with_opencv(source, name, counts)
    from ebapose.io.video_av import open_with_av  # only this module may need PyAV

    return open_with_av(
        av, source, name, counts, live, is_address=isinstance(source, str) and bool(_ADDRESS.match(source))
    )


def check_size(name: str, width: int, height: int) -> None:
    """Raises InputError for frames without pixels or with more than a picture may have."""
    if width <= 0 or height <= 0:
        raise InputError(f"{name}: the video has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: {width}x{height} px is too large (at most {MAX_PIXELS // 10**6} million px)")


def _open_with_opencv(source: str | int, name: str, counts: ReadCounts) -> tuple[VideoInfo, Iterator[_Timed]]:
    """Read by OpenCV: cameras, and files where PyAV is missing. A live source that breaks off is opened again."""
    info, images = _open_capture(source, name, counts)
    if info.live:
        images = reconnecting(lambda: _open_capture(source, name, counts)[1], images, name, counts)
    return info, images


def _open_capture(source: str | int, name: str, counts: ReadCounts) -> tuple[VideoInfo, Iterator[_Timed]]:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # OpenCV's FFmpeg asks once; what matters we say ourselves
    live = isinstance(source, int) or _ADDRESS.match(source) is not None
    capture = _quietly(lambda: cv2.VideoCapture(source))
    read, image = _quietly(capture.read) if capture.isOpened() else (False, None)
    if not read or image is None:
        capture.release()
        if isinstance(source, int):
            raise InputError(f"{name}: there is no such camera, or another program uses it")
        raise InputError(f"{name}: not a video that can be read")
    height, width = image.shape[:2]
    check_size(name, width, height)
    fps = float(capture.get(cv2.CAP_PROP_FPS) or 0)
    frames = 0 if live else max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    info = VideoInfo(name, (height, width), fps if 0 < fps <= 1000 else DEFAULT_FPS, frames, live)

    def images() -> Iterator[_Timed]:
        start, last, picture, number = time.monotonic(), -1.0, image, 0
        try:
            while picture is not None:
                number += 1
                stamp = time.monotonic() - start if live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                last = stamp if stamp > last else last + 1 / info.fps
                yield np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8), max(last, 0.0)
                read, picture = _quietly(capture.read)
                picture = picture if read else None
        finally:
            capture.release()
        # The number is often an estimate from the duration: it must be too few frames and too short a time
        too_short = min(frames - number, round((frames / info.fps - last) * info.fps) - 1)
        report_missing(info, too_short, frames, counts)

    return info, images()


def report_missing(info: VideoInfo, missing: int, promised: int, counts: ReadCounts) -> None:
    """Count and name frames that a file promises and does not hold, but for the few that headers often are off by."""
    if missing > max(2, promised // 50):
        counts.missing = missing
        _logger.warning("%s: the file ends early, about %d of %d frames are missing", info.name, missing, promised)


def _quietly(call: Callable[[], Any]) -> Any:
    """OpenCV without its log lines."""
    with silent_opencv():
        return call()


def _open_pictures(folder: Path, counts: ReadCounts) -> tuple[VideoInfo, Iterator[_Timed]]:
    """A folder of numbered pictures as a video of `DEFAULT_FPS`; pictures that cannot be read leave a gap in time."""
    from ebapose.io.sources import natural_key  # which reads videos itself

    files = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES), key=lambda p: natural_key(p.name)
    )
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

    def images() -> Iterator[_Timed]:
        for number, path in enumerate(files):
            try:
                yield read_image(path).image, number / info.fps
            except InputError as error:
                _logger.warning("%s", error)
                counts.corrupt += 1

    return info, images()


def reconnecting(
    connect: Callable[[], Iterator[_Timed]],
    first: Iterator[_Timed],
    name: str,
    counts: ReadCounts,
    pauses_s: tuple[float, ...] | None = None,
) -> Iterator[_Timed]:
    """Frames of a live stream; when it breaks off, `connect` is called again, with growing pauses.

    The time stamps go on with the wall clock. It ends after `len(pauses_s)` failures in a row (by default
    `RECONNECT_PAUSES_S`).
    """
    pauses_s = RECONNECT_PAUSES_S if pauses_s is None else pauses_s
    start = time.monotonic()
    shift, last = 0.0, 0.0
    images: Iterator[_Timed] | None = first
    failures, cause = 0, ""
    while True:
        if images is not None:
            try:
                for image, time_s in images:
                    failures = 0
                    last = max(time_s + shift, last + 1e-3)
                    yield image, last
                cause = "it ended"
            except (EbaposeError, OSError) as error:
                cause = str(error)
            finally:
                if hasattr(images, "close"):
                    images.close()
        if failures == len(pauses_s):
            _logger.warning("%s: the stream does not come back (%s)", name, cause)
            return
        _logger.warning("%s: the stream broke off (%s), next try in %g s", name, cause, pauses_s[failures])
        time.sleep(pauses_s[failures])
        failures += 1
        try:
            images = connect()
            counts.reconnects += 1
            shift = max(time.monotonic() - start, last)
        except InputError as error:
            images, cause = None, str(error)
