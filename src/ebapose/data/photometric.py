"""Photometric augmentation on uint8 crops: no pixel moves, so no label changes.

Everything that is linear in the colours is folded into one 3x4 matrix, everything that acts on single values into one
table of 256 entries: the whole chain touches each pixel a few times, in uint8.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ebapose.config import Config
from ebapose.structures import UInt8Array

# luma of Rec. 601, the grey that saturation fades to
_LUMA = np.array([0.299, 0.587, 0.114])
_IDENTITY = np.eye(3)
_GREY_AXIS = np.full((3, 3), 1 / 3)
_ABOUT_GREY = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
_TONES = np.linspace(0, 1, 256)
_NOISE_LENGTH = 1 << 21


class PhotometricConfig(Config, use_attribute_docstrings=True):
    """How strongly colours and sharpness vary; every default is "not at all".

    Ranges are uniform; probabilities are per sample and independent of each other.
    """

    brightness: float = Field(default=0.0, ge=0, le=1)
    """Adds up to +- this fraction of full white."""
    contrast: float = Field(default=0.0, ge=0, lt=1)
    """Multiplies the distance from middle grey by 1 +- this."""
    saturation: float = Field(default=0.0, ge=0, le=1)
    """Multiplies the distance from grey by 1 +- this."""
    hue_deg: float = Field(default=0.0, ge=0, le=180)
    """Turns the hue by up to +- this angle in deg."""
    gamma: float = Field(default=0.0, ge=0, lt=1)
    """Gamma between 1 / (1 + this) and 1 + this, uniform in its logarithm."""
    grey_probability: float = Field(default=0.0, ge=0, le=1)
    """Black-and-white picture."""
    blur_probability: float = Field(default=0.0, ge=0, le=1)
    """Gaussian or motion blur (half each) of up to `blur_fraction` of the crop's height."""
    blur_fraction: float = Field(default=0.02, gt=0, le=0.2)
    """Largest blur length as a fraction of the crop's height; see `blur_probability`."""
    low_resolution_probability: float = Field(default=0.0, ge=0, le=1)
    """Shrinks by 1.5 to 4 and enlarges again."""
    jpeg_probability: float = Field(default=0.0, ge=0, le=1)
    """JPEG compression of quality 20 to 80."""
    noise_probability: float = Field(default=0.0, ge=0, le=1)
    """Gaussian noise of up to `noise_std` grey levels."""
    noise_std: float = Field(default=12.0, gt=0, le=64)
    """Largest standard deviation of the noise, in grey levels of 0..255."""
    light: float = Field(default=0.0, ge=0, lt=1)
    """Light from one side: from edge to edge the crop becomes up to this fraction brighter, and as much darker."""


STRONG_PHOTOMETRIC = PhotometricConfig(
    brightness=0.2,
    contrast=0.3,
    saturation=0.4,
    hue_deg=18,
    gamma=0.3,
    grey_probability=0.05,
    blur_probability=0.1,
    low_resolution_probability=0.1,
    jpeg_probability=0.1,
    noise_probability=0.1,
)


def apply_photometric(crop: UInt8Array, config: PhotometricConfig, rng: np.random.Generator) -> UInt8Array:
    """A new crop with random colours and sharpness.

    Args:
        crop: RGB uint8 (H, W, 3).
        config: strengths and probabilities.
        rng: source of every random choice. The number of draws does not depend on the strengths, so that turning one
            effect off leaves the others as they were.

    Returns:
        RGB uint8 (H, W, 3).
    """
    b, c, s, hue, g, angle, length, quality, factor, std = rng.uniform(-1, 1, 10)
    grey, blur, motion, low, jpeg, noise = rng.random(6)
    offset = int(rng.integers(_NOISE_LENGTH))
    side, strength = rng.random(2)

    saturation = 0.0 if grey < config.grey_probability else 1 + s * config.saturation
    if saturation != 1 or config.hue_deg:
        crop = cv2.transform(crop, color_matrix(saturation, np.deg2rad(hue * config.hue_deg)))  # type: ignore[assignment]
    if config.brightness or config.contrast or config.gamma:
        table = tone_table(b * config.brightness, 1 + c * config.contrast, (1 + config.gamma) ** g)
        crop = cv2.LUT(crop, table)  # type: ignore[assignment]
    if config.light:
        crop = _lit_from(crop, 2 * np.pi * side, strength * config.light)
    height, width = crop.shape[:2]
    if low < config.low_resolution_probability:
        shrink = 2.75 + 1.25 * factor
        size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    if blur < config.blur_probability:
        extent = (0.2 + 0.4 * (1 + length)) * config.blur_fraction * height
        crop = _motion_blur(crop, extent, np.pi * angle) if motion < 0.5 else _gaussian_blur(crop, extent)
    if noise < config.noise_probability:
        crop = _add_noise(crop, (0.1 + 0.45 * (1 + std)) * config.noise_std, offset)
    if jpeg < config.jpeg_probability:
        done, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, round(50 + 30 * quality)])
        if done:  # channel order does not matter to a codec that gives back what it was given
            crop = cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[assignment]
    return crop


def color_matrix(saturation: float, hue: float) -> NDArray[np.float64]:
    """(3, 3): hue turned about the grey axis, then faded to or away from luma."""
    turn = np.cos(hue) * _IDENTITY + (1 - np.cos(hue)) * _GREY_AXIS + np.sin(hue) * _ABOUT_GREY
    fade = saturation * _IDENTITY + (1 - saturation) * _LUMA
    return fade @ turn


def tone_table(brightness: float, contrast: float, gamma: float) -> UInt8Array:
    """(256,) uint8 table of gamma, then contrast about middle grey, then brightness."""
    values = _TONES**gamma
    values = (values - 0.5) * contrast + 0.5 + brightness
    return np.minimum(np.maximum(np.rint(values * 255), 0), 255).astype(np.uint8)


def _lit_from(crop: UInt8Array, angle: float, strength: float) -> UInt8Array:
    height, width = crop.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(np.cos(angle))
    down = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(np.sin(angle))
    reach = np.float32(abs(np.cos(angle)) + abs(np.sin(angle)))
    light = 1 + np.float32(strength) * (down[:, None] + across) / reach
    return cv2.multiply(crop, cv2.merge([light] * 3), dtype=cv2.CV_8U)  # type: ignore[return-value]


def _gaussian_blur(crop: UInt8Array, extent_px: float) -> UInt8Array:
    return cv2.GaussianBlur(crop, (0, 0), max(extent_px / 2, 0.3))  # type: ignore[return-value]


def _motion_blur(crop: UInt8Array, extent_px: float, angle: float) -> UInt8Array:
    # an even kernel would shift the picture by half a pixel against its labels
    size = 2 * int(np.ceil(extent_px / 2)) + 1
    kernel = np.zeros((size, size), np.float32)
    reach = size // 2
    end = np.rint(reach * np.array([np.cos(angle), np.sin(angle)])).astype(int)
    start, stop = (reach - end).tolist(), (reach + end).tolist()
    cv2.line(kernel, start, stop, 1.0)
    kernel += kernel[::-1, ::-1].copy()  # a drawn line is not always symmetric
    return cv2.filter2D(crop, -1, kernel / kernel.sum())  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _noise_values() -> NDArray[np.float32]:
    """Standard normal values, drawn once: drawing them for every crop would cost more than decoding it."""
    values = np.random.default_rng(0).standard_normal(_NOISE_LENGTH, np.float32)
    values.flags.writeable = False
    return values


def _add_noise(crop: UInt8Array, std: float, offset: int) -> UInt8Array:
    values, count = _noise_values(), crop.size
    start = offset % max(len(values) - count + 1, 1)
    noise = np.resize(values[start : start + count], crop.shape) * np.float32(std)
    return cv2.add(crop, noise, dtype=cv2.CV_8U)  # type: ignore[return-value]
