"""Other data sets to COCO keypoint JSON: LSP and LSP-Extended, MPII, CrowdPose; YOLO-pose is in `convert_yolo`.

File names in the result are relative to the folder of the result, so that `load_coco` finds the pictures by itself.
What cannot be used (a picture that cannot be read, a box without an area) is left out and named in `Converted.skipped`.

What the originals do not have is filled in the same way everywhere: a box is the labelled keypoints' extent, padded by
10 % on each side and clipped to the picture; an area is 0.53 times that of the box, the usual stand-in for a segment.

Adding a new format: a function that makes a `CocoWriter` and calls `image`, `person` and `finish`, its word in
`cli.data_group.convert`, and a line in the table of `docs/data.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ebapose.data.coco_file import read_coco_json, read_json, refuse_twice, whole_number
from ebapose.data.coco_writer import CocoWriter, Converted
from ebapose.errors import InputError, MissingDependencyError, UsageError
from ebapose.skeleton import CROWDPOSE14, LSP14, MPII16


def lsp_to_coco(joints_mat: str | Path, images_dir: str | Path, out: str | Path) -> Converted:
    """Leeds Sports Pose (`joints` of 3 x 14 x N) or its Extended training set (14 x 3 x N).

    The flag of LSP says 1 for hidden joints; that of LSP-Extended 1 for labelled ones. Pictures are `im0001.jpg` and
    `im00001.jpg`. Coordinates stay as they are in the file.

    Raises:
        UsageError: there is no such file. InputError: it is none of this format, or no picture is found.
        MissingDependencyError: scipy is not installed.
    """
    joints = _load_mat(joints_mat).get("joints")
    if not isinstance(joints, np.ndarray) or joints.ndim != 3 or joints.shape[:2] not in ((3, 14), (14, 3)):
        shape = getattr(joints, "shape", "nothing")
        raise InputError(
            f"{joints_mat}: expected joints of 3 x 14 x N (LSP) or 14 x 3 x N (LSP-Extended), found {shape}"
        )
    if joints.dtype.kind not in "fiu":
        raise InputError(f"{joints_mat}: joints are no numbers")
    extended = joints.shape[0] == 14
    people = joints.transpose(2, 0, 1) if extended else joints.transpose(2, 1, 0)
    writer = CocoWriter(joints_mat, images_dir, out, LSP14)
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
        UsageError: there is no such file. InputError: it is none of this format, or no picture is found.
        MissingDependencyError: scipy is not installed.
    """
    writer = CocoWriter(annotations, images_dir, out, MPII16)
    if Path(annotations).suffix.lower() == ".json":
        entries = read_json(annotations)
        if not isinstance(entries, list):
            raise InputError(f"{annotations}: expected a list of persons, found {type(entries).__name__}")
        for number, entry in enumerate(entries):
            try:
                points = np.array(entry["joints"], np.float64).reshape(16, 2)
                seen = np.array(entry["joints_vis"], np.float64).reshape(16) > 0
                file_name = str(entry["image"])
            except (KeyError, TypeError, ValueError):
                raise InputError(f"{annotations}: person {number}: image, joints (16 x 2), joints_vis needed") from None
            # absent joints stand at (-1, -1) or (0, 0)
            visibility = np.where(seen, 2, np.where((points > 0).all(axis=1), 1, 0))
            writer.person(writer.image(file_name), points - 1, visibility)
        return writer.finish()

    release: Any = _load_mat(annotations, squeeze=True).get("RELEASE")
    if not hasattr(release, "annolist") or not hasattr(release, "img_train"):
        raise InputError(f"{annotations}: no RELEASE with annolist and img_train: not the MPII release file")
    pictures, in_training = _many(release.annolist), np.atleast_1d(release.img_train)
    if len(pictures) != len(in_training):
        raise InputError(f"{annotations}: annolist has {len(pictures)} pictures, img_train is about {len(in_training)}")
    for number, (picture, training) in enumerate(zip(pictures, in_training, strict=True)):
        name = getattr(getattr(picture, "image", None), "name", None)
        if not isinstance(name, str):
            raise InputError(f"{annotations}: picture {number} of annolist has no image name")
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
            writer.person(writer.image(name), points, visibility, reach=reach, more=more)
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
    writer = CocoWriter(annotations, images_dir, out, CROWDPOSE14)
    ids = [whole_number(image, "id", f"{annotations}: image {number}") for number, image in enumerate(data["images"])]
    refuse_twice(ids, annotations, "images")
    names: dict[int, str] = {}
    for image_id, image in zip(ids, data["images"], strict=True):
        if not isinstance(image.get("file_name"), str):
            raise InputError(f"{annotations}: image {image_id}: file_name is missing or not a text")
        names[image_id] = image["file_name"]
        writer.image(names[image_id], wanted_id=image_id)
    for entry in data["annotations"]:
        where = f"{annotations}: annotation {entry.get('id')}"
        image_id = whole_number(entry, "image_id", where)
        if image_id not in names:
            raise InputError(f"{where}: image {image_id} is not listed")
        try:
            points = np.array(entry["keypoints"], np.float64).reshape(14, 3)
            box = np.array(entry["bbox"], np.float64).reshape(4)
            if not (np.isfinite(box).all() and np.isfinite(points).all()):
                raise ValueError("not finite")
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{where}: bbox (4 finite numbers) and keypoints (14 x 3 of them) needed") from None
        crowd = {"iscrowd": int(bool(entry.get("iscrowd", 0)))}
        picture = writer.image(names[image_id])
        writer.person(picture, points[:, :2], points[:, 2], box_xywh=box, more=crowd, label=where)
    return writer.finish()


def _load_mat(path: str | Path, *, squeeze: bool = False) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingDependencyError("scipy", "train", "reading .mat files") from None
    try:
        data: dict[str, Any] = loadmat(str(path), struct_as_record=False, squeeze_me=squeeze, appendmat=False)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise InputError(f"{path}: not a MATLAB file that scipy reads ({' '.join(str(error).split())})") from None
    return data


def _many(value: Any) -> Sequence[Any]:
    """Structs of a MATLAB struct array, which may be empty, one struct, or an array."""
    if isinstance(value, np.ndarray):
        return [item for item in value.flat if hasattr(item, "_fieldnames")] if value.dtype == object else []
    return [value] if hasattr(value, "_fieldnames") else []


def _number(value: Any) -> float | None:
    """A MATLAB scalar, which may be empty, text, wrapped in arrays or NaN."""
    array = np.asarray(value) if value is not None else np.zeros(0)
    if array.size != 1:
        return None
    try:
        number = float(array.flat[0])
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
