"""The whole way of pictures against its two networks alone, what a crowd costs, and processes side by side.

    python benchmarks/pipeline.py [--model default] [--pictures 32] [--rounds 5] [--threads N]

Folder: pictures of 640x480 with two drawn persons, from files to overlays and JSON, against the detector's and the pose
network's calls alone (the same number, ready-made inputs, the same batch size). Crowd: 50 persons in one picture, from
the picture to the poses, against 50 calls of the pose network with one person. Processes: two, each with the pose
network on one thread, side by side against one of them alone. Both sides take turns in every round, and a ratio is the
median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from ebapose.data.synthetic import draw_people
from ebapose.inference.detector import NanoDet
from ebapose.inference.loading import load
from ebapose.inference.predictor import Predictor
from ebapose.inference.run import predict_sources
from ebapose.structures import Boxes, Frame

CROWD = 50


class TwoPersons(NanoDet):
    """The bundled detector at work, but always two persons found: drawn people are not what it was trained on."""

    def __init__(self, boxes: Boxes, threads: int | None) -> None:
        super().__init__(threads=threads)
        self._boxes = boxes

    def __call__(self, frame: Frame) -> Boxes:
        super().__call__(frame)
        return self._boxes


def alternate(rounds: int, sides: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of every side in every round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: dict[str, list[float]], per: int, target: float) -> None:
    whole, alone = seconds.values()
    ratios = [a / b for a, b in zip(whole, alone, strict=True)]
    for name, values in seconds.items():
        print(f"{title}, {name}: {1000 * statistics.median(values) / per:.1f} ms")
    print(f"{title}: ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), target {target}")


def folder_run(predictor: Predictor, detector: TwoPersons, image: np.ndarray, count: int, rounds: int) -> None:
    """Files in, files out, against the networks alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for i in range(count):
            cv2.imwrite(str(folder / "in" / f"{i}.jpg"), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        blob, _ = detector._preprocess(Frame(image))
        size = predictor.batch_size
        batch = np.zeros((size, *predictor.card.input.size_hw, 3), np.uint8)

        def networks() -> None:
            waiting = 0
            for _ in range(count):
                detector._runtime(blob)
                waiting += 2
                if waiting >= size:
                    predictor.runtime(batch)
                    waiting -= size
            if waiting:
                predictor.runtime(batch[:waiting])

        def whole() -> None:
            predict_sources(predictor, [str(folder / "in")], folder / "out")

        seconds = alternate(rounds, {"from files to files": whole, "networks alone": networks})
        report("folder, per picture", seconds, count, 1.15)


def crowd_run(predictor: Predictor, image: np.ndarray, rounds: int) -> None:
    """One picture with many persons against one person's network time."""
    height, width = image.shape[:2]
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.6, (CROWD, 2)) * (width, height)
    boxes = Boxes.from_xyxy(np.concatenate([corner, corner + rng.uniform(60, 180, (CROWD, 2))], axis=1))
    one = np.zeros((1, *predictor.card.input.size_hw, 3), np.uint8)

    def single() -> None:
        for _ in range(CROWD):
            predictor.runtime(one)

    seconds = alternate(rounds, {"the picture": lambda: predictor(image, boxes) and None, "one by one": single})
    report(f"{CROWD} persons", seconds, 1, 1.05)


@cache
def single_thread(model: str) -> Predictor:
    return load(model, threads=1)


def busy(model: str) -> None:
    """Five batches of one thread."""
    predictor = single_thread(model)
    batch = np.zeros((predictor.batch_size, *predictor.card.input.size_hw, 3), np.uint8)
    for _ in range(5):
        predictor.runtime(batch)


def processes_run(model: str, rounds: int) -> None:
    """Two processes with a core each against one alone."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as first, ProcessPoolExecutor(1, spawn) as second:

        def together() -> None:
            for done in (first.submit(busy, model), second.submit(busy, model)):
                done.result()

        seconds = alternate(rounds, {"side by side": together, "one alone": lambda: first.submit(busy, model).result()})
    report("two processes", seconds, 1, 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    scene = draw_people((480, 640), seed=3, num_people=2)
    detector = TwoPersons(Boxes.from_xyxy(scene.boxes_xyxy), arguments.threads)
    predictor = load(arguments.model, detector=detector, threads=arguments.threads)
    print(f"{predictor.card.name}, {predictor.runtime.name}, batch size {predictor.batch_size}")
    folder_run(predictor, detector, scene.image, arguments.pictures, arguments.rounds)
    crowd_run(predictor, scene.image, arguments.rounds)
    processes_run(arguments.model, arguments.rounds)


if __name__ == "__main__":
    main()
