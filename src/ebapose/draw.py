"""Poses drawn on pictures, so that a person sees at a glance what was found and how sure it is.

The body's left is orange, its right is blue (a pair that colour-blind people tell apart), what joins both is white.
Opacity follows the score. Keypoints are drawn where they are, to a fraction of a px, not on the px grid.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.skeleton import Skeleton
from ebapose.structures import Poses, UInt8Array

Colour = tuple[int, int, int]

LEFT: Colour = (255, 140, 0)
RIGHT: Colour = (20, 130, 255)
MIDDLE: Colour = (240, 240, 240)
TRACK_COLOURS: tuple[Colour, ...] = (  # Okabe and Ito's palette for colour-blind people
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)

# Keypoints with a lower score are not drawn unless asked for; most that cannot be seen have one (docs/outputs.md).
DRAWN_SCORE = 0.3

# 68 % of a two-dimensional Gaussian lies within this many standard deviations: sqrt(-2 ln(1 - 0.68))
ELLIPSE_SIGMAS = 1.51

_DARK: Colour = (16, 16, 16)
_RIM_OPACITY = 0.65  # of the black rim, times that of what it surrounds
_SHIFT = 4  # OpenCV draws at 1 / 2**_SHIFT px
_FILLED = (cv2.FILLED, cv2.LINE_AA, _SHIFT)
_FAR_PX = 16000  # outside of the picture: OpenCV's fixed-point lines overflow farther away


def draw_poses(
    image: UInt8Array,
    poses: Poses,
    *,
    show_boxes: bool = False,
    show_uncertainty: bool = False,
    min_score: float = DRAWN_SCORE,
) -> UInt8Array:
    """A copy of the picture with the poses drawn on it.

    Args:
        image: RGB uint8 (H, W, 3), the picture that the poses belong to.
        poses: in image px. Persons with a higher pose score are drawn over the others. Track ids, if there are any,
            are written beside the persons.
        show_boxes: also the person boxes, with their scores.
        show_uncertainty: also an ellipse per keypoint that holds the true place with a probability of 68 %, if the
            predicted Gaussian is right; keypoints without sigmas get none.
        min_score: keypoints below are left out, and the edges that end in them.
    """
    drawn = np.array(image, dtype=np.uint8, order="C")
    for person in np.argsort(poses.pose_scores, kind="stable"):
        visible = _visible(poses, person, min_score)
        size = _person_size(poses, person, visible)
        if show_boxes:
            _draw_box(drawn, poses, person, size)
        if visible.any():
            _draw_person(drawn, poses, person, size, show_uncertainty, visible)
    for person in range(len(poses)):  # labels last: they must stay readable
        label = _label(poses, person, show_boxes)
        if label:
            _draw_label(drawn, label, poses.boxes.xyxy[person], _box_colour(poses, person))
    return drawn


@functools.cache
def edge_colours(skeleton: Skeleton) -> tuple[Colour, ...]:
    """RGB of every edge: its side's where both ends agree (or one has no side), `MIDDLE` where it joins the sides."""
    colours = []
    for a, b in skeleton.edges:
        sides = {skeleton.sides[a], skeleton.sides[b]} - {None}
        colours.append(_side_colour(sides.pop() if len(sides) == 1 else None))
    return tuple(colours)


def _side_colour(side: str | None) -> Colour:
    return {"left": LEFT, "right": RIGHT}.get(side or "", MIDDLE)


def _box_colour(poses: Poses, person: int) -> Colour:
    if poses.track_ids is None:
        return MIDDLE
    return TRACK_COLOURS[int(poses.track_ids[person]) % len(TRACK_COLOURS)]


def _opacity(score: float) -> float:
    return 0.25 + 0.75 * min(1.0, score)


def _paint(colour: Colour, opacity: float) -> tuple[float, float, float, float]:
    """RGBA with the colour multiplied by alpha, so that anti-aliased edges have no dark fringe."""
    return colour[0] * opacity, colour[1] * opacity, colour[2] * opacity, 255 * opacity


def _visible(poses: Poses, person: int, min_score: float) -> NDArray[np.bool_]:
    """(K,) which keypoints can and should be drawn."""
    height, width = poses.image_hw
    points = poses.keypoints[person]
    near = ((points > -_FAR_PX) & (points < np.array([width, height]) + _FAR_PX)).all(axis=1)
    return near & (poses.scores[person] >= min_score)


def _person_size(poses: Poses, person: int, visible: NDArray[np.bool_]) -> float:
    """Long side in px of the drawn keypoints' extent, or of the box where it is larger, within the picture."""
    points = poses.keypoints[person][visible]
    extent = float((points.max(axis=0) - points.min(axis=0)).max()) if len(points) else 0.0
    box = poses.boxes.xyxy[person]
    return min(max(extent, float((box[2:] - box[:2]).max())), float(max(poses.image_hw)))


def _draw_person(
    drawn: UInt8Array, poses: Poses, person: int, size: float, show_uncertainty: bool, visible: NDArray[np.bool_]
) -> None:
    """Draw one pose on a transparent layer just large enough, then blend that into the picture."""
    width = max(1, round(size / 90))
    rim = max(1, round(width / 3))
    radius = 0.85 * width + 1
    reach = np.full((len(visible), 2), radius + rim + width + 2)
    sigmas = np.zeros_like(reach)
    if show_uncertainty:
        sigmas = np.nan_to_num(poses.sigmas_px[person], nan=0.0, posinf=0.0) * ELLIPSE_SIGMAS
        reach += np.minimum(sigmas, _FAR_PX)
    points = poses.keypoints[person]
    low = np.floor((points - reach)[visible].min(axis=0)).astype(int).clip(0)
    high = np.ceil((points + reach)[visible].max(axis=0)).astype(int) + 1
    region = drawn[low[1] : max(0, high[1]), low[0] : max(0, high[0])]
    if region.size == 0:
        return

    layer = np.zeros((*region.shape[:2], 4), np.uint8)
    inside = np.where(visible[:, None], points - low, 0)
    fixed = np.rint(inside * 2**_SHIFT).astype(int).tolist()
    opacities = [_opacity(score) for score in poses.scores[person].tolist()]
    edges = [
        (a, b, colour, min(opacities[a], opacities[b]))
        for (a, b), colour in zip(poses.skeleton.edges, edge_colours(poses.skeleton), strict=True)
        if visible[a] and visible[b]
    ]
    ends = inside[[(a, b) for a, b, _, _ in edges]].reshape(-1, 2, 2)
    for bar, (_, _, colour, opacity) in zip(_bars(ends, width), edges, strict=True):
        cv2.fillConvexPoly(layer, bar, _paint(colour, opacity), cv2.LINE_AA, _SHIFT)
    radii = _radii(points, visible, radius)
    for k in np.flatnonzero(visible).tolist():
        colour = _side_colour(poses.skeleton.sides[k])
        cv2.circle(layer, fixed[k], round(radii[k] * 2**_SHIFT), _paint(MIDDLE, opacities[k]), *_FILLED)
        core = round((radii[k] - rim) * 2**_SHIFT)
        if core > 0:
            cv2.circle(layer, fixed[k], core, _paint(colour, opacities[k]), *_FILLED)
    _blend(region, layer, rim)

    if show_uncertainty:
        layer[:] = 0
        for k in np.flatnonzero(visible & (sigmas > 0).all(axis=1) & (sigmas < _FAR_PX).all(axis=1)).tolist():
            axes = np.rint(sigmas[k] * 2**_SHIFT).astype(int).tolist()
            colour = _side_colour(poses.skeleton.sides[k])
            cv2.ellipse(layer, fixed[k], axes, 0, 0, 360, _paint(colour, 0.3), cv2.FILLED, cv2.LINE_AA, _SHIFT)
            cv2.ellipse(layer, fixed[k], axes, 0, 0, 360, _paint(MIDDLE, 0.9), 1, cv2.LINE_AA, _SHIFT)
        _blend(region, layer)


def _bars(ends: NDArray[np.float32], width: int) -> NDArray[np.int32]:
    """(E, 4, 2) corners of lines (E, 2, 2), as `cv2.line` draws them but for the round ends, which the dots cover.

    OpenCV's polygons are wider than their corners by the anti-aliased rim, and its lines of odd widths by another px.
    """
    half = 0.0 if width == 1 else (width + width % 2) / 2
    along = ends[:, 1] - ends[:, 0]
    length = np.hypot(along[:, 0], along[:, 1])[:, None]
    across = along[:, ::-1] * (-half, half) / np.maximum(length, 1e-6)
    corners = np.stack([ends[:, 0] - across, ends[:, 0] + across, ends[:, 1] + across, ends[:, 1] - across], axis=1)
    return np.rint(corners * 2**_SHIFT).astype(np.int32)


def _radii(points: NDArray[np.float32], visible: NDArray[np.bool_], radius: float) -> list[float]:
    """(K,) radius of each dot in px: smaller where dots would cover each other, as on a small face."""
    x, y = points.T
    distances = np.hypot(x[:, None] - x, y[:, None] - y)
    distances[:, ~visible] = np.inf
    np.fill_diagonal(distances, np.inf)
    return [min(max(0.6 * nearest, 0.6 * radius), radius) for nearest in distances.min(axis=1).tolist()]


def _blend(region: UInt8Array, layer: UInt8Array, rim: int = 0) -> None:
    """Put a premultiplied RGBA layer over a part of the picture, in place, with a black rim of some px around it."""
    alpha = cv2.extractChannel(layer, 3)
    if rim:
        alpha = cv2.max(alpha, cv2.convertScaleAbs(_dilated(alpha, rim), alpha=_RIM_OPACITY))
    remaining = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2RGB)
    cv2.multiply(region, remaining, dst=region, scale=1 / 255)
    cv2.add(region, cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB), dst=region)


def _dilated(alpha: NDArray[Any], px: int) -> NDArray[Any]:
    """(H, W) grown by an ellipse. The cost per px grows with its area, so large rims are made on a smaller layer."""
    shrink = max(1, px // 8)
    small = alpha
    if shrink > 1:
        height, width = alpha.shape
        small = cv2.resize(alpha, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
    side = 2 * round(px / shrink) + 1
    grown = cv2.dilate(small, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    if shrink > 1:
        grown = cv2.resize(grown, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return grown


def _draw_box(drawn: UInt8Array, poses: Poses, person: int, size: float) -> None:
    height, width = poses.image_hw
    farthest = np.array([width, height, width, height]) + _FAR_PX
    corners = np.clip(poses.boxes.xyxy[person], -_FAR_PX, farthest)
    left, top, right, bottom = np.rint(corners).astype(int).tolist()
    line = max(1, round(size / 250))
    for thickness, colour in ((line + 2, _DARK), (line, _box_colour(poses, person))):
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, thickness)


def _label(poses: Poses, person: int, show_boxes: bool) -> str:
    parts = [] if poses.track_ids is None else [f"#{poses.track_ids[person]}"]
    if show_boxes:
        parts.append(f"{poses.boxes.scores[person]:.2f}")
    return " ".join(parts)


def _draw_label(drawn: UInt8Array, text: str, box_xyxy: NDArray[np.float32], colour: Colour) -> None:
    """A small plate above the box's top left corner, moved inwards where it would leave the picture."""
    height, width = drawn.shape[:2]
    scale = min(1.2, max(0.4, max(height, width) / 1600))
    thickness = max(1, round(1.6 * scale))
    (text_width, text_height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    pad = math.ceil(5 * scale)
    plate_width, plate_height = text_width + 2 * pad, text_height + baseline + 2 * pad
    left, top = box_xyxy[:2].tolist()
    x = min(max(round(left), 0), max(0, width - plate_width))
    y = min(max(round(top) - plate_height, 0), max(0, height - plate_height))
    cv2.rectangle(drawn, (x, y), (x + plate_width - 1, y + plate_height - 1), colour, cv2.FILLED)
    ink = _DARK if sum(colour) > 300 else MIDDLE
    origin = (x + pad, y + pad + text_height)
    cv2.putText(drawn, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)
