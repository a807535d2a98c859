"""Do scores and standard deviations mean what they say? (How to correct them: `ebapose.evaluation.calibration_fit`.)

A keypoint score is the probability that the keypoint is right: its OKS with the truth is at least 0.5, so
d^2 <= 2 ln 2 area (2 sigma_oks)^2. A standard deviation is per axis: 68.27 % of the errors are smaller, 95.45 %
smaller than two (what a Gaussian promises). All coordinates are in image px.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.errors import UsageError
from ebapose.geometry.oks import keypoint_similarity

FloatArray = NDArray[np.float64]

WITHIN_1_SIGMA = 0.682689492137086
RIGHT_OKS = 0.5

MIN_SIGMA_PX = 1e-6  # a smaller one counts as this


@dataclass(frozen=True, eq=False)
class Reliability:
    """Scores against what happened.

    Attributes:
        edges: (B + 1,) of the score bins.
        counts: (B,) scores in each bin.
        mean_scores: (B,) mean score, NaN in an empty bin.
        right_shares: (B,) share of right keypoints, NaN in an empty bin.
        expected_calibration_error: mean over all scores of |mean score - share right| of their bin, 0..1.
        brier_score: mean squared difference between score and event; smaller is better, it also rewards telling right
            from wrong.
    """

    edges: FloatArray
    counts: NDArray[np.intp]
    mean_scores: FloatArray
    right_shares: FloatArray
    expected_calibration_error: float
    brier_score: float


@dataclass(frozen=True, eq=False)
class SigmaCalibration:
    """Errors against predicted standard deviations, each axis of each keypoint one sample.

    Attributes:
        within_1_sigma, within_2_sigma: share of errors; a calibrated model has 0.6827 and 0.9545.
        promised: (Q,) central probabilities; observed: (Q,) share of the errors inside the interval of that
            probability.
        expected_calibration_error: mean of |promised - observed|.
        count: samples.
    """

    within_1_sigma: float
    within_2_sigma: float
    promised: FloatArray
    observed: FloatArray
    expected_calibration_error: float
    count: int


def right_keypoints(distance_px: ArrayLike, areas: ArrayLike, sigmas: ArrayLike) -> NDArray[np.bool_]:
    """(N, K) whether each keypoint is within an OKS of 0.5 of the truth.

    Args:
        distance_px: (N, K); NaN gives False.
        areas: (N,) px^2.
        sigmas: (K,) of the skeleton.
    """
    distance_sq = np.asarray(distance_px, np.float64) ** 2
    similarity = keypoint_similarity(distance_sq, np.asarray(areas, np.float64)[:, None], sigmas)
    return np.asarray(similarity >= RIGHT_OKS)


def reliability(scores: ArrayLike, right: ArrayLike, bins: int = 10) -> Reliability:
    """Reliability curve over `bins` equally wide score bins.

    Args:
        scores: any shape, 0..1; NaN is left out.
        right: bool, same shape.

    Raises:
        UsageError: a score is outside 0..1, so it cannot be a probability.
    """
    score, event = np.asarray(scores, np.float64).ravel(), np.asarray(right, bool).ravel()
    event, score = event[~np.isnan(score)], score[~np.isnan(score)]
    if score.size and (score.min() < 0 or score.max() > 1):
        raise UsageError(f"scores from {score.min():.3g} to {score.max():.3g} are no probabilities: expected 0..1")
    edges = np.linspace(0, 1, bins + 1)
    index = np.minimum((score * bins).astype(np.intp), bins - 1)
    counts = np.bincount(index, minlength=bins)
    full = counts > 0
    empty = np.full(bins, np.nan)
    means = np.divide(np.bincount(index, score, bins), counts, out=empty.copy(), where=full)
    shares = np.divide(np.bincount(index, event.astype(float), bins), counts, out=empty.copy(), where=full)
    total = counts.sum()
    ece = float((np.abs(means - shares)[full] * counts[full]).sum() / total) if total else float("nan")
    brier = float(((score - event) ** 2).mean()) if total else float("nan")
    return Reliability(edges, counts, means, shares, ece, brier)


def sigma_calibration(errors_px: ArrayLike, sigmas_px: ArrayLike) -> SigmaCalibration:
    """How often errors stay inside what the standard deviations promise.

    Args:
        errors_px: signed or absolute error per axis, any shape; NaN is left out.
        sigmas_px: same shape; NaN is left out, 0 is allowed (then only an error of 0 is inside).
    """
    z = _standardised(errors_px, sigmas_px)
    promised = np.linspace(0.05, 0.95, 19)
    if z.size == 0:
        nan = float("nan")
        return SigmaCalibration(nan, nan, promised, np.full(19, nan), nan, 0)
    limits = [NormalDist().inv_cdf((1 + p) / 2) for p in promised]
    observed = np.searchsorted(np.sort(z), limits, side="right") / z.size
    return SigmaCalibration(
        within_1_sigma=float((z <= 1).mean()),
        within_2_sigma=float((z <= 2).mean()),
        promised=promised,
        observed=observed,
        expected_calibration_error=float(np.abs(promised - observed).mean()),
        count=z.size,
    )


def _standardised(errors_px: ArrayLike, sigmas_px: ArrayLike) -> FloatArray:
    errors, sigmas = np.abs(np.asarray(errors_px, np.float64)).ravel(), np.asarray(sigmas_px, np.float64).ravel()
    known = np.isfinite(errors) & np.isfinite(sigmas)
    return np.asarray(errors[known] / np.maximum(sigmas[known], MIN_SIGMA_PX))
