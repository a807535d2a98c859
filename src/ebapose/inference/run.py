"""Files in, files out: what `ebapose predict` does, as one function."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ebapose.draw import draw_poses
from ebapose.errors import EbaposeError, InputError, UsageError
from ebapose.inference.predictor import Predictor
from ebapose.io.readers import image_id_from_name, read_image_ids
from ebapose.io.sources import FailedInput, SourceLike, list_sources, read_frames
from ebapose.io.writers import Format, PoseWriter
from ebapose.structures import Frame, Poses, UInt8Array


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        images: pictures (and video frames) that were read.
        persons: poses found in them.
        failures: one line per input, box or picture that could not be used, in order of appearance.
        milliseconds: per image and stage.
        seconds: wall time of the whole run.
        out_dir: where the results are.
    """

    out_dir: Path
    images: int = 0
    persons: int = 0
    failures: list[str] = field(default_factory=list)
    milliseconds: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def predict_sources(
    predictor: Predictor,
    sources: Collection[str],
    out_dir: Path,
    formats: Collection[Format] = ("overlay", "json"),
    *,
    annotations: Path | None = None,
    show_boxes: bool = True,
    show_uncertainty: bool = False,
    min_score: float = 0.2,
    on_start: Callable[[int], None] = lambda total: None,
    on_image: Callable[[str], None] = lambda name: None,
    on_failure: Callable[[str], None] = lambda line: None,
) -> RunSummary:
    """Predict every picture that `sources` name and write the results.

    One input that fails is reported and the rest goes on; what was written stays complete and readable, also after
    Ctrl-C.

    Args:
        predictor: from `ebapose.load`.
        sources: see `ebapose.io.sources`.
        out_dir: for the results.
        formats: see `ebapose.io.writers`.
        annotations: COCO annotations that say which image id a file has, for "coco".
        show_boxes, show_uncertainty, min_score: of the overlay, see `ebapose.draw.draw_poses`.
        on_start: called once with the number of files.
        on_image: called after each picture.
        on_failure: called with each line of `RunSummary.failures` as it arises.

    Raises:
        UsageError, MissingDependencyError: nothing was started.
        EbaposeError: the results cannot be written (the disk is full, say).
    """
    summary = RunSummary(out_dir)
    start = time.perf_counter()
    spent = {"read": 0.0, "draw": 0.0, "write": 0.0}
    earlier = replace(predictor.times)

    def fail(line: str) -> None:
        summary.failures.append(line)
        on_failure(line)

    def readable(files: Collection[SourceLike], writer: PoseWriter) -> Iterator[Frame]:
        items = read_frames(files, exclude=out_dir)
        while True:
            began = time.perf_counter()
            item = next(items, None)
            spent["read"] += time.perf_counter() - began
            if item is None:
                return
            if isinstance(item, FailedInput):
                writer.write_failure(item.name, item.error)
                fail(str(item))
                on_image(item.name)
            else:
                yield item

    try:
        image_id = image_id_from_name if annotations is None else read_image_ids(annotations)
    except InputError as error:
        raise UsageError(str(error)) from None
    files = list(list_sources(sources, exclude=out_dir))
    on_start(len(files))

    def draw(image: UInt8Array, poses: Poses) -> UInt8Array:
        began = time.perf_counter()
        drawn = draw_poses(image, poses, show_boxes=show_boxes, show_uncertainty=show_uncertainty, min_score=min_score)
        spent["draw"] += time.perf_counter() - began
        return drawn

    with PoseWriter(out_dir, formats, draw=draw, image_id=image_id) as writer:
        for frame, poses, problems, _ in predictor.stream(readable(files, writer)):
            began = time.perf_counter()
            for problem in problems:
                writer.write_failure(frame.name, InputError(problem))
                fail(problem)
            if not len(poses) and not problems:
                fail(f"{frame.name}: no person found")
            try:
                writer.write(frame, poses)
            except InputError as error:
                fail(str(error))
            spent["write"] += time.perf_counter() - began
            summary.images += 1
            summary.persons += len(poses)
            on_image(frame.name)
    spent["write"] -= spent["draw"]  # the writer calls it
    per_image = {name: 1000 * seconds / max(summary.images, 1) for name, seconds in spent.items()}
    stages = predictor.times.milliseconds(earlier)
    summary.milliseconds = {"read": per_image.pop("read"), **stages, **per_image}
    summary.seconds = time.perf_counter() - start
    if not files:
        raise EbaposeError(f"{', '.join(sources)}: nothing to do")
    return summary
