"""The frame of a COCO file: its lists, its category, the category's skeleton, and where its pictures are.

Adding a new skeleton: put `keypoints`, `skeleton` (edges, counted from 1), `flip_pairs` (counted from 0) and `sigmas`
into the category of the annotation file, or pass a `Skeleton` or the file that holds one (see `load_skeleton`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebapose.config import load_yaml
from ebapose.errors import InputError, UsageError
from ebapose.skeleton import COCO17, SKELETONS, Skeleton

SkeletonLike = Skeleton | str | Path

_HOW_TO_GIVE = (
    'add them to the category ("flip_pairs": [[1, 2], ...] counted from 0, "sigmas": [0.026, ...]) or pass a skeleton'
)


def read_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises UsageError, one line, when it is missing, InputError when unreadable or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # ValueError: JSONDecodeError, UnicodeDecodeError, too long numbers
        raise InputError(f"{path}: not a JSON file ({reason(error)})") from None


def read_coco_json(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Parse a COCO file and make sure of its frame, see `check_frame`. Raises UsageError when it is missing."""
    data: dict[str, list[dict[str, Any]]] = read_json(path)
    check_frame(data, path)
    return data


def check_frame(data: Any, where: str | Path) -> None:
    """Raise InputError unless `data` has the lists of objects `images`, `annotations`, `categories`."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: not a COCO file: expected an object, found {type(data).__name__}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise InputError(f"{where}: not a COCO keypoint file: {key!r} is missing or not a list")
        for number, entry in enumerate(data[key]):
            if not isinstance(entry, Mapping):
                raise InputError(f"{where}: {key}[{number}] is not an object")


def whole_number(entry: Mapping[str, Any], key: str, label: str) -> int:
    """A field that must be a whole number of at most 64 bits; InputError begins with `label`."""
    value = entry.get(key)
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or abs(int(value)) >= 2**63:
        found = "missing" if value is None else f"{value!r:.40}, expected a whole number"
        raise InputError(f"{label}: {key} is {found}")
    return int(value)


def refuse_twice(ids: Iterable[int], where: str | Path, kind: str) -> None:
    """Raise InputError if an id stands twice; `kind`: what has it, in the plural."""
    id_, count = next(iter(Counter(ids).most_common(1)), (0, 0))
    if count > 1:
        raise InputError(f"{where}: several {kind} have the same id {id_}")


def check_visibility(visibility: NDArray[np.float64], labels: Callable[[int], str]) -> None:
    """Raise InputError if (N, K) values are not all 0, 1 or 2; `labels`: what to call a row."""
    for wrong in np.flatnonzero((~np.isin(visibility, (0, 1, 2))).any(axis=1)):
        raise InputError(f"{labels(int(wrong))}: visibility must be 0, 1 or 2")


def find_category(data: Mapping[str, Any], path: str | Path, name: str | None = None) -> dict[str, Any]:
    """The category with keypoints (the one called `name` if given).

    Raises UsageError if there is none of that name, InputError if there is not exactly one.
    """
    if name is not None:
        found = [c for c in data["categories"] if c.get("name") == name]
    else:
        found = [c for c in data["categories"] if c.get("keypoints")] or list(data["categories"])
    names = ", ".join(str(c.get("name")) for c in data["categories"])
    if not found and name is not None:
        raise UsageError(f"{path}: no category {name!r}, found: {names}")
    if not found:
        raise InputError(f"{path}: no category")
    if len(found) > 1:
        raise InputError(f"{path}: several categories ({names}): choose one by its name")
    category: dict[str, Any] = found[0]
    whole_number(category, "id", f"{path}: category {category.get('name')!r}")
    return category


def category_skeleton(category: Mapping[str, Any], where: str | Path) -> Skeleton:
    """Skeleton of a COCO category: `keypoints`, `skeleton` (counted from 1), `flip_pairs` (from 0), `sigmas`.

    A category with exactly the keypoint names of a known skeleton (COCO-17 among them) is that skeleton, unless it
    gives other sigmas, and COCO's person, stripped to its id and name, COCO-17. Otherwise flip pairs and sigmas are
    required: guessing them silently ruins mirroring and OKS.

    Raises:
        InputError: something is missing or contradicts itself.
    """
    names = category.get("keypoints")
    if not names and category.get("name") == "person" and not category.get("sigmas"):
        return COCO17
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"{where}: category {category.get('name')!r} has no keypoint names: pass a skeleton")
    known = next((s for s in SKELETONS.values() if list(s.keypoint_names) == names), None)
    if known is not None and category.get("sigmas") is None and category.get("flip_pairs") is None:
        return known
    missing = [key for key in ("flip_pairs", "sigmas") if category.get(key) is None]
    if known is None and missing:
        raise InputError(f"{where}: category {category.get('name')!r} lacks {' and '.join(missing)}: {_HOW_TO_GIVE}")
    try:
        edges = tuple((int(a) - 1, int(b) - 1) for a, b in category.get("skeleton") or [])
        pairs, sigmas = category.get("flip_pairs"), category.get("sigmas")
        own = Skeleton(
            name=str(category.get("name", "custom")),
            keypoint_names=tuple(names),
            edges=edges,
            flip_pairs=tuple((int(a), int(b)) for a, b in pairs) if pairs is not None else known.flip_pairs,  # type: ignore[union-attr]
            sigmas=tuple(float(s) for s in sigmas) if sigmas is not None else known.sigmas,  # type: ignore[union-attr]
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: category {category.get('name')!r}: {reason(error)}") from None
    if known is not None and own.sigmas == known.sigmas and np.array_equal(own.flip_indices, known.flip_indices):
        return known
    return own


def choose_skeleton(category: Mapping[str, Any], where: str | Path, skeleton: SkeletonLike | None = None) -> Skeleton:
    """The skeleton that was given, or the category's own.

    Raises:
        UsageError: see `load_skeleton`.
        InputError: see `category_skeleton`, or the given one has other keypoints than the category: another number, or
            the same ones in another order.
    """
    if skeleton is None:
        return category_skeleton(category, where)
    bones, names = load_skeleton(skeleton), category.get("keypoints")
    if isinstance(names, list) and names:
        if len(names) != bones.num_keypoints:
            raise InputError(
                f"{where}: the category has {len(names)} keypoints, skeleton {bones.name} {bones.num_keypoints}"
            )
        given = list(bones.keypoint_names)
        if given != names and set(given) == set(map(str, names)):
            i = next(i for i in range(len(names)) if given[i] != names[i])
            raise InputError(
                f"{where}: the category has the keypoints of skeleton {bones.name} in another order: keypoint {i} is "
                f"{names[i]}, not {given[i]}"
            )
    return bones


def load_skeleton(skeleton: SkeletonLike) -> Skeleton:
    """A skeleton by name ("coco17") or from a YAML or JSON file with name, keypoint_names, edges, flip_pairs, sigmas.

    Raises:
        UsageError: no such name or file. InputError: the content is not a valid skeleton.
    """
    if isinstance(skeleton, Skeleton):
        return skeleton
    if str(skeleton) in SKELETONS:
        return SKELETONS[str(skeleton)]
    path = Path(skeleton)
    if not path.is_file():
        raise UsageError(f"{skeleton}: neither a file nor a known skeleton ({', '.join(SKELETONS)})")
    data = read_json(path) if path.suffix.lower() == ".json" else load_yaml(path)
    try:
        return Skeleton.from_dict(data)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {reason(error)}") from None


def find_images_dir(annotations: Path, file_name: str = "") -> Path:
    """Where the pictures of an annotation file usually lie: the first of these that holds `file_name`.

    `../images`, `../<split>` and `../images/<split>` (COCO's `person_keypoints_val2017.json` -> `val2017`), the folder
    `images` beside the file, the file's own folder. Default when none holds it: `../images` if it exists, else the
    file's own folder.
    """
    here = annotations.resolve().parent
    split = annotations.stem.rsplit("_", 1)[-1]
    places = (here.parent / "images", here.parent / split, here.parent / "images" / split, here / "images", here)
    for place in places:
        if file_name and (place / file_name).is_file():
            return place
    return places[0] if places[0].is_dir() else here


def reason(error: Exception) -> str:
    """An exception's text in one line, for a message that names the place."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return " ".join(str(error).split()) or type(error).__name__
