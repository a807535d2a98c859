"""The corridor with a network that knows the truth: labels -> crop -> logits -> decode -> image land on the labels.

Everything but the network is real: boxes, crop geometry, codec, batching, drawing. So this finds a half px that is
lost on the way, left and right that change places, and results that end up in another frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ebapose.card import CodecSpec, InputSpec, ModelCard
from ebapose.codecs import SimCC, build_codec
from ebapose.data.coco import load_coco
from ebapose.data.synthetic import draw_people
from ebapose.draw import LEFT, MIDDLE, RIGHT, draw_poses
from ebapose.geometry.crop import crop_scale, image_to_crop, image_to_crop_matrix
from ebapose.inference.detector import WholeImage
from ebapose.inference.predictor import Prediction, Predictor
from ebapose.io.pictures import read_image
from ebapose.skeleton import COCO17
from ebapose.structures import Boxes, Frame

TOLERANCE_PX = 0.5  # crop px
CARDS = {
    "128x96, symmetric": (InputSpec(size_hw=(128, 96)), CodecSpec(split_ratio=3.0, sigma=(4, 4))),
    "256x192, corner": (InputSpec(size_hw=(256, 192), crop_center="corner"), CodecSpec()),
    "384x288, symmetric": (InputSpec(size_hw=(384, 288)), CodecSpec()),
    "256x256, fractional": (InputSpec(size_hw=(256, 256), padding=1.1), CodecSpec(split_ratio=1.7, sigma=(3, 5))),
}


class Labelled(NamedTuple):
    """A picture and its persons: boxes (N, 4), keypoints (N, 17, 2) in image px, labelled (N, 17)."""

    frame: Frame
    boxes: np.ndarray
    keypoints: np.ndarray
    labelled: np.ndarray


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[Labelled]:
    annotations = shared / "data/pose/annotations/val_everyday.json"
    if not annotations.is_file():
        pytest.skip(f"{annotations} is not there")
    data = load_coco(annotations, shared / "data/pose/images").persons()
    pictures = []
    for row in np.unique(data.image_indices):
        here = data.image_indices == row
        frame = read_image(data.image_path(int(row)))
        pictures.append(Labelled(frame, data.boxes_xyxy[here], data.keypoints[here], data.visibility[here] > 0))
    return pictures


@pytest.fixture(scope="module")
def drawn_people() -> list[Labelled]:
    scenes = [draw_people((480, 360), seed, max_people=3, turn_deg=180) for seed in range(12)]
    return [
        Labelled(Frame(scene.image, f"scene {n}", n), scene.boxes_xyxy, scene.keypoints, scene.visibility > 0)
        for n, scene in enumerate(scenes)
    ]


@pytest.fixture(params=["photographs", "drawn people"])
def pictures(request: pytest.FixtureRequest) -> list[Labelled]:
    return request.getfixturevalue(request.param.replace(" ", "_"))


def make_card(name: str) -> ModelCard:
    input_spec, codec = CARDS[name]
    return ModelCard(name="truth", architecture="truth", input=input_spec, codec=codec)


class Truth:
    """A network that puts out the logarithm of its training targets, person after person."""

    name, precision = "openvino", "f32"

    def __init__(self, card: ModelCard, pictures: list[Labelled]) -> None:
        self.card, self.seen = card, 0
        spec = card.input
        codec = build_codec(card.codec, spec, card.skeleton)
        assert isinstance(codec, SimCC)
        points = [
            image_to_crop(p.keypoints, image_to_crop_matrix(p.boxes, spec.size_hw, spec.padding, spec.crop_center))
            for p in pictures
        ]
        targets_x, targets_y, _ = codec.encode(np.concatenate(points), np.concatenate([p.labelled for p in pictures]))
        self.logits = tuple(np.log(np.maximum(targets, 1e-30)) for targets in (targets_x, targets_y))

    def __call__(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        assert batch.shape[1:] == (*self.card.input.size_hw, 3)
        here = slice(self.seen, self.seen + len(batch))
        self.seen = here.stop
        return tuple(logits[here] for logits in self.logits)


def predict(card: ModelCard, pictures: list[Labelled]) -> Iterator[tuple[Labelled, Prediction]]:
    predictor = Predictor(card, Truth(card, pictures), WholeImage(), batch_size=7)
    boxes = [Boxes.from_xyxy(picture.boxes) for picture in pictures]
    return zip(pictures, predictor.stream([p.frame for p in pictures], boxes), strict=True)


@pytest.mark.parametrize("name", CARDS)
def test_labels_come_back(name: str, pictures: list[Labelled]) -> None:
    card = make_card(name)
    height, width = card.input.size_hw
    errors, labelled = [], 0
    for picture, prediction in predict(card, pictures):
        assert prediction.frame is picture.frame
        assert prediction.used.all()
        matrices = image_to_crop_matrix(picture.boxes, (height, width), card.input.padding, card.input.crop_center)
        in_crop = image_to_crop(picture.keypoints, matrices)
        inside = picture.labelled & (in_crop >= 0).all(axis=2) & (in_crop <= [width - 1, height - 1]).all(axis=2)
        apart = np.linalg.norm(prediction.poses.keypoints - picture.keypoints, axis=2) * crop_scale(matrices)[:, None]
        assert apart[inside].max(initial=0) < TOLERANCE_PX, picture.frame.name
        errors.extend(apart[inside])
        labelled += np.count_nonzero(picture.labelled)
    assert len(errors) > 0.95 * labelled  # padding keeps nearly all keypoints in the crop
    assert len(errors) > 200
    assert np.mean(errors) < 0.02


def test_keypoints_have_their_colour_at_the_labels(pictures: list[Labelled]) -> None:
    colours = [{"left": LEFT, "right": RIGHT}.get(side or "", MIDDLE) for side in COCO17.sides]
    checked = dict.fromkeys((LEFT, RIGHT, MIDDLE), 0)
    for picture, prediction in predict(make_card("384x288, symmetric"), pictures):
        height, width = picture.frame.hw
        for n in np.flatnonzero((picture.boxes[:, 2:] - picture.boxes[:, :2]).max(axis=1) >= 200):
            poses = prediction.poses[[n]]
            drawn = draw_poses(picture.frame.image, poses, min_score=0.0).astype(int)
            between = np.linalg.norm(poses.keypoints[0][:, None] - poses.keypoints[0][None], axis=2)
            np.fill_diagonal(between, np.inf)
            reach = 2 * (max(height, width) / 90 + 3)  # two dots beside each other
            x, y = np.rint(picture.keypoints[n]).astype(int).T
            clear = between.min(axis=1) > reach
            inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
            for k in np.flatnonzero(picture.labelled[n] & clear & inside):
                opacity = 0.25 + 0.75 * poses.scores[0, k]
                under = picture.frame.image[y[k], x[k]]
                expected = opacity * np.array(colours[k]) + (1 - opacity) * under
                found = drawn[y[k], x[k]]
                # where edges meet below the dot, more than the picture shines through
                assert np.abs(found - expected).max() < 25 + 255 * (1 - opacity), (picture.frame.name, n, k)
                nearest = min(checked, key=lambda colour: np.abs(found - colour).sum())
                assert nearest == colours[k], (picture.frame.name, n, COCO17.keypoint_names[k])
                checked[nearest] += 1
    assert checked[LEFT] > 50
    assert checked[RIGHT] > 50


class Dots:
    """A network that sees: it finds the one white dot of each crop and puts every keypoint there."""

    name, precision = "openvino", "f32"

    def __init__(self, codec: SimCC) -> None:
        self.codec = codec

    def __call__(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        weights = batch[..., 0].astype(float)
        total = weights.sum(axis=(1, 2))
        x = (weights.sum(axis=1) * np.arange(weights.shape[2])).sum(axis=1) / total
        y = (weights.sum(axis=2) * np.arange(weights.shape[1])).sum(axis=1) / total
        return self.codec.perfect_logits(np.broadcast_to(np.stack([x, y], axis=1)[:, None], (len(batch), 17, 2)))


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("name", ["128x96, symmetric", "384x288, symmetric"])
def test_pixels_come_back_to_where_they_are(name: str, flip_test: bool) -> None:
    """The crop's pixels lie where the matrix says, at any scale, and mirroring them loses no fraction of a px."""
    card = make_card(name)
    codec = build_codec(card.codec, card.input, card.skeleton)
    assert isinstance(codec, SimCC)
    predictor = Predictor(card, Dots(codec), WholeImage(), flip_test=flip_test)
    rng = np.random.default_rng(5)
    yy, xx = np.mgrid[0:700, 0:500]
    for size in (60, 150, 300, 500):
        left, top = rng.uniform(100, 150, 2)
        box = np.array([[left, top, left + 0.7 * size, top + size]])
        scale = crop_scale(image_to_crop_matrix(box, card.input.size_hw, card.input.padding))[0]
        dot = np.array([left, top]) + np.array([0.7 * size, size]) * rng.uniform(0.3, 0.7, 2)
        spread = max(3.0, 2.0 / scale)
        blob = np.exp(-((xx - dot[0]) ** 2 + (yy - dot[1]) ** 2) / (2 * spread**2))
        image = np.repeat(np.rint(250 * blob).astype(np.uint8)[:, :, None], 3, axis=2)
        found = predictor(image, box).keypoints[0]
        assert np.abs(found - dot).max() * scale < 0.1, size
