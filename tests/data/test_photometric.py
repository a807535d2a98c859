from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebapose.data.photometric import STRONG_PHOTOMETRIC, PhotometricConfig, apply_photometric

ALWAYS = {
    "grey": PhotometricConfig(grey_probability=1),
    "blur": PhotometricConfig(blur_probability=1, blur_fraction=0.1),
    "low_resolution": PhotometricConfig(low_resolution_probability=1),
    "jpeg": PhotometricConfig(jpeg_probability=1),
    "noise": PhotometricConfig(noise_probability=1),
    "brightness": PhotometricConfig(brightness=0.5),
    "contrast": PhotometricConfig(contrast=0.5),
    "gamma": PhotometricConfig(gamma=0.5),
    "saturation": PhotometricConfig(saturation=0.8),
    "hue": PhotometricConfig(hue_deg=120),
    "light": PhotometricConfig(light=0.6),
}


def noise_image(seed: int = 0, shape: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def apply(image: np.ndarray, config: PhotometricConfig, seed: int) -> np.ndarray:
    return apply_photometric(image, config, np.random.default_rng(seed))


@pytest.mark.parametrize("name", ALWAYS)
def test_each_effect_changes_the_crop_and_only_a_copy(name: str) -> None:
    image = noise_image()
    before = image.copy()
    changed = apply(image, ALWAYS[name], 1)
    assert changed.dtype == np.uint8
    assert changed.shape == image.shape
    assert not np.array_equal(changed, image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(changed, apply(image, ALWAYS[name], 1))


def test_nothing_by_default() -> None:
    np.testing.assert_array_equal(apply(noise_image(), PhotometricConfig(), 0), noise_image())


@pytest.mark.parametrize("name", ["blur", "low_resolution", "jpeg", "noise"])
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), at=st.tuples(st.floats(24, 40), st.floats(18, 30)))
def test_nothing_moves(name: str, seed: int, at: tuple[float, float]) -> None:
    y, x = np.mgrid[:64, :48]
    dot = 200 * np.exp(-((x - at[1]) ** 2 + (y - at[0]) ** 2) / (2 * 3.0**2))
    image = np.repeat(dot[..., None], 3, 2).round().astype(np.uint8)
    values = apply(image, ALWAYS[name], seed).astype(float).mean(axis=2)
    values[values < 45] = 0
    centroid = np.array([(values * y).sum(), (values * x).sum()]) / values.sum()
    np.testing.assert_allclose(centroid, at, atol=0.6)


def test_grey_is_kept_by_hue_and_saturation() -> None:
    grey = np.repeat(noise_image()[..., :1], 3, 2)
    for name in ("hue", "saturation", "grey"):
        assert np.abs(apply(grey, ALWAYS[name], 3).astype(int) - grey).max() <= 1
    changed = apply(noise_image(), ALWAYS["grey"], 0)
    assert np.ptp(changed.astype(int), axis=2).max() <= 1


def test_light_from_one_side() -> None:
    middle = np.full((65, 49, 3), 100, np.uint8)
    rows, columns = [], []
    for seed in range(50):
        lit = apply(middle, ALWAYS["light"], seed).astype(int)
        assert (lit[..., :1] == lit).all()  # white light
        assert lit[32, 24, 0] == 100
        corners = lit[[0, 0, -1, -1], [0, -1, 0, -1], 0]
        assert np.abs(corners + corners[::-1] - 200).max() <= 1  # as much darker as brighter
        assert 40 <= corners.min() <= 100
        rows.append(lit[-1, 24, 0] - 100)
        columns.append(lit[32, -1, 0] - 100)
    for values in (rows, columns):  # from every side
        assert min(values) < -25
        assert max(values) > 25


def test_turning_one_effect_off_leaves_the_others() -> None:
    rngs = [np.random.default_rng(5), np.random.default_rng(5)]
    apply_photometric(noise_image(), STRONG_PHOTOMETRIC, rngs[0])
    apply_photometric(noise_image(), PhotometricConfig(), rngs[1])
    assert rngs[0].random() == rngs[1].random()


def test_large_crops_get_noise_too() -> None:
    image = np.full((900, 900, 3), 128, np.uint8)
    assert apply(image, ALWAYS["noise"], 0).std() > 0.5
