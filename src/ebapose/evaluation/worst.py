"""Pictures of the worst poses: the annotation on the left, the prediction on the right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.draw import draw_poses
from ebapose.errors import InputError
from ebapose.evaluation.inputs import Annotations, Results
from ebapose.evaluation.matching import Matches
from ebapose.io.atomic import atomic_write
from ebapose.io.pictures import read_image
from ebapose.structures import Boxes, Poses, UInt8Array

_HEIGHT_PX = 360  # of a panel
_MARGIN = 0.25  # of the box, on every side


def draw_worst(
    truth: Annotations, poses: Results, matches: Matches, images_dir: Path, folder: Path, count: int
) -> list[Path]:
    """Draw the persons of the lowest OKS, the worst first; persons without any pose stand before all others.

    Pictures of an older report in `folder` are removed. Photographs that cannot be read are passed over.

    Returns:
        The files written, `01_oks0.03_annotation123.jpg` and so on.

    Raises:
        InputError: not one of the photographs wanted can be read; names the first.
    """
    quality = np.where(matches.pose_of >= 0, matches.oks, -1.0)
    candidates = np.flatnonzero(truth.counted)
    order = candidates[np.argsort(quality[candidates], kind="stable")]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9][0-9]_*_annotation*.jpg"):
        old.unlink()
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
        pose = int(matches.pose_of[person])
        left = _draw(image, truth, truth.keypoints[person], truth.labelled[person], person)
        right = np.full_like(left, 40)
        if pose >= 0:
            everything = np.ones(truth.skeleton.num_keypoints, bool)
            right = _draw(image, truth, poses.keypoints[pose], everything, person)
        _write(left, "annotation")
        _write(right, f"prediction, OKS {quality[person]:.2f}" if pose >= 0 else "not found")
        what = "not_found" if pose < 0 else f"oks{quality[person]:.2f}"
        path = folder / f"{len(files) + 1:02d}_{what}_annotation{truth.ids[person]}.jpg"
        _save(np.concatenate([left, right], axis=1), path)
        files.append(path)
    if unreadable and not files:
        raise unreadable[0]
    return files


def _draw(
    image: UInt8Array, truth: Annotations, keypoints: NDArray[np.float64], shown: NDArray[np.bool_], person: np.intp
) -> UInt8Array:
    """One pose on the part of the picture around the annotated box, `_HEIGHT_PX` high."""
    left, top, width, height = truth.boxes_xywh[person]
    points = np.where(shown[:, None], keypoints, np.nan)
    margin = _MARGIN * max(width, height)
    low = np.floor(np.array([left, top]) - margin).astype(int).clip(0)
    high = np.ceil(np.array([left + width, top + height]) + margin).astype(int)
    high = np.maximum(np.minimum(high, image.shape[1::-1]), low + 1)
    region = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    if region.size == 0:  # an annotated box outside of the picture
        region, low = image, np.zeros(2, int)
    scale = _HEIGHT_PX / region.shape[0]
    size = (min(max(1, round(region.shape[1] * scale)), 3 * _HEIGHT_PX), _HEIGHT_PX)
    stretch = np.array(size) / region.shape[1::-1]
    enlarged = np.asarray(
        cv2.resize(region, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8
    )
    # pixel centres: (x + 0.5) stretch - 0.5
    moved = (np.nan_to_num(points - low, nan=-1.0) + 0.5) * stretch - 0.5
    pose = Poses(
        moved[None],
        shown[None].astype(np.float32),
        np.full((1, len(shown), 2), np.nan, np.float32),
        Boxes.from_xywh([[*((np.array([left, top]) - low) * stretch), width * stretch[0], height * stretch[1]]]),
        truth.skeleton,
        "",
        (size[1], size[0]),
    )
    return draw_poses(enlarged, pose, min_score=0.5)


def _write(panel: UInt8Array, text: str) -> None:
    for thickness, colour in ((3, (0, 0, 0)), (1, (255, 255, 255))):
        cv2.putText(panel, text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)


def _save(panel: UInt8Array, path: Path) -> None:
    with atomic_write(path) as temporary:
        if not cv2.imwrite(str(temporary), cv2.cvtColor(panel, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{path}: could not be written")
