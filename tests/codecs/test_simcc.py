from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebapose.codecs import SimCC
from ebapose.codecs.dark import dark_refine_1d
from ebapose.codecs.simcc import (
    axis_peaks,
    cumulate,
    expected_closeness,
    gaussian_targets,
    mass_within,
    parabola_refine,
    softmax,
)
from ebapose.errors import ModelFileError
from ebapose.skeleton import COCO17

sizes_hw = st.tuples(st.integers(1, 8), st.integers(1, 8)).map(lambda s: (32 * s[0], 32 * s[1]))
ratios = st.one_of(st.sampled_from([1.0, 2.0, 3.0]), st.floats(0.6, 4))
sigmas = st.tuples(st.floats(1, 12), st.floats(1, 12))
codecs = st.builds(SimCC, sizes_hw, ratios, sigmas)
fractions = st.tuples(st.floats(0, 1), st.floats(0, 1))  # of the crop, between the centres of its outermost pixels
SWAP = np.array([1, 0, 2])


def inside(codec: SimCC, *places: tuple[float, float]) -> np.ndarray:
    """Keypoints (1, K, 2) in crop px at fractions of the crop."""
    return np.array([places]) * [codec.size_hw[1] - 1, codec.size_hw[0] - 1]


def mirror(codec: SimCC, keypoints: np.ndarray) -> np.ndarray:
    """Where the three keypoints lie in the mirrored crop; the first two are a left/right pair."""
    return (keypoints * [-1, 1] + [codec.size_hw[1] - 1, 0])[:, SWAP]


# --- round trips ------------------------------------------------------------------------------------------------------


@given(codecs, st.lists(fractions, min_size=1, max_size=5))
def test_perfect_logits_give_the_keypoint_back(codec, places):
    keypoints = inside(codec, *places)
    logits = codec.perfect_logits(keypoints)
    np.testing.assert_allclose(codec.decode(logits).keypoints, keypoints, atol=0.01)
    plain = codec.decode(logits, refine="none").keypoints
    # int(W k) bins end up to 1.5 bins before the centre of the last pixel where k is small or W k is no whole number
    assert np.abs(plain - keypoints).max() <= 1.5 / codec.split_ratio + 1e-3
    middle = inside(codec, *(np.clip(places, 0.1, 0.9)))
    plain = codec.decode(codec.perfect_logits(middle), refine="none").keypoints
    assert np.abs(plain - middle).max() <= 0.5 / codec.split_ratio + 1e-3


@given(codecs, st.lists(fractions, min_size=1, max_size=5), st.booleans())
def test_targets_give_the_keypoint_back(codec, places, normalized):
    keypoints = inside(codec, *places)
    x, y, weights = codec.encode(keypoints, np.ones(keypoints.shape[:2]), normalized=normalized)
    assert (weights == 1).all()
    assert (x.shape[-1], y.shape[-1]) == codec.bins_wh
    logits = tuple(np.log(np.maximum(t, 1e-30)) for t in (x, y))
    np.testing.assert_allclose(codec.decode(logits).keypoints, keypoints, atol=0.01)


@given(codecs, st.lists(fractions, min_size=1, max_size=5))
def test_labels_are_the_nearest_bins(codec, places):
    keypoints = inside(codec, *places)
    labels, weights = codec.encode_labels(keypoints, np.ones(keypoints.shape[:2]))
    counted = weights > 0
    assert np.abs(labels / codec.split_ratio - keypoints)[counted].max(initial=0) <= 0.5 / codec.split_ratio + 1e-9
    assert (labels >= 0).all()
    assert (labels < codec.bins_wh).all()


def test_a_keypoint_just_outside_the_crop_is_found_there():
    codec = SimCC((64, 64), 2.0, (6.0, 6.0))
    keypoints = np.array([[[-1.5, 20.0], [30.0, 65.0]]])
    np.testing.assert_allclose(codec.decode(codec.perfect_logits(keypoints)).keypoints, keypoints, atol=0.01)


def test_logits_shifted_by_a_constant_mean_the_same():
    codec = SimCC((64, 48))
    x, y = codec.perfect_logits([[[10.3, 40.2]]])
    moved = codec.decode((x + 7, y - 300))
    np.testing.assert_allclose(moved.keypoints, [[[10.3, 40.2]]], atol=0.01)
    np.testing.assert_allclose(moved.scores, codec.decode((x, y)).scores, atol=1e-4)


def test_the_peak_stays_where_the_fit_has_no_maximum():
    logits = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
    refined = parabola_refine(logits, logits.argmax(-1), 2)
    assert 0.5 < refined[0] < 1.5
    assert refined[1] == refined[2] == 0


def test_dark_refines_between_the_bins():
    codec = SimCC((128, 128), 2.0, (5.0, 5.0))
    keypoints = np.array([[[40.37, 77.11], [90.21, 30.44]]])
    x, y, _ = codec.encode(keypoints, np.ones((1, 2)), normalized=False)
    np.testing.assert_allclose(codec.decode((x, y), refine="dark").keypoints, keypoints, atol=0.02)


# --- targets ----------------------------------------------------------------------------------------------------------


def test_target_gaussians_have_mass_one_or_peak_one():
    targets = gaussian_targets([100.0, 100.5], 200, 6.0)
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-5)
    assert gaussian_targets(100.0, 200, 6.0, normalized=False).max() == 1


def test_unlabelled_keypoints_and_those_far_outside_weigh_nothing():
    codec = SimCC((64, 48), 2.0, (4.0, 4.0))
    keypoints = np.array([[10, 10], [10, 10], [-5.9, 10], [-7, 10], [10, 69.9], [10, 70.1], [53.9, 10], [54.1, 10]])
    x, y, weights = codec.encode(keypoints, [2, 0, 2, 2, 2, 2, 2, 2])
    np.testing.assert_array_equal(weights, [1, 0, 1, 0, 1, 0, 1, 0])
    assert (x[weights == 0] == 0).all()
    assert (y[weights == 0] == 0).all()
    assert (x[weights == 1].max(-1) > 0).all()


def test_leading_axes_are_free():
    codec = SimCC((64, 48))
    x, y, weights = codec.encode(np.full((2, 3, 17, 2), 5.0), np.ones((2, 3, 17)))
    assert x.shape == (2, 3, 17, 96)
    assert y.shape == (2, 3, 17, 128)
    assert weights.shape == (2, 3, 17)
    assert codec.encode([[5.0, 5.0]], [True])[0].shape == (1, 96)


# --- flip test --------------------------------------------------------------------------------------------------------


@given(codecs, fractions, fractions, fractions, st.sampled_from(["gaussian", "one_hot"]))
def test_merging_with_the_mirror_image_changes_nothing(codec, first, second, third, targets):
    """Logits of a perfect network for a crop and for its mirror image agree, also beside the borders."""
    codec = SimCC(codec.size_hw, codec.split_ratio, codec.sigma, targets)
    keypoints = inside(codec, first, second, third)
    plain = codec.perfect_logits(keypoints)
    merged = codec.merge_flip(plain, codec.perfect_logits(mirror(codec, keypoints)), SWAP)
    tolerance = 0.01 if targets == "gaussian" else 0.05  # linear interpolation widens probabilities a little
    np.testing.assert_allclose(codec.decode(merged).keypoints, keypoints, atol=tolerance)


@pytest.mark.parametrize("split_ratio", [1.0, 1.5, 2.0, 2.7, 3.0])
def test_merging_averages_what_the_two_say(split_ratio):
    codec = SimCC((128, 96), split_ratio, (6.0, 6.0))
    keypoints = np.array([[[30.2, 40.1], [60.7, 90.9], [50.0, 64.0]]])
    other = keypoints + np.array([[1.0, -0.6], [-0.8, 0.4], [0.0, 1.2]])
    merged = codec.merge_flip(codec.perfect_logits(keypoints), codec.perfect_logits(mirror(codec, other)), SWAP)
    np.testing.assert_allclose(codec.decode(merged).keypoints, (keypoints + other) / 2, atol=0.01)


@pytest.mark.parametrize("split_ratio", [1.0, 1.5, 2.0, 2.7])
@pytest.mark.parametrize("targets", ["gaussian", "one_hot"])
def test_flip_test_of_the_mirrored_picture_is_the_mirrored_result(split_ratio, targets):
    codec = SimCC((128, 96), split_ratio, (4.0, 5.0), targets)
    g = np.random.default_rng(1)
    keypoints = 20 + g.random((4, 3, 2)) * [56, 88]
    plain = codec.perfect_logits(keypoints)
    mirrored = codec.perfect_logits(mirror(codec, keypoints + g.normal(size=keypoints.shape)))
    there = codec.decode(codec.merge_flip(plain, mirrored, SWAP))
    back = codec.decode(codec.merge_flip(mirrored, plain, SWAP))
    np.testing.assert_allclose(mirror(codec, back.keypoints), there.keypoints, atol=0.05)
    np.testing.assert_allclose(back.scores[:, SWAP], there.scores, atol=0.01)
    np.testing.assert_allclose(back.sigmas_px[:, SWAP], there.sigmas_px, rtol=0.02, atol=0.1)


def test_a_given_shift_moves_whole_bins_and_repeats_the_edge():
    codec = SimCC((32, 32), 1.0)
    x = np.arange(32, dtype=np.float32)[None, None]
    plain = (np.zeros_like(x), np.zeros_like(x))
    merged = codec.merge_flip(plain, (x, x), np.array([0]), shift_bins=1)
    np.testing.assert_array_equal(merged[0][0, 0] * 2, [*range(30, -1, -1), 0])
    np.testing.assert_array_equal(merged[1][0, 0] * 2, np.arange(32))


def test_merging_leaves_its_inputs_alone():
    codec = SimCC((32, 32), 3.0)
    outputs = codec.perfect_logits(np.full((1, 3, 2), 9.0))
    copies = [o.copy() for o in outputs]
    codec.merge_flip(outputs, outputs, SWAP)
    for output, copy in zip(outputs, copies, strict=True):
        np.testing.assert_array_equal(output, copy)


# --- scores and sigmas ------------------------------------------------------------------------------------------------


def spread(codec: SimCC, keypoints: np.ndarray, extra_bins: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a network that is unsure by `extra_bins` beyond the blur of its targets."""
    wider = tuple(float(np.hypot(s, extra_bins)) for s in codec.sigma)
    return SimCC(codec.size_hw, codec.split_ratio, wider).perfect_logits(keypoints)


@given(codecs, fractions, st.floats(0, 30), st.integers(0, 2**31))
def test_scores_are_probabilities(codec, place, noise, seed):
    x, y = codec.perfect_logits(inside(codec, place))
    g = np.random.default_rng(seed)
    for targets in ("gaussian", "one_hot"):
        codec = SimCC(codec.size_hw, codec.split_ratio, codec.sigma, targets)
        decoded = codec.decode((x + noise * g.standard_normal(x.shape), y + noise * g.standard_normal(y.shape)))
        assert ((decoded.scores >= 0) & (decoded.scores <= 1)).all()
        assert np.isfinite(decoded.keypoints).all()
        assert (decoded.sigmas_px > 0).all()


@given(st.floats(1, 3), st.floats(2, 6), st.floats(1, 10))
def test_scores_fall_and_sigmas_grow_with_the_spread(split_ratio, sigma, radius):
    codec = SimCC((256, 256), split_ratio, (sigma, sigma), radius_px=np.array([radius]))
    keypoints = np.array([[[120.3, 131.8]]])
    decoded = [codec.decode(spread(codec, keypoints, extra)) for extra in (0, 3, 6, 12, 20)]
    assert (np.diff([d.scores[0, 0] for d in decoded]) < 1e-6).all()
    assert decoded[-1].scores[0, 0] < decoded[0].scores[0, 0]
    assert (np.diff([d.sigmas_px[0, 0] for d in decoded], axis=0) > 0).all()


@given(st.floats(1, 3), st.floats(2, 8), st.floats(1.5, 15), st.floats(0.4, 0.6))
def test_the_sigma_is_the_spread_without_the_blur_of_the_targets(split_ratio, blur, extra_px, place):
    codec = SimCC((256, 256), split_ratio, (blur, blur))
    extra_bins = extra_px * split_ratio
    decoded = codec.decode(spread(codec, inside(codec, (place, place)), extra_bins))
    np.testing.assert_allclose(decoded.sigmas_px, extra_px, rtol=0.05)


def test_each_axis_has_its_own_sigma():
    codec = SimCC((256, 256), 2.0, (4.0, 6.0))
    x, y = SimCC((256, 256), 2.0, (5.0, 10.0)).perfect_logits([[[100.0, 100.0]]])
    np.testing.assert_allclose(codec.decode((x, y)).sigmas_px, [[[1.5, 4.0]]], rtol=0.02)


def test_two_places_in_doubt_make_a_large_sigma_and_half_the_score():
    codec = SimCC((256, 256), 2.0, (4.0, 4.0), radius_px=np.array([10.0]))
    one, other = codec.perfect_logits([[[80.0, 100.0]]]), codec.perfect_logits([[[160.0, 100.0]]])
    decoded = codec.decode((np.logaddexp(one[0], other[0] - 1e-3), one[1]))
    assert decoded.scores[0, 0] == pytest.approx(0.5, abs=0.01)
    assert decoded.sigmas_px[0, 0, 0] > 30
    assert decoded.sigmas_px[0, 0, 1] < 1


def test_a_certain_network_keeps_the_uncertainty_of_a_bin():
    codec = SimCC((64, 64), 2.0, targets="one_hot", radius_px=np.array([3.0]))
    x = np.full((1, 1, 128), -50.0)
    x[..., 40] = 50
    decoded = codec.decode((x, x))
    # the central 68.3 % of one bin of half a px
    np.testing.assert_allclose(decoded.sigmas_px, 0.6827 / 2 / 2, rtol=1e-3)
    assert decoded.scores[0, 0] == pytest.approx(1)
    np.testing.assert_array_equal(decoded.keypoints, [[[20, 20]]])


def test_each_keypoint_has_its_own_radius():
    codec = SimCC((256, 192), 2.0, (6.0, 6.0), radius_px=np.linspace(1, 20, 17))
    scores = codec.decode(codec.perfect_logits(np.full((2, 17, 2), 90.0))).scores
    assert (np.diff(scores, axis=1) >= 0).all()
    np.testing.assert_array_equal(scores[0], scores[1])


def test_mass_within_counts_parts_of_bins():
    uniform = cumulate(np.zeros(10))
    assert mass_within(uniform, 5.0, 0.5) == pytest.approx(0.1)
    assert mass_within(uniform, 5.0, 1.0) == pytest.approx(0.2)
    assert mass_within(uniform, 5.25, 0.5) == pytest.approx(0.1)
    assert mass_within(uniform, 0.0, 2.0) == pytest.approx(0.25)
    assert mass_within(uniform, 5.0, 100.0) == pytest.approx(1)


def test_softmax_of_large_values():
    np.testing.assert_allclose(softmax([[1e4, 1e4, -1e4]]), [[0.5, 0.5, 0]])
    np.testing.assert_allclose(axis_peaks(np.zeros((2, 4))), 0.25)


# --- the place that is nearest on average -----------------------------------------------------------------------------


def test_expected_closeness_is_the_mean_of_a_triangle():
    logits = 3 * np.random.default_rng(0).standard_normal((3, 4, 50))
    reach = np.array([0.2, 3, 7.4, 60])  # rounded to 1, 3, 7 and 60; wider than all bins is allowed
    bins = np.arange(50)
    triangle = np.maximum(0, 1 - np.abs(bins[:, None] - bins) / np.array([1, 3, 7, 60])[:, None, None])
    direct = np.einsum("nkj,kbj->nkb", softmax(logits), triangle)
    np.testing.assert_allclose(expected_closeness(cumulate(logits), reach), direct, atol=1e-6)
    one_for_all = expected_closeness(cumulate(logits), [7])
    np.testing.assert_allclose(one_for_all[:, 2], direct[:, 2], atol=1e-6)


@given(codecs, st.lists(st.floats(0.2, 0.8), min_size=1, max_size=5))
def test_one_peak_is_the_nearest_place(codec, places):
    codec = replace(codec, size_hw=(256, 256), radius_px=np.array([8.0]))  # far from the borders, which cut a peak off
    keypoints = inside(codec, *((p, 1 - p) for p in places))
    logits = codec.perfect_logits(keypoints)
    np.testing.assert_allclose(
        codec.decode(logits, refine="expected").keypoints, keypoints, atol=0.1 / codec.split_ratio
    )


def test_many_places_nearby_beat_a_single_higher_one():
    codec = SimCC((256, 256), 2.0, (4.0, 4.0), radius_px=np.array([12.0]), position="expected")
    lone = codec.perfect_logits([[[60.0, 128.0]]])[0]
    broad = SimCC((256, 256), 2.0, (14.0, 14.0)).perfect_logits([[[180.0, 128.0]]])[0]
    x = np.logaddexp(lone, broad - 0.2)  # the lone peak is higher, the broad one holds three quarters
    outputs = (x, codec.perfect_logits([[[60.0, 128.0]]])[1])
    peak, expected = codec.decode(outputs, refine="parabola"), codec.decode(outputs)
    assert peak.keypoints[0, 0, 0] == pytest.approx(60, abs=0.1)
    assert expected.keypoints[0, 0, 0] == pytest.approx(180, abs=0.2)
    assert expected.keypoints[0, 0, 1] == pytest.approx(128, abs=0.01)
    assert expected.scores[0, 0] > peak.scores[0, 0]


# --- extremes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["gaussian", "one_hot"])
@pytest.mark.parametrize("refine", ["parabola", "none", "dark", "expected"])
@pytest.mark.parametrize("kind", ["large", "constant", "alternating", "spike", "masked", "edge"])
def test_extreme_logits_give_finite_keypoints_without_warnings(kind, refine, targets):
    codec = SimCC((64, 32), 2.0, (6.0, 6.0), targets)
    logits = {
        "large": lambda n: np.linspace(-1e4, 1e4, n),
        "constant": lambda n: np.full(n, 3.0),
        "alternating": lambda n: np.resize([1e4, -1e4], n),
        "spike": lambda n: np.where(np.arange(n) == n // 2, 1e4, -1e4),
        "masked": lambda n: np.where(np.abs(np.arange(n) - 20) < 3, 1.0, -np.inf),
        "edge": lambda n: np.where(np.arange(n) == n - 1, 1e4, 0.0),
    }[kind]
    outputs = tuple(logits(n).astype(np.float32).reshape(1, 1, n) for n in codec.bins_wh)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged = outputs if kind == "masked" else codec.merge_flip(outputs, outputs, np.array([0]))
        for each in (outputs, merged):
            decoded = codec.decode(each, refine=refine)
            assert np.isfinite(decoded.keypoints).all()
            assert ((decoded.scores >= 0) & (decoded.scores <= 1)).all()
            assert np.isfinite(decoded.sigmas_px).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_networks_outputs_are_refused(bad):
    codec = SimCC((64, 32))
    x, y = codec.perfect_logits(np.full((2, 17, 2), 9.0))
    y[1, 3, 50] = bad
    with pytest.raises(ModelFileError, match="not finite"):
        codec.decode((x, y))


def test_no_persons():
    codec = SimCC((64, 48), radius_px=np.full(17, 4.0))
    x, y = np.zeros((0, 17, 96), np.float32), np.zeros((0, 17, 128), np.float32)
    for refine in ("parabola", "none", "expected"):
        assert codec.decode((x, y), refine=refine).keypoints.shape == (0, 17, 2)
    assert codec.merge_flip((x, y), (x, y), COCO17.flip_indices)[0].shape == (0, 17, 96)
    assert codec.encode(np.zeros((0, 17, 2)), np.zeros((0, 17)))[0].shape == (0, 17, 96)


def test_results_are_float32():
    codec = SimCC((64, 48))
    decoded = codec.decode(codec.perfect_logits([[[3.0, 4.0]]]))
    assert {decoded.keypoints.dtype, decoded.scores.dtype, decoded.sigmas_px.dtype} == {np.dtype(np.float32)}


def test_score_by_hand():
    """By hand: mass of a Gaussian of 4 px within half a side of the square that is as large as a disc of 6 px."""
    codec = SimCC((256, 256), 2.0, (8.0, 8.0), radius_px=np.array([6.0]))
    score = codec.decode(codec.perfect_logits(np.full((1, 1, 2), 128.0))).scores[0, 0]
    assert score == pytest.approx(math.erf(6 * math.sqrt(math.pi) / 2 / 4 / math.sqrt(2)) ** 2, abs=2e-3)


def test_dark_moves_by_a_sigma_at_most():
    values = np.exp(-((np.arange(100) - 40.0) ** 2) / 72).astype(np.float32)[None]
    values[0, 50] = 1.05
    assert dark_refine_1d(values, np.array([50]), 6.0)[0] == pytest.approx(44)
