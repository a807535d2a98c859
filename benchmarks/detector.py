"""How many persons the bundled detector finds, in float32 and in what it calculates in by default, and how fast it is.

    python benchmarks/detector.py --annotations data/pose/annotations/val.json --images data/pose/images [--limit 200]

A labelled person is found where a box overlaps the labelled one by half (IoU). Both calculate picture by picture in
turns; times are of the network alone, and the ratio is the median over the pictures. Pictures whose persons are not all
labelled (most of them) say nothing about false alarms: the number of boxes is printed beside the recall.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from ebapose.data.coco import load_coco
from ebapose.geometry.boxes import iou
from ebapose.inference.detector import NanoDet
from ebapose.io.pictures import read_image

SCORES = (0.2, 0.3, 0.35, 0.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--limit", type=int, default=200, help="pictures at most")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    dataset = load_coco(arguments.annotations, arguments.images)
    labelled: dict[Path, list[np.ndarray]] = {}
    for index in range(len(dataset)):
        record = dataset[index]
        if not record.iscrowd:
            labelled.setdefault(record.image_path, []).append(record.box_xyxy)
    pictures = list(labelled)[: arguments.limit]
    detectors = {
        name: NanoDet(score_threshold=min(SCORES), threads=arguments.threads, bfloat16=name == "default")
        for name in ("float32", "default")
    }
    best: dict[str, list[float]] = {name: [] for name in detectors}  # score of the best box on each person, or 0
    boxes = {name: np.zeros(len(SCORES), int) for name in detectors}
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    for path in pictures:
        frame = read_image(path)
        for name, detector in detectors.items():
            blob, _ = detector._preprocess(frame)
            start = time.perf_counter()
            detector._runtime(blob)
            seconds[name].append(time.perf_counter() - start)
            found = detector(frame)
            boxes[name] += [int((found.scores >= score).sum()) for score in SCORES]
            for overlap in iou(labelled[path], found.xyxy):
                best[name].append(float(found.scores[overlap >= 0.5].max(initial=0.0)))
    persons = len(best["default"])
    print(f"{len(pictures)} pictures, {persons} labelled persons; recall at IoU 0.5 (boxes per picture)")
    for name, detector in detectors.items():
        recalls = [sum(found >= score for found in best[name]) / persons for score in SCORES]
        cells = [
            f"{recall:.3f} ({count / len(pictures):.1f}) from score {score:g}"
            for score, recall, count in zip(SCORES, recalls, boxes[name], strict=True)
        ]
        print(f"{name}, in {detector._runtime.precision}: {', '.join(cells)}")
    ratios = [a / b for a, b in zip(seconds["float32"], seconds["default"], strict=True)]
    print(f"float32 takes {statistics.median(ratios):.2f} times as long as the default")


if __name__ == "__main__":
    main()
