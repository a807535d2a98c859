"""Poses to files: overlay pictures, the project's own JSON, COCO results, CSV and Parquet.

Results are streamed: memory does not grow with the number of pictures. Every file is written under a temporary name and
takes its own name when it is complete; after an exception or Ctrl-C what was written so far is completed, so that the
files are valid and hold every picture before the interruption.

Adding a new format: write a class with `write` and `close` like those below and name it in `FORMATS` and
`PoseWriter._open`, its file in `FILE_NAMES`, its word in `cli.verbs.Format`; describe its file in `docs/outputs.md`.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.atomic import GrowingText, atomic_write
from ebapose.errors import EbaposeError, InputError, UsageError
from ebapose.io.overlays import Draw, Overlays
from ebapose.io.parquet import ParquetRows
from ebapose.io.readers import PERSON_CATEGORY, POSES_FORMAT, POSES_VERSION, ImageIds, image_id_from_name
from ebapose.structures import Frame, Poses

Format = Literal["overlay", "json", "coco", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILE_NAMES: dict[Format, str] = {
    "json": "poses.json",
    "coco": "coco_results.json",
    "csv": "poses.csv",
    "parquet": "poses.parquet",
}
COLUMNS = ("file", "frame", "person", "track_id", "keypoint", "x", "y", "score", "sigma_x", "sigma_y")

_PX_DECIMALS = 3
_SCORE_DECIMALS = 6


class _NothingNew(Exception):  # noqa: N818 (no error: it leaves a file as it was)
    pass


class _Output(Protocol):
    def write(self, frame: Frame, poses: Poses) -> None: ...

    def close(self) -> OSError | None:
        """Complete the file, or raise OSError; returns what kept the newest frames out of a complete file."""


@dataclass
class _Opened:
    """An output, its file (or folder), and what gives the file its name."""

    output: _Output
    path: Path
    stack: ExitStack
    frames: int = 0


class PoseWriter:
    """Writes the poses of many frames to a folder in one or several formats; a context manager.

    Files: `STEM.jpg` per frame ("overlay"), `poses.json`, `coco_results.json`, `poses.csv`, `poses.parquet`.

    Args:
        out_dir: made if it is missing.
        formats: some of `FORMATS`.
        draw: (RGB uint8 picture, poses) -> RGB uint8 picture, for "overlay"; see `ebapose.draw.draw_poses`.
        image_id: file name -> COCO image id, for "coco"; see `readers.read_image_ids`.

    Raises:
        UsageError: unknown format, "overlay" without `draw`, or a folder that cannot be written.
        MissingDependencyError: "parquet" without pyarrow.
    """

    def __init__(
        self,
        out_dir: str | Path,
        formats: Collection[Format],
        *,
        draw: Draw | None = None,
        image_id: Callable[[str], int] = image_id_from_name,
    ) -> None:
        unknown = sorted(set(formats) - set(FORMATS))
        if unknown:
            raise UsageError(f"unknown output format {unknown[0]!r}; there are {', '.join(FORMATS)}")
        if "overlay" in formats and draw is None:
            raise UsageError("overlay pictures need a function that draws")
        self.out_dir = Path(out_dir)
        self._failures: list[dict[str, str]] = []
        self._opened: list[_Opened] = []
        self._closed = False
        target = self.out_dir
        try:
            with ExitStack() as opened:  # where one cannot be opened, no older file is touched
                for name in FORMATS:
                    if name in formats:
                        target = self.out_dir / FILE_NAMES.get(name, "")
                        stack = opened.enter_context(ExitStack())
                        self._opened.append(_Opened(self._open(name, stack, draw, image_id), target, stack))
                opened.pop_all()
        except OSError as error:
            raise UsageError(f"{target}: cannot be written ({error.strerror})") from None

    def _open(self, name: Format, stack: ExitStack, draw: Draw | None, image_id: Callable[[str], int]) -> _Output:
        if name == "overlay":
            assert draw is not None
            self.out_dir.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.out_dir).close()  # a folder that takes no files is found before the work
            return Overlays(self.out_dir, draw)
        path = stack.enter_context(atomic_write(self.out_dir / FILE_NAMES[name]))
        if name == "json":
            return _PosesJson(path, self._failures)
        if name == "coco":
            return _CocoResults(path, image_id)
        return _Csv(path) if name == "csv" else _Parquet(path)

    def write(self, frame: Frame, poses: Poses) -> None:
        """Add one frame to every output.

        Raises:
            InputError: one output cannot hold this frame (no COCO image id, or its overlay's name is taken by a folder,
                say); the others have it nevertheless, and further frames may be written.
            EbaposeError: a file cannot be written (the disk is full, say).
            ValueError: the files are closed.
        """
        if self._closed:
            raise ValueError(f"{self.out_dir}: its files are closed")
        refused: InputError | None = None
        for opened in self._opened:
            try:
                opened.output.write(frame, poses)
                opened.frames += 1
            except InputError as error:
                refused = refused or error
            except OSError as error:
                raise EbaposeError(f"{self.out_dir}: cannot be written ({error.strerror})") from error
        if refused is not None:
            raise refused

    def write_failure(self, name: str, error: Exception) -> None:
        """Record what went wrong with an input; it is listed at the end of `poses.json`."""
        self._failures.append({"file": plain_text(name), "error": plain_text(str(error))})

    def close(self) -> None:
        """Complete every file. Raises EbaposeError where that fails, after all others are completed.

        Where nothing could be written, a mistyped name, say, a file of an earlier run stays.
        """
        failed: OSError | None = None
        self._closed = True
        while self._opened:
            try:
                opened = self._opened.pop(0)
                with suppress(_NothingNew), opened.stack:
                    failed = opened.output.close() or failed
                    if not opened.frames and opened.path.is_file():
                        raise _NothingNew
            except OSError as error:
                failed = failed or error
        if failed is not None:
            raise EbaposeError(f"{self.out_dir}: cannot be written ({failed.strerror})") from failed

    def __enter__(self) -> PoseWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _PosesJson:
    """The project's own format, one picture per line; `poses.schema.json` beside this file describes it."""

    def __init__(self, path: Path, failures: list[dict[str, str]]) -> None:
        self._file = GrowingText(path)
        self._failures = failures
        self._separator = ""

    def write(self, frame: Frame, poses: Poses) -> None:
        lead = self._separator or self._header(poses)
        self._file.append(lead + "    " + _json(image_record(frame, poses)))
        self._separator = ",\n"

    def close(self) -> None:
        lead = "\n" if self._separator else self._header(None)
        failures = ",".join("\n    " + _json(failure) for failure in self._failures)
        self._file.finish(lead + '  ],\n  "failed": [' + failures + ("\n  " if failures else "") + "]\n}\n")

    @staticmethod
    def _header(poses: Poses | None) -> str:
        from ebapose import __version__

        head: dict[str, Any] = {
            "format": POSES_FORMAT,
            "version": POSES_VERSION,
            "generator": f"ebapose {__version__}",
            "model": None if poses is None else plain_text(poses.model),
            "skeleton": None if poses is None else poses.skeleton.to_dict(),
            "coordinates": "px of the upright picture (EXIF applied); the centre of the top left px is (0, 0)",
            "scores": "keypoint: probability that it is within an OKS of 0.5 of the truth; "
            "pose: box score times mean keypoint score",
            "sigmas": "standard deviation of x and y in px; null where the model predicts none",
            "keypoint_fields": ["x", "y", "score", "sigma_x", "sigma_y"],
        }
        lines = ",\n".join(f"  {_json(key)}: {_json(value)}" for key, value in head.items())
        return "{\n" + lines + ',\n  "images": [\n'


def image_record(frame: Frame, poses: Poses) -> dict[str, Any]:
    """One entry of "images" in `poses.json`: plain numbers, lists and None, px to 0.001 and scores to 1e-6."""
    height, width = poses.image_hw
    keypoints = np.concatenate(
        [
            _plain(poses.keypoints, _PX_DECIMALS),
            _plain(poses.scores[:, :, None], _SCORE_DECIMALS),
            _plain(poses.sigmas_px, _PX_DECIMALS),
        ],
        axis=2,
    ).tolist()
    boxes = _plain(poses.boxes.xyxy, _PX_DECIMALS).tolist()
    box_scores = _plain(poses.boxes.scores, _SCORE_DECIMALS).tolist()
    pose_scores = _plain(poses.pose_scores, _SCORE_DECIMALS).tolist()
    track_ids = [None] * len(poses) if poses.track_ids is None else poses.track_ids.tolist()
    return {
        "file": plain_text(frame.name),
        "frame": frame.index,
        "time_s": None if frame.time_s is None else round(float(frame.time_s), 6),
        "width": width,
        "height": height,
        "persons": [
            {
                "box_xyxy": boxes[n],
                "box_score": box_scores[n],
                "pose_score": pose_scores[n],
                "track_id": track_ids[n],
                "keypoints": keypoints[n],
            }
            for n in range(len(poses))
        ],
    }


def keypoint_rows(frame: Frame, poses: Poses) -> list[tuple[Any, ...]]:
    """One row per person and keypoint, in the order of `COLUMNS`; None where there is no value."""
    record = image_record(frame, poses)
    return [
        (record["file"], record["frame"], number, person["track_id"], name, *keypoint)
        for number, person in enumerate(record["persons"])
        for name, keypoint in zip(poses.skeleton.keypoint_names, person["keypoints"], strict=True)
    ]


class _CocoResults:
    """A COCO results list, one person per line."""

    def __init__(self, path: Path, image_id: Callable[[str], int]) -> None:
        self._file = GrowingText(path)
        self._image_id = image_id
        self._category_id = image_id.category_id if isinstance(image_id, ImageIds) else PERSON_CATEGORY
        self._names: dict[int, str] = {}
        self._separator = ""

    def write(self, frame: Frame, poses: Poses) -> None:
        if frame.time_s is not None:
            raise InputError(f"{frame.name}: COCO results are for pictures, not for video frames")
        image_id = self._image_id(frame.name)
        if image_id in self._names:
            raise InputError(f"{frame.name}: COCO image id {image_id} was already used for {self._names[image_id]}")
        persons = image_record(frame, poses)["persons"]
        lines = [_json(_coco_result(image_id, self._category_id, person)) for person in persons]
        if lines:
            self._file.append((self._separator or "[\n") + ",\n".join(lines))
            self._separator = ",\n"
        self._names[image_id] = frame.name

    def close(self) -> None:
        self._file.finish("\n]\n" if self._separator else "[]\n")


def _coco_result(image_id: int, category_id: int, person: dict[str, Any]) -> dict[str, Any]:
    left, top, right, bottom = person["box_xyxy"]
    return {
        "image_id": image_id,
        "category_id": category_id,
        "keypoints": [value for keypoint in person["keypoints"] for value in keypoint[:3]],
        "score": person["pose_score"],
        "bbox": [left, top, round(right - left, _PX_DECIMALS), round(bottom - top, _PX_DECIMALS)],
    }


class _Csv:
    """One row per keypoint; RFC 4180 with UTF-8, an empty cell where there is no value."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingText(path)
        self._file.append(",".join(COLUMNS) + "\n")

    def write(self, frame: Frame, poses: Poses) -> None:
        text = io.StringIO()
        # a carriage return is quoted by some versions of Python only
        odd = "\r" in frame.name
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL)
        writer.writerows(keypoint_rows(frame, poses))
        self._file.append(text.getvalue())

    def close(self) -> None:
        self._file.finish()


class _Parquet:
    """The rows of the CSV."""

    def __init__(self, path: Path) -> None:
        kinds = {"file": "string", "frame": "int64", "person": "int32", "track_id": "int64", "keypoint": "string"}
        self._file = ParquetRows(path, {name: kinds.get(name) for name in COLUMNS})

    def write(self, frame: Frame, poses: Poses) -> None:
        self._file.append(keypoint_rows(frame, poses))

    def close(self) -> OSError | None:
        return self._file.finish()


def _plain(values: ArrayLike, decimals: int) -> NDArray[np.object_]:
    """The numbers rounded, as objects, None for NaN and infinity: those are not JSON."""
    array = np.asarray(values, dtype=np.float64)
    plain = np.round(array, decimals).astype(object)
    plain[~np.isfinite(array)] = None
    return plain


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def plain_text(text: str) -> str:
    """Text that any encoding of Unicode can hold: file names may contain bytes that are none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
