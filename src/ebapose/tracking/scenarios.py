"""Made videos of walking figures whose identities are known, to measure trackers with: crossings, occlusions, returns.

`walk` gives the truth of every frame (and, where asked for, draws it). `SimulatedEyes` stands in for the detector and
the pose network: it misses, trembles and invents as real ones do, repeatably.

Adding a new scenario: write a function of the time that places the walkers, and name it in `SCENARIOS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebapose.data.figure import ANGLES, Appearance, draw_person, figure_points, random_appearance
from ebapose.data.synthetic import background
from ebapose.geometry import boxes as box_geometry
from ebapose.skeleton import COCO17
from ebapose.structures import Boxes, Frame, Poses

Float64Array = NDArray[np.float64]

WIDTH, HEIGHT = 640, 480
FPS = 30.0


@dataclass(frozen=True)
class Walkers:
    """Where everybody is at one time: rows are persons, later rows stand before earlier ones.

    Attributes:
        x: (P,) of the body's middle, in widths of the picture; outside of 0..1 they are out of sight.
        stature: (P,) in heights of the picture.
    """

    x: Float64Array
    stature: Float64Array


def _crossing(t: float) -> Walkers:
    """Two persons walk past each other; the nearer one hides the other for about half a second."""
    return Walkers(np.array([0.1 + 0.16 * t, 0.9 - 0.16 * t]), np.array([0.55, 0.62]))


def _pillar(t: float) -> Walkers:
    """One person walks behind another who stands still and is far larger."""
    return Walkers(np.array([0.1 + 0.16 * t, 0.5]), np.array([0.45, 0.9]))


def _turning(t: float) -> Walkers:
    """Two persons meet until they half hide each other, stop, and go back where they came from."""
    way = float(0.32 * (1 - np.cos(2 * np.pi * t / 5)) / 2)
    return Walkers(np.array([0.15 + way, 0.85 - way]), np.array([0.55, 0.6]))


def _returning(t: float) -> Walkers:
    """One stays, the other leaves the picture for 0.7 s and comes back."""
    return Walkers(np.array([0.25, 0.75 + 0.4 * np.sin(np.pi * t / 5) ** 2]), np.array([0.6, 0.55]))


def _crowd(t: float) -> Walkers:
    """Six persons walk to and fro at different speeds, through each other all the time."""
    n = np.arange(6.0)
    x: Float64Array = 0.5 + 0.45 * np.sin(t * (0.35 + 0.09 * n) + 1.7 * n)
    return Walkers(x, 0.4 + 0.07 * n)


SCENARIOS: dict[str, Callable[[float], Walkers]] = {
    "crossing": _crossing,
    "pillar": _pillar,
    "turning": _turning,
    "returning": _returning,
    "crowd": _crowd,
}


@dataclass(frozen=True)
class Truth:
    """One frame's truth: P persons of which some are in sight.

    Attributes:
        frame: the picture; black unless it was asked for.
        identities: (N,) of the persons in sight, at least a quarter of whom is shown.
        keypoints: (N, 17, 2), boxes_xyxy: (N, 4) image px, of the whole person even where hidden.
        shown: (N,) share of the person that is neither hidden nor outside of the picture.
    """

    frame: Frame
    identities: NDArray[np.int64]
    keypoints: Float64Array
    boxes_xyxy: Float64Array
    shown: Float64Array


def walk(
    scenario: str, seconds: float = 5.0, *, draw: bool = False, seed: int = 0, fps: float = FPS
) -> Iterator[Truth]:
    """Every frame of a scenario (a name in `SCENARIOS`)."""
    rng = np.random.default_rng(seed)
    place = SCENARIOS[scenario]
    looks = [random_appearance(rng) for _ in place(0.0).x]
    still = background((HEIGHT, WIDTH), rng) if draw else np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for index in range(round(seconds * fps)):
        yield _truth(place, index / fps, index, still, looks if draw else [])


def _truth(
    place: Callable[[float], Walkers], time_s: float, index: int, still: NDArray[np.uint8], looks: list[Appearance]
) -> Truth:
    walkers, soon = place(time_s), place(time_s + 0.01)
    facing = np.where(soon.x >= walkers.x, 1.0, -1.0)
    points = [
        figure_points(
            _stride(time_s, number, facing[number]), HEIGHT * stature, (WIDTH * x, HEIGHT * 0.93 - HEIGHT * stature / 2)
        )
        for number, (x, stature) in enumerate(zip(walkers.x, walkers.stature, strict=True))
    ]
    image = still
    for figure, look in zip(points, looks, strict=False):
        image, _ = draw_person(image, figure, look)
    keypoints = np.stack([figure[:17, :2] for figure in points])
    margins = 0.04 * HEIGHT * walkers.stature[:, None]
    low, high = keypoints.min(axis=1) - margins, keypoints.max(axis=1) + margins
    boxes = np.concatenate([low - margins * [0, 1], high + margins * [0, 0.5]], axis=1)  # crown and soles
    shown = box_geometry.area(box_geometry.clip(boxes, (HEIGHT, WIDTH))) / box_geometry.area(boxes)
    for back in range(len(boxes)):
        hidden = box_geometry.intersection(boxes[back], boxes[back + 1 :])[0]
        shown[back] *= 1 - min(1.0, hidden.sum() / box_geometry.area(boxes[back]))
    seen = np.flatnonzero(shown > 0.25)
    frame = Frame(image, "walk", index, time_s)
    return Truth(frame, seen.astype(np.int64), keypoints[seen], boxes[seen], shown[seen])


def _stride(time_s: float, number: int, facing: float) -> Float64Array:
    """Angles of a person who walks, seen from half the side."""
    swing = np.sin(2 * np.pi * (0.9 * time_s + 0.31 * number))
    pose = {
        "turn": 50 * facing,
        "left_arm_raise": 8,
        "right_arm_raise": 8,
        "left_arm_swing": -25 * swing + 10,
        "right_arm_swing": 25 * swing + 10,
        "left_elbow": 25,
        "right_elbow": 25,
        "left_leg_swing": 25 * swing,
        "right_leg_swing": -25 * swing,
        "left_knee": 25 * max(0.0, -swing),
        "right_knee": 25 * max(0.0, swing),
    }
    return np.array([pose.get(name, 0.0) for name in ANGLES])


class SimulatedEyes:
    """A detector and a pose network that see the truth through noise. Call `look` with each frame's truth first.

    Args:
        noise: standard deviation of keypoints, in box sizes (square root of the area); boxes tremble as much.
        miss: probability that a person in full sight is overlooked; hidden ones are overlooked more.
        invent: probability of a false box in a frame.
    """

    def __init__(self, seed: int = 0, *, noise: float = 0.04, miss: float = 0.1, invent: float = 0.05) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise, self._miss, self._invent = noise, miss, invent
        self._truth: Truth | None = None

    def look(self, truth: Truth) -> None:
        """The frame that is to be seen next."""
        self._truth = truth

    def detect(self, frame: Frame) -> Boxes:
        """Boxes as from a person detector."""
        assert self._truth is not None
        truth, rng = self._truth, self._rng
        found = rng.random(len(truth.shown)) > self._miss + np.clip(1.2 - 1.6 * truth.shown, 0, 1)
        sizes = np.sqrt(box_geometry.area(truth.boxes_xyxy))
        boxes = truth.boxes_xyxy + rng.normal(0, self._noise, truth.boxes_xyxy.shape) * sizes[:, None]
        scores = np.clip(rng.normal(0.45 + 0.3 * truth.shown, 0.08), 0.36, 0.95)
        boxes, scores = boxes[found], scores[found]
        if rng.random() < self._invent:
            x, y, h = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT * 0.7), rng.uniform(50, 200)
            boxes = np.concatenate([boxes, [[x, y, x + 0.4 * h, y + h]]])
            scores = np.append(scores, rng.uniform(0.36, 0.6))
        return Boxes.from_xyxy(box_geometry.clip(boxes, frame.hw), scores)

    def estimate(self, frame: Frame, boxes: Boxes) -> Poses:
        """Poses as from a network: each box shows the person who fills it best; an empty one gives a doubtful pose."""
        assert self._truth is not None
        truth, rng = self._truth, self._rng
        num = len(boxes)
        if num == 0:
            return Poses.empty(COCO17, "simulated", frame.hw)
        sizes = np.sqrt(box_geometry.area(boxes.xyxy))
        corners = boxes.xyxy.astype(np.float64)
        keypoints = corners[:, None, :2] + rng.random((num, 17, 2)) * (corners[:, None, 2:] - corners[:, None, :2])
        scores = np.full((num, 17), 0.15)
        if len(truth.identities):
            overlap = box_geometry.iou(boxes.xyxy, truth.boxes_xyxy) * (0.3 + 0.7 * truth.shown)
            nearest = overlap.argmax(axis=1)
            seen = overlap.max(axis=1) > 0.2
            keypoints[seen] = truth.keypoints[nearest[seen]]
            scores[seen] = (0.3 + 0.6 * truth.shown[nearest[seen]])[:, None]
        sigmas = np.broadcast_to((self._noise * sizes)[:, None, None], keypoints.shape)
        keypoints = keypoints + rng.normal(0, 1, keypoints.shape) * sigmas
        return Poses(
            keypoints.astype(np.float32),
            scores.astype(np.float32),
            sigmas.astype(np.float32),
            boxes,
            COCO17,
            "simulated",
            frame.hw,
        )
