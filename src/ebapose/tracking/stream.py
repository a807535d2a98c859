"""Walking through a video: detect now and then, follow in between, identify, smooth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from ebapose.geometry import boxes as box_geometry
from ebapose.io.video import VideoReader
from ebapose.io.video_source import ReadCounts, VideoInfo
from ebapose.structures import Boxes, Frame, Poses
from ebapose.tracking.smoothing import Smoother, SmoothingOptions
from ebapose.tracking.tracker import Tracker, TrackerOptions

Detect = Callable[[Frame], Boxes]
Estimate = Callable[[Frame, Boxes], Poses]

DETECT_EVERY_S = 0.1  # see docs/video.md for what it costs


@dataclass
class TrackCounts:
    """What a walk through a video did so far.

    Attributes:
        frames: given to the caller.
        detections: frames that the detector looked at.
        identities: different track ids.
        reading: what went wrong while reading.
    """

    reading: ReadCounts
    frames: int = 0
    detections: int = 0
    identities: set[int] = field(default_factory=set)


class TrackedVideo:
    """Iterator over (frame, poses with track ids); lazy, closes its source at the end, a context manager.

    Made by `Predictor.track`.

    Attributes:
        info: of the video.
        counts: what happened so far.
        until_s: frames from this time on are not looked at any more; None: all are.
    """

    def __init__(
        self,
        reader: VideoReader,
        detect: Detect,
        estimate: Estimate,
        *,
        detect_every_s: float = DETECT_EVERY_S,
        tracker: TrackerOptions | None = None,
        smoothing: SmoothingOptions | None = None,
    ) -> None:
        self.reader = reader
        self.info: VideoInfo = reader.info
        self.counts = TrackCounts(reader.counts)
        self.until_s: float | None = None
        self._detect, self._estimate = detect, estimate
        self._detect_every_s = detect_every_s
        self._tracker = Tracker(tracker)
        self._smoother = None if smoothing is None else Smoother(smoothing)
        self._detected_s = -np.inf
        self._closed = False

    def __iter__(self) -> Iterator[tuple[Frame, Poses]]:
        return self

    def __next__(self) -> tuple[Frame, Poses]:
        # No generator: one of its own would keep this alive, and with it the source that nobody wants any more
        if self._closed:
            raise StopIteration
        try:
            frame = next(self.reader)
            if self.until_s is not None and (frame.time_s or 0.0) >= self.until_s:
                raise StopIteration
            return frame, self._look_at(frame)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the source."""
        self._closed = True
        self.reader.close()

    def __enter__(self) -> TrackedVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.reader.close()

    def since_arrival_s(self) -> float:
        """s since the last frame arrived: the latency, when called after drawing it."""
        return time.monotonic() - self.reader.arrived_s

    def _look_at(self, frame: Frame) -> Poses:
        """The next frame's poses; the detector looks at it, or boxes follow their poses."""
        now_s = frame.time_s or 0.0
        # half a frame of tolerance: time stamps are rounded
        due = now_s - self._detected_s >= self._detect_every_s - 0.5 / self.info.fps
        if due or self._tracker.needs_detection:
            self._detected_s = now_s
            self.counts.detections += 1
            poses = look(self._tracker, self._detect, self._estimate, frame, now_s)
        else:
            boxes = self._tracker.expected(now_s, frame.hw)
            poses = self._tracker.follow(self._estimate(frame, boxes), now_s)
        if self._smoother is not None:
            poses = self._smoother(poses, now_s)
        assert poses.track_ids is not None
        self.counts.frames += 1
        self.counts.identities.update(poses.track_ids.tolist())
        return poses


def look(tracker: Tracker, detect: Detect, estimate: Estimate, frame: Frame, now_s: float) -> Poses:
    """Poses with track ids of a frame that the detector looks at."""
    boxes = tracker.steady(tracker.worth_a_look(inside(detect(frame), frame), now_s), now_s)
    poses = tracker.update(estimate(frame, boxes), now_s)
    missed = tracker.overlooked(now_s, frame.hw)
    return tracker.keep(poses, estimate(frame, missed), now_s) if len(missed) else poses


def inside(boxes: Boxes, frame: Frame) -> Boxes:
    """The boxes that have an area and touch the picture."""
    return boxes[box_geometry.area(box_geometry.clip(boxes.xyxy, frame.hw)) > 0]
