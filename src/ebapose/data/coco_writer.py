"""COCO keypoint JSON, written picture by picture and person by person: the second half of every conversion."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.atomic import write_text
from ebapose.errors import InputError, UsageError
from ebapose.geometry.oks import SEGMENT_SHARE
from ebapose.io.pictures import read_image
from ebapose.skeleton import Skeleton

BOX_PADDING = 0.1


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        path: the COCO JSON.
        num_images, num_persons: entries in it.
        skipped: what was left out and why, one line each.
    """

    path: Path
    num_images: int
    num_persons: int
    skipped: tuple[str, ...]


class CocoWriter:
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
        """Width and height of a picture in px."""
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
        label: str = "",
    ) -> None:
        """Add a person; nothing happens for skipped pictures and persons without any label.

        `reach`: points that a box made here must enclose, default the labelled keypoints. `more`: further fields.
        `label`: what to call a person whose given box has no area, and who is left out for it.
        """
        labelled = np.isfinite(points).all(axis=1) & (visibility > 0)
        if image_id is None or (box_xywh is None and not labelled.any()):
            return
        seen = np.where(labelled, np.clip(visibility, 0, 2), 0).astype(int)
        if box_xywh is None:
            box = _padded_box(points[labelled] if reach is None else reach, self.size_wh(image_id))
        else:
            box = np.asarray(box_xywh, np.float64)
            if box[2:].min() <= 0:
                self.skipped.append(f"{label}: a box of {box[2]:g} x {box[3]:g} px")
                return
        points = np.where(labelled[:, None], points, 0).round(3)
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [round(float(v), 3) for v in box],
                "area": round(SEGMENT_SHARE * float(box[2] * box[3]), 3),
                "num_keypoints": int(np.count_nonzero(seen)),
                "keypoints": [v for row in zip(*points.T.tolist(), seen.tolist(), strict=True) for v in row],
                **(more or {}),
            }
        )

    def finish(self) -> Converted:
        """Write the file. Raises InputError if no picture can be read."""
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
