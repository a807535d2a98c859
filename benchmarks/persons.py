"""Whom pictures show: sure boxes, without copies of one person, with those whose pose convinces, without hopeless ones.

    python benchmarks/persons.py --annotations data/pose/annotations/val.json --images data/pose/images [--limit 200]

All four judge the same poses (bundled detector and network, one pass) of the same boxes. A labelled person is found
where the box of somebody shown overlaps the labelled one by half (IoU), and right where the OKS of a shown pose is 0.5
or more; several labelled persons may share one. Crops are what goes through the network. Pictures whose persons are not
all labelled (most of them) say nothing about false alarms: who is shown is counted, and should be looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import ebapose
from ebapose.data.coco import Record, load_coco
from ebapose.geometry.boxes import iou
from ebapose.geometry.oks import oks
from ebapose.geometry.persons import Doubt, believed, worth_a_look
from ebapose.inference.detector import NanoDet
from ebapose.inference.loading import DOUBTED_FROM
from ebapose.io.pictures import read_image
from ebapose.structures import Boxes, Poses

WAYS = ("sure boxes", "without copies", "and those who convince", "without hopeless ones")


def shown(way: str, boxes: Boxes, poses: Poses, doubt: Doubt) -> tuple[np.ndarray, int]:
    """Row numbers of the persons shown, and how many crops that took."""
    looked = np.flatnonzero(worth_a_look(boxes, doubt.sure) if way in WAYS[2:] else boxes.scores >= doubt.sure)
    if way == WAYS[0]:
        return looked, len(looked)
    chosen = poses[looked]
    judged = doubt if way == WAYS[3] else Doubt(sure=doubt.sure, certain=doubt.sure)
    return looked[believed(chosen, judged)], len(looked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--limit", type=int, help="pictures at most; all of them by default")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    dataset = load_coco(arguments.annotations, arguments.images)
    labelled: dict[Path, list[Record]] = {}
    for index in range(len(dataset)):
        record = dataset[index]
        if not record.iscrowd and record.num_keypoints:
            labelled.setdefault(record.image_path, []).append(record)
    pictures = list(labelled)[: arguments.limit]
    detector = NanoDet(threads=arguments.threads, doubted_from=DOUBTED_FROM)
    doubt = detector.doubt
    assert doubt is not None
    predictor = ebapose.load(threads=arguments.threads)
    counts = {way: dict.fromkeys(("crops", "shown", "found", "right", "nobody"), 0) for way in WAYS}
    for path in pictures:
        frame, persons = read_image(path), labelled[path]
        boxes = detector(frame)
        poses = predictor(frame, boxes)
        truth = np.array([person.keypoints for person in persons])
        mask = np.array([person.visibility > 0 for person in persons])
        areas = [person.area for person in persons]
        similarity = oks(poses.keypoints, truth, mask, areas, poses.skeleton.sigmas)
        overlap = iou(boxes.xyxy, [person.box_xyxy for person in persons])
        for way, count in counts.items():
            rows, crops = shown(way, boxes, poses, doubt)
            count["crops"] += crops
            count["shown"] += len(rows)
            count["found"] += int((overlap[rows] >= 0.5).any(axis=0).sum())
            count["right"] += int((similarity[rows] >= 0.5).any(axis=0).sum())
            count["nobody"] += not len(rows)
    total = sum(len(labelled[path]) for path in pictures)
    print(f"{len(pictures)} pictures, {total} labelled persons; crops and shown per picture")
    print(f"{'':24}{'crops':>8}{'shown':>8}{'found':>8}{'right':>8}{'nobody':>8}")
    for way, count in counts.items():
        per_picture = f"{count['crops'] / len(pictures):8.2f}{count['shown'] / len(pictures):8.2f}"
        print(f"{way:24}{per_picture}{count['found'] / total:8.3f}{count['right'] / total:8.3f}{count['nobody']:8}")


if __name__ == "__main__":
    main()
