"""The correction of scores and standard deviations that a card holds: fitted to persons whose keypoints are known.

What it corrects, and what is measured of it, is `ebapose.evaluation.calibration`'s. All coordinates are in image px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.card import Calibration
from ebapose.codecs.decoded import Decoded, apply_calibration
from ebapose.errors import UsageError
from ebapose.evaluation.calibration import MIN_SIGMA_PX, WITHIN_1_SIGMA, reliability, right_keypoints, sigma_calibration
from ebapose.evaluation.coco_ap import BoxMode
from ebapose.evaluation.inputs import Annotations, Results
from ebapose.evaluation.matching import match_persons

FloatArray = NDArray[np.float64]

_PROBABILITY_EPS = 1e-6  # as `ebapose.codecs` clips scores before the logit


@dataclass(frozen=True, eq=False)
class Judged:
    """Keypoints of persons who were found, beside what is true; N persons.

    Attributes:
        scores: (N, K) as the model gave them; NaN for persons that were missed.
        right: (N, K) bool, see `right_keypoints`.
        labelled: (N, K) bool: the keypoints that count.
        errors_px: (N, K, 2) predicted minus true.
        sigmas_px: (N, K, 2) as the model gave them, NaN where unknown.
        weights: (N,) how much each person counts in a fit.
    """

    scores: FloatArray
    right: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    errors_px: FloatArray
    sigmas_px: FloatArray
    weights: FloatArray

    def __getitem__(self, rows: NDArray[Any] | slice) -> Judged:
        """Some of the persons."""
        return Judged(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def joined(parts: Sequence[Judged]) -> Judged:
        """All persons of several sets."""
        return Judged(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Judged)))

    @staticmethod
    def balanced(parts: Sequence[Judged]) -> Judged:
        """All persons of several sets, weighted so that every set counts alike: each stands for a kind of pictures."""
        share = sum(len(part) for part in parts) / len(parts)
        return Judged.joined([replace(part, weights=np.full(len(part), share / max(1, len(part)))) for part in parts])


def judge(truth: Annotations, raw: Results, box_mode: BoxMode) -> Judged:
    """Match a model's poses to the persons of an annotated set (see `ebapose.evaluation.matching`) and compare."""
    matches = match_persons(truth, raw, box_mode)
    errors_px = matches.predicted(raw.keypoints) - truth.keypoints
    distances = np.linalg.norm(errors_px, axis=-1)
    unknown = np.full_like(errors_px, np.nan)
    return Judged(
        scores=matches.predicted(raw.keypoint_scores),
        right=right_keypoints(distances, truth.areas, truth.skeleton.sigmas),
        labelled=truth.labelled & truth.counted[:, None],
        errors_px=errors_px,
        sigmas_px=unknown if raw.sigmas_px is None else matches.predicted(raw.sigmas_px),
        weights=np.ones(len(errors_px)),
    )


@dataclass(frozen=True)
class CalibrationGain:
    """What a calibration is worth on persons that it was not fitted to: two halves, each corrected by the other's fit.

    Attributes:
        score_error_before, score_error_after: expected calibration error of the scores, 0..1.
        within_sigma_before, within_sigma_after: share of errors per axis within one sigma; 0.683 is right.
        unreadable: one line about each picture that could not be read, whose persons took no part.
    """

    score_error_before: float
    score_error_after: float
    within_sigma_before: float
    within_sigma_after: float
    unreadable: tuple[str, ...] = ()


def calibrate(judged: Judged, measured_on: str = "") -> tuple[Calibration, CalibrationGain]:
    """Corrections from raw (uncalibrated) poses, and what they are worth on persons not seen by the fit.

    Args:
        judged: of raw poses; at least two persons.
        measured_on: goes into the card: data set and number of persons.

    Raises:
        UsageError: fewer than two persons, no labelled keypoint of a matched person, or scores outside 0..1.
    """
    if len(judged) < 2:
        raise UsageError("calibration needs two persons or more")

    def fit(part: Judged) -> Calibration:
        return fit_calibration(
            part.scores, part.right, part.labelled, part.errors_px, part.sigmas_px, measured_on, part.weights
        )

    halves = [judged[0::2], judged[1::2]]
    corrected = Judged.joined([_corrected(mine, fit(other)) for mine, other in zip(halves, halves[::-1], strict=True)])
    gain = CalibrationGain(
        score_error_before=_score_error(judged),
        score_error_after=_score_error(corrected),
        within_sigma_before=_within_sigma(judged),
        within_sigma_after=_within_sigma(corrected),
    )
    return fit(judged), gain


def _corrected(judged: Judged, calibration: Calibration) -> Judged:
    decoded = Decoded(
        keypoints=np.zeros((*judged.scores.shape, 2), np.float32),
        scores=np.nan_to_num(judged.scores).astype(np.float32),
        sigmas_px=judged.sigmas_px.astype(np.float32),
    )
    decoded = apply_calibration(decoded, calibration)
    scores = np.where(np.isfinite(judged.scores), decoded.scores, np.nan)
    return replace(judged, scores=scores, sigmas_px=decoded.sigmas_px.astype(np.float64))


def _score_error(judged: Judged) -> float:
    counted = judged.labelled & np.isfinite(judged.scores)
    return reliability(judged.scores[counted], judged.right[counted]).expected_calibration_error


def _within_sigma(judged: Judged) -> float:
    errors = np.where(judged.labelled[..., None], judged.errors_px, np.nan)
    return sigma_calibration(errors, judged.sigmas_px).within_1_sigma


def fit_calibration(
    raw_scores: ArrayLike,
    right: ArrayLike,
    labelled: ArrayLike,
    errors_px: ArrayLike | None = None,
    sigmas_px: ArrayLike | None = None,
    measured_on: str = "",
    weights: ArrayLike | None = None,
    prior_samples: float = 50.0,
) -> Calibration:
    """Corrections per keypoint from validation data; `ebapose.codecs.apply_calibration` applies them.

    Scores: logistic regression (Platt scaling) of `right` on the logit of the raw score. Every keypoint's fit is drawn
    towards the fit of all keypoints together, as if that had been seen in `prior_samples` more samples; a keypoint
    without samples gets the pooled fit. A slope is never negative: a higher raw score never becomes a lower one.
    Sigmas: the factor that puts 68.27 % of the errors per axis within one sigma, drawn towards the pooled one in the
    same way.

    Args:
        raw_scores: (N, K) uncorrected scores in 0..1.
        right: (N, K) bool, from `right_keypoints`.
        labelled: (N, K) bool: the samples that count.
        errors_px: (N, K, 2) signed or absolute errors; with `sigmas_px` or not at all.
        sigmas_px: (N, K, 2) uncorrected standard deviations, NaN where unknown.
        measured_on: goes into the card: data set and number of persons.
        weights: (N,) how many samples each person counts as; 1 by default.
        prior_samples: see above.

    Raises:
        UsageError: no labelled keypoint, or scores outside 0..1.
    """
    scores, events, mask = np.asarray(raw_scores, np.float64), np.asarray(right, bool), np.asarray(labelled, bool)
    mask = mask & np.isfinite(scores)
    if not mask.any():
        raise UsageError("no labelled keypoint to calibrate on")
    if scores[mask].min() < 0 or scores[mask].max() > 1:
        raise UsageError("raw scores must lie in 0..1")
    clipped = np.clip(np.where(mask, scores, 0.5), _PROBABILITY_EPS, 1 - _PROBABILITY_EPS)
    logits = np.log(clipped / (1 - clipped))

    counts = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    count = np.broadcast_to(counts[:, None], scores.shape)

    # One sample's worth of "change nothing" keeps the pooled fit finite where right and wrong are perfectly separable.
    pooled = _fit_logistic(logits[mask], events[mask], count[mask], np.array([1.0, 0.0]), np.eye(2))
    information = prior_samples * _information(logits[mask], count[mask], pooled) / count[mask].sum()
    per_keypoint = np.array(
        [_fit_logistic(logits[m, k], events[m, k], count[m, k], pooled, information) for k, m in enumerate(mask.T)]
    )
    sigma_scale: tuple[float, ...] = ()
    if errors_px is not None and sigmas_px is not None:
        known = np.where(mask[..., None], np.asarray(sigmas_px, np.float64), np.nan)
        sigma_scale = _sigma_scales(np.asarray(errors_px, np.float64), known, counts, prior_samples)
    return Calibration(
        score_scale=tuple(round(float(v), 6) for v in per_keypoint[:, 0]),
        score_shift=tuple(round(float(v), 6) for v in per_keypoint[:, 1]),
        sigma_scale=sigma_scale,
        measured_on=measured_on,
    )


def _fit_logistic(
    logits: FloatArray, events: NDArray[np.bool_], count: FloatArray, prior: FloatArray, precision: FloatArray
) -> FloatArray:
    """Most probable (slope, shift) under a Gaussian prior: Newton's method with step halving; slope >= 0.

    Each logit and event was seen `count` times.
    """
    precision = precision + 1e-9 * np.eye(2)

    def loss(parameters: FloatArray) -> float:
        z = parameters[0] * logits + parameters[1]
        delta = parameters - prior
        return float(count @ (np.logaddexp(0, z) - events * z) + delta @ precision @ delta / 2)

    theta = prior.copy()
    free = np.array([True, True])
    value = loss(theta)
    for _ in range(100):
        probability = _sigmoid(theta[0] * logits + theta[1])
        residual = count * (probability - events)
        gradient = np.array([residual @ logits, residual.sum()]) + precision @ (theta - prior)
        hessian = _information(logits, count, theta) + precision
        free[0] = not (theta[0] <= 0 and gradient[0] > 0)
        step = np.zeros(2)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        while True:
            candidate = theta - step
            candidate[0] = max(candidate[0], 0.0)
            if loss(candidate) <= value or np.abs(step).max() < 1e-10:
                break
            step = step / 2
        moved = np.abs(candidate - theta).max()
        theta, value = candidate, loss(candidate)
        if moved < 1e-9:
            break
    return theta


def _information(logits: FloatArray, count: FloatArray, theta: FloatArray) -> FloatArray:
    probability = _sigmoid(theta[0] * logits + theta[1])
    weight = count * probability * (1 - probability)
    cross = float(weight @ logits)
    return np.array([[float(weight @ logits**2), cross], [cross, float(weight.sum())]])


def _sigmoid(z: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))


def _sigma_scales(
    errors_px: FloatArray, sigmas_px: FloatArray, counts: FloatArray, prior_samples: float
) -> tuple[float, ...]:
    """(K,) factors for errors and sigmas (N, K, 2) of persons who count (N,) times; empty where no sigma is known."""
    pooled, samples = _log_scale(errors_px, sigmas_px, counts)
    if not samples:
        return ()
    scales = []
    for k in range(sigmas_px.shape[1]):
        own, samples = _log_scale(errors_px[:, k], sigmas_px[:, k], counts)
        scales.append(round(float(np.exp((samples * own + prior_samples * pooled) / (samples + prior_samples))), 6))
    return tuple(scales)


def _log_scale(errors_px: FloatArray, sigmas_px: FloatArray, counts: FloatArray) -> tuple[float, float]:
    """Logarithm of the factor that puts 68.27 % of the errors within one sigma, and the number of its keypoints."""
    z = np.abs(errors_px) / np.maximum(sigmas_px, MIN_SIGMA_PX)
    known = np.isfinite(z)
    count = np.broadcast_to(counts.reshape(-1, *[1] * (z.ndim - 1)), z.shape)[known]
    if not count.sum():
        return 0.0, 0.0
    z = z[known]
    order = np.argsort(z, kind="stable")
    z, count = z[order], count[order]
    below = np.cumsum(count) - count
    quantile = np.interp(WITHIN_1_SIGMA, below / max(below[-1], 1e-9), z)  # np.quantile, where all count alike
    return float(np.log(max(float(quantile), MIN_SIGMA_PX))), float(count.sum()) / 2
