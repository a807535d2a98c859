"""Where a person's box will be: a Kalman filter of constant velocity for its centre, a running mean for its size.

All lengths are relative to the person's size, so that near and far, large and small pictures are treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]

# In box sizes (the square root of the area) and s. Measured with benchmarks/tracking.py; flat around these values.
DETECTION_STD = 0.06  # of a detected box's centre
FOLLOWED_STD = 0.10  # of a centre that was moved along with the pose
ACCELERATION_STD = 2.5
FIRST_VELOCITY_STD = 1.0
SIZE_GAIN = 0.4
VELOCITY_DECAY_S = 1.0  # nobody keeps going out of sight for ever


@dataclass
class BoxMotion:
    """The motion of one box in image px.

    Attributes:
        center: (2,) x, y at `time_s`.
        velocity: (2,) px/s.
        size_wh: (2,) width and height.
        covariance: (2, 2) of position and velocity, the same for both axes, px^2 and s.
    """

    center: Float64Array
    size_wh: Float64Array
    time_s: float
    velocity: Float64Array = field(default_factory=lambda: np.zeros(2))
    covariance: Float64Array = field(default_factory=lambda: np.zeros((2, 2)))

    @classmethod
    def start(cls, box_xyxy: ArrayLike, time_s: float) -> BoxMotion:
        """A box that was seen for the first time."""
        center, size_wh = _center_size(box_xyxy)
        motion = cls(center, size_wh, time_s)
        motion.covariance = np.diag([DETECTION_STD, FIRST_VELOCITY_STD]) ** 2 * motion.scale**2
        return motion

    @property
    def scale(self) -> float:
        """Square root of the box's area, px."""
        return float(np.sqrt(max(self.size_wh.prod(), 1.0)))

    def at(self, time_s: float) -> BoxMotion:
        """The motion carried on to a later time."""
        dt = max(0.0, time_s - self.time_s)
        fading = VELOCITY_DECAY_S * (1 - np.exp(-dt / VELOCITY_DECAY_S))
        transition = np.array([[1.0, fading], [0.0, np.exp(-dt / VELOCITY_DECAY_S)]])
        noise = (ACCELERATION_STD * self.scale) ** 2 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
        return BoxMotion(
            self.center + self.velocity * fading,
            self.size_wh,
            time_s,
            self.velocity * transition[1, 1],
            transition @ self.covariance @ transition.T + noise,
        )

    def seen(self, center: ArrayLike, time_s: float, std: float, size_wh: ArrayLike | None = None) -> BoxMotion:
        """The motion after a measurement of the centre (standard deviation `std` in box sizes) and perhaps the size."""
        ahead = self.at(time_s)
        gain = ahead.covariance[:, 0] / (ahead.covariance[0, 0] + (std * self.scale) ** 2)
        error = np.asarray(center, np.float64) - ahead.center
        size = self.size_wh if size_wh is None else self.size_wh + SIZE_GAIN * (np.asarray(size_wh) - self.size_wh)
        return BoxMotion(
            ahead.center + gain[0] * error,
            size,
            time_s,
            ahead.velocity + gain[1] * error,
            ahead.covariance - np.outer(gain, ahead.covariance[0]),
        )

    def detected(self, box_xyxy: ArrayLike, time_s: float) -> BoxMotion:
        """The motion after the box was detected."""
        center, size_wh = _center_size(box_xyxy)
        return self.seen(center, time_s, DETECTION_STD, size_wh)

    @property
    def box_xyxy(self) -> Float64Array:
        """(4,) left, top, right, bottom."""
        return np.concatenate([self.center - self.size_wh / 2, self.center + self.size_wh / 2])


def _center_size(box_xyxy: ArrayLike) -> tuple[Float64Array, Float64Array]:
    box = np.asarray(box_xyxy, np.float64)
    return (box[:2] + box[2:]) / 2, box[2:] - box[:2]
