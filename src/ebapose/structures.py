"""The result types that flow through the package: frozen, validated, with documented shapes.

Coordinates are in the `image` space: px of the picture as a person sees it (after EXIF rotation), the centre of the
top left pixel is (0, 0). Pictures are RGB uint8 (H, W, 3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.errors import InputError
from ebapose.skeleton import Skeleton

Float32Array = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]


def _as_float32(values: ArrayLike, shape: tuple[int | None, ...], what: str) -> Float32Array:
    """Read-only float32 copy of the given shape (None: any length). Raises InputError when it does not fit."""
    try:
        array = np.array(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what}: expected an array of numbers") from None
    if array.shape == (0,) and not shape[0]:  # an empty list
        array = array.reshape(0, *(n or 0 for n in shape[1:]))
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"{what}: shape {array.shape}, expected ({wanted})")
    array.flags.writeable = False
    return array


def _as_boxes(values: ArrayLike) -> Float32Array:
    """(N, 4) of one box, several or none. Raises InputError."""
    try:
        rows: ArrayLike = np.atleast_2d(values) if np.size(values) else []
    except ValueError:  # of different lengths
        raise InputError("boxes: four numbers each expected") from None
    return _as_float32(rows, (None, 4), "boxes")


def _as_index(index: ArrayLike | slice) -> NDArray[np.generic] | slice:
    if isinstance(index, slice):
        return index
    array = np.atleast_1d(np.asarray(index))
    return array if array.size else array.astype(np.intp)


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture on its way through the corridor.

    Attributes:
        image: RGB uint8 (H, W, 3).
        name: what a person calls it: the path of the picture or of the video.
        index: frame number in a video or sequence, 0 for a photograph.
        time_s: time stamp in s, None for a photograph.
        stem: where its outputs go: a relative path without suffix, unique within a run ("" means: take the name's).
    """

    image: UInt8Array
    name: str = "image"
    index: int = 0
    time_s: float | None = None
    stem: str = ""

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f"{self.name}: expected an RGB uint8 array (H, W, 3), got {found}")
        if 0 in image.shape:
            raise InputError(f"{self.name}: the picture has no pixels ({image.shape[1]}x{image.shape[0]})")

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Person boxes of one picture.

    Attributes:
        xyxy: (N, 4) float32, left, top, right, bottom edges in image px.
        scores: (N,) float32 in 0..1; 1 for given boxes without a score.
    """

    xyxy: Float32Array
    scores: Float32Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "xyxy", _as_float32(self.xyxy, (None, 4), "boxes"))
        object.__setattr__(self, "scores", _as_float32(self.scores, (len(self.xyxy),), "box scores"))
        if not np.isfinite(self.xyxy).all():
            raise InputError("boxes: coordinates must be finite")
        wrong = (self.xyxy[:, 2:] < self.xyxy[:, :2]).any(axis=1)
        if wrong.any():
            found = ", ".join(f"{value:g}" for value in self.xyxy[wrong.argmax()])
            raise InputError(f"boxes: ({found}) is no left, top, right, bottom: right < left or bottom < top")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise InputError("box scores must lie in 0..1")

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, index: ArrayLike | slice) -> Boxes:
        """The chosen boxes (slice, boolean mask or index list), as `Boxes`."""
        index = _as_index(index)
        return Boxes(self.xyxy[index], self.scores[index])

    @classmethod
    def from_xyxy(cls, xyxy: ArrayLike, scores: ArrayLike | None = None) -> Boxes:
        """Boxes from (N, 4) corners; scores default to 1."""
        corners = _as_boxes(xyxy)
        found = np.ones(len(corners)) if scores is None else scores
        return cls(corners, _as_float32(found, (None,), "box scores"))

    @classmethod
    def from_xywh(cls, xywh: ArrayLike, scores: ArrayLike | None = None) -> Boxes:
        """Boxes from COCO's (N, 4) left, top, width, height; scores default to 1."""
        boxes = _as_boxes(xywh)
        return cls.from_xyxy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), scores)

    @property
    def xywh(self) -> Float32Array:
        """(N, 4) left, top, width, height in image px."""
        return np.concatenate([self.xyxy[:, :2], self.xyxy[:, 2:] - self.xyxy[:, :2]], axis=1)


@dataclass(frozen=True, eq=False)
class Poses:
    """All poses of one picture.

    Attributes:
        keypoints: (N, K, 2) float32, x and y in image px. They may lie outside the picture.
        scores: (N, K) float32 in 0..1, the probability that the keypoint is right, meaning within an OKS of 0.5 of the
            truth (see `codecs`).
        sigmas_px: (N, K, 2) float32, standard deviation of x and y in image px; NaN where a model predicts none.
        boxes: the N person boxes that the poses were found in.
        skeleton: names, edges, pairs and OKS sigmas of the K keypoints.
        model: id of the model, e.g. "eba_prnetcc18_256x192".
        image_hw: height and width of the picture in px.
        track_ids: (N,) int64 identities over time, None for photographs.
    """

    keypoints: Float32Array
    scores: Float32Array
    sigmas_px: Float32Array
    boxes: Boxes
    skeleton: Skeleton
    model: str
    image_hw: tuple[int, int]
    track_ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        num, k = len(self.boxes), self.skeleton.num_keypoints
        object.__setattr__(self, "keypoints", _as_float32(self.keypoints, (num, k, 2), "keypoints"))
        object.__setattr__(self, "scores", _as_float32(self.scores, (num, k), "keypoint scores"))
        object.__setattr__(self, "sigmas_px", _as_float32(self.sigmas_px, (num, k, 2), "keypoint sigmas"))
        if not np.isfinite(self.keypoints).all():
            raise InputError("keypoints: coordinates must be finite")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise InputError("keypoint scores must lie in 0..1")
        if self.track_ids is not None:
            if np.shape(self.track_ids) != (num,):
                raise InputError(f"track_ids: shape {np.shape(self.track_ids)}, expected ({num},)")
            track_ids = np.array(self.track_ids, dtype=np.int64)
            track_ids.flags.writeable = False
            object.__setattr__(self, "track_ids", track_ids)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: ArrayLike | slice) -> Poses:
        """The chosen persons (slice, boolean mask or index list), as `Poses`."""
        index = _as_index(index)
        return replace(
            self,
            keypoints=self.keypoints[index],
            scores=self.scores[index],
            sigmas_px=self.sigmas_px[index],
            boxes=self.boxes[index],
            track_ids=None if self.track_ids is None else self.track_ids[index],
        )

    @property
    def pose_scores(self) -> Float32Array:
        """(N,) box score times the mean keypoint score: how much to trust each person, 0..1."""
        return (self.boxes.scores * self.scores.mean(axis=1)).astype(np.float32)

    @classmethod
    def empty(cls, skeleton: Skeleton, model: str, image_hw: tuple[int, int]) -> Poses:
        """No person found."""
        k = skeleton.num_keypoints
        return cls(
            np.zeros((0, k, 2), np.float32),
            np.zeros((0, k), np.float32),
            np.zeros((0, k, 2), np.float32),
            Boxes.from_xyxy([]),
            skeleton,
            model,
            image_hw,
        )


ImageLike = Frame | UInt8Array
