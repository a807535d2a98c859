"""Files in, files out: what `ebapose predict` does, as one function.

Pictures are read by one thread, predicted by a second and written by the caller's, each a few pictures ahead of the
next: decoding and encoding files fill the gaps that the networks leave on the cores.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from os.path import isdir
from pathlib import Path
from typing import TypeVar

from ebapose.draw import DRAWN_SCORE, draw_poses
from ebapose.errors import EbaposeError, InputError, UsageError
from ebapose.inference.predictor import MOST_BYTES, Predictor
from ebapose.inference.signals import StopSignals
from ebapose.inference.video import VideoFormat, VideoOptions, predict_video
from ebapose.io.readers import image_id_from_name, read_image_ids
from ebapose.io.sources import FailedInput, Source, SourceLike, list_sources, read_frames
from ebapose.io.video import is_video_source
from ebapose.io.video_summary import VideoSummary
from ebapose.io.writers import FILE_NAMES, FORMATS, PoseWriter
from ebapose.structures import Frame, Poses, UInt8Array

AHEAD = 4  # pictures (read, or predicted) that wait for the next stage at most

T = TypeVar("T")


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        images: pictures that were read.
        persons: poses found in them.
        failures: one line per input, box or picture that could not be used, as they arose (reading runs ahead).
        milliseconds: per image and stage; stages overlap, so that their sum exceeds the time per image.
        seconds: wall time of the whole run.
        videos: one entry per video that could be opened.
        out_dir: where the results are.
    """

    out_dir: Path
    images: int = 0
    persons: int = 0
    failures: list[str] = field(default_factory=list)
    milliseconds: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    videos: list[VideoSummary] = field(default_factory=list)


def predict_sources(
    predictor: Predictor,
    sources: Collection[str],
    out_dir: Path,
    formats: Collection[VideoFormat] = ("overlay", "json"),
    *,
    annotations: Path | None = None,
    show_boxes: bool = True,
    show_uncertainty: bool = False,
    min_score: float = DRAWN_SCORE,
    clips: bool = False,
    video: VideoOptions | None = None,
    on_start: Callable[[int], None] = lambda total: None,
    on_image: Callable[[str], None] = lambda name: None,
    on_failure: Callable[[str], None] = lambda line: None,
) -> RunSummary:
    """Predict every picture, then every video, that `sources` name and write the results.

    One input that fails is reported and the rest goes on; what was written stays complete and readable, also after
    Ctrl-C (in the main thread also after SIGTERM and SIGHUP, unless the caller handles them).

    Args:
        predictor: from `ebapose.load`.
        sources: see `ebapose.io.sources`; also cameras, addresses and "pipe:0" (`ebapose.io.video`).
        out_dir: for the results.
        formats: see `ebapose.io.writers` and, for videos, `ebapose.inference.video`.
        annotations: COCO annotations that say which image id a file has, for "coco".
        show_boxes, show_uncertainty, min_score: of the overlay, see `ebapose.draw.draw_poses`.
        clips: a folder is a video of numbered frames, and "-" a video on standard input.
        video: how videos are walked through.
        on_start: called with the number of pictures, then with each video's frames added as far as they are known.
        on_image: called after each picture or frame.
        on_failure: called with each line of `RunSummary.failures` as it arises.

    Raises:
        UsageError, MissingDependencyError: nothing was started.
        EbaposeError: the results cannot be written (the disk is full, say).
    """
    if not 0 <= min_score <= 1:
        raise UsageError(f"the lowest score of drawn keypoints must lie in 0..1, not {min_score:g}")
    summary = RunSummary(out_dir)
    start = time.perf_counter()
    spent = {"read": 0.0, "draw": 0.0, "write": 0.0}
    earlier = replace(predictor.times)
    stop = threading.Event()
    reporting = threading.Lock()  # the reading thread reports what it cannot read

    def fail(line: str) -> None:
        summary.failures.append(line)
        on_failure(line)

    def fail_picture(writer: PoseWriter, name: str, error: EbaposeError) -> None:
        writer.write_failure(name, error)
        fail(str(error))

    def readable(files: Collection[SourceLike], writer: PoseWriter) -> Iterator[Frame]:
        items = read_frames(files, exclude=out_dir)
        while True:
            began = time.perf_counter()
            item = next(items, None)
            spent["read"] += time.perf_counter() - began
            if item is None:
                return
            if isinstance(item, FailedInput):
                with reporting:
                    fail_picture(writer, item.name, item.error)
                    on_image(item.name)
            else:
                yield item

    try:
        image_id = image_id_from_name if annotations is None else read_image_ids(annotations)
    except InputError as error:
        raise UsageError(str(error)) from None
    formats = tuple(dict.fromkeys(formats))
    streams = [
        source
        for source in sources
        if is_video_source(source) or (clips and (source == "-" or isdir(source)))  # noqa: PTH112 (pathlib's raises)
    ]
    listed = list(list_sources([s for s in sources if s not in streams], exclude=out_dir))
    files = [source for source in listed if not (isinstance(source, Source) and source.is_video)]
    videos = [(s.name, s.stem) for s in listed if isinstance(s, Source) and s.is_video] + [(s, "") for s in streams]
    picture_formats = [name for name in FORMATS if name in formats]
    if not picture_formats and any(isinstance(file, Source) for file in files):
        why = f"{', '.join(formats)}: written for videos, not for pictures"
        if not videos:
            raise UsageError(why)
        fail(why)
        files = [file for file in files if isinstance(file, FailedInput)]
    total = len(files)
    on_start(total)

    def draw(image: UInt8Array, poses: Poses) -> UInt8Array:
        began = time.perf_counter()
        drawn = draw_poses(image, poses, show_boxes=show_boxes, show_uncertainty=show_uncertainty, min_score=min_score)
        spent["draw"] += time.perf_counter() - began
        return drawn

    def start_video(frames: int) -> None:
        nonlocal total
        total += frames
        on_start(total)

    writing = picture_formats if files else []
    with StopSignals() as signals, PoseWriter(out_dir, writing, draw=draw, image_id=image_id) as writer:
        try:
            frames = _ahead(readable(files, writer), stop, lambda frame: frame.image.nbytes)
            for frame, poses, problems, _ in _ahead(
                predictor.stream(frames), stop, lambda done: done.frame.image.nbytes
            ):
                began = time.perf_counter()
                with reporting:
                    for problem in problems:
                        fail_picture(writer, frame.name, InputError(problem))
                    if not len(poses) and not problems:
                        fail_picture(writer, frame.name, InputError(f"{frame.name}: no person found"))
                    try:
                        writer.write(frame, poses)
                    except InputError as error:
                        fail_picture(writer, frame.name, error)
                    summary.images += 1
                    summary.persons += len(poses)
                    on_image(frame.name)
                spent["write"] += time.perf_counter() - began
        finally:
            stop.set()
            signals.ignore()  # while the files are completed
    spent["write"] -= spent["draw"]  # the writer calls it
    stages = predictor.times.milliseconds(earlier)
    per_image = {name: 1000 * seconds / max(summary.images, 1) for name, seconds in spent.items()}
    summary.milliseconds = {"read": per_image.pop("read"), **stages, **per_image}
    # Two streams may go by the same name: folders of frames, say. A video may go by that of the pictures' files.
    taken = {str(out_dir / Path(name).stem).casefold() for name in FILE_NAMES.values()} if files else set()
    for source, stem in videos:
        try:
            found = predict_video(
                predictor,
                source,
                out_dir,
                formats,
                video,
                draw=draw,
                stem=stem,
                taken=taken,
                min_score=min_score,
                on_start=start_video,
                on_frame=on_image,
                on_failure=fail,
            )
        except InputError as error:
            fail(str(error))
            continue
        summary.videos.append(found)
        if found.interrupted and not found.live:
            raise KeyboardInterrupt
    summary.seconds = time.perf_counter() - start
    if not files and not videos:
        raise EbaposeError(f"{', '.join(sources)}: nothing to do")
    return summary


def _ahead(items: Iterator[T], stop: threading.Event, size: Callable[[T], int]) -> Iterator[T]:
    """The same items, made by a thread of their own, at most `AHEAD` before they are asked for; of large ones one.

    An exception arrives in its place. `stop` ends all such threads of a run; it is set when one iterator is closed or
    interrupted.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(AHEAD)

    def hand_over(entry: tuple[T] | BaseException | None) -> bool:
        large = isinstance(entry, tuple) and size(entry[0]) > MOST_BYTES // AHEAD
        while large and not ready.empty() and not stop.wait(0.02):
            pass
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not hand_over((item,)):
                    return
        except BaseException as error:
            hand_over(error)
        else:
            hand_over(None)

    thread = threading.Thread(target=work, name="ebapose-ahead", daemon=True)
    thread.start()
    try:
        while not stop.is_set():
            try:
                entry = ready.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(entry, BaseException):
                raise entry
            if entry is None:
                return
            yield entry[0]
    except (GeneratorExit, KeyboardInterrupt):  # nobody takes what the thread makes any more
        stop.set()
        raise
    finally:
        thread.join(timeout=2.0)  # a read that hangs (a list on standard input) must not keep the process, see `cli`
