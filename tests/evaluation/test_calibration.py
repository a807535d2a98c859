from __future__ import annotations

import numpy as np
import pytest

from ebapose.errors import UsageError
from ebapose.evaluation.calibration import (
    reliability,
    right_keypoints,
    sigma_calibration,
)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def logit(p):
    return np.log(p / (1 - p))


def test_right_means_within_an_oks_of_one_half():
    area, sigmas = np.array([2000.0]), np.array([0.05, 0.1])
    limit = np.sqrt(2 * np.log(2) * 2000) * 2 * sigmas
    assert right_keypoints([limit * 0.999], area, sigmas).all()
    assert not right_keypoints([limit * 1.001], area, sigmas).any()
    assert not right_keypoints([[np.nan, np.nan]], area, sigmas).any()


def test_reliability_by_hand():
    curve = reliability([0.95, 0.95, 0.15, 1.0, np.nan], [True, False, False, True, True])
    assert curve.counts.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert curve.mean_scores[9] == pytest.approx(2.9 / 3)
    assert curve.right_shares[9] == pytest.approx(2 / 3)
    assert curve.expected_calibration_error == pytest.approx((0.9 + 0.15) / 4)
    assert curve.brier_score == pytest.approx((0.05**2 + 0.95**2 + 0.15**2 + 0) / 4)


def test_reliability_tells_honest_scores_from_boasting_ones():
    rng = np.random.default_rng(0)
    probability = rng.random(20_000)
    right = rng.random(20_000) < probability
    assert reliability(probability, right).expected_calibration_error < 0.02
    assert reliability(sigmoid(3 * logit(probability)), right).expected_calibration_error > 0.1


def test_scores_that_are_no_probabilities():
    with pytest.raises(UsageError, match=r"from 0.5 to 1.5 are no probabilities"):
        reliability([0.5, 1.5], [True, True])
    assert np.isnan(reliability([], []).expected_calibration_error)


def test_sigma_calibration_tells_right_from_wrong_sigmas():
    rng = np.random.default_rng(1)
    sigmas = rng.uniform(0.5, 9, (20_000, 2))
    errors = rng.normal(size=sigmas.shape) * sigmas
    honest, small = sigma_calibration(errors, sigmas), sigma_calibration(errors, sigmas / 2)
    assert honest.within_1_sigma == pytest.approx(0.6827, abs=0.01)
    assert honest.within_2_sigma == pytest.approx(0.9545, abs=0.01)
    assert honest.expected_calibration_error < 0.01
    assert small.within_1_sigma == pytest.approx(0.3829, abs=0.01)
    assert (small.observed < small.promised).all()
    assert honest.count == 40_000


def test_unknown_sigmas_are_left_out():
    curve = sigma_calibration([[1.0, 3.0], [1.0, np.nan]], [[np.nan, 2.0], [np.nan, 1.0]])
    assert (curve.count, curve.within_1_sigma, curve.within_2_sigma) == (1, 0, 1)
    assert sigma_calibration([0.0, 1.0], [0.0, 0.0]).within_1_sigma == 0.5
    assert np.isnan(sigma_calibration([], []).within_1_sigma)
