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
from numpy.typing import NDArray

from ebapose.data.coco_file import (
    SkeletonLike,
    check_frame,
    check_visibility,
    choose_skeleton,
    find_category,
    read_json,
    refuse_twice,
    whole_number,
)
from ebapose.errors import InputError
from ebapose.skeleton import Skeleton

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
        head_sizes: (N,) px, `head_size` of the annotations (what MPII's PCKh is relative to), NaN where one has none;
            None if no annotation has any.
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
    head_sizes: FloatArray | None = None

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
    source: str | Path | Mapping[str, Any], skeleton: SkeletonLike | None = None, category: str | None = None
) -> Annotations:
    """Read a COCO keypoint annotation file (or the same as a dict).

    Args:
        source: file, or its content.
        skeleton: as for `ebapose.data.coco.load_coco`; default: the category's own.
        category: name; needed only when several categories have keypoints.

    Raises:
        UsageError: there is no such file.
        InputError: not COCO keypoint annotations; the message names the entry.
    """
    if isinstance(source, Mapping):
        where, data = "annotations", source
    else:
        where, data = Path(source).name, read_json(source)
    check_frame(data, where)
    chosen = find_category(data, where, category)
    bones = choose_skeleton(chosen, where, skeleton)
    k = bones.num_keypoints

    images = data["images"]
    known_ids = [whole_number(image, "id", f"{where}: image {number}") for number, image in enumerate(images)]
    refuse_twice(known_ids, where, "images")
    file_names = {i: str(image.get("file_name", "")) for i, image in zip(known_ids, images, strict=True)}
    people = [a for a in data["annotations"] if a.get("category_id") == chosen["id"]]
    labels = [f"{where}: annotation {person.get('id', number)}" for number, person in enumerate(people)]
    ids = [whole_number(person, "id", label) for person, label in zip(people, labels, strict=True)]
    refuse_twice(ids, where, "annotations")
    image_ids = [whole_number(person, "image_id", label) for person, label in zip(people, labels, strict=True)]
    for image_id, label in zip(image_ids, labels, strict=True):
        if image_id not in file_names:
            raise InputError(f"{label}: image {image_id} is not listed")
    triples = _table([p.get("keypoints", [0] * 3 * k) for p in people], 3 * k, "keypoints", labels).reshape(-1, k, 3)
    check_visibility(triples[..., 2], labels.__getitem__)
    visibility = triples[..., 2].astype(np.int64)
    labelled = (visibility > 0).sum(axis=1).tolist()
    counted = [
        number if person.get("num_keypoints") is None else whole_number(person, "num_keypoints", label)
        for person, number, label in zip(people, labelled, labels, strict=True)
    ]
    having = [i for i, person in enumerate(people) if person.get("head_size") is not None]
    head_sizes = None
    if having:
        head_sizes = np.full(len(people), np.nan)
        given = [[people[i]["head_size"]] for i in having]
        head_sizes[having] = _table(given, 1, "head_size", [labels[i] for i in having])[:, 0]
        head_sizes[head_sizes <= 0] = np.nan  # nothing can be relative to it
    areas = _table([[p.get("area")] for p in people], 1, "area", labels)[:, 0]
    return Annotations(
        name=where,
        skeleton=bones,
        category_id=chosen["id"],
        image_ids=np.array(list(file_names), np.int64),
        file_names=file_names,
        ids=np.array(ids, np.int64),
        person_image_ids=np.array(image_ids, np.int64),
        keypoints=triples[..., :2],
        visibility=visibility,
        boxes_xywh=_table([p.get("bbox") for p in people], 4, "bbox", labels),
        areas=np.maximum(areas, 0),  # some write -1 where it is not known; nobody of no area can be found
        iscrowd=_table([[p.get("iscrowd", 0)] for p in people], 1, "iscrowd", labels)[:, 0] != 0,
        num_keypoints=np.array(counted, np.int64),
        head_sizes=head_sizes,
    )


def read_results(source: str | Path | Sequence[Mapping[str, Any]], annotations: Annotations) -> Results:
    """Read a COCO results file (or the same as a list of dicts) of any tool.

    Results of other categories are left out. A `bbox` in a result is not used: poses have no box in COCO's protocol.
    An empty list is one of a tool that found nobody.

    Raises:
        UsageError: there is no such file.
        InputError: not a results list, none of the annotations' category, an unknown picture, or a wrong number of
            keypoints; the message names the entry.
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
    if data and not numbers:
        found = ", ".join(dict.fromkeys(str(entry["category_id"]) for entry in data))
        raise InputError(f"{where}: no result of category {annotations.category_id} (found: {found:.80})")
    entries, labels = [data[i] for i in numbers], [f"{where}: result {i}" for i in numbers]
    k = annotations.skeleton.num_keypoints

    image_ids = [whole_number(entry, "image_id", label) for entry, label in zip(entries, labels, strict=True)]
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
                owner = whole_number(entry, "annotation_id", labels[i])
                if image_of.get(owner) != image_ids[i]:
                    raise InputError(f"{labels[i]}: annotation {owner} is not on image {image_ids[i]}")
                owners[i] = owner
    return Results(np.array(image_ids, np.int64), triples[..., :2], triples[..., 2], scores, sigmas, owners)


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
        if values.ndim != 1:
            raise InputError(f"{label}: {what} must be a plain list of {width} numbers")
        if values.shape != (width,):
            keypoints = f" ({width // 3} keypoints)" if what == "keypoints" else ""
            raise InputError(f"{label}: {what} has {values.size} numbers, expected {width}{keypoints}")
        if not np.isfinite(values).all():
            raise InputError(f"{label}: {what} must be finite numbers")
    raise InputError(f"{labels[0]}: {what} cannot be read")
