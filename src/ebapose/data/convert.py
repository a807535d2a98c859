"""Other data sets to COCO keypoint JSON: LSP and LSP-Extended, MPII, CrowdPose, YOLO-pose.

File names in the result are relative to the folder of the result, so that `load_coco` finds the pictures by itself.
A picture that cannot be read is left out and named in `Converted.skipped`.

What the originals do not have is filled in the same way everywhere: a box is the labelled keypoints' extent, padded by
10 % on each side and clipped to the picture; an area is 0.53 times that of the box, the usual stand-in for a segment.

Adding a new format: a function that makes a `_Writer` and calls `image`, `person` and `finish`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.atomic import write_text
from ebapose.data.coco_file import SkeletonLike, load_skeleton, read_coco_json, read_json
from ebapose.errors import InputError, MissingDependencyError, UsageError
from ebapose.io.pictures import read_image
from ebapose.skeleton import COCO17, CROWDPOSE14, LSP14, MPII16, Skeleton

BOX_PADDING = 0.1
AREA_OF_BOX = 0.53


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        path: the COCO JSON.
        num_images, num_persons: entries in it.
        skipped: why each picture was left out, one line each.
    """

    path: Path
    num_images: int
    num_persons: int
    skipped: tuple[str, ...]


def lsp_to_coco(joints_mat: str | Path, images_dir: str | Path, out: str | Path) -> Converted:
    """Leeds Sports Pose (`joints` of 3 x 14 x N) or its Extended training set (14 x 3 x N).

    The flag of LSP says 1 for hidden joints; that of LSP-Extended 1 for labelled ones. Pictures are `im0001.jpg` and
    `im00001.jpg`. Coordinates stay as they are in the file.

    Raises:
        InputError: not such a file, or no picture is found. MissingDependencyError: scipy is not installed.
    """
    joints = _load_mat(joints_mat).get("joints")
    if not isinstance(joints, np.ndarray) or joints.ndim != 3 or joints.shape[:2] not in ((3, 14), (14, 3)):
        shape = getattr(joints, "shape", "nothing")
        raise InputError(
            f"{joints_mat}: expected joints of 3 x 14 x N (LSP) or 14 x 3 x N (LSP-Extended), found {shape}"
        )
    extended = joints.shape[0] == 14
    people = joints.transpose(2, 0, 1) if extended else joints.transpose(2, 1, 0)
    writer = _Writer(joints_mat, images_dir, out, LSP14)
    for number, person in enumerate(people.astype(np.float64), 1):
        image_id = writer.image(f"im{number:05d}.jpg" if extended else f"im{number:04d}.jpg")
        flag = person[:, 2]
        visibility = np.where(flag > 0, 2, 0) if extended else np.where(flag > 0, 1, 2)
        writer.person(image_id, person[:, :2], visibility)
    return writer.finish()


def mpii_to_coco(
    annotations: str | Path, images_dir: str | Path, out: str | Path, split: Literal["train", "all"] = "train"
) -> Converted:
    """MPII Human Pose, the released `.mat` or the JSON list that many repositories use.

    MATLAB counts pixels from 1; the result counts from 0. From the `.mat`, each annotation also gets `head_size`, the
    0.6 times the head rectangle's diagonal that PCKh is relative to.

    Args:
        annotations: `mpii_human_pose_v1_u12_1.mat`, or a JSON list of {image, joints, joints_vis}.
        images_dir: folder of the pictures.
        out: the COCO JSON to write.
        split: pictures of the `.mat` to take: those for training, or all that have labels.

    Raises:
        InputError: not such a file, or no picture is found. MissingDependencyError: scipy is not installed.
    """
    writer = _Writer(annotations, images_dir, out, MPII16)
    if Path(annotations).suffix.lower() == ".json":
        entries = read_json(annotations)
        if not isinstance(entries, list):
            raise InputError(f"{annotations}: expected a list of persons, found {type(entries).__name__}")
        for number, entry in enumerate(entries):
            try:
                points = np.array(entry["joints"], np.float64).reshape(16, 2)
                seen = np.array(entry["joints_vis"], np.float64).reshape(16) > 0
                name = str(entry["image"])
            except (KeyError, TypeError, ValueError):
                raise InputError(f"{annotations}: person {number}: image, joints (16 x 2), joints_vis needed") from None
            # absent joints stand at (-1, -1) or (0, 0)
            visibility = np.where(seen, 2, np.where((points > 0).all(axis=1), 1, 0))
            writer.person(writer.image(name), points - 1, visibility)
        return writer.finish()

    release: Any = _load_mat(annotations, squeeze=True).get("RELEASE")
    if not hasattr(release, "annolist") or not hasattr(release, "img_train"):
        raise InputError(f"{annotations}: no RELEASE with annolist and img_train: not the MPII release file")
    for picture, training in zip(_many(release.annolist), np.atleast_1d(release.img_train), strict=True):
        if split == "train" and not training:
            continue
        for rect in _many(getattr(picture, "annorect", None)):
            points, visibility = _mpii_points(rect)
            if not visibility.any():
                continue
            corners = [_number(getattr(rect, key, None)) for key in ("x1", "y1", "x2", "y2")]
            more: dict[str, Any] = {}
            reach = points[visibility > 0]
            if None not in corners:
                head = np.array(corners, np.float64).reshape(2, 2) - 1
                more["head_size"] = round(0.6 * float(np.hypot(*(head[1] - head[0]))), 3)
                reach = np.concatenate([reach, head])
            writer.person(writer.image(str(picture.image.name)), points, visibility, reach=reach, more=more)
    return writer.finish()


def _mpii_points(rect: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    points, visibility = np.zeros((16, 2)), np.zeros(16, np.int64)
    for point in _many(getattr(getattr(rect, "annopoints", None), "point", None)):
        i, x, y = (_number(getattr(point, key, None)) for key in ("id", "x", "y"))
        if i is None or x is None or y is None or not 0 <= i < 16:
            continue
        # empty for neck and head top, which are always labelled as seen
        seen = _number(getattr(point, "is_visible", None))
        points[int(i)], visibility[int(i)] = (x - 1, y - 1), 1 if seen == 0 else 2
    return points, visibility


def crowdpose_to_coco(annotations: str | Path, images_dir: str | Path, out: str | Path) -> Converted:
    """CrowdPose JSON: COCO's layout with 14 keypoints, without areas, flip pairs and sigmas.

    Raises:
        InputError: not such a file, or no picture is found.
    """
    data = read_coco_json(annotations)
    writer = _Writer(annotations, images_dir, out, CROWDPOSE14)
    names: dict[Any, str] = {}
    for image in data["images"]:
        names[image.get("id")] = str(image.get("file_name"))
        writer.image(names[image.get("id")], wanted_id=image.get("id"))
    for entry in data["annotations"]:
        where = f"{annotations}: annotation {entry.get('id')}"
        if entry.get("image_id") not in names:
            raise InputError(f"{where}: image {entry.get('image_id')} is not listed")
        try:
            points = np.array(entry["keypoints"], np.float64).reshape(14, 3)
            box = np.array(entry["bbox"], np.float64).reshape(4)
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{where}: bbox (4 numbers) and keypoints (14 x 3 numbers) needed") from None
        crowd = {"iscrowd": int(bool(entry.get("iscrowd", 0)))}
        writer.person(writer.image(names[entry["image_id"]]), points[:, :2], points[:, 2], box_xywh=box, more=crowd)
    return writer.finish()


def yolo_to_coco(
    data_yaml: str | Path, out: str | Path, split: str = "train", skeleton: SkeletonLike | None = None
) -> Converted:
    """YOLO-pose: `data.yaml` with kpt_shape and flip_idx, one text file of normalised numbers per picture.

    Without visibility (kpt_shape [K, 2]) a keypoint at (0, 0) counts as not labelled, any other as visible.

    Args:
        data_yaml: names the folders (`path`, `train`, `val`) and the keypoints.
        out: the COCO JSON to write.
        split: key of data.yaml: train, val or test. Its value: a folder, a .txt list of pictures, or a list of those.
        skeleton: needed unless kpt_shape and flip_idx are those of COCO-17, because the format has no OKS sigmas.

    Raises:
        InputError: something is missing, contradicts itself, or a label file is not of this format.
    """
    from ebapose.config import load_yaml

    data = load_yaml(data_yaml)
    bones, dimensions = _yolo_skeleton(data, data_yaml, skeleton)
    if data.get(split) is None:
        raise InputError(f"{data_yaml}: no {split!r}")
    root = Path(data_yaml).parent / str(data.get("path") or "")
    if not root.is_dir():  # `path` is often relative to somebody else's folder
        root = Path(data_yaml).parent
    writer = _Writer(data_yaml, root, out, bones)
    for picture in _yolo_pictures(data[split], root, data_yaml):
        image_id = writer.image(os.path.relpath(picture, root))
        labels = _yolo_label_path(picture)
        if image_id is None or not labels.is_file():  # a picture without people has no label file
            continue
        width, height = writer.size_wh(image_id)
        for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
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
            writer.person(image_id, points[:, :2] * (width, height), visibility, box_xywh=[x - w / 2, y - h / 2, w, h])
    return writer.finish()


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
            pictures += sorted(p for p in place.rglob("*") if p.suffix.lower() in _PICTURE_SUFFIXES)
        elif place.is_file():
            lines = place.read_text(encoding="utf-8").split()
            pictures += [root / line for line in lines]
        else:
            raise InputError(f"{where}: {place} is neither a folder nor a list of pictures")
    return pictures


_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def _yolo_label_path(picture: Path) -> Path:
    """Labels lie beside `images`, in `labels`: the last folder of that name is exchanged."""
    parts = list(picture.parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


class _Writer:
    """Collects images and annotations; `finish` writes the file in one piece."""

    def __init__(self, source: str | Path, images_dir: str | Path, out: str | Path, skeleton: Skeleton) -> None:
        self.source = source
        self.images_dir = Path(images_dir)
        self.out = Path(out)
        self.skeleton = skeleton
        self.images: dict[str, dict[str, Any] | None] = {}
        self.by_id: dict[int, dict[str, Any]] = {}
        self.annotations: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        if self.out.resolve() == Path(source).resolve():
            raise UsageError(f"{out}: the result must not replace what it is made from")

    def image(self, name: str, wanted_id: Any = None) -> int | None:
        """Id of a picture, None if it cannot be read; each picture is read once."""
        if name not in self.images:
            path = self.images_dir / name
            try:
                height, width = read_image(path).hw
            except InputError as error:
                self.images[name] = None
                self.skipped.append(str(error))
                return None
            file_name = Path(os.path.relpath(path.resolve(), self.out.resolve().parent)).as_posix()
            image_id = wanted_id if isinstance(wanted_id, int) else len(self.images) + 1
            entry = {"id": image_id, "file_name": file_name, "width": width, "height": height}
            self.images[name] = self.by_id[image_id] = entry
        found = self.images[name]
        return None if found is None else int(found["id"])

    def size_wh(self, image_id: int) -> tuple[int, int]:
        entry = self.by_id[image_id]
        return entry["width"], entry["height"]

    def person(
        self,
        image_id: int | None,
        points: NDArray[np.float64],
        visibility: NDArray[Any],
        box_xywh: ArrayLike | None = None,
        reach: NDArray[np.float64] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a person; nothing happens for skipped pictures and persons without any label.

        `reach`: points that a box made here must enclose, default the labelled keypoints. `more`: further fields.
        """
        labelled = np.isfinite(points).all(axis=1) & (visibility > 0)
        if image_id is None or (box_xywh is None and not labelled.any()):
            return
        seen = np.where(labelled, np.clip(visibility, 0, 2), 0).astype(int)
        if box_xywh is None:
            box = _padded_box(points[labelled] if reach is None else reach, self.size_wh(image_id))
        else:
            box = np.asarray(box_xywh, np.float64)
        points = np.where(labelled[:, None], points, 0).round(3)
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [round(float(v), 3) for v in box],
                "area": round(AREA_OF_BOX * float(box[2] * box[3]), 3),
                "num_keypoints": int(np.count_nonzero(seen)),
                "keypoints": [v for row in zip(*points.T.tolist(), seen.tolist(), strict=True) for v in row],
                **(more or {}),
            }
        )

    def finish(self) -> Converted:
        images = [entry for entry in self.images.values() if entry is not None]
        if not images:
            why = f" ({self.skipped[0]})" if self.skipped else ""
            raise InputError(f"{self.source}: none of its pictures can be read{why}")
        bones = self.skeleton
        category = {
            "id": 1,
            "name": "person",
            "keypoints": list(bones.keypoint_names),
            "skeleton": [[a + 1, b + 1] for a, b in bones.edges],
            "flip_pairs": [list(pair) for pair in bones.flip_pairs],
            "sigmas": list(bones.sigmas),
        }
        write_text(self.out, json.dumps({"images": images, "annotations": self.annotations, "categories": [category]}))
        return Converted(self.out, len(images), len(self.annotations), tuple(self.skipped))


def _padded_box(points: NDArray[np.float64], size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """(4,) xywh around points, padded and clipped to the picture; at least one px wide and high."""
    low, high = points.min(axis=0), points.max(axis=0)
    padding = BOX_PADDING * (high - low)
    low, high = np.clip(low - padding, 0, size_wh), np.clip(high + padding, 0, size_wh)
    return np.concatenate([low, np.maximum(high - low, 1)])


def _load_mat(path: str | Path, *, squeeze: bool = False) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingDependencyError("scipy", "train", "reading .mat files") from None
    try:
        data: dict[str, Any] = loadmat(str(path), struct_as_record=False, squeeze_me=squeeze, appendmat=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise InputError(f"{path}: not a MATLAB file that scipy reads ({' '.join(str(error).split())})") from None
    return data


def _many(value: Any) -> Sequence[Any]:
    """Structs of a MATLAB struct array, which may be empty, one struct, or an array."""
    if isinstance(value, np.ndarray):
        return [item for item in value.flat if hasattr(item, "_fieldnames")] if value.dtype == object else []
    return [value] if hasattr(value, "_fieldnames") else []


def _number(value: Any) -> float | None:
    """A MATLAB scalar, which may be empty, text or wrapped in arrays."""
    array = np.asarray(value) if value is not None else np.zeros(0)
    if array.size != 1:
        return None
    try:
        return float(array.flat[0])
    except (TypeError, ValueError):
        return None
