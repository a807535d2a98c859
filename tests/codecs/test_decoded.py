from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ebapose.card import Calibration, CodecSpec, InputSpec
from ebapose.codecs import (
    Coordinate,
    Decoded,
    Heatmap,
    SimCC,
    apply_calibration,
    build_codec,
    confident_distances,
    mean_but_jumps,
)
from ebapose.codecs.decoded import nominal_radius_px, oks_radius_px
from ebapose.skeleton import COCO17


def decoded(scores: np.ndarray) -> Decoded:
    scores = np.asarray(scores, np.float32)
    return Decoded(np.zeros((*scores.shape, 2), np.float32), scores, np.full((*scores.shape, 2), 2, np.float32))


@given(
    arrays(np.float32, (3, 2), elements=st.floats(1 / 64, 63 / 64, width=32)),
    st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)),
    st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
)
def test_scores_follow_the_cards_formula(scores, scale, shift):
    corrected = apply_calibration(decoded(scores), Calibration(score_scale=scale, score_shift=shift)).scores
    raw = scores.astype(np.float64)
    odds = (raw / (1 - raw)) ** np.array(scale) * np.exp(shift)
    np.testing.assert_allclose(corrected, odds / (1 + odds), rtol=1e-4)


def test_sigmas_are_scaled_per_keypoint():
    corrected = apply_calibration(decoded(np.full((4, 3), 0.5)), Calibration(sigma_scale=(1.0, 0.5, 2.0)))
    np.testing.assert_allclose(corrected.sigmas_px, np.tile([[[2], [1], [4]]], (4, 1, 2)))
    np.testing.assert_array_equal(corrected.scores, np.float32(0.5))


def test_nothing_to_correct_changes_nothing():
    before = decoded(np.linspace(0, 1, 6).reshape(2, 3))
    after = apply_calibration(before, Calibration())
    np.testing.assert_array_equal(after.scores, before.scores)
    np.testing.assert_array_equal(after.sigmas_px, before.sigmas_px)


def test_a_shift_alone_is_enough():
    corrected = apply_calibration(decoded([[0.5, 0.5]]), Calibration(score_shift=(np.log(3), 0.0))).scores
    np.testing.assert_allclose(corrected, [[0.75, 0.5]])


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0, -1000.0])
def test_extreme_scores_stay_probabilities(scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corrected = apply_calibration(
            decoded([[0.0, 1.0, 0.3]]), Calibration(score_scale=(scale,) * 3, score_shift=(500.0,) * 3)
        ).scores
    assert ((corrected >= 0) & (corrected <= 1)).all()


@given(st.floats(0.01, 0.2), st.floats(10, 1e5), st.floats(0.05, 0.95))
def test_at_the_radius_the_oks_is_as_asked(sigma, area, oks):
    distance = oks_radius_px(sigma, area, oks)
    assert np.exp(-(distance**2) / (2 * area * (2 * sigma) ** 2)) == pytest.approx(oks)


def test_the_nominal_radius_grows_with_the_crop_and_the_sigma():
    radius = nominal_radius_px(COCO17.sigmas, (256, 192), 1.25)
    np.testing.assert_allclose(nominal_radius_px(COCO17.sigmas, (512, 384), 1.25), 2 * radius)
    np.testing.assert_array_equal(np.argsort(radius, kind="stable"), np.argsort(COCO17.sigmas, kind="stable"))
    assert 5 < radius[0] < 10  # the nose, about 8 px


@pytest.mark.parametrize(("name", "kind"), [("simcc", SimCC), ("heatmap", Heatmap), ("coordinate", Coordinate)])
def test_the_card_names_the_codec(name, kind):
    spec = CodecSpec(type=name, split_ratio=3.0, sigma=(4.0, 5.0), targets="one_hot", stride=8)
    codec = build_codec(spec, InputSpec(size_hw=(256, 192)), COCO17)
    assert isinstance(codec, kind)
    assert codec.size_hw == (256, 192)
    assert codec.radius_px.shape == (17,)
    if isinstance(codec, SimCC):
        assert (codec.bins_wh, codec.sigma, codec.targets) == ((576, 768), (4.0, 5.0), "one_hot")
    if isinstance(codec, Heatmap):
        assert (codec.map_hw, codec.sigma) == ((32, 24), 4.0)


def test_one_keypoint_in_a_hundred_may_jump() -> None:
    """Between two places that are as good as each other a rounding error decides."""
    points = np.random.default_rng(0).uniform(0, 200, (12, 17, 2)).astype(np.float32)
    scores = np.full((12, 17), 0.6, np.float32)
    scores[0] = 0.4
    moved = points + np.float32([0.03, 0.04])
    moved[0] += 100  # nobody is sure of these
    moved[1, 0, 0] += 23
    sigmas = np.ones_like(points)
    distances = confident_distances(Decoded(points, scores, sigmas), Decoded(moved, scores, sigmas))
    assert len(distances) == 11 * 17
    assert distances[-1] > 23
    assert mean_but_jumps(distances) == pytest.approx(0.05, abs=1e-4)
    moved[2, 0, 0] += 23  # two of 187 are too many
    distances = confident_distances(Decoded(points, scores, sigmas), Decoded(moved, scores, sigmas))
    assert mean_but_jumps(distances) > 0.1
    assert mean_but_jumps(np.float32([1, 3])) == 2
    assert np.isnan(mean_but_jumps(np.empty(0, np.float32)))


def test_nominal_radius_by_hand():
    """The box that fills the crop is 1 / padding of it on both sides."""
    area = 0.53 * (256 / 1.25) * (192 / 1.25)
    assert nominal_radius_px([0.1], (256, 192), 1.25) == pytest.approx(2 * 0.1 * math.sqrt(2 * math.log(2) * area))
