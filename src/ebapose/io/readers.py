"""Files of poses, boxes and image ids, read and checked: what is wrong is said in one line that names the place."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np

from ebapose.errors import InputError
from ebapose.skeleton import Skeleton
from ebapose.structures import Boxes, Poses

POSES_FORMAT = "ebapose-poses"
POSES_VERSION = 1
PERSON_CATEGORY = 1  # COCO's id of "person"
LARGEST_PX = 1e9  # no picture is larger; a box that is makes the crop's matrix lose all digits

T = TypeVar("T")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImagePoses:
    """One entry of `poses.json`: the poses of a picture or of one video frame.

    Attributes:
        file: path of the picture or video, as it was given.
        index: frame number in a video, 0 for a picture.
        time_s: time stamp in s, None for a picture.
        poses: in image px.
    """

    file: str
    index: int
    time_s: float | None
    poses: Poses


def read_poses_json(path: str | Path) -> list[ImagePoses]:
    """Read back a `poses.json`; see `docs/outputs.md` and `poses.schema.json`.

    Raises:
        InputError: missing, not JSON, another format or a newer version, or an entry that does not fit, by its number.
    """
    data = _load_json(path)
    if not isinstance(data, dict) or data.get("format") != POSES_FORMAT:
        raise InputError(f'{path}: not a poses file ("format": "{POSES_FORMAT}" expected)')
    if data.get("version") != POSES_VERSION:
        raise InputError(
            f"{path}: version {data.get('version')} of the poses format, this program reads {POSES_VERSION}"
        )
    entries = _list_of(data, "images", path)
    if not entries:
        return []
    try:
        skeleton, model = Skeleton.from_dict(data["skeleton"]), str(data["model"])
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise InputError(f"{path}: the skeleton or model is missing or wrong ({error})") from None
    result = []
    for number, entry in enumerate(entries):
        try:
            result.append(_image_poses(entry, skeleton, model))
        except (KeyError, TypeError, ValueError, OverflowError, InputError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise InputError(f"{path}: image {number}: {why}") from None
    return result


def _image_poses(entry: Mapping[str, Any], skeleton: Skeleton, model: str) -> ImagePoses:
    persons = entry["persons"]
    num, k = len(persons), skeleton.num_keypoints
    with np.errstate(over="ignore"):  # infinity is refused below
        values = np.array([p["keypoints"] for p in persons], dtype=np.float32)  # null becomes NaN
    if num and values.shape != (num, k, 5):
        raise ValueError(f"keypoints of shape {values.shape[1:]}, ({k}, 5) expected")
    values = values.reshape(num, k, 5)
    track_ids = [p.get("track_id") for p in persons]
    tracked = [t for t in track_ids if t is not None]
    if tracked and len(tracked) != num:
        raise ValueError("only some persons have a track_id")
    poses = Poses(
        keypoints=values[:, :, :2],
        scores=values[:, :, 2],
        sigmas_px=values[:, :, 3:],
        boxes=Boxes.from_xyxy([p["box_xyxy"] for p in persons], [p["box_score"] for p in persons]),
        skeleton=skeleton,
        model=model,
        image_hw=(int(entry["height"]), int(entry["width"])),
        track_ids=np.array(tracked, dtype=np.int64) if tracked else None,
    )
    time_s = entry["time_s"]
    return ImagePoses(str(entry["file"]), int(entry["frame"]), None if time_s is None else float(time_s), poses)


@dataclass(frozen=True)
class Detections:
    """What a file of person boxes says.

    Attributes:
        boxes: in image px, by image id (detections) or file name (annotations: every listed picture, also those without
            persons). They may have no area or lie outside of the picture.
        unusable: why entries of a picture are no boxes, one line each that begins with the entry's number; keys as
            those of `boxes`.
    """

    boxes: Mapping[int | str, Boxes]
    unusable: Mapping[int | str, Sequence[str]]


def read_detections(path: str | Path) -> Detections:
    """Person boxes from COCO detections or COCO annotations.

    Detections are a list of `{"image_id", "category_id", "bbox": [left, top, width, height], "score"}`; `file_name` may
    stand instead of `image_id`, the category defaults to person (1) and the score to 1. Annotations are COCO's
    ground-truth file; its crowd regions are left out. Which of its categories is the person see `person_category`.

    Raises:
        InputError: one line with the file, the entry's number and what is wrong with it.
    """
    data = _load_json(path)
    category_id = person_category(data)
    others: set[str] = set()
    seen = False
    grouped: dict[int | str, list[tuple[list[float], float]]] = defaultdict(list)
    names: dict[Any, str] = {}
    if isinstance(data, dict) and "images" in data and "annotations" in data:
        names = {image_id: name for name, image_id in _image_names(data, path)}
        grouped.update({name: [] for name in names.values()})
        entries = _list_of(data, "annotations", path)
    elif isinstance(data, list):
        entries = data
    else:
        raise InputError(f"{path}: neither a list of COCO detections nor COCO annotations")
    unusable: dict[int | str, list[str]] = defaultdict(list)
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: an object expected, found {type(entry).__name__}")
        if entry.get("category_id", category_id) != category_id:
            others.add(f"{entry['category_id']}")
            continue
        seen = True
        if names and entry.get("iscrowd"):
            continue
        key = entry.get("image_id", entry.get("file_name"))
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise InputError(f"{where}: image_id (a number) or file_name (a text) expected, found {key!r}")
        if names:
            if key not in names:
                raise InputError(f"{where}: image_id {key!r} is not among the images of the file")
            key = names[key]
        box, score = _numbers(entry.get("bbox"), 4, f"{where}: bbox"), entry.get("score", 1.0)
        (score,) = _numbers([score], 1, f"{where}: score")
        reason = _why_no_box(box, score)
        if reason is not None:
            unusable[key].append(f"entry {number} of {path}: {reason}")
            grouped[key] += []  # the picture is listed nevertheless
        elif not 0 <= score <= 1:
            raise InputError(f"{where}: score {score:g} does not lie in 0..1")
        else:
            grouped[key].append((box, score))
    if others and not seen:
        _logger.warning(
            "%s: no box of category %d (person), only of %s", path, category_id, ", ".join(sorted(others)[:9])
        )
    boxes = {key: Boxes.from_xywh([b for b, _ in rows], [s for _, s in rows]) for key, rows in grouped.items()}
    return Detections(boxes, unusable)


def person_category(data: Any) -> int:
    """The id of the persons in a COCO file.

    That of its only category, else of the only one with keypoints, else of the only one called person, else COCO's.
    """
    listed = data.get("categories") if isinstance(data, dict) else None
    categories = [c for c in listed if isinstance(c, dict)] if isinstance(listed, list) else []
    with_keypoints = [c for c in categories if c.get("keypoints")]
    for chosen in (categories, with_keypoints, [c for c in categories if c.get("name") == "person"]):
        if len(chosen) == 1 and isinstance(chosen[0].get("id"), int):
            return int(chosen[0]["id"])
    return PERSON_CATEGORY


def _why_no_box(box_xywh: list[float], score: float) -> str | None:
    text = ", ".join(f"{value:g}" for value in box_xywh)
    if not all(map(math.isfinite, box_xywh)):
        return f"bbox ({text}) is not finite"
    if min(box_xywh[2:]) < 0:
        return f"bbox ({text}) has a negative size"
    if max(map(abs, box_xywh)) > LARGEST_PX:
        return f"bbox ({text}) is absurdly large"
    return None if math.isfinite(score) else f"score {score:g} is not finite"


def find_entry(entries: Mapping[int | str, T], name: str) -> T | None:
    """What is said of the picture called `name`: by its path or the end of it, its name without suffix, or its COCO id.

    None where the file says nothing about this picture.
    """
    for key in (*_path_tails(name), PurePath(name).stem):
        if key in entries:
            return entries[key]
    try:
        return entries.get(image_id_from_name(name))
    except InputError:
        return None


def with_bare_names(entries: Mapping[int | str, T]) -> dict[int | str, T]:
    """The entries, and those under a file name with folders under the bare name, too, where only one has it."""
    names = [key for key in entries if isinstance(key, str)]
    times = Counter(PurePath(name).name for name in names)
    bare: dict[int | str, T] = {PurePath(name).name: entries[name] for name in names if times[PurePath(name).name] == 1}
    return {**bare, **entries}


def image_id_from_name(name: str) -> int:
    """COCO image id from a file name: its last digits (`COCO_val2014_000000397133.jpg` is 397133).

    Raises:
        InputError: the name has no digits.
    """
    digits = re.findall(r"[0-9]+", PurePath(name).stem)
    if not digits:
        raise InputError(f"{name}: COCO results need an image id, and the name has no digits (or give annotations)")
    return int(digits[-1])


@dataclass(frozen=True)
class ImageIds:
    """Image ids by the file names of an annotations file; call it with a path.

    Attributes:
        path: of the annotations file, for messages.
        ids: file name (as in the annotations, often with folders) to image id.
        basenames: bare file name to image id; None where several pictures share it.
        category_id: of the persons, see `person_category`.
    """

    path: str
    ids: Mapping[str, int]
    basenames: Mapping[str, int | None]
    category_id: int = PERSON_CATEGORY

    def __call__(self, name: str) -> int:
        """The image id of the picture `name`. Raises InputError when the annotations do not settle it."""
        for key in _path_tails(name):
            if key in self.ids:
                return self.ids[key]
        basename = PurePath(name).name
        found = self.basenames.get(basename)
        if found is None:
            why = f"{basename} stands more than once" if basename in self.basenames else "no such file_name"
            raise InputError(f"{name}: {why} in {self.path}")
        return found


def read_image_ids(path: str | Path) -> ImageIds:
    """Image ids from a COCO annotations file. Raises InputError, one line, when it is not one."""
    data = _load_json(path)
    if not isinstance(data, dict) or "images" not in data:
        raise InputError(f'{path}: not a COCO annotations file ("images" is missing)')
    ids: dict[str, int] = {}
    basenames: dict[str, int | None] = {}
    for name, image_id in _image_names(data, path):
        ids[name] = image_id
        basename = PurePath(name).name
        basenames[basename] = None if basename in basenames else image_id
    return ImageIds(str(path), ids, basenames, person_category(data))


def _image_names(data: Mapping[str, Any], path: str | Path) -> Iterator[tuple[str, int]]:
    for number, image in enumerate(_list_of(data, "images", path)):
        try:
            yield str(image["file_name"]), int(image["id"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(f"{path}: image {number}: file_name and id (a number) expected") from None


def _path_tails(name: str) -> Iterator[str]:
    """`a/b/c.jpg`, `b/c.jpg`, `c.jpg`: the ways in which a file may know the picture."""
    yield name
    parts = PurePath(name).parts
    for start in range(len(parts)):
        yield "/".join(parts[start:])


def _numbers(values: Any, length: int, where: str) -> list[float]:
    if isinstance(values, list) and len(values) == length:
        try:
            return [math.nan if value is None else float(value) for value in values]
        except (TypeError, ValueError, OverflowError):
            pass
    raise InputError(f"{where}: {f'{length} numbers' if length > 1 else 'a number'} expected, found {values!r:.80}")


def _list_of(data: Mapping[str, Any], key: str, path: str | Path) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list):
        raise InputError(f'{path}: "{key}" must be a list')
    return value


def _load_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON (line {error.lineno}: {error.msg})") from None
    except (UnicodeDecodeError, RecursionError):
        raise InputError(f"{path}: not JSON") from None
    except ValueError:  # Python's limit for the digits of a whole number
        raise InputError(f"{path}: a number has too many digits") from None
