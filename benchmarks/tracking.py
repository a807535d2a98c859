"""How well identities are kept and how much detecting less often costs.

python benchmarks/tracking.py            # made walkers with simulated noise: seconds
python benchmarks/tracking.py --pixels   # people cut out of examples/*.jpg, real detector and network: minutes
"""

from __future__ import annotations

import argparse

import numpy as np

from ebapose.geometry import boxes as box_geometry
from ebapose.tracking.metrics import Match, TrackingScores, score_tracks
from ebapose.tracking.scenarios import SCENARIOS, SimulatedEyes, walk
from ebapose.tracking.stream import inside
from ebapose.tracking.tracker import Tracker

INTERVALS = (1, 2, 3, 5, 8, 15)


def track_simulated(scenario: str, every: int, seed: int, **eyes: float) -> tuple[TrackingScores, float, float]:
    """Scores of one run, mean OKS-like error of the boxes' IoU, and the share of frames that were detected in."""
    tracker, seer = Tracker(), SimulatedEyes(seed, **eyes)
    frames: list[Match] = []
    detections, last = 0, -every
    overlaps = []
    for truth in walk(scenario, seconds=10 if scenario == "crowd" else 5, seed=seed):
        seer.look(truth)
        frame, time_s = truth.frame, truth.frame.time_s or 0.0
        if frame.index - last >= every or tracker.needs_detection:
            last, detections = frame.index, detections + 1
            boxes = tracker.steady(inside(seer.detect(frame), frame), time_s)
            poses = tracker.update(seer.estimate(frame, boxes), time_s)
        else:
            poses = tracker.follow(seer.estimate(frame, tracker.expected(time_s, frame.hw)), time_s)
        overlap = box_geometry.iou(truth.boxes_xyxy, poses.boxes.xyxy)
        overlaps += overlap.max(axis=1).tolist() if overlap.size else []
        frames.append((truth.identities.tolist(), poses.track_ids.tolist(), overlap))
    return score_tracks(frames), float(np.mean(overlaps)), detections / len(frames)


def simulated() -> None:
    print("scenario    every   IDF1   MOTA   HOTA   switches  box IoU  detector ran in")
    for every in INTERVALS:
        rows = []
        for scenario in SCENARIOS:
            runs = [track_simulated(scenario, every, seed) for seed in range(8)]
            row = np.mean([[r.idf1, r.mota, r.hota, r.switches, iou, share] for r, iou, share in runs], axis=0)
            rows.append(row)
            print(f"{scenario:10s} {every:5d}   " + "  ".join(f"{v:5.3f}" for v in row[:3]), end="")
            print(f"   {row[3]:6.2f}   {row[4]:6.3f}   {100 * row[5]:4.0f} %")
        mean = np.mean(rows, axis=0)
        print(f"{'mean':10s} {every:5d}   " + "  ".join(f"{v:5.3f}" for v in mean[:3]), end="")
        print(f"   {mean[3]:6.2f}   {mean[4]:6.3f}   {100 * mean[5]:4.0f} %\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    simulated()


if __name__ == "__main__":
    main()
