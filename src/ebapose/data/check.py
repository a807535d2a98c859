"""What is wrong with an annotation file, found before it costs a training run.

Adding a new check: a `_find_...` function that calls `found.add(kind, example)`, and a line in
`data.findings.KINDS` that says what the finding means and whether it is an error (the data cannot be used as it is) or
a warning (look at it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebapose.data.coco_file import (
    SkeletonLike,
    choose_skeleton,
    find_category,
    find_images_dir,
    read_coco_json,
)
from ebapose.data.findings import CheckReport, Findings
from ebapose.data.sides import swapped_sides
from ebapose.errors import InputError
from ebapose.io.pictures import read_image
from ebapose.skeleton import Skeleton


def check_annotations(
    annotations: str | Path,
    images_dir: str | Path | None = None,
    *,
    skeleton: SkeletonLike | None = None,
    category: str | None = None,
    read_pictures: bool = True,
    max_examples: int = 3,
) -> CheckReport:
    """Check a COCO keypoint file and its pictures.

    Args:
        annotations, images_dir, skeleton, category: as for `data.coco.load_coco`.
        read_pictures: also decode every picture; without, only their presence is checked.
        max_examples: places to name per kind of problem.

    Raises:
        UsageError: there is no such file.
        InputError: it is not JSON or has not the frame of a COCO file; everything else becomes a finding.
    """
    path = Path(annotations)
    data = read_coco_json(path)
    found = Findings(max_examples)
    bones: Skeleton | None = None
    chosen: Mapping[str, Any] = {}
    try:
        chosen = find_category(data, path, category)
    except InputError as error:
        found.add("category", str(error).removeprefix(f"{path}: "))
    try:
        if chosen or skeleton is not None:
            bones = choose_skeleton(chosen, path, skeleton)
    except InputError as error:
        found.add("skeleton", str(error).removeprefix(f"{path}: "))
    images = _find_image_entries(data["images"], found)
    first_name = next(iter(images.values()))[0] if images else ""
    folder = find_images_dir(path, first_name) if images_dir is None else Path(images_dir)
    _find_pictures(images, folder, read_pictures, found)

    _find_categories(data, found)
    people = [a for a in data["annotations"] if not chosen or a.get("category_id") == chosen["id"]]
    length = bones.num_keypoints if bones else None
    persons = _find_annotation_entries(people, images, length, found)
    if bones is not None and not persons:
        found.add("nobody", f"{len(people)} annotations of category {chosen.get('name')!r}")
    labelled: dict[str, int] = {}
    if bones is not None and persons:
        visibility = np.stack([person[:, 2] for person in persons]) > 0
        counts = visibility.sum(axis=0)
        labelled = {name: int(n) for name, n in zip(bones.keypoint_names, counts, strict=True)}
        for name in (name for name, count in labelled.items() if count == 0):
            found.add("never labelled", name)
        for line in swapped_sides(np.stack(persons), bones):
            found.add("left and right", line)
    return CheckReport(
        annotations=str(path),
        images_dir=str(folder),
        skeleton=bones.name if bones else None,
        num_images=len(data["images"]),
        num_annotations=len(people),
        num_persons=len(persons),
        labelled=labelled,
        findings=found.all(),
    )


def _find_image_entries(entries: Sequence[Mapping[str, Any]], found: Findings) -> dict[int, tuple[str, int, int]]:
    """Image id -> file name, height, width, of the usable entries."""
    images: dict[int, tuple[str, int, int]] = {}
    for number, entry in enumerate(entries):
        name = entry.get("file_name")
        problems = [key for key in ("id", "height", "width") if not _is_whole(entry.get(key))]
        if not isinstance(name, str) or not name or "\0" in name:
            problems.append("file_name")
        if problems or not isinstance(name, str):
            found.add("image entry", f"images[{number}]: {', '.join(problems)}")
            continue
        image_id, height, width = int(entry["id"]), int(entry["height"]), int(entry["width"])
        if height < 1 or width < 1:
            found.add("image entry", f"image {image_id}: {width}x{height} px")
        elif image_id in images:
            found.add("duplicate image id", f"{image_id}: {images[image_id][0]}, {name}")
        else:
            images[image_id] = name, height, width
    return images


def _find_pictures(images: Mapping[int, tuple[str, int, int]], folder: Path, read: bool, found: Findings) -> None:
    def look(image: tuple[str, int, int]) -> tuple[str, str] | None:
        name, height, width = image
        path = folder / name
        try:
            if not path.is_file():
                return "missing picture", str(path)
            hw = read_image(path).hw if read else (height, width)
        except (InputError, OSError, ValueError) as error:
            return "unreadable picture", str(error)
        if hw != (height, width):
            return "picture size", f"{name} is {hw[1]}x{hw[0]}, annotated as {width}x{height}"
        return None

    entries = list(images.values())
    with ThreadPoolExecutor(4) as pool:
        for begin in range(0, len(entries), 256):  # in parts, so that an interrupt does not wait for all
            for problem in pool.map(look, entries[begin : begin + 256]):
                if problem:
                    found.add(*problem)


def _find_categories(data: Mapping[str, Sequence[Mapping[str, Any]]], found: Findings) -> None:
    listed = [category.get("id") for category in data["categories"]]
    for number, entry in enumerate(data["annotations"]):
        where = f"annotation {entry['id']}" if _is_whole(entry.get("id")) else f"annotations[{number}]"
        if entry.get("category_id") is None:
            found.add("annotation entry", f"{where}: category_id")
        elif entry["category_id"] not in listed:
            found.add("unlisted category", f"{where}: category {entry['category_id']}")


def _find_annotation_entries(
    people: Sequence[Mapping[str, Any]],
    images: Mapping[int, tuple[str, int, int]],
    num_keypoints: int | None,
    found: Findings,
) -> list[NDArray[np.float64]]:
    """Keypoints (K, 3) of the persons whose numbers could be read."""
    ids: set[Any] = set()
    seen: set[tuple[Any, bytes]] = set()
    persons: list[NDArray[np.float64]] = []
    for number, entry in enumerate(people):
        annotation_id, image_id = entry.get("id"), entry.get("image_id")
        where = f"annotation {annotation_id}" if _is_whole(annotation_id) else f"annotations[{number}]"
        if not _is_whole(annotation_id):
            found.add("annotation entry", f"{where}: id")
        elif annotation_id in ids:
            found.add("duplicate annotation id", str(annotation_id))
        else:
            ids.add(annotation_id)
        if not _is_whole(image_id):
            found.add("annotation entry", f"{where}: image_id")
        elif image_id not in images:
            found.add("orphan annotation", f"{where}: image {image_id}")
        image = images.get(image_id) if isinstance(image_id, int) else None
        box = _find_box(entry, where, image, found)
        _find_weights(entry, where, num_keypoints, found)
        points = _find_keypoints(entry, where, image, box, num_keypoints, found)
        crowd = float(entry["iscrowd"]) if isinstance(entry.get("iscrowd"), bool) else entry.get("iscrowd", 0)
        if _numbers(crowd, ()) is None:
            found.add("annotation entry", f"{where}: iscrowd")
        if points is None or crowd or not (points[:, 2] > 0).any():
            continue
        key = (image_id if _is_whole(image_id) else None, points.tobytes())
        if key in seen:
            found.add("duplicate person", where)
        seen.add(key)
        persons.append(points)
    if num_keypoints is None:  # without a skeleton their lengths may differ
        return []
    return persons


def _find_box(
    entry: Mapping[str, Any], where: str, image: tuple[str, int, int] | None, found: Findings
) -> NDArray[np.float64] | None:
    """(4,) xywh, None if it cannot be read."""
    area = _numbers(entry.get("area"), ())
    if area is None:
        found.add("annotation entry", f"{where}: area")
    elif area <= 0:
        found.add("no area", f"{where}: {area:g}")
    box = _numbers(entry.get("bbox"), (4,))
    if box is None:
        found.add("annotation entry", f"{where}: bbox")
        return None
    x, y, w, h = box.tolist()
    shown = f"{where}: {x:g}, {y:g}, {w:g}, {h:g}"
    if w <= 0 or h <= 0:
        found.add("empty box", shown)
        return None
    if area is not None and area > 1.05 * w * h + 1:
        found.add("area larger than box", f"{where}: {area:g} > {w:g} * {h:g}")
    if image is not None:
        _, height, width = image
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            found.add("box outside", f"{shown} in {width}x{height}")
        elif x < -2 or y < -2 or x + w > width + 2 or y + h > height + 2:
            found.add("box beyond", f"{shown} in {width}x{height}")
    return box


def _find_weights(entry: Mapping[str, Any], where: str, num_keypoints: int | None, found: Findings) -> None:
    if "keypoint_weights" not in entry:
        return
    weights = _numbers(entry["keypoint_weights"], None if num_keypoints is None else (num_keypoints,))
    if weights is None:
        wanted = f" (expected {num_keypoints} finite numbers)" if num_keypoints else ""
        found.add("annotation entry", f"{where}: keypoint_weights{wanted}")
    elif (weights < 0).any():
        found.add("annotation entry", f"{where}: keypoint_weights are negative")


def _find_keypoints(
    entry: Mapping[str, Any],
    where: str,
    image: tuple[str, int, int] | None,
    box: NDArray[np.float64] | None,
    num_keypoints: int | None,
    found: Findings,
) -> NDArray[np.float64] | None:
    """(K, 3) x, y, visibility; None if they cannot be read."""
    if "keypoints" not in entry:
        return None
    flat = _numbers(entry["keypoints"], None if num_keypoints is None else (3 * num_keypoints,))
    if flat is None or flat.ndim != 1 or len(flat) % 3:
        wanted = f" (expected {3 * num_keypoints} finite numbers)" if num_keypoints else ""
        found.add("annotation entry", f"{where}: keypoints{wanted}")
        return None
    points = flat.reshape(-1, 3)
    labelled = points[:, 2] > 0
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        wrong = points[~np.isin(points[:, 2], (0, 1, 2)), 2][0]
        found.add("visibility", f"{where}: {wrong:g}")
    claimed, count = entry.get("num_keypoints"), int(np.count_nonzero(labelled))
    if claimed is not None and claimed != count:
        found.add("num_keypoints", f"{where}: {claimed!r:.20}, labelled are {count}")
    if image is not None:
        _, height, width = image
        # COCO's own coordinates may touch the far edge
        out = labelled & ((points[:, :2] < -1).any(axis=1) | (points[:, :2] > (width, height)).any(axis=1))
        for i in np.flatnonzero(out):
            x, y = points[i, :2]
            found.add("keypoint outside", f"{where}: keypoint {i} at {x:g}, {y:g} in {width}x{height}")
    if box is not None:
        middle, reach = box[:2] + box[2:] / 2, box[2:].max()
        far = labelled & (np.abs(points[:, :2] - middle) > box[2:] / 2 + reach / 2).any(axis=1)
        for i in np.flatnonzero(far):
            found.add("keypoint far from box", f"{where}: keypoint {i}")
    return points


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _numbers(value: Any, shape: tuple[int, ...] | None) -> NDArray[np.float64] | None:
    """Finite float64 array of the shape (None: any), or None."""
    if value is None or isinstance(value, str | bool):
        return None
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    good = (shape is None or array.shape == shape) and bool((np.abs(array) < 1e12).all())
    return array if good else None
