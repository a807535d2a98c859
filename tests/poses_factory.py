"""Random poses for the tests of files and drawing."""

from __future__ import annotations

import numpy as np

from ebapose.skeleton import COCO17, Skeleton
from ebapose.structures import Boxes, Frame, Poses


def make_poses(
    num: int = 2,
    *,
    skeleton: Skeleton = COCO17,
    image_hw: tuple[int, int] = (48, 64),
    sigmas: bool = True,
    track_ids: bool = False,
    seed: int = 0,
) -> Poses:
    rng = np.random.default_rng(seed)
    k = skeleton.num_keypoints
    height, width = image_hw
    corners = np.sort(rng.uniform((0, 0), (width, height), (num, 2, 2)), axis=1).reshape(num, 4)
    return Poses(
        keypoints=rng.uniform((0, 0), (width, height), (num, k, 2)),
        scores=rng.uniform(size=(num, k)),
        sigmas_px=rng.uniform(0.5, 4, (num, k, 2)) if sigmas else np.full((num, k, 2), np.nan),
        boxes=Boxes.from_xyxy(corners, rng.uniform(size=num)),
        skeleton=skeleton,
        model="test_model",
        image_hw=image_hw,
        track_ids=np.arange(7, 7 + num) if track_ids else None,
    )


def make_frame(name: str = "photo_001.jpg", *, index: int = 0, time_s: float | None = None, stem: str = "") -> Frame:
    return Frame(np.full((48, 64, 3), 90, np.uint8), name, index, time_s, stem)
