"""SimCC: every keypoint is two classifications, one over the x bins and one over the y bins.

Li et al. 2022, "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation". A crop of W x H px
has int(W k) x-bins and int(H k) y-bins; the bin of a coordinate is k times the coordinate (`crop` -> `bins`), k the
split ratio. Encoding and decoding both live here, in numpy, over any leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebapose.codecs.dark import dark_refine_1d
from ebapose.codecs.decoded import Decoded, Float32Array, require_finite

Refine = Literal["parabola", "none", "dark", "expected"]
WeightRule = Literal["bins", "reference"]

# A perfect network can at best be sure of the bin: its remaining standard deviation is that of a bin's width.
_FLOOR_BINS2 = 1 / 12
_LOWER = 0.158655  # share of a Gaussian below mean - sigma


def gaussian_targets(
    centers_bins: ArrayLike, num_bins: int, sigma_bins: float, *, normalized: bool = True
) -> Float32Array:
    """Gaussians over the bins: exp(-(i - mu)^2 / (2 sigma^2)) / (sigma sqrt(2 pi)) (SimCC, eq. 3).

    Args:
        centers_bins: (...,) mu, in bins, not rounded.
        num_bins: number of bins.
        sigma_bins: standard deviation in bins.
        normalized: divide by sigma sqrt(2 pi); otherwise the peak is 1. Never renormalised at the borders.

    Returns:
        (..., num_bins) float32.
    """
    # The exponent is formed in float64 (mu needs it); the exponential of millions of bins is taken in float32.
    offsets = (np.arange(num_bins) - np.asarray(centers_bins, np.float64)[..., None]).astype(np.float32)
    targets = np.exp(offsets * offsets * np.float32(-0.5 / sigma_bins**2))
    return targets * np.float32(1 / (sigma_bins * np.sqrt(2 * np.pi))) if normalized else targets


def softmax(logits: ArrayLike) -> Float32Array:
    """Softmax over the last axis, float32, safe for large values."""
    logits = np.asarray(logits, np.float32)
    values = logits - logits.max(axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=-1, keepdims=True)
    return values


def axis_peaks(logits: ArrayLike) -> Float32Array:
    """(...,) largest softmax value along the last axis: the literature's raw SimCC score of one axis."""
    return softmax(logits).max(axis=-1)


def parabola_refine(logits: ArrayLike, peak: NDArray[np.intp], radius: int) -> NDArray[np.float64]:
    """Sub-bin position of the peak: the vertex of a parabola fitted to the logits around the largest one.

    The logits of a Gaussian are a parabola, so the fit is exact there, for any sigma and also beside the borders. The
    bins are weighted by their probability, so that far bins count only where the distribution is broad.

    Args:
        logits: (..., bins).
        peak: (...,) index of the largest bin.
        radius: bins used on each side of the peak, at least 2: beside a border one side must do for a parabola.

    Returns:
        (...,) position in bins, at most `radius` from the peak; the peak itself where the fit has no maximum.
    """
    logits = np.asarray(logits)
    bins = logits.shape[-1]
    steps = np.arange(-radius, radius + 1)
    index = peak[..., None] + steps
    inside = (index >= 0) & (index < bins)
    values = _take(logits, np.minimum(np.maximum(index, 0), bins - 1)).astype(np.float64)
    values = np.maximum(values - values[..., radius, None], -100)  # -inf would make NaN
    weights = np.exp(values) * inside
    # Weighted least squares of a + b t + c t^2, solved in closed form from the centred moments of t.
    powers = steps[:, None] ** np.arange(5.0)
    m0, m1, m2, m3, m4 = np.moveaxis(weights @ powers, -1, 0)
    r0, r1, r2 = np.moveaxis((weights * values) @ powers[:, :3], -1, 0)
    ridge = 1e-12  # one bin alone with all the probability leaves the fit undetermined
    s11, s12, s22 = m2 - m1 * m1 / m0 + ridge, m3 - m1 * m2 / m0, m4 - m2 * m2 / m0 + ridge
    b1, b2 = r1 - m1 * r0 / m0, r2 - m2 * r0 / m0
    slope, curvature = s22 * b1 - s12 * b2, s11 * b2 - s12 * b1  # both times the same positive determinant
    concave = curvature < -1e-6 * (s11 * s22 - s12 * s12)
    vertex = np.where(concave, -slope / np.where(concave, 2 * curvature, 1.0), 0.0)
    return peak + np.clip(vertex, -radius, radius)


def cumulate(logits: ArrayLike) -> Float32Array:
    """The distribution function of the softmax over the last axis.

    Args:
        logits: (..., bins).

    Returns:
        (..., bins + 1) float32, the probability below each of the bins' borders: from 0 to 1. Border b lies at the
        position b - 0.5 in bins.
    """
    logits = np.asarray(logits, np.float32)
    values = logits - logits.max(axis=-1, keepdims=True)
    np.exp(values, out=values)
    cumulated = np.zeros((*logits.shape[:-1], logits.shape[-1] + 1), np.float32)
    values.cumsum(axis=-1, out=cumulated[..., 1:])
    cumulated /= cumulated[..., -1:].copy()
    return cumulated


def expected_closeness(cumulated: Float32Array, reach_bins: ArrayLike) -> Float32Array:
    """How close each bin is to the keypoint, on average over the distribution.

    Closeness is 1 at the keypoint and falls linearly to 0 at the reach. Where a distribution is one narrow peak, the
    best place is that peak; where it is broad or has several, it is the place that most of its mass is near to, which
    has a better OKS on average than the largest single bin (minimum Bayes risk, not maximum a posteriori). A peak that
    a border cuts off is read up to two thirds of its standard deviation further inside: at its median.

    Args:
        cumulated: (..., K, bins + 1), see `cumulate`.
        reach_bins: (K,) or (1,) in bins, rounded to whole ones, at least 1.

    Returns:
        (..., K, bins) float32, sum of p_j max(0, 1 - |b - j| / reach) over the bins j, 0..1.
    """
    *leading, num_keypoints, borders = cumulated.shape
    bins = borders - 1
    reach = np.broadcast_to(np.maximum(np.round(np.asarray(reach_bins, np.float64)), 1), num_keypoints).astype(int)
    # A triangle is the second difference of a ramp: summed up once more, the distribution function answers for every
    # bin at once. In front of the first bin the sum is 0, behind the last one it grows by all of the mass, 1, per bin.
    margin = int(reach.max(initial=1)) + 1
    ramp = np.zeros((*leading, num_keypoints, bins + 2 * margin))
    inside = ramp[..., margin : margin + bins]
    np.cumsum(cumulated[..., 1:], axis=-1, dtype=np.float64, out=inside)
    ramp[..., margin + bins :] = inside[..., -1:] + np.arange(1, margin + 1)
    closeness = np.empty((*leading, num_keypoints, bins), np.float32)
    for k, r in enumerate(reach.tolist()):
        before, here, behind = (ramp[..., k, margin - 1 + step :][..., :bins] for step in (-r, 0, r))
        np.multiply(before + behind - 2 * here, 1 / r, out=closeness[..., k, :], casting="same_kind")
    return closeness


def mass_within(cumulated: Float32Array, positions_bins: ArrayLike, half_width_bins: ArrayLike) -> Float32Array:
    """(...,) probability mass within +-half_width of a position; a bin counts by the part that lies inside.

    Args:
        cumulated: (..., bins + 1), see `cumulate`.
        positions_bins: (...,) in bins.
        half_width_bins: (...,) in bins.
    """
    middle, half_width = np.asarray(positions_bins, np.float64) + 0.5, np.asarray(half_width_bins, np.float64)
    return _below(cumulated, middle + half_width) - _below(cumulated, middle - half_width)


def _below(cumulated: Float32Array, borders: NDArray[np.float64]) -> Float32Array:
    """(...,) the distribution function at places between the borders, by linear interpolation."""
    last = cumulated.shape[-1] - 1
    borders = np.minimum(np.maximum(borders, 0), last)
    index = np.minimum(borders.astype(np.intp), last - 1)
    low, high = _take(cumulated, index[..., None])[..., 0], _take(cumulated, index[..., None] + 1)[..., 0]
    below: Float32Array = low + (high - low) * (borders - index).astype(np.float32)
    return below


def central_half_width(cumulated: Float32Array) -> Float32Array:
    """(...,) half the width, in bins, of the interval between the 15.9 % and the 84.1 % quantile.

    It is the standard deviation of a Gaussian. Unlike the second moment it is not ruled by the floor of small
    probabilities that a softmax leaves over hundreds of far bins: measured on photographs, it follows the true errors
    more closely and covers close to 68 % of them.

    Args:
        cumulated: (..., bins + 1), see `cumulate`.
    """
    return np.float32(0.5) * (_quantile(cumulated, 1 - _LOWER) - _quantile(cumulated, _LOWER))


def _quantile(cumulated: Float32Array, level: float) -> Float32Array:
    """(...,) where the distribution function reaches a level, in borders, between them by linear interpolation."""
    index = (cumulated >= level).argmax(axis=-1)[..., None]  # the first one that does; never border 0
    low, high = _take(cumulated, index - 1), _take(cumulated, index)
    return (index - 1 + (level - low) / (high - low))[..., 0].astype(np.float32)


def _take(values: NDArray[Any], index: NDArray[np.intp]) -> NDArray[Any]:
    """(..., n) values[..., index] along the last axis, each row its own: np.take_along_axis, without its overhead."""
    starts = np.arange(0, values.size, values.shape[-1]).reshape(*values.shape[:-1], 1)
    return values.take(starts + index)


@dataclass(frozen=True)
class SimCC:
    """The codec of one model.

    Attributes:
        size_hw: height and width of the crop in px.
        split_ratio: bins per px, k; may be fractional.
        sigma: standard deviation of the target Gaussians in bins, (x, y).
        targets: "gaussian" or "one_hot": what the network was trained with.
        radius_px: (K,) distance in crop px that counts as right, see `ebapose.codecs.decoded`.
        position: what `decode` reads where nothing else is asked for: "peak" or "expected".
    """

    size_hw: tuple[int, int]
    split_ratio: float = 2.0
    sigma: tuple[float, float] = (6.0, 6.0)
    targets: Literal["gaussian", "one_hot"] = "gaussian"
    radius_px: NDArray[np.float64] = field(default_factory=lambda: np.array([5.0]), repr=False, compare=False)
    position: Literal["peak", "expected"] = "peak"

    @property
    def bins_wh(self) -> tuple[int, int]:
        """Number of x-bins and y-bins."""
        return int(self.size_hw[1] * self.split_ratio), int(self.size_hw[0] * self.split_ratio)

    def encode(
        self,
        keypoints: ArrayLike,
        visible: ArrayLike,
        *,
        weight_rule: WeightRule = "bins",
        normalized: bool = True,
        round_centers: bool = False,
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Gaussian targets.

        Args:
            keypoints: (..., K, 2) in crop px.
            visible: (..., K), 0 or False where a keypoint is not labelled.
            weight_rule: which keypoints outside the crop still count. "bins": those within three sigma of it.
                "reference": as the published SimCC code decides, in px with the sigma in bins, truncated.
            normalized: see `gaussian_targets`.
            round_centers: round mu to whole bins, as mmpose does (half to even).

        Returns:
            targets_x (..., K, x-bins), targets_y (..., K, y-bins), weights (..., K) of 0 and 1; float32. Targets of
            weight 0 are 0.
        """
        keypoints = np.asarray(keypoints, np.float64)
        centers = keypoints * self.split_ratio
        if round_centers:
            centers = np.round(centers)
        weights = np.asarray(visible) > 0
        sigma = np.asarray(self.sigma, np.float64)
        if weight_rule == "reference":
            low, high = np.trunc(keypoints - 3 * sigma), np.trunc(keypoints + 3 * sigma + 1)
            limit = np.array([self.size_hw[1], self.size_hw[0]])
        else:
            low, high = centers - 3 * sigma, centers + 3 * sigma + 1
            limit = np.array(self.bins_wh)
        weights = weights & ((low < limit) & (high >= 0)).all(axis=-1)
        targets = [
            gaussian_targets(centers[..., axis], self.bins_wh[axis], self.sigma[axis], normalized=normalized)
            * weights[..., None]
            for axis in (0, 1)
        ]
        return targets[0], targets[1], weights.astype(np.float32)

    def encode_labels(self, keypoints: ArrayLike, visible: ArrayLike) -> tuple[NDArray[np.int64], Float32Array]:
        """Class labels for one-hot training: round(k x) (half to even), weight 0 outside the bins.

        Returns:
            labels (..., K, 2) int64, clamped to the bins, and weights (..., K) float32 of 0 and 1.
        """
        labels = np.round(np.asarray(keypoints, np.float64) * self.split_ratio).astype(np.int64)
        limit = np.array(self.bins_wh)
        inside = ((labels >= 0) & (labels < limit)).all(axis=-1)
        weights = (np.asarray(visible) > 0) & inside
        return np.clip(labels, 0, limit - 1), weights.astype(np.float32)

    def perfect_logits(self, keypoints: ArrayLike) -> tuple[Float32Array, Float32Array]:
        """The logits of a network that has learnt its targets by heart: log of the Gaussians.

        Args:
            keypoints: (..., K, 2) in crop px.

        Returns:
            logits_x (..., K, x-bins), logits_y (..., K, y-bins), float32.
        """
        centers = np.asarray(keypoints, np.float64) * self.split_ratio
        x, y = (
            -0.5 * ((np.arange(self.bins_wh[axis]) - centers[..., axis, None]) / self.sigma[axis]) ** 2
            for axis in (0, 1)
        )
        return x.astype(np.float32), y.astype(np.float32)

    def merge_flip(
        self,
        outputs: tuple[Float32Array, ...],
        mirrored: tuple[Float32Array, ...],
        flip_indices: NDArray[np.intp],
        shift_bins: float | None = None,
    ) -> tuple[Float32Array, ...]:
        """Average the outputs for a crop with those for its mirror image (the flip test).

        Mirroring is x' = W - 1 - x, so the reversed x bins lie int(W k) - 1 - (W - 1) k bins (k - 1 where W k is whole)
        too far right; they are moved back by that (the published code moves by 0 or 1), between bins by linear
        interpolation. Bins that the mirror image does not show then (k - 1 at the right border) take the shape of the
        plain output, so that keypoints beside the border stay where they are. Gaussian models average logits,
        one-hot models probabilities (returned as their logarithm).

        Args:
            outputs, mirrored: (logits_x (N, K, x-bins), logits_y (N, K, y-bins)).
            flip_indices: (K,) `Skeleton.flip_indices`.
            shift_bins: how far the reversed x bins move left, instead of that; the edge bin is repeated, as published.
        """
        mirrored_x = mirrored[0][:, flip_indices, ::-1]
        mirrored_y = mirrored[1][:, flip_indices]
        if shift_bins is None:
            shift = round(self.bins_wh[0] - 1 - (self.size_hw[1] - 1) * self.split_ratio, 6)
            mirrored_x = _follow(_shift_left(mirrored_x, shift), outputs[0], shift)
        else:
            mirrored_x = _shift_left(mirrored_x, shift_bins)
        pairs = ((outputs[0], mirrored_x), (outputs[1], mirrored_y))
        if self.targets == "gaussian":
            return tuple((a + b) * np.float32(0.5) for a, b in pairs)
        return tuple(np.log(np.maximum((softmax(a) + softmax(b)) / 2, 1e-30)) for a, b in pairs)

    def decode(self, outputs: tuple[Float32Array, ...], refine: Refine | None = None) -> Decoded:
        """Keypoints, scores and standard deviations from logits.

        The position is the largest bin, divided by k; "parabola" refines it between the bins. "expected" takes the bin
        with the greatest `expected_closeness`, with the OKS-0.5 distance as its reach, and refines it alike. The score
        multiplies the masses that the two axes put within the keypoint's OKS-0.5 distance (a square of the disc's
        area). The sigma is the spread of the distribution (`central_half_width`), less the blur of the targets.

        Args:
            outputs: (logits_x (N, K, x-bins), logits_y (N, K, y-bins)).
            refine: "parabola", "none" (plain argmax), "dark" (Zhang et al. 2020 on each axis) or "expected"; by default
                what `position` says: "parabola" or "expected".

        Raises:
            ModelFileError: the logits contain NaN or infinity.
        """
        refine = refine or ("expected" if self.position == "expected" else "parabola")
        positions, masses, sigmas = [], [], []
        half_width = np.maximum(self.radius_px * np.sqrt(np.pi) / 2 * self.split_ratio, 0.5)
        for logits, blur in zip(outputs, self.sigma, strict=True):
            logits = np.asarray(logits, np.float32)
            peak = logits.argmax(axis=-1)
            require_finite(logits.max(axis=-1))
            cumulated = cumulate(logits)
            if refine == "none":
                position = peak.astype(np.float64)
            elif refine == "dark":
                position = dark_refine_1d(logits, peak, blur)
            elif refine == "expected":
                closeness = expected_closeness(cumulated, self.radius_px * self.split_ratio)
                position = parabola_refine(closeness, closeness.argmax(axis=-1), 2)
            else:
                position = parabola_refine(logits, peak, max(2, round(blur)))
            variance = central_half_width(cumulated) ** 2
            blur2 = blur**2 if self.targets == "gaussian" else 0.0
            positions.append(position / self.split_ratio)
            masses.append(mass_within(cumulated, position, half_width))
            sigmas.append(np.sqrt(np.maximum(variance - blur2, _FLOOR_BINS2)) / self.split_ratio)
        return Decoded(
            np.stack(positions, axis=-1).astype(np.float32),
            np.clip(masses[0] * masses[1], 0, 1).astype(np.float32),
            np.stack(sigmas, axis=-1).astype(np.float32),
        )


def _shift_left(values: Float32Array, shift: float) -> Float32Array:
    """values[..., i + shift] along the last axis, linear between bins, the edge value beyond it."""
    if shift == 0:
        return values
    num = values.shape[-1]
    whole = int(np.floor(shift))
    index = np.arange(num) + whole
    near = values[..., np.clip(index, 0, num - 1)]
    fraction = np.float32(shift - whole)
    if fraction == 0:
        return near
    return near * (1 - fraction) + values[..., np.clip(index + 1, 0, num - 1)] * fraction


def _follow(shifted: Float32Array, plain: Float32Array, shift: float) -> Float32Array:
    """`shifted` by `_shift_left`, its bins beyond the edge replaced by the course of `plain`, joined at the edge."""
    num = shifted.shape[-1]
    sources = np.arange(num) + shift
    known = np.flatnonzero((sources >= 0) & (sources <= num - 1))
    beyond = np.flatnonzero((sources < 0) | (sources > num - 1))
    if len(beyond) and len(known):
        edge = np.clip(beyond, known[0], known[-1])
        shifted[..., beyond] = shifted[..., edge] + plain[..., beyond] - plain[..., edge]
    return shifted
