"""Small COCO-17 data sets made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from coco_entries import CATEGORY, picture


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Writes annotations.json, and the pictures unless `pictures=False`; returns the path of the annotations."""

    def write(
        annotations: list[dict[str, Any]],
        images: list[dict[str, Any]] | None = None,
        category: dict[str, Any] = CATEGORY,
        pictures: bool = True,
        **more: Any,
    ) -> Path:
        images = [picture()] if images is None else images
        path = tmp_path / "annotations.json"
        data = {"images": images, "annotations": annotations, "categories": [category]} | more
        path.write_text(json.dumps(data))
        rng = np.random.default_rng(0)
        for image in images if pictures else []:
            pixels = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (image["width"], image["height"]))
            cv2.imwrite(str(tmp_path / image["file_name"]), pixels)
        return path

    return write
