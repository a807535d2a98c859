"""Entries of a small COCO-17 annotation file, for tests that change them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebapose.skeleton import COCO17

CATEGORY = {"id": 1, "name": "person", "keypoints": list(COCO17.keypoint_names), "skeleton": [[16, 14], [14, 12]]}


def person(annotation_id: int = 1, image_id: int = 1, **changes: Any) -> dict[str, Any]:
    """A valid annotation on a 160x120 picture, with any field replaced (None: left out)."""
    points = np.random.default_rng(annotation_id).uniform(20, 100, (17, 2)).round(2)
    entry = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [15.0, 15.0, 90.0, 90.0],
        "area": 4000.0,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": np.c_[points, np.full(17, 2)].ravel().tolist(),
    }
    return {key: value for key, value in (entry | changes).items() if value is not None}


def picture(image_id: int = 1, suffix: str = ".jpg") -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}{suffix}", "width": 160, "height": 120}
