from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ebapose.data.clothes import other_clothes
from ebapose.data.occlusion import person_mask
from ebapose.skeleton import COCO17

_STANDING = {
    "left_shoulder": (60, 40),
    "right_shoulder": (36, 40),
    "left_elbow": (66, 60),
    "right_elbow": (30, 60),
    "left_hip": (57, 80),
    "right_hip": (39, 80),
    "left_knee": (57, 100),
    "right_knee": (39, 100),
    "left_ankle": (57, 120),
    "right_ankle": (39, 120),
}
POINTS = np.array([_STANDING.get(name, (0, 0)) for name in COCO17.keypoint_names], np.float32)
SEEN = 2 * POINTS.any(axis=1).astype(np.uint8)
PATTERN = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)


def dressed(crop: np.ndarray, seed: int) -> np.ndarray:
    new = crop.copy()
    other_clothes(new, POINTS, SEEN, COCO17, PATTERN, np.random.default_rng(seed))
    return new


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_only_the_person_changes(seed: int) -> None:
    crop = np.random.default_rng(seed).integers(1, 256, (128, 96, 3), np.uint8)
    crop[:, :40] = 0  # beyond the picture
    new = dressed(crop, seed)
    assert (new[:, :40] == 0).all()
    near = cv2.dilate(person_mask(POINTS, SEEN, COCO17, (128, 96)), np.ones((11, 11), np.uint8)) > 0  # soft borders
    np.testing.assert_array_equal(new[~near], crop[~near])
    np.testing.assert_array_equal(dressed(crop, seed), new)


def test_shirt_and_trousers_each_get_colours_of_their_own() -> None:
    crop = np.full((128, 96, 3), (180, 90, 60), np.uint8)
    pairs = np.array([dressed(crop, seed)[[60, 90], [48, 39]] for seed in range(200)]).astype(int)
    changed = np.abs(pairs - crop[0, 0]).max(axis=-1) > 2
    assert (changed.mean(axis=0) > 0.7).all()
    assert (changed.mean(axis=0) < 0.9).all()
    both = pairs[changed.all(axis=1)]
    assert np.mean(np.abs(both[:, 0] - both[:, 1]).max(axis=-1) > 20) > 0.8
    assert (pairs.std(axis=0) > 30).all()  # all kinds of colours


def test_folds_stay() -> None:
    light = np.tile(np.array([90, 130], np.uint8).repeat(4), 12)  # vertical stripes
    crop = np.repeat(np.tile(light, (128, 1))[..., None], 3, 2)
    contrast = []
    for seed in range(100):
        row = dressed(crop, seed)[60, 40:56].astype(float).mean(axis=-1)
        contrast.append(abs(np.corrcoef(row, crop[60, 40:56, 0])[0, 1]))
    assert np.median(contrast) > 0.95


def test_nobody_wears_nothing() -> None:
    crop = np.full((128, 96, 3), 100, np.uint8)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        other_clothes(crop, POINTS, np.zeros(17, np.uint8), COCO17, PATTERN, rng)
    assert (crop == 100).all()


def test_white_printed_on_white_stays_in_range() -> None:
    crop = np.full((128, 96, 3), 255, np.uint8)
    for seed in range(60):
        new = crop.copy()
        other_clothes(new, POINTS, SEEN, COCO17, np.full((40, 30, 3), 255, np.uint8), np.random.default_rng(seed))
        # white cloth of a white pattern has no hue, whatever the colours are turned to
        assert np.ptp(new.astype(int), axis=2).max() <= 2
