"""What every codec's `decode` returns, and what a score and a sigma mean.

The score of a keypoint is the probability that it lies within an OKS of 0.5 of the truth, that is within
d = 2 sigma_k sqrt(2 ln 2 * area) of it (COCO's OKS formula solved for the distance), for a person that fills the crop
as usual. The network states it itself; `apply_calibration` corrects it by what was measured on validation data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.card import Calibration
from ebapose.errors import ModelFileError
from ebapose.geometry.oks import SEGMENT_SHARE

Float32Array = NDArray[np.float32]

CONFIDENT = 0.5  # score from which the poses of two runtimes are compared: below, two places often compete


@dataclass(frozen=True, eq=False)
class Decoded:
    """Keypoints in crop px.

    Attributes:
        keypoints: (N, K, 2) float32, x and y in crop px.
        scores: (N, K) float32 in 0..1, see the module's text.
        sigmas_px: (N, K, 2) float32, standard deviation of x and y in crop px, NaN where the model predicts none.
    """

    keypoints: Float32Array
    scores: Float32Array
    sigmas_px: Float32Array


def oks_radius_px(sigmas: ArrayLike, area_px2: ArrayLike, oks: float = 0.5) -> NDArray[np.float64]:
    """Distance in px at which a keypoint's OKS falls to `oks`: d = 2 sigma sqrt(-2 ln(oks) area)."""
    return 2 * np.asarray(sigmas, np.float64) * np.sqrt(-2 * np.log(oks) * np.asarray(area_px2, np.float64))


def nominal_radius_px(sigmas: ArrayLike, size_hw: tuple[int, int], padding: float) -> NDArray[np.float64]:
    """(K,) the OKS-0.5 distance in crop px for a person whose box fills the unpadded crop."""
    return oks_radius_px(sigmas, SEGMENT_SHARE * size_hw[0] * size_hw[1] / padding**2)


def confident_distances(decoded: Decoded, other: Decoded) -> Float32Array:
    """(n,) ascending distances in crop px from keypoints with a score of `CONFIDENT` to those of another network."""
    distances = np.linalg.norm(decoded.keypoints - other.keypoints, axis=-1)
    return np.sort(distances[decoded.scores >= CONFIDENT])


def mean_but_jumps(distances: Float32Array) -> float:
    """The mean of ascending distances but the farthest hundredth; NaN where there are none.

    Where two places are as good as each other a rounding error decides between them, and the keypoint jumps.
    """
    return float(distances[: len(distances) - len(distances) // 100].mean()) if len(distances) else float("nan")


def require_finite(values: Float32Array) -> None:
    """Refuse outputs of a broken network: a keypoint made of NaN would look like a place at the border.

    Raises:
        ModelFileError: a value (or, where `values` are maxima, one they were taken over) is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise ModelFileError("the network's outputs are not finite: damaged weights, or a precision too low for them")


def apply_calibration(decoded: Decoded, calibration: Calibration) -> Decoded:
    """Correct scores and sigmas as the model card says (formula in `ebapose.card.Calibration`)."""
    scores, sigmas = decoded.scores, decoded.sigmas_px
    if calibration.score_scale or calibration.score_shift:
        raw = np.clip(scores.astype(np.float64), 1e-6, 1 - 1e-6)  # logit(0) and logit(1) are infinite
        scale = np.asarray(calibration.score_scale or 1.0)
        shift = np.asarray(calibration.score_shift or 0.0)
        logits = scale * np.log(raw / (1 - raw)) + shift
        scores = np.exp(-np.logaddexp(0, -logits)).astype(np.float32)  # 1 / (1 + exp(-logits)) without overflow
    if calibration.sigma_scale:
        sigmas = (sigmas * np.asarray(calibration.sigma_scale)[:, None]).astype(np.float32)
    return replace(decoded, scores=scores, sigmas_px=sigmas)
