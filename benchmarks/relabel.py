"""Labels against a teacher, and against the network they have taught: swapped sides and misplaced joints are put right,
doubtful ones count less, gaps are filled.

    python benchmarks/relabel.py --root data/pose --teacher movenet_thunder_256.onnx --out train_relabelled.json
    python benchmarks/relabel.py ... --own default

The teacher is MoveNet Thunder (Apache-2.0, for development only: `ebapose` neither ships nor needs it); distances are
in torso lengths (left shoulder to right hip). Per person labelled by hand:

- If four or more joints of the arms and shoulders, or of the legs and hips, lie within 0.25 of the teacher's joints of
  the other side on average, and much farther from those of their own side, their sides are swapped.
- Where the teacher saw the person (half of its joints lie within 0.25 of the labels), a label farther than 0.6 from a
  joint that the teacher is sure of counts 0.3, and keypoints without a label take the teacher's, at half its score.

With `--own`, then for every person but those of `coco/`, what these weights see in a picture and its mirror image. They
have been shown the labels many times: where they still see something else and are sure of it, the label is mostly
wrong.

- A label farther than 0.5 from a keypoint of a score of 0.6 and more becomes that keypoint, at its score (an estimated
  label: at half of it); from one of 0.4 and more, a label by hand counts 0.3.
- A label by hand that the teacher doubted counts in full again where the network is within 0.25 of it.
- Keypoints without a label take the network's where its score is 0.6 and more, at half its score.

Beyond the picture's borders it sees nothing.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ebapose
from ebapose.atomic import write_text
from ebapose.geometry.boxes import xywh_to_xyxy
from ebapose.geometry.crop import crop_to_image, image_to_crop_matrix, warp_crop
from ebapose.inference.runtime import open_plain
from ebapose.io.pictures import read_image
from ebapose.skeleton import COCO17
from ebapose.structures import Poses

FLIP = COCO17.flip_indices
FACE = slice(0, 5)
GROUPS = {"arms": list(range(5, 11)), "legs": list(range(11, 17))}
SIDE_PX = 256
SURE, SEEN, FAR = 0.5, 0.25, 0.6
OWN_SURE, OWN_HALF_SURE, OWN_FAR = 0.6, 0.4, 0.5
BATCH = 16


def look(runtime: Any, image: NDArray[np.uint8], box_xywh: list[float]) -> NDArray[np.float64]:
    """(17, 3) the teacher's x, y in image px and scores for one person."""
    left, top, width, height = box_xywh
    matrices = image_to_crop_matrix([[left, top, left + width, top + height]], (SIDE_PX, SIDE_PX))
    crop = warp_crop(image, matrices[0], (SIDE_PX, SIDE_PX), antialias=False)
    y, x, score = np.asarray(runtime(crop[None].astype(np.int32))[0])[0, 0].T
    points = crop_to_image(np.stack([x, y], axis=-1)[None] * SIDE_PX - 0.5, matrices)[0]
    return np.concatenate([points, score[:, None]], axis=-1)


def by_hand(labels: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(17,) the joints of body and limbs that a person has labelled."""
    marked = (labels[:, 2] > 0) & (weights >= 1)
    marked[FACE] = False
    return marked


def read_labels(entry: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """(17, 3) x, y and visibility, (17,) weights, and the torso's length in px of one annotation."""
    labels = np.array(entry["keypoints"], np.float64).reshape(-1, 3)
    weights = np.array(entry.get("keypoint_weights", [1.0] * len(labels)), np.float64)
    longer = max(entry["bbox"][2:])
    both = labels[5, 2] > 0 and labels[12, 2] > 0
    torso = max(np.linalg.norm(labels[5, :2] - labels[12, :2]) if both else longer / 3, longer / 6)
    return labels, weights, float(torso)


def write_labels(entry: dict[str, Any], labels: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    """Put them back into the annotation."""
    entry["keypoints"] = [v for x, y, flag in labels.tolist() for v in (round(x, 2), round(y, 2), int(flag))]
    entry["keypoint_weights"] = [round(weight, 3) for weight in weights.tolist()]
    entry["num_keypoints"] = int((labels[:, 2] > 0).sum())


def relabel(entry: dict[str, Any], seen: NDArray[np.float64], counts: Counter[str]) -> None:
    """Change one annotation in place by what the teacher saw."""
    labels, weights, torso = read_labels(entry)
    points, sure = seen[:, :2], seen[:, 2]
    for name, joints in GROUPS.items():
        judged = [k for k in joints if by_hand(labels, weights)[k] and min(sure[k], sure[FLIP[k]]) > 0.3]
        own, other = (
            np.linalg.norm(points[order][judged] - labels[judged, :2], axis=1).mean() / torso if judged else 0.0
            for order in (np.arange(len(labels)), FLIP)
        )
        if len(judged) >= 4 and other < SEEN and own > 2.5 * other + 0.1:
            labels[joints], weights[joints] = labels[FLIP[joints]].copy(), weights[FLIP[joints]].copy()
            counts[f"{name} swapped"] += 1
    distances = np.linalg.norm(points - labels[:, :2], axis=1) / torso
    hand = by_hand(labels, weights)
    counts["persons"] += 1
    if hand.any() and np.median(distances[hand]) < SEEN:
        doubtful = hand & (distances > FAR) & (sure > SURE)
        weights[doubtful] *= 0.3
        missing = ((labels[:, 2] == 0) | (weights == 0)) & (sure > 0.4)
        labels[missing] = np.concatenate([points, np.ones((len(points), 1))], axis=1)[missing]
        weights[missing] = 0.5 * np.minimum(sure[missing], 1)
        counts.update({"persons seen": 1, "joints doubted": int(doubtful.sum()), "filled in": int(missing.sum())})
    write_labels(entry, labels, weights)


def correct(entry: dict[str, Any], hand: NDArray[np.bool_], seen: NDArray[np.float64], counts: Counter[str]) -> None:
    """Change one annotation in place by what the network itself saw; `hand`: which labels a person has made."""
    labels, weights, torso = read_labels(entry)
    points, sure = seen[:, :2], seen[:, 2]
    labelled = (labels[:, 2] > 0) & (weights > 0)
    distances = np.linalg.norm(points - labels[:, :2], axis=1) / torso
    weights[hand & labelled & (distances <= SEEN)] = 1
    doubtful = hand & labelled & (distances > OWN_FAR) & (sure >= OWN_HALF_SURE) & (sure < OWN_SURE)
    weights[doubtful] = np.minimum(weights[doubtful], 0.3)
    wrong, missing = labelled & (distances > OWN_FAR) & (sure >= OWN_SURE), ~labelled & (sure >= OWN_SURE)
    new = wrong | missing
    labels[new] = np.concatenate([points, np.ones((len(points), 1))], axis=1)[new]
    weights[new] = np.where(wrong & hand, 1.0, 0.5)[new] * sure[new]
    counts.update({"joints corrected": int(wrong.sum()), "doubted by itself": int(doubtful.sum())})
    counts["filled in by itself"] += int(missing.sum())
    write_labels(entry, labels, weights)


def seen_inside(poses: Poses) -> NDArray[np.float64]:
    """(17, 3) x, y in image px and score of the only person, 0 for what is guessed beyond the picture's borders."""
    points, (height, width) = poses.keypoints[0].astype(np.float64), poses.image_hw
    inside = ((points >= 0) & (points < [width, height])).all(axis=1)
    return np.concatenate([points, (poses.scores[0] * inside)[:, None]], axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with annotations/train.json and images/")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--own", help="weights that the labels have taught, e.g. default")
    parser.add_argument("--limit", type=int, help="look at the first persons only")
    options = parser.parse_args()
    content = json.loads((options.root / "annotations/train.json").read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    entries = content["annotations"][: options.limit]
    hands = [by_hand(*read_labels(entry)[:2]) for entry in entries]
    counts: Counter[str] = Counter()

    def picture(entry: dict[str, Any]) -> NDArray[np.uint8]:
        return read_image(options.root / "images" / names[entry["image_id"]]).image

    runtime = open_plain(options.teacher)
    for entry in entries:
        if not names[entry["image_id"]].startswith("estimated/"):
            relabel(entry, look(runtime, picture(entry), entry["bbox"]), counts)
    if options.own is not None:
        network = ebapose.load(options.own, flip_test=True)
        judged = [i for i, entry in enumerate(entries) if not names[entry["image_id"]].startswith("coco/")]
        for begin in range(0, len(judged), BATCH):
            part = judged[begin : begin + BATCH]
            boxes = [xywh_to_xyxy([entries[i]["bbox"]]) for i in part]
            for i, poses in zip(part, network([picture(entries[i]) for i in part], boxes=boxes), strict=True):
                correct(entries[i], hands[i], seen_inside(poses), counts)
    write_text(options.out, json.dumps(content))
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
