"""How well identities are kept and how much detecting less often costs.

python benchmarks/tracking.py               # made walkers with simulated noise: a minute or two
python benchmarks/tracking.py --smoothing   # jitter and lag with known truth: seconds
python benchmarks/tracking.py --drawn       # the same walkers drawn, real detector and network: minutes
python benchmarks/tracking.py --clip FILE   # a real clip, real detector and network: a minute
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

import ebapose
from ebapose.geometry import boxes as box_geometry
from ebapose.skeleton import COCO17
from ebapose.structures import Boxes, Poses
from ebapose.tracking.metrics import Match, TrackingScores, score_tracks
from ebapose.tracking.scenarios import SCENARIOS, SimulatedEyes, walk
from ebapose.tracking.smoothing import Smoother
from ebapose.tracking.stream import look
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
            poses = look(tracker, seer.detect, seer.estimate, frame, time_s)
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


def smooth(points: np.ndarray, sigma: float, fps: float) -> np.ndarray:
    """(T, 17, 2) points of one person after the filter."""
    smoother, box = Smoother(), Boxes.from_xyxy([[100, 100, 200, 400]])
    scores, sigmas = np.full((1, 17), 0.9), np.full((1, 17, 2), sigma)
    frames = (Poses(p[None], scores, sigmas, box, COCO17, "made", (480, 640), np.array([1])) for p in points)
    return np.stack([smoother(poses, index / fps).keypoints[0] for index, poses in enumerate(frames)])


def jitter(points: np.ndarray) -> float:
    """Mean second difference between frames, px: a steady movement is none."""
    return float(np.linalg.norm(np.diff(points, 2, axis=0), axis=-1).mean())


def smoothing() -> None:
    rng = np.random.default_rng(0)
    print("standing: noise px, frames/s, jitter raw -> smooth, ratio, error / noise")
    for sigma in (1.0, 3.0, 8.0):
        for fps in (25.0, 30.0, 60.0):
            raw = 200 + rng.normal(0, sigma, (200, 17, 2))
            found = smooth(raw, sigma, fps)[30:]
            before, after = jitter(raw[30:]), jitter(found)
            error = np.sqrt(((found - 200) ** 2).mean()) / sigma
            print(f"{sigma:4.0f} {fps:6.0f} {before:9.2f} -> {after:5.2f} {before / after:7.1f} {error:8.2f}")
    print("swinging 300 px to and fro, 30 frames/s: noise px, Hz, lag in frames")
    times = np.arange(120)
    for noise, frequency in itertools.product((3.0, 15.0), (0.5, 1.0, 2.0, 3.0)):
        truth = 300 + 150 * np.sin(2 * np.pi * frequency * times / 30)
        raw = np.repeat(truth[:, None, None], 17, axis=1) * [1, 0] + rng.normal(0, noise, (120, 17, 2))
        found = smooth(raw, noise, 30)[:, :, 0].mean(axis=1)
        shifts = np.arange(0, 4.01, 0.05)
        errors = [np.abs(np.interp(times - shift, times, truth) - found)[20:-5].mean() for shift in shifts]
        print(f"{noise:4.0f} {frequency:4.1f} {shifts[np.argmin(errors)]:8.2f}")


def drawn(seconds: float) -> None:
    """The scenarios as pictures, from the file to the identities."""
    import av

    predictor = ebapose.load()
    print("drawn walkers, real detector and network: IDF1 MOTA HOTA switches, detector ran in")
    for scenario in SCENARIOS:
        rows = []
        for seed in range(3):
            truths = list(walk(scenario, seconds, draw=True, seed=seed))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "walk.mkv"
                with av.open(str(path), "w") as container:
                    stream = container.add_stream("ffv1", rate=30)
                    stream.height, stream.width = truths[0].frame.hw
                    stream.pix_fmt = "bgr0"
                    for truth in truths:
                        picture = av.VideoFrame.from_ndarray(truth.frame.image, format="rgb24")
                        picture.pts, picture.time_base = truth.frame.index, Fraction(1, 30)
                        container.mux(stream.encode(picture))
                    container.mux(stream.encode(None))
                tracked = predictor.track(path)
                frames: list[Match] = [
                    (
                        truth.identities.tolist(),
                        poses.track_ids.tolist(),
                        box_geometry.iou(truth.boxes_xyxy, poses.boxes.xyxy),
                    )
                    for truth, (_, poses) in zip(truths, tracked, strict=True)
                ]
            found = score_tracks(frames)
            rows.append([found.idf1, found.mota, found.hota, found.switches, tracked.counts.detections / len(truths)])
        mean = np.mean(rows, axis=0)
        print(f"{scenario:10s} " + "  ".join(f"{v:5.3f}" for v in mean[:3]), f"{mean[3]:5.2f} {100 * mean[4]:4.0f} %")


def clip(path: Path, seconds: float) -> None:
    """What detecting less often costs and saves on a real clip, where the truth is not known."""
    predictor = ebapose.load()
    print("detect every s, detector ran in, identities, ms per frame, jitter px raw -> smooth")
    for every_s in (0.0, 0.07, 0.1, 0.17, 0.27, 0.5):
        figures = []
        for smoothed in (False, True):
            walk = predictor.track(path, detect_every_s=every_s, smooth=smoothed)
            begin, last, steps = time.perf_counter(), {}, []
            for frame, poses in walk:
                now = dict(zip(poses.track_ids.tolist(), poses.keypoints, strict=True))
                steps += [np.linalg.norm(now[i] - last[i], axis=-1).mean() for i in now if i in last]
                last = now
                if (frame.time_s or 0) > seconds:
                    break
            figures.append((1000 * (time.perf_counter() - begin) / walk.counts.frames, np.mean(steps)))
            walk.close()
        share = 100 * walk.counts.detections / walk.counts.frames
        print(
            f"{every_s:5.2f} {share:6.0f} % {len(walk.counts.identities):4d} {figures[0][0]:8.1f} "
            f"{figures[0][1]:8.2f} -> {figures[1][1]:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoothing", action="store_true", help="jitter and lag instead")
    parser.add_argument("--drawn", action="store_true", help="drawn walkers through the real networks instead")
    parser.add_argument("--clip", type=Path, help="a real clip instead")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the clip or the drawn walkers")
    options = parser.parse_args()
    if options.clip is not None:
        clip(options.clip, options.seconds)
    elif options.drawn:
        drawn(options.seconds)
    elif options.smoothing:
        smoothing()
    else:
        simulated()


if __name__ == "__main__":
    main()
