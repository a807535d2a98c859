"""Less jitter: the One-Euro filter (Casiez, Roussel and Vogel 2012) on every keypoint, guided by its uncertainty.

The filter is a low-pass whose cutoff frequency rises with speed: fc = min_cutoff + beta |v|. Slow means smooth, fast
means prompt. Here speed is measured in predicted standard deviations per s instead of px per s, so that a step of the
size of the noise counts as noise and a step of many sigmas as motion, whatever the keypoint, the person's size or the
camera's resolution; and a measurement that is less certain than usual for its keypoint counts less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ebapose.structures import Poses

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class SmoothingOptions:
    """Strength of the filter; the defaults were measured with benchmarks/tracking.py --smoothing.

    Attributes:
        min_cutoff_hz: cutoff for a keypoint at rest. Lower: smoother.
        beta: Hz of cutoff per sigma/s of speed. Higher: less lag.
        velocity_cutoff_hz: of the low-pass that the speed is taken from.
        max_gap_s: after a longer gap a track starts anew.
    """

    min_cutoff_hz: float = 0.7
    beta: float = 0.15
    velocity_cutoff_hz: float = 2.0
    max_gap_s: float = 0.5


@dataclass
class _State:
    time_s: float
    raw: Float64Array  # (K, 2) px
    smooth: Float64Array  # (K, 2) px
    velocity: Float64Array  # (K, 2) px/s
    usual_sigma: Float64Array  # (K, 1) px


class Smoother:
    """Filters the poses of one video, track by track."""

    def __init__(self, options: SmoothingOptions | None = None) -> None:
        self.options = options or SmoothingOptions()
        self._states: dict[int, _State] = {}

    def __call__(self, poses: Poses, time_s: float) -> Poses:
        """The poses with smoothed keypoints; scores, sigmas and boxes stay. Needs track ids."""
        if poses.track_ids is None:
            raise ValueError("smoothing needs track ids")
        keypoints = poses.keypoints.astype(np.float64)
        sigmas = self._sigmas(poses)
        for number, identity in enumerate(poses.track_ids.tolist()):
            keypoints[number] = self._filter(identity, keypoints[number], sigmas[number], time_s)
        gap = self.options.max_gap_s
        self._states = {i: state for i, state in self._states.items() if time_s - state.time_s <= gap}
        return replace(poses, keypoints=keypoints.astype(np.float32))

    @staticmethod
    def _sigmas(poses: Poses) -> Float64Array:
        """(N, K, 1) px; where the model predicts none, a tenth of what OKS forgives."""
        xyxy = poses.boxes.xyxy.astype(np.float64)
        size = np.sqrt(np.maximum((xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1), 1.0))
        fallback = 0.2 * size[:, None] * np.asarray(poses.skeleton.sigmas)
        predicted = np.sqrt((poses.sigmas_px.astype(np.float64) ** 2).mean(axis=-1))
        usable = np.isfinite(predicted) & (predicted > 0)
        floor = 1e-3 * size[:, None]  # no model is that sure
        return np.maximum(np.where(usable, predicted, fallback), floor)[:, :, None]

    def _filter(self, identity: int, raw: Float64Array, sigma: Float64Array, time_s: float) -> Float64Array:
        options = self.options
        state = self._states.get(identity)
        if state is None or not 0 < time_s - state.time_s <= options.max_gap_s:
            self._states[identity] = _State(time_s, raw, raw, np.zeros_like(raw), sigma)
            return raw
        dt = time_s - state.time_s
        fade = _gain(options.velocity_cutoff_hz, dt)
        velocity = state.velocity + fade * ((raw - state.raw) / dt - state.velocity)
        usual = state.usual_sigma + _gain(0.5, dt) * (sigma - state.usual_sigma)
        speed = np.linalg.norm(velocity, axis=1, keepdims=True)
        cutoff = options.min_cutoff_hz + options.beta * speed / usual
        trust = np.minimum(1.0, usual / sigma)
        smooth = state.smooth + _gain(cutoff, dt) * trust * (raw - state.smooth)
        self._states[identity] = _State(time_s, raw, smooth, velocity, usual)
        return smooth


def _gain(cutoff_hz: Float64Array | float, dt: float) -> Float64Array | float:
    """Share of a new value in a first-order low-pass (Casiez et al. 2012, eq. 2 and 3)."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff_hz * dt))
