"""What all ways of reading video share: the source's description, what went wrong, and how a lost stream comes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ebapose.errors import EbaposeError, InputError
from ebapose.io.picture_formats import MAX_PIXELS
from ebapose.structures import UInt8Array

DEFAULT_FPS = 30.0
RECONNECT_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # after as many failures in a row a stream has ended

TimedImage = tuple[UInt8Array, float]  # RGB (H, W, 3), s
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


def check_size(name: str, width: int, height: int) -> None:
    """Raises InputError for frames without pixels or with more than a picture may have."""
    if width <= 0 or height <= 0:
        raise InputError(f"{name}: the video has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: {width}x{height} px is too large (at most {MAX_PIXELS // 10**6} million px)")


def report_missing(info: VideoInfo, missing: int, promised: int, counts: ReadCounts) -> None:
    """Count and name frames that a file promises and does not hold, but for the few that headers often are off by."""
    if missing > max(2, promised // 50):
        counts.missing = missing
        _logger.info("%s: the file ends early, about %d of %d frames are missing", info.name, missing, promised)


def reconnecting(
    connect: Callable[[], Iterator[TimedImage]],
    first: Iterator[TimedImage],
    name: str,
    counts: ReadCounts,
    pauses_s: tuple[float, ...] | None = None,
) -> Iterator[TimedImage]:
    """Frames of a live stream; when it breaks off, `connect` is called again, with growing pauses.

    The time stamps go on with the wall clock. It ends after `len(pauses_s)` failures in a row (by default
    `RECONNECT_PAUSES_S`).
    """
    pauses_s = RECONNECT_PAUSES_S if pauses_s is None else pauses_s
    start = time.monotonic()
    shift, last = 0.0, 0.0
    images: Iterator[TimedImage] | None = first
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
