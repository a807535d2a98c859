"""The persons of the training pictures that nobody labelled: the bundled detector finds them, a teacher labels them.

    python benchmarks/bystanders.py --root data/pose --teacher movenet_thunder_256.onnx --out train_bystanders.json

Sports pictures have one labelled person each, and often spectators, opponents and passers-by behind it: people who
stand close together, hide each other and are cut off, as in everyday photographs. The teacher (MoveNet Thunder, see
`relabel.py`) looks at each of them and at the mirror image; keypoints are kept, at the mean, where both looks agree,
with the smaller of the two scores as weight. The output is a COCO file of these persons alone, for `data.train` of a
recipe.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from relabel import FLIP, look

from ebapose.atomic import write_text
from ebapose.geometry import boxes as geometry
from ebapose.inference.detector import NanoDet
from ebapose.inference.runtime import open_plain
from ebapose.io.pictures import read_image
from ebapose.structures import Frame

SMALLEST_PX = 32  # of a box's longer side
DETECTED = 0.3  # score of a box: the teacher judges it, so more than in use (0.35) may pass
SURE = 0.3  # score of both looks
AGREE = 0.06  # distance between them, in longer sides of the box
MIN_KEYPOINTS = 4
COVERED = 0.7  # a box so far inside a known person's is that person
SAME = 0.12  # median distance to a known person's keypoints, in longer sides


def look_twice(runtime: Any, image: NDArray[np.uint8], box_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(17, 3) keypoints in image px and their weights: 0 where the two looks do not agree or leave the picture."""
    left, top, right, bottom = box_xyxy.tolist()
    height, width = image.shape[:2]
    longer = max(right - left, bottom - top)
    seen = look(runtime, image, [left, top, right - left, bottom - top])
    mirrored = np.ascontiguousarray(image[:, ::-1])
    again = look(runtime, mirrored, [width - right, top, right - left, bottom - top])[FLIP]
    again[:, 0] = width - 1 - again[:, 0]
    points = (seen[:, :2] + again[:, :2]) / 2
    scores = np.minimum(seen[:, 2], again[:, 2])
    agree = np.linalg.norm(seen[:, :2] - again[:, :2], axis=1) < AGREE * longer
    inside = ((points >= 0) & (points <= [width - 1, height - 1])).all(axis=1)
    weights = np.where(agree & inside & (scores > SURE), np.minimum(scores, 0.9), 0)
    return np.concatenate([points, weights[:, None]], axis=1)


def is_known(seen: NDArray[np.float64], known: list[NDArray[np.float64]], longer: float) -> bool:
    """Whether the teacher looked at one of the known persons, (17, 3) each, instead of another one."""
    for other in known:
        both = (seen[:, 2] > 0) & (other[:, 2] > 0)
        distances = np.linalg.norm(seen[both, :2] - other[both, :2], axis=1)
        if both.sum() >= 3 and np.median(distances) < SAME * longer:
            return True
    return False


def find(
    image: NDArray[np.uint8], labelled: list[dict[str, Any]], detector: NanoDet, teacher: Any, counts: Counter[str]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Boxes (4,) xyxy and keypoints (17, 3) of the persons of a picture who are not among its annotations."""
    taken = geometry.xywh_to_xyxy(np.array([entry["bbox"] for entry in labelled], np.float64).reshape(-1, 4))
    known = [np.array(entry["keypoints"], np.float64).reshape(-1, 3) for entry in labelled]
    found = []
    for box in detector(Frame(image)).xyxy.astype(np.float64):
        longer = max(box[2] - box[0], box[3] - box[1])
        smaller = np.minimum(geometry.area(box[None])[:, None], geometry.area(taken)[None])
        covered = geometry.intersection(box[None], taken) / np.maximum(smaller, 1)
        if longer < SMALLEST_PX or covered.max(initial=0) > COVERED:
            continue
        counts["boxes looked at"] += 1
        seen = look_twice(teacher, image, box)
        if np.count_nonzero(seen[:, 2]) < MIN_KEYPOINTS or is_known(seen, known, longer):
            continue
        counts["persons"] += 1
        counts["keypoints"] += int(np.count_nonzero(seen[:, 2]))
        known.append(seen)
        found.append((box, seen))
    return found


def annotation(number: int, image_id: int, box: NDArray[np.float64], seen: NDArray[np.float64]) -> dict[str, Any]:
    """A COCO annotation of one found person."""
    width, height = (box[2:] - box[:2]).tolist()
    rows = [(round(x, 2), round(y, 2), 1) if weight > 0 else (0, 0, 0) for x, y, weight in seen.tolist()]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [round(value, 2) for value in (*box[:2].tolist(), width, height)],
        "area": round(0.53 * width * height, 1),  # as of the other persons without an outline
        "num_keypoints": int(np.count_nonzero(seen[:, 2])),
        "keypoints": [value for row in rows for value in row],
        "keypoint_weights": [round(weight, 2) for weight in seen[:, 2].tolist()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with annotations/train.json and images/")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="look at the first pictures only")
    options = parser.parse_args()
    content = json.loads((options.root / "annotations/train.json").read_text(encoding="utf-8"))
    labelled: dict[int, list[dict[str, Any]]] = {}
    for entry in content["annotations"]:
        labelled.setdefault(entry["image_id"], []).append(entry)
    number = max(entry["id"] for entry in content["annotations"])
    detector, teacher = NanoDet(DETECTED), open_plain(options.teacher)
    counts: Counter[str] = Counter()
    images, persons = [], []
    for picture in content["images"][: options.limit]:
        image = read_image(options.root / "images" / picture["file_name"]).image
        found = find(image, labelled.get(picture["id"], []), detector, teacher, counts)
        counts["pictures"] += 1
        if found:
            images.append(picture)
        for box, seen in found:
            number += 1
            persons.append(annotation(number, picture["id"], box, seen))
    write_text(options.out, json.dumps({**content, "images": images, "annotations": persons}))
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
