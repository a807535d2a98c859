"""YOLO-pose labels to COCO keypoint JSON."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ebapose.config import load_yaml
from ebapose.data.coco_file import SkeletonLike, load_skeleton, reason
from ebapose.data.coco_writer import CocoWriter, Converted
from ebapose.errors import InputError
from ebapose.io.pictures import PICTURE_SUFFIXES
from ebapose.skeleton import COCO17, Skeleton


def yolo_to_coco(
    data_yaml: str | Path, out: str | Path, split: str = "train", skeleton: SkeletonLike | None = None
) -> Converted:
    """YOLO-pose: `data.yaml` with kpt_shape and flip_idx, one text file of normalised numbers per picture.

    Without visibility (kpt_shape [K, 2]) a keypoint at (0, 0) counts as not labelled, any other as visible. Labels of
    other classes than the person are left out: the person is the class called so, the only class, or class 0 where
    `names` says nothing.

    Args:
        data_yaml: names the folders (`path`, `train`, `val`) and the keypoints.
        out: the COCO JSON to write.
        split: key of data.yaml: train, val or test. Its value: a folder, a .txt list of pictures, or a list of those.
        skeleton: needed unless kpt_shape and flip_idx are those of COCO-17, because the format has no OKS sigmas.

    Raises:
        InputError: something is missing, contradicts itself, or a label file is not of this format.
    """
    data = load_yaml(data_yaml)
    bones, dimensions = _yolo_skeleton(data, data_yaml, skeleton)
    person = _yolo_person(data.get("names"), data_yaml)
    if data.get(split) is None:
        raise InputError(f"{data_yaml}: no {split!r}")
    root = Path(data_yaml).parent / str(data.get("path") or "")
    if not root.is_dir():  # `path` is often relative to somebody else's folder
        root = Path(data_yaml).parent
    writer = CocoWriter(data_yaml, root, out, bones)
    others: Counter[str] = Counter()
    for picture in _yolo_pictures(data[split], root, data_yaml):
        image_id = writer.image(os.path.relpath(picture, root))
        labels = _yolo_label_path(picture)
        if image_id is None or not labels.is_file():  # a picture without people has no label file
            continue
        width, height = writer.size_wh(image_id)
        for number, line in enumerate(_lines(labels), 1):
            if not line.strip():
                continue
            if _is_other_class(line.split()[0], person):
                others[line.split()[0]] += 1
                continue
            try:
                values = np.array(line.split(), np.float64)
                points = values[5:].reshape(bones.num_keypoints, dimensions)
            except ValueError:
                values = np.array([np.nan])
                points = values
            if not np.isfinite(values).all():
                wanted = 5 + bones.num_keypoints * dimensions
                raise InputError(f"{labels}: line {number}: expected {wanted} numbers, as kpt_shape says")
            x, y, w, h = values[1:5] * (width, height, width, height)
            visibility = points[:, 2] if dimensions == 3 else np.where((points[:, :2] != 0).any(axis=1), 2, 0)
            box = [x - w / 2, y - h / 2, w, h]
            where = f"{labels}: line {number}"
            writer.person(image_id, points[:, :2] * (width, height), visibility, box_xywh=box, label=where)
    if others:  # first: it concerns more than one picture
        found = ", ".join(f"{count} of class {name}" for name, count in others.most_common(10))
        writer.skipped.insert(0, f"labels of other classes than the person's, {person}: {found}")
    return writer.finish()


def _yolo_person(names: Any, where: str | Path) -> int:
    """Number of the class that is a person."""
    if not names:
        return 0
    listed = dict(names) if isinstance(names, Mapping) else dict(enumerate(names)) if isinstance(names, list) else {}
    called = [number for number, name in listed.items() if str(name).lower() == "person"] or list(listed)
    if len(called) != 1 or not isinstance(called[0], int):
        raise InputError(
            f"{where}: names ({', '.join(map(str, listed.values())):.80}) do not tell which class is a person"
        )
    return called[0]


def _is_other_class(word: str, person: int) -> bool:
    try:
        return float(word) != person
    except ValueError:  # no number at all: a broken line, which is refused
        return False


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file ({reason(error)})") from None


def _yolo_skeleton(data: Mapping[str, Any], where: str | Path, given: SkeletonLike | None) -> tuple[Skeleton, int]:
    try:
        num, dimensions = (int(n) for n in data["kpt_shape"])
        flip_idx = [int(i) for i in data["flip_idx"]]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{where}: kpt_shape ([K, 2] or [K, 3]) and flip_idx (K numbers) needed") from None
    if dimensions not in (2, 3):
        raise InputError(f"{where}: kpt_shape {data['kpt_shape']}: the second number must be 2 or 3")
    if given is None:
        if flip_idx != COCO17.flip_indices.tolist():
            raise InputError(f"{where}: not COCO's 17 keypoints, and the format has no OKS sigmas: pass a skeleton")
        given = COCO17
    bones = load_skeleton(given)
    if num != bones.num_keypoints or flip_idx != bones.flip_indices.tolist():
        raise InputError(f"{where}: kpt_shape and flip_idx disagree with skeleton {bones.name}")
    return bones, dimensions


def _yolo_pictures(value: Any, root: Path, where: str | Path) -> list[Path]:
    pictures: list[Path] = []
    for entry in value if isinstance(value, list) else [value]:
        place = root / str(entry)
        if place.is_dir():
            pictures += sorted(p for p in place.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
        elif place.is_file():
            pictures += [root / line.strip() for line in _lines(place) if line.strip()]
        else:
            raise InputError(f"{where}: {place} is neither a folder nor a list of pictures")
    return pictures


def _yolo_label_path(picture: Path) -> Path:
    """Labels lie beside `images`, in `labels`: the last folder of that name is exchanged."""
    parts = list(picture.parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")
