"""Reading video with OpenCV: cameras, and what `ebapose.io.video` finds where PyAV is not installed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from ebapose.errors import InputError
from ebapose.io.complaints import silent_opencv
from ebapose.io.video_av import for_ffmpeg
from ebapose.io.video_source import (
    DEFAULT_FPS,
    ReadCounts,
    TimedImage,
    VideoInfo,
    check_size,
    reconnecting,
    report_missing,
)


def open_with_opencv(
    source: str | int, name: str, counts: ReadCounts, *, is_address: bool
) -> tuple[VideoInfo, Iterator[TimedImage]]:
    """The video's description and its frames; see `ebapose.io.video.open_video`. Cameras and addresses are live.

    Raises:
        InputError: it cannot be opened, or not one frame can be decoded.
    """
    live = is_address or isinstance(source, int)
    info, images = _open_capture(source, name, counts, live)
    if live:
        images = reconnecting(lambda: _open_capture(source, name, counts, live)[1], images, name, counts)
    return info, images


def _open_capture(
    source: str | int, name: str, counts: ReadCounts, live: bool
) -> tuple[VideoInfo, Iterator[TimedImage]]:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # OpenCV's FFmpeg asks once; what matters we say ourselves
    place = source if live else for_ffmpeg(source)
    capture = _quietly(lambda: cv2.VideoCapture(place))
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

    def images() -> Iterator[TimedImage]:
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


def _quietly(call: Callable[[], Any]) -> Any:
    """OpenCV without its log lines."""
    with silent_opencv():
        return call()
