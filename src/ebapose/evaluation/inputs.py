"""What evaluation reads: annotated persons and predicted poses, as plain arrays in float64.

Both come from COCO's two JSON formats (annotations, results), as files or as the same data in memory. Two keys of
ours may stand in a result besides COCO's: `annotation_id`, the person whose ground-truth box was given to the
network, and `keypoint_sigmas`, 2K standard deviations x1, y1, x2, y2, ... in image px. All coordinates are in image px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.data.coco_file import category_skeleton, find_category, read_coco_json, read_json
from ebapose.errors import InputError
from ebapose.skeleton import COCO17, Skeleton

FloatArray = NDArray[np.float64]
NO_ANNOTATION = -1


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotated persons of one category: N persons, K keypoints.

    Attributes:
        name: what a person calls the set (file name).
        skeleton: names, pairs and sigmas.
        category_id: of the persons.
        image_ids: (I,) int64, every picture of the set, those without persons included.
        file_names: picture id -> file name ("" where the set gives none).
        ids: (N,) int64 annotation ids.
        person_image_ids: (N,) int64.
        keypoints: (N, K, 2); visibility: (N, K) 0, 1 or 2.
        boxes_xywh: (N, 4).
        areas: (N,) segment areas in px^2.
        iscrowd: (N,) bool.
        num_keypoints: (N,) labelled keypoints, as the file says; counted where it does not.
    """

    name: str
    skeleton: Skeleton
    category_id: int
    image_ids: NDArray[np.int64]
    file_names: Mapping[int, str]
    ids: NDArray[np.int64]
    person_image_ids: NDArray[np.int64]
    keypoints: FloatArray
    visibility: NDArray[np.int64]
    boxes_xywh: FloatArray
    areas: FloatArray
    iscrowd: NDArray[np.bool_]
    num_keypoints: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(N, K) where a keypoint is annotated, hidden ones included."""
        return self.visibility > 0

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(N,) persons that COCO counts: not a crowd, at least one labelled keypoint. The others are only ignored."""
        return ~self.iscrowd & (self.num_keypoints > 0)

    def of_images(self, image_ids: ArrayLike) -> Annotations:
        """The same set with some of its pictures only."""
        wanted = np.unique(np.asarray(image_ids, np.int64))
        rows = np.isin(self.person_image_ids, wanted)
        per_person = {f.name: getattr(self, f.name)[rows] for f in fields(self)[5:]}
        return replace(self, image_ids=self.image_ids[np.isin(self.image_ids, wanted)], **per_person)


@dataclass(frozen=True, eq=False)
class Results:
    """Predicted poses of a data set: N poses, K keypoints.

    Attributes:
        image_ids: (N,) int64.
        keypoints: (N, K, 2).
        keypoint_scores: (N, K).
        scores: (N,) score of each pose; decides the order in which AP looks at them.
        sigmas_px: (N, K, 2) standard deviations, NaN where unknown; None if no pose has any.
        annotation_ids: (N,) int64, the person whose box was given, NO_ANNOTATION where none; None if no pose has one.
    """

    image_ids: NDArray[np.int64]
    keypoints: FloatArray
    keypoint_scores: FloatArray
    scores: FloatArray
    sigmas_px: FloatArray | None = None
    annotation_ids: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, rows: NDArray[Any]) -> Results:
        """The chosen poses (boolean mask or indices)."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: array[rows] for name, array in arrays.items() if array is not None})

    def to_json(self, category_id: int = 1, decimals: int = 3) -> list[dict[str, Any]]:
        """Entries of a COCO results file, with our extra keys where known; px rounded to `decimals`, scores to 5."""
        triples = np.concatenate([self.keypoints.round(decimals), self.keypoint_scores[..., None].round(5)], axis=-1)
        entries = []
        for i, (image_id, score) in enumerate(zip(self.image_ids.tolist(), self.scores.round(5).tolist(), strict=True)):
            entry: dict[str, Any] = {"image_id": image_id, "category_id": category_id}
            entry |= {"keypoints": triples[i].ravel().tolist(), "score": score}
            if self.annotation_ids is not None and self.annotation_ids[i] != NO_ANNOTATION:
                entry["annotation_id"] = int(self.annotation_ids[i])
            if self.sigmas_px is not None and np.isfinite(self.sigmas_px[i]).all():
                entry["keypoint_sigmas"] = self.sigmas_px[i].round(decimals).ravel().tolist()
            entries.append(entry)
        return entries


def read_annotations(
    source: str | Path | Mapping[str, Any], skeleton: Skeleton | None = None, category: str | None = None
) -> Annotations:
    """Read a COCO keypoint annotation file (or the same as a dict).

    Args:
        source: file, or its content.
        skeleton: default: the category's own (see `ebapose.data.coco`).
        category: name; needed only when several categories have keypoints.

    Raises:
        InputError: not COCO keypoint annotations; the message names the entry.
    """
    if isinstance(source, Mapping):
        where, data = "annotations", source
        for key in ("images", "annotations", "categories"):
            if not isinstance(data.get(key), list):
                raise InputError(f"{where}: not COCO keypoint annotations: {key!r} is missing or not a list")
    else:
        where, data = Path(source).name, read_coco_json(source)
    chosen = find_category(data, where, category)
    bones = skeleton or _skeleton_of(chosen, where)
    k = bones.num_keypoints

    file_names: dict[int, str] = {}
    for number, image in enumerate(data["images"]):
        file_names[_id(image, "id", f"{where}: image {number}")] = str(image.get("file_name", ""))
    people = [a for a in data["annotations"] if a.get("category_id") == chosen["id"]]
    labels = [f"{where}: annotation {person.get('id', number)}" for number, person in enumerate(people)]
    image_ids = [_id(person, "image_id", label) for person, label in zip(people, labels, strict=True)]
    for image_id, label in zip(image_ids, labels, strict=True):
        if image_id not in file_names:
            raise InputError(f"{label}: image {image_id} is not listed")
    triples = _table([p.get("keypoints", [0] * 3 * k) for p in people], 3 * k, "keypoints", labels).reshape(-1, k, 3)
    visibility = triples[..., 2].astype(np.int64)
    counted = [p.get("num_keypoints", int(n)) for p, n in zip(people, (visibility > 0).sum(axis=1), strict=True)]
    return Annotations(
        name=where,
        skeleton=bones,
        category_id=int(chosen["id"]),
        image_ids=np.array(list(file_names), np.int64),
        file_names=file_names,
        ids=np.array([_id(p, "id", label) for p, label in zip(people, labels, strict=True)], np.int64),
        person_image_ids=np.array(image_ids, np.int64),
        keypoints=triples[..., :2],
        visibility=visibility,
        boxes_xywh=_table([p.get("bbox") for p in people], 4, "bbox", labels),
        areas=_table([[p.get("area")] for p in people], 1, "area", labels)[:, 0],
        iscrowd=np.array([bool(p.get("iscrowd", 0)) for p in people], bool),
        num_keypoints=np.array(counted, np.int64),
    )


def read_results(source: str | Path | Sequence[Mapping[str, Any]], annotations: Annotations) -> Results:
    """Read a COCO results file (or the same as a list of dicts) of any tool.

    Results of other categories are left out. A `bbox` in a result is not used: poses have no box in COCO's protocol.

    Raises:
        InputError: not a results list, an unknown picture, or a wrong number of keypoints; the message names the entry.
    """
    if isinstance(source, str | Path):
        where, data = Path(source).name, read_json(source)
    else:
        where, data = "results", source
    if not isinstance(data, Sequence) or isinstance(data, str):
        found = "an annotation file?" if isinstance(data, dict) and "annotations" in data else type(data).__name__
        raise InputError(f"{where}: not COCO results: expected a list, found {found}")
    for number, entry in enumerate(data):
        if not isinstance(entry, Mapping):
            raise InputError(f"{where}: result {number}: expected an object, found {type(entry).__name__}")
    numbers = [
        i for i, e in enumerate(data) if e.get("category_id", annotations.category_id) == annotations.category_id
    ]
    entries, labels = [data[i] for i in numbers], [f"{where}: result {i}" for i in numbers]
    k = annotations.skeleton.num_keypoints

    image_ids = [_id(entry, "image_id", label) for entry, label in zip(entries, labels, strict=True)]
    known = set(annotations.image_ids.tolist())
    for image_id, label in zip(image_ids, labels, strict=True):
        if image_id not in known:
            raise InputError(f"{label}: image {image_id} is not in {annotations.name}")
    triples = _table([e.get("keypoints") for e in entries], 3 * k, "keypoints", labels).reshape(-1, k, 3)
    scores = _table([[e.get("score")] for e in entries], 1, "score", labels)[:, 0]

    sigmas = None
    having = [i for i, e in enumerate(entries) if e.get("keypoint_sigmas") is not None]
    if having:
        given = [entries[i]["keypoint_sigmas"] for i in having]
        sigmas = np.full((len(entries), k, 2), np.nan)
        sigmas[having] = _table(given, 2 * k, "keypoint_sigmas", [labels[i] for i in having]).reshape(-1, k, 2)
        negative = np.flatnonzero((sigmas < 0).any(axis=(1, 2)))
        if negative.size:
            raise InputError(f"{labels[negative[0]]}: keypoint_sigmas must not be negative")

    owners = None
    if any("annotation_id" in e for e in entries):
        image_of = dict(zip(annotations.ids.tolist(), annotations.person_image_ids.tolist(), strict=True))
        owners = np.full(len(entries), NO_ANNOTATION, np.int64)
        for i, entry in enumerate(entries):
            if "annotation_id" in entry:
                owner = _id(entry, "annotation_id", labels[i])
                if image_of.get(owner) != image_ids[i]:
                    raise InputError(f"{labels[i]}: annotation {owner} is not on image {image_ids[i]}")
                owners[i] = owner
    return Results(np.array(image_ids, np.int64), triples[..., :2], triples[..., 2], scores, sigmas, owners)


def _skeleton_of(category: Mapping[str, Any], where: str) -> Skeleton:
    # COCO's own person category is sometimes stripped to its id and name
    if not category.get("keypoints") and category.get("name") == "person" and not category.get("sigmas"):
        return COCO17
    return category_skeleton(category, where)


def _id(entry: Mapping[str, Any], key: str, label: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{label}: {key} is {'missing' if value is None else 'not a whole number'}")
    return int(value)


def _table(rows: list[Any], width: int, what: str, labels: list[str]) -> FloatArray:
    """(N, width) float64; InputError names the first row that is not `width` finite numbers."""
    try:
        table = np.array(rows, np.float64).reshape(len(rows), width)
    except (TypeError, ValueError):
        table = None
    if table is not None and np.isfinite(table).all():
        return table
    for row, label in zip(rows, labels, strict=True):
        if row is None or (width == 1 and row[0] is None):
            raise InputError(f"{label}: {what} is missing")
        try:
            values = np.array(row, np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{label}: {what} must be numbers") from None
        if values.shape != (width,):
            keypoints = f" ({width // 3} keypoints)" if what == "keypoints" else ""
            raise InputError(f"{label}: {what} has {values.size} numbers, expected {width}{keypoints}")
        if not np.isfinite(values).all():
            raise InputError(f"{label}: {what} must be finite numbers")
    raise InputError(f"{labels[0]}: {what} cannot be read")
