"""A video in, an overlay video, a table and a summary out: what `ebapose predict clip.mp4` does, as one function."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from os.path import exists
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ebapose.atomic import LONGEST_NAME, shortened
from ebapose.draw import DRAWN_SCORE
from ebapose.errors import EbaposeError, UsageError
from ebapose.inference.predictor import Predictor
from ebapose.inference.signals import StopSignals
from ebapose.io.video_summary import PLOTS, SUMMARY, VideoSummary, is_summary
from ebapose.io.video_table import TABLE_SUFFIXES, VideoTable, open_table
from ebapose.io.video_writer import VideoWriter
from ebapose.io.window import Window
from ebapose.structures import Frame, Poses, UInt8Array
from ebapose.tracking.pictures import ContactSheet, TrackPlots
from ebapose.tracking.stream import TrackedVideo

VideoFormat = Literal["overlay", "json", "coco", "csv", "parquet", "plots", "sheet"]
Draw = Callable[[UInt8Array, Poses], UInt8Array]

SHEET = "_sheet.jpg"
_ENDINGS = (".mp4", *TABLE_SUFFIXES.values(), SHEET, PLOTS, SUMMARY)  # of all that a video becomes
_LONGEST_ENDING = 32  # bytes: of names as they grow, with a number
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoOptions:
    """How videos are walked through.

    Attributes:
        smooth: filter the keypoints over time.
        detect_every_s: look for persons at least that often; None: the default, 0: in every frame.
        show: open a window.
        seconds: stop after so many seconds of the video.
        fps: frames per s of a folder of pictures, or to overrule a file's.
        live: drop frames that come too fast; None: for cameras and endless streams.
    """

    smooth: bool = True
    detect_every_s: float | None = None
    show: bool = False
    seconds: float | None = None
    fps: float | None = None
    live: bool | None = None

    def __post_init__(self) -> None:
        for value, what in ((self.detect_every_s, "seconds between detections"), (self.seconds, "length in seconds")):
            if value is not None and not value >= 0:
                raise UsageError(f"{what}: {value:g} is not possible")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise UsageError(f"frames per second: {self.fps:g} is not possible")


def predict_video(
    predictor: Predictor,
    source: str | Path | int,
    out_dir: Path,
    formats: Collection[VideoFormat] = ("overlay", "json"),
    options: VideoOptions | None = None,
    *,
    draw: Draw,
    stem: str = "",
    taken: set[str] | None = None,
    min_score: float = DRAWN_SCORE,
    on_start: Callable[[int], None] = lambda total: None,
    on_frame: Callable[[str], None] = lambda name: None,
    on_failure: Callable[[str], None] = lambda line: None,
) -> VideoSummary:
    """Track the persons of one video and write what was found, frame by frame.

    Files, of which `STEM_summary.json` always is there: `STEM.mp4` ("overlay"), `STEM.jsonl` ("json"), `STEM.csv`,
    `STEM.parquet`, `STEM_plots/` ("plots"), `STEM_sheet.jpg` ("sheet"). Whatever ends it, what was written until then
    plays and can be read.

    Args:
        predictor: from `ebapose.load`.
        source: see `ebapose.io.video.open_video`.
        out_dir: for the files.
        formats: see above; "coco" does not exist for videos and is reported.
        options: see `VideoOptions`.
        draw: (RGB uint8 picture, poses) -> RGB uint8 picture.
        stem: start of the files' names; by default the source's.
        taken: starts of the paths that this run has used, case-folded; where this one's is among them, or a file that
            is not of an earlier run has such a name, it gets another (`frames_2`, `clip_pose`). It is added.
        min_score: keypoints below are left out of plots.
        on_start: called with the number of frames, as far as the file says.
        on_frame: called after each frame with the video's name.
        on_failure: called with one line for each thing that is not as wanted.

    Returns:
        The summary. After Ctrl-C `interrupted` is True, and everything is complete up to there. In the main thread
        SIGTERM and SIGHUP do the same, unless the caller handles them.

    Raises:
        InputError: the source cannot be read.
        EbaposeError: a file cannot be written (the disk is full, say).
    """
    options = options or VideoOptions()
    start, earlier = time.perf_counter(), replace(predictor.times)
    with (
        StopSignals() as signals,
        predictor.track(
            source,
            smooth=options.smooth,
            detect_every_s=options.detect_every_s,
            fps=options.fps,
            live=options.live,
        ) as video,
    ):
        video.until_s = options.seconds
        info = video.info
        summary = VideoSummary(info.name, info.live)
        on_start(info.num_frames)
        if "coco" in formats:
            on_failure(f"{info.name}: COCO results are for pictures, not for videos")
        target = _free_target(out_dir, stem or video.reader.stem, video.reader.path, set() if taken is None else taken)
        run = _Run(video, summary, target, formats, options, draw, min_score, on_failure, signals)
        try:
            with run:
                run.walk(on_frame)
        finally:
            summary.seconds = time.perf_counter() - start
            stages = predictor.times.milliseconds(earlier)
            summary.milliseconds = {**stages, **{n: 1000 * s / max(1, summary.frames) for n, s in run.spent.items()}}
            with suppress(OSError):  # of a full disk was spoken already
                summary.write(_beside(target, SUMMARY), predictor.card, info)
    if summary.missing:
        promised = f" of {info.num_frames}" if info.num_frames else ""
        on_failure(f"{info.name}: the file ends early, about {summary.missing}{promised} frames are missing")
    if summary.corrupt and not info.live:
        frames = "frame was" if summary.corrupt == 1 else "frames were"
        on_failure(f"{info.name}: {summary.corrupt} damaged {frames} left out")
    if not summary.persons:
        on_failure(f"{info.name}: no person found")
    return summary


def _free_target(out_dir: Path, stem: str, original: Path | None, taken: set[str]) -> Path:
    """`OUT_DIR/STEM`, the start of all files' names; from then on it is taken.

    Beside the original `STEM_pose`. A number follows where this run has used the name, or somebody's file has it.
    """
    target = out_dir / stem
    name = shortened(target.name, LONGEST_NAME - _LONGEST_ENDING)
    if original is not None and original.parent.resolve() == target.parent.resolve():
        name += "_pose"
    free, number = target.with_name(name), 2
    while str(free).casefold() in taken or _is_foreign(free):
        free, number = target.with_name(f"{name}_{number}"), number + 1
    taken.add(str(free).casefold())
    return free


def _is_foreign(target: Path) -> bool:
    """Whether files of these names are there and no summary of ours says that they came from an earlier run."""
    # os.path's: before Python 3.14 pathlib's raises for a path that is too long
    if not any(exists(_beside(target, ending)) for ending in _ENDINGS):  # noqa: PTH110
        return False
    return not is_summary(_beside(target, SUMMARY))


def _beside(target: Path, ending: str) -> Path:
    """`with_suffix` would cut names that hold a point."""
    return target.with_name(target.name + ending)


class _Run:
    """The outputs of one video, opened together and completed together, whatever happens."""

    def __init__(
        self,
        video: TrackedVideo,
        summary: VideoSummary,
        target: Path,
        formats: Collection[VideoFormat],
        options: VideoOptions,
        draw: Draw,
        min_score: float,
        on_failure: Callable[[str], None],
        signals: StopSignals,
    ) -> None:
        self.video, self.summary, self.target, self.options, self.draw = video, summary, target, options, draw
        self.on_failure, self.signals = on_failure, signals
        self.spent = {"draw": 0.0, "write": 0.0}
        self._latencies_s: deque[float] = deque(maxlen=1000)
        self._shown_s: deque[float] = deque(maxlen=30)
        self._writer: VideoWriter | None = None
        self._tables: list[VideoTable] = []
        self._window: Window | None = None
        self._sheet = ContactSheet() if "sheet" in formats else None
        aspect = video.info.pixel_aspect
        self._plots = TrackPlots(min_score=min_score, pixel_aspect=aspect) if "plots" in formats else None
        info, reader = video.info, video.reader
        with ExitStack() as opened:  # where one cannot be opened, no older file is touched
            for name, suffix in TABLE_SUFFIXES.items():
                if name in formats:
                    table = open_table(_beside(target, suffix), name)
                    self._tables.append(table)
                    opened.callback(table.abandon)
            if "overlay" in formats:
                sound = reader.path if info.has_audio and options.fps is None else None
                if info.has_audio and sound is None:
                    why = "another rate of frames was asked for" if options.fps else "the source cannot be read twice"
                    _logger.warning("%s: its sound is not kept (%s)", info.name, why)
                self._writer = VideoWriter(
                    _beside(target, ".mp4"), info.hw, info.fps, audio_from=sound, pixel_aspect=info.pixel_aspect
                )
            opened.pop_all()
        if options.show:
            try:
                self._window = Window(f"ebapose: {info.name}")
            except EbaposeError as error:
                on_failure(f"{info.name}: {error}")

    def walk(self, on_frame: Callable[[str], None]) -> None:
        """All frames; Ctrl-C ends it like the end of the file."""
        try:
            for frame, poses in self.video:
                if not self._take(frame, poses):
                    break
                on_frame(frame.name)
        except KeyboardInterrupt:
            self.summary.interrupted = True

    def _take(self, frame: Frame, poses: Poses) -> bool:
        """Write one frame everywhere; False when the window was closed."""
        time_s, summary, began = frame.time_s or 0.0, self.summary, time.perf_counter()
        drawn = frame.image
        if self._writer is not None or self._window is not None or self._sheet is not None:
            drawn = self.draw(frame.image, poses)
        self._latencies_s.append(self.video.since_arrival_s())
        if self.video.info.live and drawn is not frame.image:
            self._write_latency(drawn)
        going_on = self._window is None or self._window.show(drawn)
        done = time.perf_counter()
        self.spent["draw"] += done - began
        for table in self._tables:
            try:
                table.write(frame, poses)
            except OSError as error:
                raise EbaposeError(
                    f"{table.path}: cannot be written ({error.strerror}); it holds {summary.frames} frames"
                ) from error
        if self._writer is not None:
            self._writer.write(drawn, frame.time_s)
        if self._sheet is not None:
            self._sheet.add(drawn, time_s)
        if self._plots is not None:
            self._plots.add(poses, time_s)
        self.spent["write"] += time.perf_counter() - done
        summary.frames += 1
        summary.persons += len(poses)
        self._count()
        return going_on

    def _write_latency(self, drawn: UInt8Array) -> None:
        """Latency and rate in the bottom left corner, in place."""
        self._shown_s.append(time.monotonic())
        passed = self._shown_s[-1] - self._shown_s[0]
        rate = f", {(len(self._shown_s) - 1) / passed:.0f} frames/s" if passed > 0 else ""
        text = f"latency {1000 * self._latencies_s[-1]:.0f} ms{rate}"
        for ink, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            place = (8, drawn.shape[0] - 10)
            cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, thickness, cv2.LINE_AA)

    def _count(self) -> None:
        summary, counts = self.summary, self.video.counts
        summary.identities, summary.detections = len(counts.identities), counts.detections
        for name in ("corrupt", "missing", "dropped", "reconnects"):
            setattr(summary, name, getattr(counts.reading, name))

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """Complete every file; the first thing that fails is raised after all others were tried and reported."""
        self.signals.ignore()
        self._count()
        if self._latencies_s:
            median, high = np.percentile(np.array(self._latencies_s) * 1000, [50, 95])
            self.summary.latency_ms = (float(median), float(high))
        if self._window is not None:
            self._window.close()
        failures: list[EbaposeError] = []
        for path, close in self._completions():
            try:
                close()
            except OSError as trouble:
                failures.append(EbaposeError(f"{path}: cannot be written ({trouble.strerror})"))
            except EbaposeError as trouble:
                failures.append(trouble)
            except Exception as trouble:  # a mistake of ours must not cost the other files
                failures.append(EbaposeError(f"{path}: cannot be completed ({type(trouble).__name__}: {trouble})"))
            else:
                if path.exists():
                    self.summary.files.append(path)
        for failure in failures if error is not None else failures[1:]:
            if str(error) != str(failure):  # a file that could not be written cannot be completed either
                self.on_failure(str(failure))
        if failures and error is None:
            raise failures[0]

    def _completions(self) -> list[tuple[Path, Callable[[], object]]]:
        completions: list[tuple[Path, Callable[[], object]]] = [(table.path, table.close) for table in self._tables]
        if self._writer is not None:
            completions.append((self._writer.path, self._writer.close))
        if self._sheet is not None and self.summary.frames:
            path, sheet = _beside(self.target, SHEET), self._sheet
            completions.append((path, lambda: sheet.save(path)))
        if self._plots is not None:
            folder, plots = _beside(self.target, PLOTS), self._plots
            completions.append((folder, lambda: plots.save(folder)))
        return completions
