"""CPU seconds and memory of evaluation, on made-up results of COCO val2017's size.

    python benchmarks/evaluation.py [--persons 6352] [--poses 6352] [--images 5000] [--rounds 3]

`--poses 104125` is the size of the usual detector file. CPU seconds of this process, best of several rounds: other load
on the machine hardly changes them. The library's own AP (faster-coco-eval with its OKS) runs beside ours in each round.
"""

from __future__ import annotations

import argparse
import copy
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ebapose.evaluation.coco_ap import coco_ap
from ebapose.evaluation.inputs import read_annotations, read_results
from ebapose.evaluation.report import evaluate_predictions
from ebapose.geometry.oks import select_poses
from ebapose.skeleton import COCO17


def make_set(images: int, persons: int, poses: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations, and results: one noisy pose per person, then background or duplicates up to `poses`."""
    rng = np.random.default_rng(seed)
    sigmas = 2 * np.array(COCO17.sigmas)
    annotations, results, truth = [], [], []
    for i in range(persons):
        height = rng.uniform(40, 400)
        keypoints = rng.uniform(0, 240, 2) + height * np.array([0.5, 1]) * rng.random((17, 2))
        visibility = rng.choice(3, 17, p=[0.3, 0.1, 0.6])
        image_id = int(rng.integers(images)) + 1
        truth.append((image_id, keypoints, height))
        annotations.append(
            {
                "id": i + 1,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [0.0, 0.0, height / 2, height],
                "area": 0.53 * height**2 / 2,
                "num_keypoints": int((visibility > 0).sum()),
                "keypoints": np.column_stack([keypoints, visibility]).ravel().tolist(),
            }
        )
    for i in range(poses):
        image_id, keypoints, height = truth[i % persons]
        if i >= persons and i % 3:
            image_id, keypoints = int(rng.integers(images)) + 1, rng.uniform(0, 400, (17, 2))
        spread = sigmas * height * 0.5 * rng.gamma(1.5, 0.6, 17)
        scores = 1 / (1 + spread / (sigmas * height)) * (1.0 if i < persons else 0.3)
        entry = {"image_id": image_id, "category_id": 1, "score": float(scores.mean())}
        noisy = keypoints + rng.normal(size=(17, 2)) * spread[:, None]
        entry["keypoints"] = np.column_stack([noisy, scores]).round(3).ravel().tolist()
        entry["keypoint_sigmas"] = np.repeat(spread, 2).round(3).tolist()
        results.append(entry)
    listed = [{"id": i + 1, "file_name": f"{i + 1:012d}.jpg", "width": 640, "height": 640} for i in range(images)]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO17.keypoint_names)}]
    return {"images": listed, "annotations": annotations, "categories": categories}, results


def library_ap(annotations: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    """AP by faster-coco-eval alone."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(annotations)
    evaluator = COCOeval_faster(truth, truth.loadRes(results), iouType="keypoints", print_function=lambda *_: None)
    evaluator.run()
    return evaluator.stats


def cpu_seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--persons", type=int, default=6352)
    parser.add_argument("--poses", type=int, default=6352)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    annotations, results = make_set(options.images, options.persons, options.poses)
    truth = read_annotations(annotations)
    poses = read_results(results, truth)
    areas = np.prod(np.ptp(poses.keypoints, axis=1), axis=-1)
    made_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    with tempfile.TemporaryDirectory() as folder:
        work: dict[str, Callable[[], Any]] = {
            "read annotations and results": lambda: read_results(results, read_annotations(annotations)),
            "OKS-NMS": lambda: select_poses(
                poses.image_ids, poses.keypoints, poses.scores, areas, COCO17.sigmas, threshold=0.9
            ),
            "AP and AR": lambda: coco_ap(truth, poses, "detector"),
            "whole report, plots included": lambda: evaluate_predictions(
                annotations, results, Path(folder), "detector"
            ),
        }
        best = dict.fromkeys([*work, "AP and AR by the library alone"], float("inf"))
        for _ in range(options.rounds):
            for name, function in work.items():
                best[name] = min(best[name], cpu_seconds(function))
            copies = copy.deepcopy((annotations, results))  # the library writes into its inputs
            name = "AP and AR by the library alone"
            best[name] = min(best[name], cpu_seconds(lambda given=copies: library_ap(*given)))
    print(f"{options.images} pictures, {options.persons} persons, {options.poses} poses")
    for name, seconds in best.items():
        print(f"{seconds:8.2f} s  {name}")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory: {made_mib:.0f} MiB with the made-up data in memory, {peak_mib:.0f} MiB at most")


if __name__ == "__main__":
    main()
