"""COCO keypoint annotations of any skeleton, as compact arrays.

Coordinates are in the `image` space: px of the picture after its EXIF rotation, the centre of the top left pixel is
(0, 0). Persons are rows of arrays, not dictionaries: COCO's 150,000 training persons take about 60 MB, and worker
processes share them instead of copying them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebapose.data.coco_file import (
    SkeletonLike,
    check_visibility,
    choose_skeleton,
    find_category,
    find_images_dir,
    read_coco_json,
    read_json,
    reason,
    refuse_twice,
    whole_number,
)
from ebapose.errors import InputError
from ebapose.geometry.boxes import xywh_to_xyxy
from ebapose.skeleton import Skeleton

_LARGEST = 1e12  # px or px^2: beyond, float32 arithmetic overflows
_PER_PERSON = (
    "image_indices",
    "annotation_ids",
    "boxes_xyxy",
    "areas",
    "keypoints",
    "visibility",
    "keypoint_weights",
    "iscrowd",
    "scores",
)


@dataclass(frozen=True, eq=False)
class Record:
    """One person of a data set; coordinates in image px.

    Attributes:
        image_path: the picture.
        image_hw: its height and width as annotated.
        image_id, annotation_id: COCO ids; the annotation id of a detected box is -1.
        box_xyxy: (4,) float32, left, top, right, bottom.
        area: segment area in px^2 as annotated (the area of OKS); a detected box has its box area.
        keypoints: (K, 2) float32; (0, 0) where not labelled.
        visibility: (K,) uint8, 0 not labelled, 1 hidden, 2 visible.
        keypoint_weights: (K,) float32, how much to trust each label: 1 where labelled, 0 where not, unless given.
        iscrowd: whether the box covers a crowd instead of a person.
        num_keypoints: labelled keypoints.
        score: 1 for annotated persons, the detector's for detected boxes.
    """

    image_path: Path
    image_hw: tuple[int, int]
    image_id: int
    annotation_id: int
    box_xyxy: NDArray[np.float32]
    area: float
    keypoints: NDArray[np.float32]
    visibility: NDArray[np.uint8]
    keypoint_weights: NDArray[np.float32]
    iscrowd: bool
    num_keypoints: int
    score: float


@dataclass(frozen=True, eq=False)
class CocoKeypoints:
    """The persons of one annotation file: M images, N persons, K keypoints.

    Persons stand in the order of their images in the file, then in the order of the annotations.

    Attributes:
        skeleton: names, edges, flip pairs and sigmas of the K keypoints.
        source: the annotation file.
        category_id: the persons' category in that file.
        images_dir: folder that the file names start from.
        image_ids: (M,) int64.
        image_hw: (M, 2) int32, height and width as annotated.
        image_indices: (N,) int32, each person's row in the image arrays.
        annotation_ids: (N,) int64.
        boxes_xyxy: (N, 4) float32, image px.
        areas: (N,) float32, px^2.
        keypoints: (N, K, 2) float32, image px.
        visibility: (N, K) uint8, 0, 1 or 2.
        keypoint_weights: (N, K) float32.
        iscrowd: (N,) bool.
        scores: (N,) float32.
    """

    skeleton: Skeleton
    source: Path
    category_id: int
    images_dir: Path
    image_ids: NDArray[np.int64]
    image_hw: NDArray[np.int32]
    image_indices: NDArray[np.int32]
    annotation_ids: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float32]
    areas: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    visibility: NDArray[np.uint8]
    keypoint_weights: NDArray[np.float32]
    iscrowd: NDArray[np.bool_]
    scores: NDArray[np.float32]
    # all file names in one buffer: a list of 100,000 strings would be copied page by page into every worker
    name_buffer: bytes
    name_ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.annotation_ids)

    def __getitem__(self, index: int) -> Record:
        """Person number `index`. Raises IndexError past the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"person {index} of {len(self)}")
        row = int(self.image_indices[index])
        return Record(
            image_path=self.image_path(row),
            image_hw=(int(self.image_hw[row, 0]), int(self.image_hw[row, 1])),
            image_id=int(self.image_ids[row]),
            annotation_id=int(self.annotation_ids[index]),
            box_xyxy=self.boxes_xyxy[index],
            area=float(self.areas[index]),
            keypoints=self.keypoints[index],
            visibility=self.visibility[index],
            keypoint_weights=self.keypoint_weights[index],
            iscrowd=bool(self.iscrowd[index]),
            num_keypoints=int(np.count_nonzero(self.visibility[index])),
            score=float(self.scores[index]),
        )

    @property
    def num_images(self) -> int:
        """M."""
        return len(self.image_ids)

    def image_path(self, image_index: int) -> Path:
        """Path of image number `image_index` (a value of `image_indices`)."""
        return self.images_dir / self._file_name(image_index)

    def _file_name(self, image_index: int) -> str:
        begin = int(self.name_ends[image_index - 1]) if image_index else 0
        return self.name_buffer[begin : int(self.name_ends[image_index])].decode(errors="surrogatepass")

    def select(self, persons: NDArray[Any] | Sequence[int]) -> CocoKeypoints:
        """The chosen persons (boolean mask or indices); the images stay."""
        rows = np.asarray(persons)
        rows = rows if rows.dtype == np.bool_ else rows.astype(np.intp)
        return replace(self, **{name: getattr(self, name)[rows] for name in _PER_PERSON})

    def pictures_like(self, pattern: str) -> NDArray[np.bool_]:
        """(N,) whether the file name of each person's picture, as annotated, matches a pattern ("coco/*")."""
        fitting = np.array([fnmatchcase(self._file_name(i), pattern) for i in range(self.num_images)], bool)
        return fitting[self.image_indices]

    def persons(self) -> CocoKeypoints:
        """The persons to train on and to evaluate with ground-truth boxes, as the SimCC reference chooses them.

        Crowds, persons without a labelled keypoint, without area, or whose box is empty once clipped to the image
        are left out. Boxes are clipped: x2 = min(width - 1, x1 + w - 1), likewise y.
        """
        hw = self.image_hw[self.image_indices].astype(np.float32)
        limits = hw[:, ::-1] - 1
        top_left = np.maximum(self.boxes_xyxy[:, :2], 0)
        sizes = self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]
        bottom_right = np.minimum(limits, top_left + np.maximum(sizes - 1, 0))
        keep = (self.areas > 0) & ~self.iscrowd & self.visibility.any(axis=1) & (bottom_right >= top_left).all(axis=1)
        # the reference keeps a box of a single pixel, which has no scale
        keep &= (bottom_right > top_left).any(axis=1)
        clipped = np.concatenate([top_left, bottom_right], axis=1).astype(np.float32)
        return replace(self, boxes_xyxy=clipped).select(keep)

    def detections(self, path: str | Path, threshold: float = 0.0) -> CocoKeypoints:
        """The same images with a detector's boxes instead of the annotated persons.

        Args:
            path: JSON list of {image_id, category_id, bbox xywh, score} (COCO's result format).
            threshold: boxes with score >= threshold are kept, in file order; they are not clipped.

        Boxes of other categories than the annotations', and on images that the annotation file does not list, are left
        out.

        Raises:
            UsageError: there is no such file. InputError: it is not such a list, or no box is on a listed image.
        """
        category_id = self.category_id
        data = read_json(path)
        if not isinstance(data, list):
            raise InputError(f"{path}: expected a list of detections, found {type(data).__name__}")
        rows = {int(image_id): row for row, image_id in enumerate(self.image_ids)}
        images: list[int] = []
        boxes: list[list[float]] = []
        scores: list[float] = []
        for number, item in enumerate(data):
            try:
                if item["category_id"] != category_id:
                    continue
                box, score, row = [float(v) for v in item["bbox"]], float(item["score"]), rows.get(item["image_id"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{path}: detection {number}: {reason(error)}") from None
            if len(box) != 4 or not (np.abs(box) < _LARGEST).all() or not 0 <= score <= 1:
                raise InputError(f"{path}: detection {number}: bbox must be four finite numbers, score lie in 0..1")
            if box[2] < 0 or box[3] < 0:
                raise InputError(f"{path}: detection {number}: bbox has a negative width or height")
            if row is not None and score >= threshold:
                images.append(row)
                boxes.append(box)
                scores.append(score)
        if not images:
            raise InputError(f"{path}: no box of category {category_id} with score >= {threshold} on a listed image")
        xywh = np.array(boxes, np.float64)
        num, k = len(images), self.skeleton.num_keypoints
        return replace(
            self,
            image_indices=np.array(images, np.int32),
            annotation_ids=np.full(num, -1, np.int64),
            boxes_xyxy=xywh_to_xyxy(xywh).astype(np.float32),
            areas=np.prod(xywh[:, 2:], axis=1).astype(np.float32),
            keypoints=np.zeros((num, k, 2), np.float32),
            visibility=np.zeros((num, k), np.uint8),
            keypoint_weights=np.zeros((num, k), np.float32),
            iscrowd=np.zeros(num, np.bool_),
            scores=np.array(scores, np.float32),
        )

    @property
    def nbytes(self) -> int:
        """Memory of all arrays in bytes."""
        arrays = (getattr(self, f.name) for f in fields(self))
        return len(self.name_buffer) + sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


def load_coco(
    annotations: str | Path,
    images_dir: str | Path | None = None,
    skeleton: SkeletonLike | None = None,
    category: str | None = None,
) -> CocoKeypoints:
    """Read a COCO keypoint annotation file.

    Args:
        annotations: the JSON file.
        images_dir: folder that the file names start from; default: `find_images_dir`.
        skeleton: a `Skeleton`, the name of a known one, or a file (see `load_skeleton`); default: the category's.
        category: name of the category to read; needed only when several categories have keypoints.

    Returns:
        Every annotation of the category, crowds and unlabelled persons included: `persons()` leaves those out.

    Raises:
        UsageError: there is no such file.
        InputError: it is not COCO keypoint JSON (the message names the entry), or the skeleton's flip pairs or
            sigmas are missing or wrong.
    """
    path = Path(annotations)
    data = read_coco_json(path)
    chosen = find_category(data, path, category)
    bones = choose_skeleton(chosen, path, skeleton)

    images = data["images"]
    image_labels = [f"{path}: image {image.get('id', i)}" for i, image in enumerate(images)]
    ids = np.array([whole_number(im, "id", lb) for im, lb in zip(images, image_labels, strict=True)], np.int64)
    sizes = [
        [whole_number(image, side, label) for side in ("height", "width")]
        for image, label in zip(images, image_labels, strict=True)
    ]
    hw = np.array(sizes, np.int64).reshape(-1, 2)
    for wrong in np.flatnonzero(((hw < 1) | (hw > 2**30)).any(axis=1)):
        raise InputError(f"{path}: image {ids[wrong]}: height and width must lie in 1..{2**30}")
    file_names: list[bytes] = []
    for image_id, image in zip(ids, images, strict=True):
        name = image.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise InputError(f"{path}: image {image_id}: file_name is missing or not a text")
        file_names.append(name.encode(errors="surrogatepass"))
    row_of = {int(image_id): row for row, image_id in enumerate(ids)}
    refuse_twice(ids.tolist(), path, "images")

    people = [a for a in data["annotations"] if a.get("category_id") == chosen["id"]]
    rows = []
    for number, person in enumerate(people):
        label = f"{path}: annotation {person.get('id', number)}"
        image_id = whole_number(person, "image_id", label)
        if image_id not in row_of:
            raise InputError(f"{label}: image {image_id} is not listed")
        rows.append(row_of[image_id])
    order = np.argsort(np.array(rows, np.int32), kind="stable")
    people = [people[i] for i in order]
    annotation_ids = [
        whole_number(person, "id", f"{path}: annotation {person.get('id', number)}")
        for number, person in enumerate(people)
    ]
    refuse_twice(annotation_ids, path, "annotations")

    k = bones.num_keypoints
    triples = _numbers(people, "keypoints", 3 * k, path, default=[0.0] * (3 * k)).reshape(-1, k, 3)
    visibility = triples[..., 2]
    check_visibility(visibility, lambda row: f"{path}: annotation {annotation_ids[row]}")
    labelled = visibility > 0
    # absent weights mean full trust; given ones never count where nothing is labelled
    weights = _numbers(people, "keypoint_weights", k, path, default=[1.0] * k) * labelled
    for wrong in np.flatnonzero((weights < 0).any(axis=1)):
        raise InputError(f"{path}: annotation {annotation_ids[wrong]}: keypoint_weights must not be negative")
    return CocoKeypoints(
        skeleton=bones,
        source=path,
        category_id=chosen["id"],
        images_dir=find_images_dir(path, images[0]["file_name"] if images else "")
        if images_dir is None
        else Path(images_dir),
        image_ids=ids,
        image_hw=hw.astype(np.int32),
        image_indices=np.array(rows, np.int32)[order],
        annotation_ids=np.array(annotation_ids, np.int64),
        boxes_xyxy=xywh_to_xyxy(_numbers(people, "bbox", 4, path)).astype(np.float32),
        areas=_numbers(people, "area", None, path).astype(np.float32),
        keypoints=(triples[..., :2] * labelled[..., None]).astype(np.float32),
        visibility=visibility.astype(np.uint8),
        keypoint_weights=weights.astype(np.float32),
        iscrowd=_numbers(people, "iscrowd", None, path, default=0) != 0,
        scores=np.ones(len(people), np.float32),
        name_buffer=b"".join(file_names),
        name_ends=np.cumsum([len(name) for name in file_names], dtype=np.int64),
    )


def _numbers(
    entries: Sequence[Mapping[str, Any]], key: str, length: int | None, path: Path, default: Any = None
) -> NDArray[np.float64]:
    """(N,) or (N, length) finite numbers of one key; InputError names the first annotation that has something else."""
    values = [entry.get(key, default) for entry in entries]
    shape = (len(values),) if length is None else (len(values), length)
    try:
        array = np.array(values, np.float64).reshape(shape)
        if (np.abs(array) < _LARGEST).all():  # also refuses NaN
            return array
    except (TypeError, ValueError, OverflowError):
        pass
    for number, value in enumerate(values):
        try:
            one = np.array(value, np.float64)
            good = one.shape == shape[1:] and bool((np.abs(one) < _LARGEST).all())
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            wanted = "a finite number" if length is None else f"{length} finite numbers"
            found = "missing" if value is None else f"not {wanted}"
            raise InputError(f"{path}: annotation {entries[number].get('id', number)}: {key} is {found}")
    raise InputError(f"{path}: annotations: {key} cannot be read")
