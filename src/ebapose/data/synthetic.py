"""Drawn people with exact COCO-17 keypoints: for smoke tests, demonstrations and video tests, without a download.

A person is an articulated figure in three dimensions (see `figure`): angles within the limits of human joints, turned
about the vertical, drawn from back to front as capsules. Left and right can be told from the pixels the way they can
be told on photographs, by where the face, the feet and the bends of knees and elbows point; a mirrored picture is
therefore a possible picture, and mirroring with relabelling is a valid augmentation. Sleeves and trouser legs differ
in shade, but not in a way that gives the side away.

Everything is a pure function of its arguments and a seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.atomic import write_text
from ebapose.data.figure import SHOWS, Appearance, draw_person, figure_points, random_angles, random_appearance
from ebapose.errors import UsageError
from ebapose.io.pictures import encode_picture
from ebapose.skeleton import COCO17
from ebapose.structures import UInt8Array


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture and its truth, coordinates in image px.

    Attributes:
        image: RGB uint8 (H, W, 3).
        keypoints: (N, 17, 2) float32.
        visibility: (N, 17) uint8: 2 visible, 1 hidden by the figure itself or another one, 0 outside of the picture.
        boxes_xyxy: (N, 4) float32, the pixels that belong to each figure or would if nobody stood before it.
        areas: (N,) float32, visible px of each figure.
    """

    image: UInt8Array
    keypoints: NDArray[np.float32]
    visibility: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    areas: NDArray[np.float32]


def draw_people(
    image_hw: tuple[int, int],
    seed: int | tuple[int, ...],
    *,
    num_people: int | None = None,
    max_people: int = 2,
    turn_deg: float = 50.0,
) -> Scene:
    """A picture with figures before a random background.

    Args:
        image_hw: height and width in px.
        seed: decides everything.
        num_people: how many figures; default: 1 to `max_people`, at random.
        max_people: see `num_people`.
        turn_deg: figures are turned by up to this angle; 0 faces the viewer, 180 allows every direction.

    Returns:
        The picture and its truth. Figures later in the arrays stand before earlier ones.
    """
    rng = np.random.default_rng(seed)
    height, width = image_hw
    count = int(rng.integers(1, max_people + 1)) if num_people is None else num_people
    image = background(image_hw, rng)
    figures, looks = [], []
    for i in range(count):
        stature = rng.uniform(0.55, 0.95) * height
        x = width * ((i + rng.uniform(0.3, 0.7)) / count)
        figures.append(figure_points(random_angles(rng, turn_deg), stature, (x, height * rng.uniform(0.45, 0.6))))
        looks.append(random_appearance(rng))
    return _draw_scene(image, figures, looks)


def draw_sequence(
    image_hw: tuple[int, int], num_frames: int, seed: int = 0, *, num_people: int = 1, frames_per_pose: int = 15
) -> Iterator[Scene]:
    """A video of figures that move smoothly from pose to pose before a resting background.

    Args:
        image_hw: height and width in px.
        num_frames: how many scenes to yield.
        seed: decides everything.
        num_people: figures; row n of every scene's arrays is the same figure.
        frames_per_pose: frames from one random pose to the next.
    """
    rng = np.random.default_rng(seed)
    height, width = image_hw
    image = background(image_hw, rng)
    looks = [random_appearance(rng) for _ in range(num_people)]
    statures = rng.uniform(0.6, 0.9, num_people) * height
    poses: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for _ in range(num_frames // frames_per_pose + 2):  # one after the other: a longer video begins like a shorter one
        angles = np.array([random_angles(rng) for _ in range(num_people)])
        poses.append((angles, rng.uniform(-0.1, 0.1, (num_people, 2)) * (width, 0.3 * height)))
    homes = np.stack([width * (np.arange(num_people) + 0.5) / num_people, np.full(num_people, 0.52 * height)], 1)
    for frame in range(num_frames):
        pose, phase = divmod(frame / frames_per_pose, 1)
        t = (1 - np.cos(np.pi * phase)) / 2  # starts and stops gently
        angles, shifts = (u * (1 - t) + v * t for u, v in zip(poses[int(pose)], poses[int(pose) + 1], strict=True))
        figures = [figure_points(angles[n], statures[n], tuple(homes[n] + shifts[n])) for n in range(num_people)]
        yield _draw_scene(image, figures, looks)


def make_dataset(
    out_dir: str | Path,
    num_images: int = 1000,
    seed: int = 0,
    image_hw: tuple[int, int] = (128, 128),
    max_people: int = 2,
    turn_deg: float = 50.0,
    num_validation: int = 0,
) -> Path:
    """Write drawn people as a COCO keypoint data set: `OUT_DIR/images/*.jpg` and `OUT_DIR/annotations.json`.

    Args:
        out_dir: folder, made if needed. annotations.json is written last, so its presence means that all is there.
        num_images: how many pictures.
        seed: picture i depends only on (seed, i).
        image_hw: height and width in px.
        max_people: each picture shows 1 to this many.
        turn_deg: see `draw_people`.
        num_validation: so many pictures more, in the same folder, annotated in `OUT_DIR/validation.json`.

    Returns:
        Path of the annotation file.

    Raises:
        UsageError: a number makes no sense, or the folder holds annotations or pictures already.
    """
    if num_images < 1 or num_validation < 0 or min(image_hw) < 16 or max_people < 1 or not 0 <= turn_deg <= 180:
        raise UsageError("synthetic data needs at least 1 image of 16x16 px, 1 person, and turn_deg in 0..180")
    folder = Path(out_dir)
    path = folder / "annotations.json"
    for taken in (path, folder / "validation.json", folder / "images"):
        if taken.exists() and not (taken.is_dir() and not any(taken.iterdir())):
            raise UsageError(f"{taken} exists already: choose another folder")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if num_validation:
        later = range(num_images, num_images + num_validation)
        validation = _write_pictures(folder / "images", later, seed, image_hw, max_people, turn_deg)
        write_text(folder / "validation.json", json.dumps(validation))
    data = _write_pictures(folder / "images", range(num_images), seed, image_hw, max_people, turn_deg)
    write_text(path, json.dumps(data))
    return path


def background(image_hw: tuple[int, int], rng: np.random.Generator) -> UInt8Array:
    """RGB uint8 (H, W, 3): a colour gradient, boxes, discs and lines, and noise."""
    height, width = image_hw
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float32)
    image = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    for _ in range(int(rng.integers(0, 9))):
        colour = [int(v) for v in rng.integers(0, 256, 3)]
        x1, x2 = (int(v) for v in rng.integers(0, width, 2))
        y1, y2 = (int(v) for v in rng.integers(0, height, 2))
        kind = rng.integers(3)
        if kind == 0:
            cv2.rectangle(image, (x1, y1), (x2, y2), colour, -1)
        elif kind == 1:
            cv2.circle(image, (x1, y1), max(1, min(image_hw) // int(rng.integers(4, 20))), colour, -1, cv2.LINE_AA)
        else:
            cv2.line(image, (x1, y1), (x2, y2), colour, int(rng.integers(1, 1 + max(2, height // 20))), cv2.LINE_AA)
    strength = int(rng.integers(1, 25))
    noise = rng.integers(-strength, strength + 1, (height, width, 1), np.int16)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _write_pictures(
    folder: Path, numbers: range, seed: int, image_hw: tuple[int, int], max_people: int, turn_deg: float
) -> dict[str, Any]:
    """Draw and write the pictures of these numbers; returns their COCO annotations."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in numbers:
        scene = draw_people(image_hw, (seed, i), max_people=max_people, turn_deg=turn_deg)
        name = f"{i:06d}.jpg"
        try:
            (folder / name).write_bytes(encode_picture(scene.image))
        except ValueError as error:
            raise UsageError(f"a picture of {error}") from None
        images.append({"id": i + 1, "file_name": name, "width": image_hw[1], "height": image_hw[0]})
        for n in range(len(scene.keypoints)):
            seen = scene.visibility[n]
            x1, y1, x2, y2 = (round(float(v), 2) for v in scene.boxes_xyxy[n])
            points = np.where(seen[:, None] > 0, scene.keypoints[n], 0).astype(float).round(2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    "area": float(scene.areas[n]),
                    "num_keypoints": int(np.count_nonzero(seen)),
                    "keypoints": [
                        v for (x, y), s in zip(points.tolist(), seen.tolist(), strict=True) for v in (x, y, s)
                    ],
                }
            )
    category = {
        "id": 1,
        "name": "person",
        "keypoints": list(COCO17.keypoint_names),
        "skeleton": [[a + 1, b + 1] for a, b in COCO17.edges],
    }
    return {"images": images, "annotations": annotations, "categories": [category]}


def _draw_scene(image: UInt8Array, figures: list[NDArray[np.float64]], looks: list[Appearance]) -> Scene:
    height, width = image.shape[:2]
    num = len(figures)
    owners = []
    for points, look in zip(figures, looks, strict=True):
        image, own = draw_person(image, points, look)
        owners.append(own)
    keypoints = np.array([points[:17, :2] for points in figures], np.float32).reshape(num, 17, 2)
    visibility, boxes, areas = np.zeros((num, 17), np.uint8), np.zeros((num, 4), np.float32), np.zeros(num, np.float32)
    covered = np.zeros((height, width), np.bool_)
    for n in reversed(range(num)):  # front to back
        own = owners[n]
        ys, xs = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
        if len(ys):
            boxes[n] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        areas[n] = np.count_nonzero(own[~covered])
        x, y = np.rint(keypoints[n]).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        x, y = x.clip(0, width - 1), y.clip(0, height - 1)
        shown = SHOWS[np.arange(17), own[y, x]] & ~covered[y, x]
        visibility[n] = np.where(inside, np.where(shown, 2, 1), 0)
        covered |= own > 0
    return Scene(image, keypoints, visibility, boxes, areas)
