"""The poses of one video as a table that grows frame by frame: JSON Lines, CSV, Parquet.

While it grows a table is called `NAME.partial.SUFFIX`; it takes its own name when it is closed. JSON Lines and CSV hold
whole records only, at any moment: also after the process was killed, and up to where the disk was full. Parquet cannot
be read before it is closed; it is closed also where the disk was full, and removed where that fails.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Literal, Protocol

from ebapose.atomic import GrowingText
from ebapose.errors import EbaposeError
from ebapose.io.parquet import ParquetRows
from ebapose.io.video_writer import partial_path
from ebapose.io.writers import image_record
from ebapose.structures import Frame, Poses

TableFormat = Literal["json", "csv", "parquet"]
TABLE_SUFFIXES: dict[TableFormat, str] = {"json": ".jsonl", "csv": ".csv", "parquet": ".parquet"}
VIDEO_COLUMNS = ("frame", "time_s", "track_id", "keypoint", "x", "y", "score", "sigma_x", "sigma_y")


class VideoTable(Protocol):
    """One table; `path` is where it is in the end."""

    path: Path

    def write(self, frame: Frame, poses: Poses) -> None:
        """Add a frame. Raises OSError; what was written before stays readable."""

    def close(self) -> None:
        """Complete the file. Raises OSError."""

    def abandon(self) -> None:
        """Give the file up before its first frame; an older one of its name stays."""


def open_table(path: Path, kind: TableFormat) -> VideoTable:
    """A table at `path`, whose folder is made if it is missing.

    Raises:
        EbaposeError: the file cannot be made.
        MissingDependencyError: Parquet without pyarrow.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _Parquet(path) if kind == "parquet" else _Csv(path) if kind == "csv" else _JsonLines(path)
    except OSError as error:
        raise EbaposeError(f"{path}: cannot be written ({error.strerror})") from None


def video_rows(frame: Frame, poses: Poses) -> list[tuple[Any, ...]]:
    """One row per person and keypoint, in the order of `VIDEO_COLUMNS`; None where there is no value."""
    record = image_record(frame, poses)
    return [
        (record["frame"], record["time_s"], person["track_id"], name, *keypoint)
        for person in record["persons"]
        for name, keypoint in zip(poses.skeleton.keypoint_names, person["keypoints"], strict=True)
    ]


class _Lines:
    """Lines of text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = GrowingText(partial_path(path))

    def close(self) -> None:
        self._file.finish()
        partial_path(self.path).replace(self.path)

    def abandon(self) -> None:
        self._file.abandon()
        partial_path(self.path).unlink(missing_ok=True)


class _JsonLines(_Lines):
    def write(self, frame: Frame, poses: Poses) -> None:
        record = image_record(frame, poses)
        self._file.append(json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")


class _Csv(_Lines):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file.append(",".join(VIDEO_COLUMNS) + "\n")

    def write(self, frame: Frame, poses: Poses) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(video_rows(frame, poses))
        self._file.append(text.getvalue())


class _Parquet:
    def __init__(self, path: Path) -> None:
        kinds = {"frame": "int64", "track_id": "int64", "keypoint": "string"}
        self.path = path
        self._file = ParquetRows(partial_path(path), {name: kinds.get(name) for name in VIDEO_COLUMNS})

    def write(self, frame: Frame, poses: Poses) -> None:
        self._file.append(video_rows(frame, poses))

    def close(self) -> None:
        try:
            failure = self._file.finish()
        except BaseException:
            partial_path(self.path).unlink(missing_ok=True)
            raise
        partial_path(self.path).replace(self.path)
        if failure is not None:
            raise failure

    def abandon(self) -> None:
        self._file.abandon()
        partial_path(self.path).unlink(missing_ok=True)
