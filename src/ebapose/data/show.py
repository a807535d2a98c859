"""Sheets of annotated crops: what the network will see, with its labels, before it is trained."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from ebapose.atomic import atomic_write
from ebapose.data.coco import CocoKeypoints
from ebapose.data.dataset import CropDataset, Sample
from ebapose.data.transforms import AugmentConfig
from ebapose.draw import draw_poses
from ebapose.errors import InputError, UsageError
from ebapose.io.pictures import encode_picture
from ebapose.skeleton import Skeleton
from ebapose.structures import Boxes, Poses, UInt8Array

MOST_CROPS = 1000  # more fill the memory, and nobody looks at them

# of draw_poses: hidden keypoints are drawn fainter
_SCORE_OF_VISIBILITY = np.array([0.0, 0.4, 1.0], np.float32)


def contact_sheet(
    records: CocoKeypoints,
    *,
    count: int = 24,
    size_hw: tuple[int, int] = (256, 192),
    augment: AugmentConfig | None = None,
    seed: int = 0,
    drawn: bool = True,
) -> UInt8Array:
    """Random persons of a data set, cut out as for training, with their keypoints.

    The body's left is orange and its right blue, in the picture and after mirroring alike; hidden keypoints are
    fainter. Each crop is marked with its annotation id; pictures that cannot be read appear as a grey tile.

    Args:
        records: persons to choose from, usually `load_coco(...).persons()`.
        count: how many crops, at most `MOST_CROPS`.
        size_hw: height and width of each crop in px.
        augment: random changes to show; None shows the boxes as they are, everybody once. With changes persons come
            again, and look different each time, where there are fewer than `count`.
        seed: decides which persons, and how they are changed.
        drawn: False leaves the keypoints out.

    Returns:
        RGB uint8, rows * H by columns * W, about a square.

    Raises:
        UsageError: `count` or a side of `size_hw` is below 1, or `count` too large.
        InputError: there is nobody to show.
    """
    if not 1 <= count <= MOST_CROPS:
        raise UsageError(f"a sheet of {count} crops: 1 to {MOST_CROPS} can be shown")
    if min(size_hw) < 1:
        raise UsageError(f"crops of {size_hw[0]}x{size_hw[1]} px: height and width must be at least 1")
    if len(records) == 0:
        raise InputError(f"{records.source}: no person with a labelled keypoint")
    height, width = size_hw
    if augment is None:
        count = min(count, len(records))
    columns = min(count, math.ceil(math.sqrt(count * height / width)))
    order = np.random.default_rng(seed).permutation(len(records))
    data = CropDataset(records, size_hw, augment=augment, seed=seed)
    sheet = np.full((math.ceil(count / columns) * height, columns * width, 3), 96, np.uint8)
    for i in range(count):
        epoch, place = divmod(i, len(order))
        index = int(order[place])
        sample = data.try_sample((epoch, index))
        top, left = i // columns * height, i % columns * width
        tile = sheet[top : top + height, left : left + width]
        if not isinstance(sample, InputError):
            tile[:] = draw_sample(sample, records.skeleton) if drawn else sample["image"]
        label = f"{records.annotation_ids[index]}" + ("" if not isinstance(sample, InputError) else " unreadable")
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(tile, label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thickness, cv2.LINE_AA)
    return sheet


def draw_sample(sample: Sample, skeleton: Skeleton) -> UInt8Array:
    """The crop of one sample with its labelled keypoints, RGB uint8 (H, W, 3)."""
    height, width = sample["image"].shape[:2]
    num = skeleton.num_keypoints
    pose = Poses(
        keypoints=sample["keypoints"][None],
        scores=_SCORE_OF_VISIBILITY[sample["visibility"]][None],
        sigmas_px=np.full((1, num, 2), np.nan, np.float32),
        boxes=Boxes.from_xyxy([[0, 0, width, height]]),
        skeleton=skeleton,
        model="annotation",
        image_hw=(height, width),
    )
    return draw_poses(sample["image"], pose, min_score=0.1)


def write_sheet(path: str | Path, sheet: UInt8Array) -> None:
    """Write a sheet as PNG or JPEG, by the path's suffix. Raises UsageError if it cannot be written."""
    if Path(path).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"{path}: a sheet is written as .png or .jpg")
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(encode_picture(sheet, Path(path).suffix.lower()))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
