"""How many persons the bundled detector finds, in float32 and in what it calculates in by default, and how fast it is.

    python benchmarks/detector.py --annotations data/pose/annotations/val.json --images data/pose/images [--limit 200]
    python benchmarks/detector.py --annotations ..._everyday.json --images data/pose/images --tiles

A labelled person is found where a box overlaps the labelled one by half (IoU). Both calculate picture by picture in
turns; times are of the network alone, and the ratio is the median over the pictures. Pictures whose persons are not all
labelled (most of them) say nothing about false alarms: the number of boxes is printed beside the recall.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ebapose.data.coco import load_coco
from ebapose.geometry.boxes import iou
from ebapose.inference.detector import NanoDet
from ebapose.io.pictures import read_image
from ebapose.structures import Frame

SCORES = (0.2, 0.3, 0.35, 0.4)


def mosaics(labelled: dict[Path, list[np.ndarray]], side: int) -> Iterator[tuple[Frame, np.ndarray]]:
    """Pictures of side x side pictures, each in 640x480, and the boxes of their persons: small people, wide views."""
    width, height = 640, 480
    paths = list(labelled)
    for start in range(0, len(paths) - side**2 + 1, side**2):
        canvas = np.full((height * side, width * side, 3), 114, np.uint8)
        boxes = []
        for place, path in enumerate(paths[start : start + side**2]):
            image = read_image(path).image
            factor = min(width / image.shape[1], height / image.shape[0])
            small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)[:height, :width]
            top, left = place // side * height, place % side * width
            canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
            boxes += [box * factor + np.array([left, top, left, top]) for box in labelled[path]]
        yield Frame(canvas), np.array(boxes)


def compare_tiles(labelled: dict[Path, list[np.ndarray]], threads: int | None) -> None:
    detector = NanoDet(score_threshold=0.2, threads=threads)
    print("pictures in one, tiles: recall at IoU 0.5 from score 0.35 and 0.2 on; boxes from 0.35 on; ms a picture")
    for side in (1, 2, 3):
        for detector.tiles in (1, 2, 3):
            persons, boxes, seconds, found = 0, 0, 0.0, np.zeros(2, int)
            pictures = 0
            for frame, truth in mosaics(labelled, side):
                start = time.perf_counter()
                shown = detector(frame)
                seconds += time.perf_counter() - start
                matched = iou(truth, shown.xyxy) >= 0.5
                found += [int((matched & (shown.scores >= score)).any(axis=1).sum()) for score in (0.35, 0.2)]
                persons, boxes = persons + len(truth), boxes + int((shown.scores >= 0.35).sum())
                pictures += 1
            if not pictures:
                continue
            recalls = ", ".join(f"{count / persons:.3f}" for count in found)
            print(f"{side}x{side}, {detector.tiles}: {recalls} of {persons}; {boxes}; {1000 * seconds / pictures:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--limit", type=int, default=200, help="pictures at most")
    parser.add_argument("--tiles", action="store_true", help="compare tiles instead, on pictures put together")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    dataset = load_coco(arguments.annotations, arguments.images)
    labelled: dict[Path, list[np.ndarray]] = {}
    for index in range(len(dataset)):
        record = dataset[index]
        if not record.iscrowd:
            labelled.setdefault(record.image_path, []).append(record.box_xyxy)
    labelled = dict(list(labelled.items())[: arguments.limit])
    if arguments.tiles:
        compare_tiles(labelled, arguments.threads)
        return
    pictures = list(labelled)
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
