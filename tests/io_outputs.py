"""What lies in a folder of outputs, for the tests of what writes there."""

from __future__ import annotations

import csv
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from ebapose.io.writers import FILE_NAMES
from ebapose.structures import Poses

ALL = ("json", "coco", "csv", "parquet")


def draw(image: np.ndarray, poses: Poses) -> np.ndarray:
    """A drawing that is easy to recognise: red."""
    drawn = image.copy()
    drawn[:] = (250, 0, 0)
    return drawn


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / FILE_NAMES[name]).read_text(encoding="utf-8"))


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "poses.csv").read_text(encoding="utf-8"))))


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.startswith(".")]


def validate(data: Any) -> None:
    schema = json.loads(resources.files("ebapose.io").joinpath("poses.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(data)
