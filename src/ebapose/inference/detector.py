"""Where are the people? Three ways to know: the bundled detector, given boxes, or the whole image.

Adding a new detector: write a class whose `__call__` takes a `Frame` and returns `Boxes`; pass it to
`ebapose.load(detector=...)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import exists, realpath, samefile
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose import zoo
from ebapose.card import card_path, sha256_of
from ebapose.errors import InputError, ModelFileError, UsageError
from ebapose.geometry import boxes as geometry
from ebapose.geometry.persons import Doubt
from ebapose.inference.runtime import Runtime, open_plain
from ebapose.io.readers import find_entry, with_bare_names
from ebapose.structures import Boxes, Frame

CERTAIN = 0.5  # score of NanoDet's boxes from which a pose in which nothing is seen is no objection
MOST_TILES = 4  # of more, half of one is smaller than what is found in the whole picture
TILE_OVERLAP = 0.3  # of a tile's sides, at least
TILE_SMALLEST = 0.15  # of the picture's longer side: who is larger is found in the whole picture; with some margin
TILE_MARGIN = 0.02  # of a tile's longer side: a box that ends so near to an inner border is cut off by it
TILE_LARGEST = 0.5  # of a tile's longer side: larger persons are for the look at the whole picture


class PersonDetector(Protocol):
    """Finds the persons of one picture.

    Every box gets a pose, unless the detector has an attribute `doubt` (`ebapose.geometry.persons.Doubt`): then boxes
    of low scores are kept only where their pose convinces, and of several boxes on one person the best.
    """

    def __call__(self, frame: Frame) -> Boxes:
        """Boxes in image px, best first. Raises InputError when the picture cannot be used."""
        ...


class WholeImage:
    """One person who fills the picture."""

    def __call__(self, frame: Frame) -> Boxes:
        """One box: the whole picture."""
        height, width = frame.hw
        return Boxes.from_xyxy([[0, 0, width, height]])


class GivenBoxes:
    """Boxes that somebody else found.

    Args:
        boxes: by file name or COCO image id, see `ebapose.io.readers.Detections`.
        score_threshold: boxes below it are dropped.
        unusable: by the same keys, why some that were listed are no boxes.
    """

    def __init__(
        self,
        boxes: Mapping[int | str, Boxes],
        score_threshold: float = 0.0,
        unusable: Mapping[int | str, Sequence[str]] | None = None,
    ) -> None:
        self._boxes, self._unusable = boxes, unusable or {}
        self._keys = with_bare_names({key: key for key in boxes})
        self._owners: dict[int | str, str] = {}  # key -> the picture that it was taken for
        self._score_threshold = score_threshold

    def __call__(self, frame: Frame) -> Boxes:
        """The boxes listed for this picture.

        Raises:
            InputError: it is not listed, or what is listed was taken for another picture: of `a/1.jpg` and `b/1.jpg` a
                file that knows one `1.jpg` says nothing about the second.
        """
        key = find_entry(self._keys, frame.name)
        if key is None:
            raise InputError(f"{frame.name}: not among the pictures of the given boxes")
        owner = frame.name if frame.name in self._boxes else self._owners.setdefault(key, frame.name)
        if not _same_file(owner, frame.name):
            raise InputError(f"{frame.name}: the given boxes of {key!r} were already taken for {owner}")
        boxes = self._boxes[key]
        return boxes[boxes.scores >= self._score_threshold]

    def problems(self, frame: Frame) -> list[str]:
        """One line for each entry about this picture that is no box."""
        key = find_entry(self._keys, frame.name)
        return [f"{frame.name}: {line}" for line in (self._unusable.get(key, ()) if key is not None else ())]


def _same_file(one: str, other: str) -> bool:
    if one == other or realpath(one) == realpath(other):
        return True
    return exists(one) and exists(other) and samefile(one, other)  # noqa: PTH110, PTH121 (pathlib's may raise)


class NanoDet:
    """The bundled person detector: NanoDet-g (416x416, Apache-2.0), see its card in `ebapose/zoo`.

    Args:
        score_threshold: boxes from this score on are persons. The card lists the recall at 0.2, 0.3 and 0.4.
        doubted_from: where the poses shall decide about boxes of low scores: boxes between this score and
            `score_threshold` are found, too, those below `CERTAIN` may turn out to be nobody, and copies are left out.
        iou_threshold: of the suppression of double boxes.
        max_persons: keep at most this many, best first.
        threads: CPU threads, all available ones by default.
        tiles: look for small people, too, in so many by so many overlapping parts of the picture, enlarged; 1 to 4.
        bfloat16: calculate in it where the CPU can; the card lists the recall with and without.

    Attributes:
        doubt: see `PersonDetector`.
    """

    size = 416
    strides = (8, 16, 32)
    # BGR, as the network was trained
    mean = (103.53, 116.28, 123.675)
    std = (57.375, 57.12, 58.395)

    def __init__(
        self,
        score_threshold: float = 0.35,
        iou_threshold: float = 0.6,
        max_persons: int = 100,
        threads: int | None = None,
        path: Path = zoo.DETECTOR,
        bfloat16: bool = True,
        doubted_from: float | None = None,
        tiles: int = 1,
    ) -> None:
        for score in (score_threshold, score_threshold if doubted_from is None else doubted_from):
            if not 0 <= score <= 1:  # NaN is refused, too
                raise UsageError(f"detector score {score:g}: must lie in 0..1")
        if not 1 <= tiles <= MOST_TILES:
            raise UsageError(f"detector tiles {tiles}: must lie in 1..{MOST_TILES}")
        if not path.is_file():
            raise ModelFileError(f"{path}: the person detector is missing, the installation is incomplete")
        expected = json.loads(card_path(path).read_text(encoding="utf-8"))["sha256"]
        if sha256_of(path) != expected:
            raise ModelFileError(f"{path}: sha256 differs from its card: damaged or replaced")
        self.iou_threshold, self.max_persons = iou_threshold, max_persons
        judged = doubted_from is not None
        self.doubt = Doubt(sure=score_threshold, certain=max(CERTAIN, score_threshold)) if judged else None
        self.tiles = tiles
        self.least_score = score_threshold if doubted_from is None else min(doubted_from, score_threshold)
        self._runtime: Runtime = open_plain(path, threads, bfloat16=bfloat16)

    def __call__(self, frame: Frame) -> Boxes:
        """Person boxes in image px, best first."""
        looks = [self._look(frame)]
        if self.tiles > 1:
            looks += [self._closer_look(frame, window) for window in tile_windows(frame.hw, self.tiles)]
        xyxy, scores = (np.concatenate(found) for found in zip(*looks, strict=True))
        keep = geometry.nms(xyxy, scores, self.iou_threshold)[: self.max_persons]
        boxes = geometry.clip(xyxy[keep], frame.hw)
        kept = geometry.area(boxes) > 0
        return Boxes.from_xyxy(boxes[kept], scores[keep][kept])

    def _look(self, frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Boxes (M, 4) in image px, before suppression, and scores (M,)."""
        blob, factor = self._preprocess(frame)
        xyxy, scores = self._candidates(self._runtime(blob))
        return xyxy / factor, scores

    def _closer_look(
        self, frame: Frame, window: tuple[int, int, int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """The small persons in a part of the picture, as `_look`: whoever is cut off by its border, or large in it, is
        seen better in the whole picture or is whole in the neighbouring part."""
        left, top, right, bottom = window
        xyxy, scores = self._look(replace(frame, image=np.ascontiguousarray(frame.image[top:bottom, left:right])))
        longer = max(right - left, bottom - top)
        inner = np.array([left > 0, top > 0, right < frame.hw[1], bottom < frame.hw[0]])
        beyond = np.concatenate([xyxy[:, :2], (right - left, bottom - top) - xyxy[:, 2:]], axis=1)
        whole = ~(inner & (beyond < TILE_MARGIN * longer)).any(axis=1)
        small = (xyxy[:, 2:] - xyxy[:, :2]).max(axis=1, initial=0) <= TILE_LARGEST * longer
        return (xyxy + np.array([left, top, left, top]))[whole & small], scores[whole & small]

    def _preprocess(self, frame: Frame) -> tuple[NDArray[np.float32], float]:
        """Shrink or enlarge to 416 keeping the aspect, paste at the top left, normalise as BGR planes."""
        height, width = frame.hw
        factor = self.size / max(height, width)
        new_w, new_h = max(1, round(width * factor)), max(1, round(height * factor))
        if min(new_w, new_h) < 2:
            raise InputError(f"{frame.name}: {width}x{height} is too narrow to look for persons in")
        # Above a half, bilinear sampling skips no pixel, finds as many persons and takes a sixth of the time.
        interpolation = cv2.INTER_AREA if factor < 0.5 else cv2.INTER_LINEAR
        small = cv2.resize(frame.image, (new_w, new_h), interpolation=interpolation)
        blob = np.empty((1, 3, self.size, self.size), np.float32)
        for plane, channel, mean, std in zip(blob[0], cv2.split(small)[::-1], self.mean, self.std, strict=True):
            plane[new_h:] = plane[:new_h, new_w:] = np.float32(-mean) / np.float32(std)  # black
            shown = plane[:new_h, :new_w]
            np.subtract(channel, np.float32(mean), out=shown)
            shown /= np.float32(std)
        return blob, factor

    def _candidates(self, outputs: tuple[NDArray[np.float32], ...]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Boxes (M, 4) in px of the 416 input and scores (M,), from `least_score` on, from the six output arrays."""
        by_shape = {output.shape[1:]: output[0] for output in outputs}
        all_boxes, all_scores = [], []
        for stride in self.strides:
            cells = self.size // stride
            scores = by_shape[cells * cells, 80][:, 0]
            chosen = np.flatnonzero(scores >= self.least_score)
            sides = by_shape[cells * cells, 44][chosen].reshape(-1, 4, 11)
            weights = np.exp(sides - sides.max(axis=-1, keepdims=True))
            distances = (weights @ np.arange(11, dtype=np.float32)) / weights.sum(axis=-1) * stride
            x, y = (chosen % cells + 0.5) * stride, (chosen // cells + 0.5) * stride
            left, top, right, bottom = distances.T
            all_boxes.append(np.stack([x - left, y - top, x + right, y + bottom], axis=1))
            all_scores.append(scores[chosen])
        return np.concatenate(all_boxes), np.concatenate(all_scores)


def tile_windows(image_hw: tuple[int, int], tiles: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom in px of tiles x tiles parts that cover the picture; fewer where it is long and narrow.

    They overlap by `TILE_OVERLAP`, and by what is too small for the look at the whole picture: who is cut off by one
    is whole in the next.
    """
    least = TILE_SMALLEST * max(image_hw)

    def spans(length: int) -> list[tuple[int, int]]:
        size = max(length / (tiles - (tiles - 1) * TILE_OVERLAP), (length + (tiles - 1) * least) / tiles)
        if size >= length:
            return [(0, length)]
        starts = [n * (length - size) / (tiles - 1) for n in range(tiles)]
        found = [(math.floor(start), min(math.ceil(start + size), length)) for start in starts]
        return list(dict.fromkeys(found))  # few px: some are the same

    rows, columns = (spans(length) for length in image_hw)
    return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]
