"""Training augmentation: every geometric change is one matrix, applied by one warp, to pixels and keypoints alike.

Spaces: `image` (px of the picture) and `crop` (px of the network input), the centre of a pixel has integer
coordinates. Mirroring relabels left and right by the skeleton's flip pairs, in keypoints, visibility and weights.

Adding a new augmentation: a documented field in `AugmentConfig`; geometric ones change the `Geometry` that
`sample_geometry` draws, ones that put something before or behind the person go into `occlusion`, ones that change what
they wear into `clothes`, the others into `photometric`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from ebapose.config import Config
from ebapose.data.photometric import STRONG_PHOTOMETRIC, PhotometricConfig
from ebapose.geometry.crop import CropCenter, crop_scale, image_to_crop_matrix, invert, transform_points
from ebapose.skeleton import Skeleton
from ebapose.structures import UInt8Array

# Of `truncated_box`, for a box's left, top, right and lower side: how often it is cut, and the largest part cut off.
_CUT_PROBABILITIES = np.array([0.2, 0.25, 0.2, 0.7])  # the top: in everyday pictures one person in five has no head
_LARGEST_CUTS = np.array([0.5, 0.6, 0.5, 0.85])
# Portraits: how often only the lower side is cut instead, and which part is cut off: head and shoulders fill the crop.
_PORTRAIT_PROBABILITY, _PORTRAIT_CUT = 0.3, (0.6, 0.88)
_LOWER_BODY = ("hip", "knee", "ankle", "foot", "toe", "heel", "pelvis")


class AugmentConfig(Config, use_attribute_docstrings=True):
    """Random changes of a training sample. The defaults are the paper's: flip, rotation +-30 deg, scale 0.7-1.3."""

    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Mirror the picture and swap left and right labels."""
    rotation_deg: float = Field(default=30.0, ge=0, le=180)
    """Turn by up to +- this angle (uniform), or with this standard deviation, cut at twice it (normal)."""
    rotation_probability: float = Field(default=1.0, ge=0, le=1)
    """Share of samples that are turned at all."""
    rotation_refit: bool = False
    """Fit the box to the turned person, as the boxes of people who lie or bend are; without it (the paper, the
    references) a crop that stands upright cuts off head and feet of a standing person who is turned far."""
    scale: tuple[float, float] = (0.7, 1.3)
    """Range of the box enlargement: above 1 the person appears smaller."""
    distribution: Literal["uniform", "normal"] = "uniform"
    """Of rotation and scale; "normal" as the references of Simple Baseline and SimCC do (scale: standard deviation of
    half the range about its middle, cut at the range's ends)."""
    shift: float = Field(default=0.0, ge=0, le=0.5)
    """Move the box by up to +- this fraction of its size."""
    stretch: float = Field(default=0.0, ge=0, le=1)
    """Make the person, before any turn, up to this fraction wider or narrower for their height (uniform in the
    logarithm of width to height): other builds, other lenses."""
    half_body_probability: float = Field(default=0.0, ge=0, le=1)
    """Show only the upper or the lower body, where at least `half_body_keypoints` are labelled."""
    half_body_keypoints: int = Field(default=8, ge=2)
    """See `half_body_probability`."""
    truncation_probability: float = Field(default=0.0, ge=0, le=1)
    """Show only a part of the person, at least four labelled keypoints of it, as where somebody is close to the camera
    or a table hides the legs; in half of these samples the picture ends there."""
    dropout_probability: float = Field(default=0.0, ge=0, le=1)
    """Cover one to `dropout_patches` rectangles with one colour or noise; keypoints below become hidden."""
    dropout_patches: int = Field(default=3, ge=1, le=32)
    """See `dropout_probability`."""
    dropout_fraction: float = Field(default=0.3, gt=0, le=0.7)
    """Largest side of such a rectangle, as a fraction of the crop's."""
    paste_probability: float = Field(default=0.0, ge=0, le=1)
    """Paste the cut-out of another person of the source, as occluder or neighbour; keypoints below become hidden."""
    paste_pool: int = Field(default=128, ge=1, le=4096)
    """Cut-outs per epoch to choose from; they stay in memory."""
    background_probability: float = Field(default=0.0, ge=0, le=1)
    """Put another picture of the source behind the person, all of it or its person alone: few pictures are met with
    many surroundings. What of the person the keypoints do not outline (`occlusion.person_mask`) is lost."""
    clothes_probability: float = Field(default=0.0, ge=0, le=1)
    """Give the upper and the lower body other colours, in part with the pattern of another picture of the source."""
    photometric: PhotometricConfig = PhotometricConfig()
    """Colours and sharpness; see `PhotometricConfig`."""

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 10:
            raise ValueError("scale must be two numbers between 0.1 and 10 in ascending order")
        return self


PAPER = AugmentConfig()
"""The paper's augmentation."""

STRONG = AugmentConfig(
    rotation_deg=40,
    rotation_probability=0.8,
    scale=(0.65, 1.35),
    shift=0.08,
    half_body_probability=0.25,
    dropout_probability=0.25,
    paste_probability=0.2,
    photometric=STRONG_PHOTOMETRIC,
)
"""For small data sets and networks from scratch."""

AUGMENTATIONS = {"paper": PAPER, "strong": STRONG}


@dataclass(frozen=True, eq=False)
class Geometry:
    """What one sample does to its box; arguments of `geometry.crop.image_to_crop_matrix`.

    Attributes:
        box_xyxy: (4,) px of the stretched picture; the person's box or that of a part of the body.
        rotation_deg, scale, flip, shift: as there.
        stretch: (2,) px of the stretched picture per image px, along x and y.
        seen_xyxy: (4,) image px, where everything beyond is to be black, as beyond a picture; None: nowhere.
    """

    box_xyxy: NDArray[np.float64]
    rotation_deg: float
    scale: float
    flip: bool
    shift: tuple[float, float]
    stretch: tuple[float, float] = (1.0, 1.0)
    seen_xyxy: NDArray[np.float64] | None = None

    def matrix(self, size_hw: tuple[int, int], padding: float, crop_center: CropCenter) -> NDArray[np.float64]:
        """(2, 3), image px to px of the crop that `size_hw`, `padding` and `crop_center` describe."""
        matrix = image_to_crop_matrix(
            self.box_xyxy,
            size_hw,
            padding,
            crop_center,
            rotation_deg=self.rotation_deg,
            scale=self.scale,
            flip=self.flip,
            shift=self.shift,
        )[0]
        matrix[:, :2] *= self.stretch
        return matrix


def sample_geometry(
    box_xyxy: ArrayLike,
    keypoints: NDArray[np.float32],
    visibility: NDArray[np.uint8],
    skeleton: Skeleton,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Geometry:
    """Draw one sample's geometry.

    Args:
        box_xyxy: (4,) person box in image px.
        keypoints: (K, 2) image px.
        visibility: (K,) 0, 1 or 2.
        skeleton: whose lower body is recognised by the names of its keypoints (hip, knee, ankle, foot, ...).
        config: ranges and probabilities.
        rng: source of every random choice.
    """
    flip, turned, half, upper = rng.random(4)
    low, high = config.scale
    if config.distribution == "uniform":
        rotation, scale = rng.uniform(-1, 1) * config.rotation_deg, rng.uniform(low, high)
    else:
        limit = 2 * config.rotation_deg
        rotation = float(np.clip(rng.standard_normal() * config.rotation_deg, -limit, limit))
        scale = float(np.clip((low + high) / 2 + rng.standard_normal() * (high - low) / 2, low, high))
    shift = rng.uniform(-config.shift, config.shift, 2)
    box = np.asarray(box_xyxy, np.float64)
    stretch = np.ones(2)
    if config.stretch:
        stretch = (1 + config.stretch) ** (rng.uniform(-1, 1) * np.array([0.5, -0.5]))
        box, keypoints = box * np.tile(stretch, 2), (keypoints * stretch).astype(np.float32)
    if half < config.half_body_probability and np.count_nonzero(visibility) >= config.half_body_keypoints:
        box = half_body_box(box, keypoints, visibility, skeleton, upper=upper < 0.5)
    seen = None
    if config.truncation_probability and rng.random() < config.truncation_probability:
        box, seen = truncated_box(box, keypoints, visibility, rng)
    rotation = rotation if turned < config.rotation_probability else 0.0
    mirrored = bool(flip < config.flip_probability)
    if config.rotation_refit and rotation:
        box = turned_box(box, keypoints[visibility > 0], rotation, flip=mirrored)
    return Geometry(
        box_xyxy=box,
        rotation_deg=rotation,
        scale=scale,
        flip=mirrored,
        shift=(float(shift[0]), float(shift[1])),
        stretch=(float(stretch[0]), float(stretch[1])),
        seen_xyxy=None if seen is None else seen / np.tile(stretch, 2),
    )


def half_body_box(
    box_xyxy: NDArray[np.float64],
    keypoints: NDArray[np.float32],
    visibility: NDArray[np.uint8],
    skeleton: Skeleton,
    *,
    upper: bool,
) -> NDArray[np.float64]:
    """Box (4,) of the upper or lower body's labelled keypoints, enlarged by 1.2; the given box if they are too few.

    The enlargement times the usual padding of 1.25 is the 1.5 of the reference implementations.
    """
    lower = np.array([any(part in name.lower() for part in _LOWER_BODY) for name in skeleton.keypoint_names])
    chosen = keypoints[(visibility > 0) & (~lower if upper else lower)]
    if len(chosen) < 3 or not lower.any():
        return box_xyxy
    begin, end = chosen.min(axis=0).astype(np.float64), chosen.max(axis=0).astype(np.float64)
    # three keypoints in a row or on top of each other must not make a microscope of the crop
    least = 0.25 * np.max(box_xyxy[2:] - box_xyxy[:2])
    half = np.maximum((end - begin) * 1.2, least) / 2
    middle = (begin + end) / 2
    return np.concatenate([middle - half, middle + half])


def truncated_box(
    box_xyxy: NDArray[np.float64],
    keypoints: NDArray[np.float32],
    visibility: NDArray[np.uint8],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """A part of the box (4,), close around the labelled keypoints in it, and what is seen at all (None: everything).

    Mostly the lower end is cut off, in three of ten close below the head; less often the others. The given box where
    fewer than four keypoints would be left.
    """
    size = box_xyxy[2:] - box_xyxy[:2]
    cut = rng.uniform(0, _LARGEST_CUTS) * (rng.random(4) < _CUT_PROBABILITIES)  # left, top, right, bottom
    if rng.random() < _PORTRAIT_PROBABILITY:
        cut = np.array([0.0, 0.0, 0.0, rng.uniform(*_PORTRAIT_CUT)])
    kept = box_xyxy + cut * np.concatenate([size, -size])
    inside = (visibility > 0) & (keypoints >= kept[:2]).all(axis=1) & (keypoints <= kept[2:]).all(axis=1)
    picture_ends = rng.random() < 0.5
    if np.count_nonzero(inside) < 4:
        return box_xyxy, None
    margin = 0.06 * np.max(size)  # from the eyes to the top of a head
    begin = np.maximum(keypoints[inside].min(axis=0) - margin, kept[:2])
    end = np.minimum(keypoints[inside].max(axis=0) + margin, kept[2:])
    seen = np.where(cut > 0, kept, np.array([-np.inf, -np.inf, np.inf, np.inf]))
    return np.concatenate([begin, end]), seen if picture_ends and cut.any() else None


def turned_box(
    box_xyxy: NDArray[np.float64], points: NDArray[np.float32], rotation_deg: float, *, flip: bool
) -> NDArray[np.float64]:
    """The box (4,) around a person who has been mirrored and turned, for `image_to_crop_matrix` with the same turn.

    Its centre is in image px as ever, its width and height are those of the turned person. Around the points there is
    the margin that `box_xyxy` has on average. The given box where fewer than four points lie in it.

    Args:
        box_xyxy: (4,) image px, before the turn.
        points: (n, 2) labelled keypoints in image px; those outside of the box are another part of the body.
        rotation_deg, flip: as of `image_to_crop_matrix`.
    """
    points = points[((points >= box_xyxy[:2]) & (points <= box_xyxy[2:])).all(axis=1)]
    if len(points) < 4:
        return box_xyxy
    margin = float(np.mean([points.min(axis=0) - box_xyxy[:2], box_xyxy[2:] - points.max(axis=0)]))
    turn = image_to_crop_matrix(box_xyxy, (2, 2), rotation_deg=rotation_deg, flip=flip)
    turn /= crop_scale(turn)[:, None, None]
    turned = transform_points(points, turn)[0]
    begin, end = turned.min(axis=0) - margin, turned.max(axis=0) + margin
    middle = transform_points((begin + end)[None] / 2, invert(turn))[0, 0]
    return np.concatenate([middle - (end - begin) / 2, middle + (end - begin) / 2])


def blacken(
    crop: UInt8Array,
    keypoints: NDArray[np.float32],
    visibility: NDArray[np.uint8],
    matrix: ArrayLike,
    seen_xyxy: NDArray[np.float64],
) -> None:
    """Make everything beyond `seen_xyxy` (image px) black, and its keypoints unlabelled, in place.

    Args:
        crop: RGB uint8 (H, W, 3).
        keypoints, visibility: (K, 2) crop px and (K,), as `transform_keypoints` gives them.
        matrix: (2, 3) image to crop px.
        seen_xyxy: (4,) image px; infinite where nothing is cut.
    """
    height, width = crop.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    back = cv2.invertAffineTransform(np.asarray(matrix, np.float64))

    def beyond(points: NDArray[np.float32]) -> NDArray[np.bool_]:
        image = transform_points(points, back)
        return np.any((image < seen_xyxy[:2]) | (image > seen_xyxy[2:]), axis=-1)

    crop[beyond(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(height, width)] = 0
    visibility[beyond(keypoints)] = 0
    keypoints[visibility == 0] = 0


def transform_keypoints(
    keypoints: NDArray[np.float32],
    visibility: NDArray[np.uint8],
    weights: NDArray[np.float32],
    matrix: ArrayLike,
    skeleton: Skeleton,
    *,
    flip: bool,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Keypoints from image to crop px, left and right relabelled where the matrix mirrors.

    Args:
        keypoints: (K, 2) image px.
        visibility: (K,).
        weights: (K,).
        matrix: (2, 3) image to crop px.
        skeleton: owner of the flip pairs.
        flip: whether the matrix mirrors.

    Returns:
        keypoints (K, 2) float32 in crop px, (0, 0) where not labelled; visibility (K,); weights (K,).
    """
    points = transform_points(keypoints, matrix).astype(np.float32)
    if flip:
        order = skeleton.flip_indices
        points, visibility, weights = points[order], visibility[order], weights[order]
    return points * (visibility > 0)[:, None], visibility.copy(), weights.copy()
