"""Pictures of the worst poses: the annotation on the left, the prediction on the right."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.atomic import atomic_write
from ebapose.draw import draw_poses
from ebapose.errors import InputError
from ebapose.evaluation.inputs import Annotations, Results
from ebapose.evaluation.matching import Matches
from ebapose.io.pictures import encode_picture, read_image
from ebapose.structures import Boxes, Poses, UInt8Array

_HEIGHT_PX = 360  # of a panel
_BAR_PX = 24
_MIN_WIDTH_PX, _MAX_WIDTH_PX = 240, 720
_MARGIN = 0.25  # of the box, on every side


def draw_worst(
    truth: Annotations,
    poses: Results,
    matches: Matches,
    images_dir: Path,
    folder: Path,
    count: int,
    without: Collection[int] = (),
) -> list[Path]:
    """Draw the persons of the lowest OKS, the worst first; persons without any pose stand before all others.

    Pictures of an older report in `folder` are removed. Photographs that cannot be read are passed over, and so are
    those whose ids are in `without`: that they cannot be read is known.

    Returns:
        The files written, `01_oks0.03_annotation123.jpg` and so on.

    Raises:
        InputError: not one of the photographs wanted can be read; names the first.
    """
    quality = np.where(matches.pose_of >= 0, matches.oks, -1.0)
    candidates = np.flatnonzero(truth.counted & ~np.isin(truth.person_image_ids, list(without)))
    order = candidates[np.argsort(quality[candidates], kind="stable")]
    files: list[Path] = []
    unreadable: list[InputError] = []
    for person in order:
        if len(files) == count or len(unreadable) > count:
            break
        name = truth.file_names.get(int(truth.person_image_ids[person]), "")
        try:
            image = read_image(images_dir / name).image
        except InputError as error:
            unreadable.append(error)
            continue
        if not files:  # only now: where none can be read, the older report stays whole
            remove_worst(folder)
        pose = int(matches.pose_of[person])
        region = _region(truth, poses, person, pose, image)
        left = _draw(image, region, truth, truth.keypoints[person], truth.labelled[person])
        right = np.zeros_like(left)
        if pose >= 0:
            everything = np.ones(truth.skeleton.num_keypoints, bool)
            right = _draw(image, region, truth, poses.keypoints[pose], everything)
        left = _captioned(left, "annotation")
        right = _captioned(right, f"prediction, OKS {quality[person]:.2f}" if pose >= 0 else "not found")
        what = "not_found" if pose < 0 else f"oks{quality[person]:.2f}"
        path = folder / f"{len(files) + 1:02d}_{what}_annotation{truth.ids[person]}.jpg"
        _save(np.concatenate([left, right], axis=1), path)
        files.append(path)
    if unreadable and not files:
        raise unreadable[0]
    if not files:
        remove_worst(folder)
    return files


def remove_worst(folder: Path) -> None:
    """Remove the pictures of an older report."""
    for old in folder.glob("[0-9][0-9]*_*_annotation*.jpg"):
        old.unlink()


def _region(
    truth: Annotations, poses: Results, person: np.intp, pose: int, image: UInt8Array
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Top left and (exclusive) bottom right px of the part that holds the annotated box and the predicted pose."""
    left, top, width, height = truth.boxes_xywh[person]
    corners = np.array([[left, top], [left + width, top + height]])
    if pose >= 0:
        corners = np.concatenate([corners, poses.keypoints[pose]])
    limits = np.array(image.shape[1::-1])
    corners = np.clip(corners, 0, limits - 1)
    margin = _MARGIN * max(width, height)
    low = np.clip(np.floor(corners.min(axis=0) - margin), 0, limits - 1).astype(np.intp)
    high = np.clip(np.ceil(corners.max(axis=0) + margin), low + 1, limits).astype(np.intp)
    return low, high


def _draw(
    image: UInt8Array,
    region: tuple[NDArray[np.intp], NDArray[np.intp]],
    truth: Annotations,
    keypoints: NDArray[np.float64],
    shown: NDArray[np.bool_],
) -> UInt8Array:
    """One pose on a part of the picture, `_HEIGHT_PX` high, black beside a narrow one."""
    low, high = region
    part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    scale = min(_HEIGHT_PX / part.shape[0], _MAX_WIDTH_PX / part.shape[1])
    size_wh = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    resized = cv2.resize(part, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    panel = np.zeros((_HEIGHT_PX, max(size_wh[0], _MIN_WIDTH_PX), 3), np.uint8)
    panel[: size_wh[1], : size_wh[0]] = resized
    # pixel centres: (x + 0.5) scale - 0.5
    moved = (keypoints - low + 0.5) * (np.array(size_wh) / part.shape[1::-1]) - 0.5
    pose = Poses(
        moved[None].astype(np.float32),
        shown[None].astype(np.float32),
        np.full((1, len(shown), 2), np.nan, np.float32),
        Boxes.from_xyxy([[0, 0, *size_wh]]),
        truth.skeleton,
        "",
        (panel.shape[0], panel.shape[1]),
    )
    return draw_poses(panel, pose, min_score=0.5)


def _captioned(panel: UInt8Array, text: str) -> UInt8Array:
    """The panel with a line of text above it."""
    bar = np.zeros((_BAR_PX, panel.shape[1], 3), np.uint8)
    cv2.putText(bar, text, (8, _BAR_PX - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([bar, panel])


def _save(panel: UInt8Array, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(encode_picture(panel))
