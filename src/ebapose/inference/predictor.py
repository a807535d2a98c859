"""The corridor: a picture in, poses out.

    frame -> detector (boxes) -> crop matrix and warp -> runtime (logits) -> codec (crop px) -> image px -> Poses

Persons go through the network in batches; the persons of several frames share one. Where the detector is in doubt, the
pose decides (`ebapose.geometry.persons`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.card import ModelCard
from ebapose.codecs import Codec, apply_calibration, build_codec
from ebapose.errors import InputError, UsageError
from ebapose.geometry import boxes as box_geometry
from ebapose.geometry.crop import crop_scale, crop_to_image, image_to_crop_matrix, warp_crop
from ebapose.geometry.persons import Doubt, believed, worth_a_look
from ebapose.inference.detector import GivenBoxes, PersonDetector
from ebapose.inference.runtime import Runtime
from ebapose.io.readers import LARGEST_PX
from ebapose.structures import Boxes, Frame, ImageLike, Poses, UInt8Array

if TYPE_CHECKING:
    from ebapose.tracking.stream import TrackedVideo

MOST_BYTES = 2**28  # of pictures that wait for a batch to fill up


@dataclass
class StageTimes:
    """Seconds spent in each stage, and how much went through it."""

    detect: float = 0.0
    crop: float = 0.0
    network: float = 0.0
    decode: float = 0.0
    images: int = 0
    persons: int = 0

    def milliseconds(self, earlier: StageTimes | None = None) -> dict[str, float]:
        """ms per image of every stage, of what came after `earlier` (a copy taken then) if that is given."""
        before = earlier or StageTimes()
        images = max(self.images - before.images, 1)
        return {
            name: 1000 * (getattr(self, name) - getattr(before, name)) / images
            for name in ("detect", "crop", "network", "decode")
        }


@dataclass
class _Job:
    """One frame on its way: its boxes, and what its crops gave (keypoints, scores, sigmas in crop px) as it arrives.

    `doubt`: of its detector; None where every box shall have a pose.
    """

    frame: Frame
    boxes: Boxes
    problems: list[str]
    used: NDArray[np.bool_]
    doubt: Doubt | None
    matrices: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2, 3)))
    parts: list[tuple[NDArray[np.float32], ...]] = field(default_factory=list)
    waiting: int = 0


class Prediction(NamedTuple):
    """One frame's result in a stream.

    Attributes:
        frame: the picture.
        poses: what was found in it.
        problems: boxes that could not be used, one line each.
        used: (boxes found or given,) bool: which of them have a pose, in their order.
    """

    frame: Frame
    poses: Poses
    problems: tuple[str, ...]
    used: NDArray[np.bool_]


class Predictor:
    """Finds persons and estimates their poses. Made by `ebapose.load`.

    Attributes:
        card: of the pose model.
        runtime: that runs it.
        times: seconds per stage since the predictor was made.
    """

    def __init__(
        self,
        card: ModelCard,
        runtime: Runtime,
        detector: PersonDetector,
        *,
        flip_test: bool = False,
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}: must be at least 1")
        self.card, self.runtime, self.detector = card, runtime, detector
        self.flip_test, self.batch_size = flip_test, batch_size
        self.codec: Codec = build_codec(card.codec, card.input, card.skeleton)
        self.times = StageTimes()

    @property
    def doubt(self) -> Doubt | None:
        """How far the detector's scores are trusted; None: all of its boxes are persons."""
        return getattr(self.detector, "doubt", None)

    @overload
    def __call__(self, images: ImageLike, boxes: Boxes | ArrayLike | None = None) -> Poses: ...

    @overload
    def __call__(
        self, images: Sequence[ImageLike], boxes: Sequence[Boxes | ArrayLike] | None = None
    ) -> list[Poses]: ...

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        boxes: Boxes | ArrayLike | Sequence[Boxes | ArrayLike] | None = None,
    ) -> Poses | list[Poses]:
        """Poses of one picture, or of each of several.

        Args:
            images: RGB uint8 (H, W, 3) array (or what NumPy makes one of: a PIL picture) or `Frame`, or a sequence of
                them.
            boxes: person boxes in image px, (N, 4) left, top, right, bottom, or `Boxes`; for several pictures one
                such entry each. Without boxes the detector looks for persons.

        Returns:
            `Poses` for one picture, a list for several. No person: `Poses` of length 0.

        Raises:
            InputError: an array is no picture, or a box has no area or lies outside its picture.
        """
        if hasattr(images, "__array_interface__") or hasattr(images, "__array__"):  # a PIL picture, a tensor
            images = np.asarray(images)
        if isinstance(images, Frame) or (isinstance(images, np.ndarray) and images.ndim == 3):
            return self._predict_all([images], None if boxes is None else [boxes])[0]  # type: ignore[list-item]
        if isinstance(images, np.ndarray) and images.ndim != 4:
            raise InputError(f"expected an RGB uint8 array (H, W, 3) or a sequence of them, got shape {images.shape}")
        if isinstance(images, str) or not isinstance(images, Iterable):
            kind = type(images).__name__
            raise InputError(f"expected an RGB uint8 array (H, W, 3), a Frame or a sequence of them, got a {kind}")
        given = None if boxes is None else list(boxes)  # type: ignore[arg-type]
        return self._predict_all(list(images), given)

    def _predict_all(self, images: list[ImageLike], boxes: list[Boxes | ArrayLike] | None) -> list[Poses]:
        frames = [image if isinstance(image, Frame) else Frame(np.asarray(image)) for image in images]
        if boxes is not None and len(boxes) != len(frames):
            raise InputError(f"{len(boxes)} sets of boxes for {len(frames)} pictures")
        given = None if boxes is None else [b if isinstance(b, Boxes) else Boxes.from_xyxy(b) for b in boxes]
        results = []
        for prediction in self.stream(frames, given):
            if prediction.problems:
                raise InputError(prediction.problems[0])
            results.append(prediction.poses)
        return results

    def stream(self, frames: Iterable[Frame], boxes: Iterable[Boxes] | None = None) -> Iterator[Prediction]:
        """Predict frame after frame, in order, lazily: at most a batch of persons (and their frames) is held.

        Args:
            frames: the pictures.
            boxes: as many entries as frames; without them the detector looks for persons.

        Yields:
            One `Prediction` per frame. Boxes that cannot be used are dropped and named in `problems`; so is a
            picture that the detector cannot use.

        Raises:
            InputError: there are fewer entries of boxes than frames.
        """
        given = iter(boxes) if boxes is not None else None
        jobs: list[_Job] = []
        crops: list[UInt8Array] = []
        owners: list[_Job] = []
        for frame in frames:
            boxes_here = None if given is None else next(given, None)
            if given is not None and boxes_here is None:
                raise InputError(f"{frame.name}: there are fewer sets of boxes than pictures")
            job = self._find_persons(frame, boxes_here)
            jobs.append(job)
            for matrix in job.matrices:
                start = time.perf_counter()
                crops.append(warp_crop(frame.image, matrix, self.card.input.size_hw))
                self.times.crop += time.perf_counter() - start
                owners.append(job)
                if len(crops) == self.batch_size:
                    self._run(crops, owners)
            # Frames without or with few persons, or large ones, must not pile up behind an unfilled batch.
            if len(jobs) >= self.batch_size or sum(job.frame.image.nbytes for job in jobs) > MOST_BYTES:
                self._run(crops, owners)
            while jobs and not jobs[0].waiting:
                yield self._finish(jobs.pop(0))
        self._run(crops, owners)
        for job in jobs:
            yield self._finish(job)

    def track(
        self,
        source: str | Path | int | BinaryIO,
        *,
        smooth: bool = True,
        detect_every_s: float | None = None,
        fps: float | None = None,
        live: bool | None = None,
    ) -> TrackedVideo:
        """Poses of every frame of a video, with identities over time; lazily, frame by frame.

            for frame, poses in predictor.track("clip.mp4"):
                print(frame.time_s, poses.track_ids, poses.keypoints)

        Args:
            source: a video file, the number of a camera, an address (rtsp://, http://), a folder of numbered pictures,
                "-" for standard input, or an open binary file.
            smooth: filter the keypoints over time; see `ebapose.tracking.smoothing`.
            detect_every_s: look for persons at least that often, in between boxes follow their poses; 0: every frame.
            fps: frames per s of a folder of pictures.
            live: drop frames that come too fast; by default for cameras and endless streams.

        Returns:
            An iterator of (`Frame`, `Poses` with `track_ids`). It releases the source at the end, when it is closed or
            left as a context manager, and when nobody holds it any more.

        Raises:
            InputError: the source cannot be read, or the detector's boxes are given ones: those are of pictures.
        """
        from ebapose.io.video import open_video
        from ebapose.tracking.smoothing import SmoothingOptions
        from ebapose.tracking.stream import DETECT_EVERY_S, TrackedVideo
        from ebapose.tracking.tracker import TrackerOptions

        video = open_video(source, fps=fps, live=live)
        if isinstance(self.detector, GivenBoxes):
            video.close()
            raise InputError(f"{video.info.name}: boxes can be given for pictures only, not for videos")
        return TrackedVideo(
            video,
            self._detect,
            self,
            detect_every_s=DETECT_EVERY_S if detect_every_s is None else detect_every_s,
            tracker=TrackerOptions() if self.doubt is None else TrackerOptions(sure_score=self.doubt.sure),
            smoothing=SmoothingOptions() if smooth else None,
        )

    def _detect(self, frame: Frame) -> Boxes:
        """The detector, timed."""
        start = time.perf_counter()
        try:
            return self.detector(frame)
        finally:
            self.times.detect += time.perf_counter() - start

    def _find_persons(self, frame: Frame, given: Boxes | None) -> _Job:
        start = time.perf_counter()
        problems: list[str] = []
        try:
            found = self.detector(frame) if given is None else given
            if given is None and isinstance(self.detector, GivenBoxes):
                problems = self.detector.problems(frame)
        except InputError as error:
            found, problems = Boxes.from_xyxy([]), [str(error)]
        used, unusable = usable_boxes(found, frame)
        doubt = self.doubt if given is None else None
        if doubt is not None:
            used[np.flatnonzero(used)] = worth_a_look(found[used], doubt.sure)
        boxes = found if used.all() else found[used]
        job = _Job(frame, boxes, problems + unusable, used, doubt)
        if len(boxes):
            spec = self.card.input
            job.matrices = image_to_crop_matrix(boxes.xyxy, spec.size_hw, spec.padding, spec.crop_center)
            job.waiting = len(boxes)
        self.times.detect += time.perf_counter() - start
        return job

    def _run(self, crops: list[UInt8Array], owners: list[_Job]) -> None:
        """Send the collected crops through the network and hand what they gave to their frames."""
        if not crops:
            return
        start = time.perf_counter()
        batch = np.stack(crops)
        outputs = self.runtime(batch)
        if self.flip_test:
            mirrored = self.runtime(batch[:, :, ::-1])
            outputs = self.codec.merge_flip(outputs, mirrored, self.card.skeleton.flip_indices)
        self.times.network += time.perf_counter() - start
        start = time.perf_counter()
        decoded = apply_calibration(self.codec.decode(outputs), self.card.calibration)
        for job, *part in zip(owners, decoded.keypoints, decoded.scores, decoded.sigmas_px, strict=True):
            job.parts.append(tuple(part))
            job.waiting -= 1
        crops.clear()
        owners.clear()
        self.times.decode += time.perf_counter() - start

    def _finish(self, job: _Job) -> Prediction:
        start = time.perf_counter()
        card = self.card
        self.times.images += 1
        self.times.persons += len(job.boxes)
        if not job.parts:
            empty = Poses.empty(card.skeleton, card.name, job.frame.hw)
            return Prediction(job.frame, empty, tuple(job.problems), job.used)
        keypoints, scores, sigmas_px = (np.stack(arrays) for arrays in zip(*job.parts, strict=True))
        poses = Poses(
            crop_to_image(keypoints, job.matrices).astype(np.float32),
            scores,
            (sigmas_px / crop_scale(job.matrices)[:, None, None]).astype(np.float32),
            job.boxes,
            card.skeleton,
            card.name,
            job.frame.hw,
        )
        if job.doubt is not None:
            chosen = believed(poses, job.doubt)
            job.used[np.flatnonzero(job.used)], poses = chosen, poses[chosen]
        self.times.decode += time.perf_counter() - start
        return Prediction(job.frame, poses, tuple(job.problems), job.used)


def usable_boxes(boxes: Boxes, frame: Frame) -> tuple[NDArray[np.bool_], list[str]]:
    """(N,) which boxes have an area and touch the picture, and one line for each that does not."""
    height, width = frame.hw
    usable = box_geometry.area(box_geometry.clip(boxes.xyxy, frame.hw)) > 0
    usable &= np.abs(boxes.xyxy).max(axis=1, initial=0) <= LARGEST_PX
    problems = []
    for box in boxes.xyxy[~usable]:
        corners = ", ".join(f"{v:g}" for v in box)
        if np.abs(box).max() > LARGEST_PX:
            cause = "is absurdly large"
        else:
            cause = "has no area" if box_geometry.area(box) <= 0 else f"lies outside the picture ({width}x{height})"
        problems.append(f"{frame.name}: box ({corners}) {cause}")
    return usable, problems
