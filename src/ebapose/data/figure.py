"""One articulated figure: joint angles to points in three dimensions to pixels.

Lengths are fractions of the upright figure's height. Everything is a pure function of its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.skeleton import COCO17
from ebapose.structures import UInt8Array

Colour = tuple[int, int, int]

# name: (lowest, highest) angle in deg. "raise" turns a limb from hanging (0) outwards, "swing" forwards;
# "turn" is the whole body about the vertical, 0 facing the viewer.
ANGLES: dict[str, tuple[float, float]] = {
    "turn": (-50, 50),
    "lean": (-14, 14),
    "bow": (-5, 20),
    "tilt": (-15, 15),
    "look": (-30, 30),
    **{f"{side}_arm_raise": (5, 160) for side in ("left", "right")},
    **{f"{side}_arm_swing": (-20, 70) for side in ("left", "right")},
    **{f"{side}_elbow": (0, 130) for side in ("left", "right")},
    **{f"{side}_forearm_twist": (-60, 120) for side in ("left", "right")},
    **{f"{side}_leg_raise": (0, 40) for side in ("left", "right")},
    **{f"{side}_leg_swing": (-20, 50) for side in ("left", "right")},
    **{f"{side}_knee": (0, 80) for side in ("left", "right")},
}
_ANGLE = {name: i for i, name in enumerate(ANGLES)}

# points of a figure: COCO's 17, then these
_NECK, _CROWN, _LEFT_TOE, _RIGHT_TOE, _SKULL = range(17, 22)
_NUM_POINTS = 22
_SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 px


@dataclass(frozen=True)
class Appearance:
    """RGB colours and build of one figure.

    Attributes:
        skin, hair, shirt, left_sleeve, right_sleeve, left_leg, right_leg, shoes: RGB.
        long_sleeves, long_trousers: whether forearms and shins are covered.
        girth: thickness of the limbs relative to the usual.
    """

    skin: Colour
    hair: Colour
    shirt: Colour
    left_sleeve: Colour
    right_sleeve: Colour
    left_leg: Colour
    right_leg: Colour
    shoes: Colour
    long_sleeves: bool
    long_trousers: bool
    girth: float


def random_angles(rng: np.random.Generator, turn_deg: float = 50.0) -> NDArray[np.float64]:
    """Angles in deg, in the order of `ANGLES`, uniform within their limits; `turn_deg` (0..180) replaces that of turn.

    Most limbs stay near rest: real people seldom have all joints at their limits.
    """
    low, high = np.array(list(ANGLES.values())).T
    angles = low + (high - low) * rng.beta(1.2, 1.6, len(ANGLES))
    angles[0] = rng.uniform(-turn_deg, turn_deg)
    angles[1:5] = rng.uniform(low[1:5], high[1:5])
    return angles


def random_appearance(rng: np.random.Generator) -> Appearance:
    """Colours and build of a random figure."""

    def colour(low: int = 20, high: int = 236) -> Colour:
        r, g, b = (int(v) for v in rng.integers(low, high, 3))
        return r, g, b

    tone = rng.uniform(0.35, 1)
    legs, sleeves = colour(), colour()
    swapped = rng.random() < 0.5
    left_leg, right_leg = (legs, _shade(legs, 0.75)) if swapped else (_shade(legs, 0.75), legs)
    return Appearance(
        skin=(int(235 * tone), int(190 * tone), int(160 * tone)),
        hair=colour(10, 140),
        shirt=colour(),
        left_sleeve=sleeves,
        right_sleeve=_shade(sleeves, 0.75),
        left_leg=left_leg,
        right_leg=right_leg,
        shoes=colour(10, 120),
        long_sleeves=bool(rng.random() < 0.5),
        long_trousers=bool(rng.random() < 0.7),
        girth=float(rng.uniform(0.85, 1.2)),
    )


def figure_points(angles: NDArray[np.float64], height_px: float, center_xy: tuple[float, float]) -> NDArray[np.float64]:
    """Points of a figure.

    Args:
        angles: deg, in the order of `ANGLES`.
        height_px: height of the upright figure.
        center_xy: image px, where the middle of the hips is.

    Returns:
        (22, 3) float64: x and y in image px, depth in px (smaller is nearer). COCO's 17 keypoints, then neck, crown,
        left and right toe, middle of the skull.
    """
    a = {name: float(np.deg2rad(angles[i])) for name, i in _ANGLE.items()}
    p = np.zeros((_NUM_POINTS, 3))
    # the figure faces the viewer: x to its left (right on the screen), y down, z away from the viewer
    down, forward = np.array([0.0, 1, 0]), np.array([0.0, 0, -1])
    spine = _turn_z(_turn_x(-down, -a["bow"]), a["lean"])
    across = _turn_z(np.array([1.0, 0, 0]), a["lean"])
    p[_NECK] = 0.30 * spine
    up = _turn_z(spine, a["tilt"])
    p[_SKULL] = p[_NECK] + 0.125 * up
    p[_CROWN] = p[_SKULL] + 0.075 * up
    face = _turn_y(forward, a["look"])
    aside = _turn_z(_turn_y(np.array([1.0, 0, 0]), a["look"]), a["tilt"] + a["lean"])
    p[0] = p[_SKULL] + 0.070 * face - 0.010 * up
    for side, sign in (("left", 1.0), ("right", -1.0)):
        first = 0 if side == "left" else 1
        p[1 + first] = p[_SKULL] + 0.058 * face + sign * 0.028 * aside + 0.016 * up
        p[3 + first] = p[_SKULL] + sign * 0.062 * aside + 0.004 * up
        shoulder = p[_NECK] + sign * 0.115 * across - 0.035 * spine
        arm = _limb(a[f"{side}_arm_raise"], a[f"{side}_arm_swing"], sign)
        forearm = _bend(arm, a[f"{side}_elbow"], a[f"{side}_forearm_twist"], forward, sign)
        hip = sign * 0.065 * across + 0.01 * down
        thigh = _limb(a[f"{side}_leg_raise"], a[f"{side}_leg_swing"], sign, forwards=True)
        shin = _bend(thigh, a[f"{side}_knee"], 0.0, -forward, sign)
        p[5 + first], p[7 + first] = shoulder, shoulder + 0.165 * arm
        p[9 + first] = p[7 + first] + 0.145 * forearm
        p[11 + first], p[13 + first] = hip, hip + 0.235 * thigh
        p[15 + first] = p[13 + first] + 0.225 * shin
        foot = forward + 0.45 * shin + sign * np.array([0.25, 0, 0])
        p[_LEFT_TOE + first] = p[15 + first] + 0.085 * foot / np.linalg.norm(foot)
    p = _turn_y(p, a["turn"])
    # seen a little from above, so that feet and faces show where they point
    p = _turn_x(p, np.deg2rad(8.0))
    return p * height_px + np.array([*center_xy, 0.0])


def draw_person(
    canvas: UInt8Array, points: NDArray[np.float64], appearance: Appearance
) -> tuple[UInt8Array, UInt8Array]:
    """Draw one figure over a picture.

    Args:
        canvas: RGB uint8 (H, W, 3); it is not changed.
        points: (22, 3) of `figure_points`.
        appearance: colours and build.

    Returns:
        The new picture, and owners: uint8 (H, W), 0 where the figure is not, else 1 + the number of the body part.
        `SHOWS` says which parts show a keypoint.
    """
    canvas, owners = canvas.copy(), np.zeros(canvas.shape[:2], np.uint8)
    height = _stature(points)
    rim = max(0.012 * height, 0.7)
    for part in sorted(_parts(points, appearance, height), key=lambda part: -part.depth):
        # nearer limbs are lighter, a rim separates a limb from the trunk behind it
        colour = _shade(part.colour, min(max(1 - 0.9 * part.depth / height, 0.7), 1.2))
        part.draw(canvas, _shade(colour, 0.6), rim, cv2.LINE_AA)
        part.draw(canvas, colour, 0.0, cv2.LINE_AA)
        part.draw(owners, (part.number + 1,), 0.0, cv2.LINE_8)
    return canvas, owners


@dataclass(frozen=True)
class _Part:
    """A disc (one point), capsule (two) or filled convex polygon of the figure; `ends` in 1/16 px."""

    number: int
    ends: list[list[int]]
    radius: float
    depth: float
    colour: Colour

    def draw(self, canvas: UInt8Array, colour: tuple[int, ...], rim: float, line: int) -> None:
        thickness = max(1, round(2 * (self.radius + rim)))
        if len(self.ends) == 1:
            radius = max(1, round((self.radius + rim) * 2**_SUBPIXEL_BITS))
            cv2.circle(canvas, self.ends[0], radius, colour, -1, line, _SUBPIXEL_BITS)
        elif len(self.ends) == 2:
            cv2.line(canvas, self.ends[0], self.ends[1], colour, thickness, line, _SUBPIXEL_BITS)
        else:
            corners = np.array(self.ends, np.int32).reshape(-1, 1, 2)
            cv2.fillConvexPoly(canvas, cv2.convexHull(corners), colour, line, _SUBPIXEL_BITS)
            cv2.polylines(canvas, [corners], True, colour, thickness, line, _SUBPIXEL_BITS)


def _fixed(xy: NDArray[np.float64]) -> list[list[int]]:
    # far outside of the picture OpenCV's fixed-point lines overflow
    ends: list[list[int]] = np.rint(np.clip(xy, -30_000, 30_000) * 2**_SUBPIXEL_BITS).astype(int).tolist()
    return ends


_PARTS = (
    "trunk", "neck", "head", "hair", "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_arm", "right_arm", "left_forearm", "right_forearm",
    "left_thigh", "right_thigh", "left_shin", "right_shin", "left_foot", "right_foot",
)  # fmt: skip
_NUMBER = {name: i for i, name in enumerate(_PARTS)}

PART_OF: dict[str, tuple[str, ...]] = {
    "nose": ("nose", "left_eye", "right_eye"),
    "left_eye": ("left_eye", "nose"),
    "right_eye": ("right_eye", "nose"),
    "left_ear": ("left_ear",),
    "right_ear": ("right_ear",),
    **{
        f"{side}_{joint}": tuple(name if name in ("trunk",) else f"{side}_{name}" for name in parts)
        for side in ("left", "right")
        for joint, parts in {
            "shoulder": ("arm", "trunk"),
            "elbow": ("arm", "forearm"),
            "wrist": ("forearm",),
            "hip": ("thigh", "trunk"),
            "knee": ("thigh", "shin"),
            "ankle": ("shin", "foot"),
        }.items()
    },
}
"""Keypoint name -> names of the body parts on which it can be seen."""

SHOWS: NDArray[np.bool_] = np.array(
    [[False, *(part in PART_OF[name] for part in _PARTS)] for name in COCO17.keypoint_names]
)
"""(17, 1 + parts): whether a keypoint is seen at a pixel of that owner (see `draw_person`)."""


def _parts(p: NDArray[np.float64], look: Appearance, height: float) -> list[_Part]:
    parts: list[_Part] = []
    ends, depths = _fixed(p[:, :2]), p[:, 2].tolist()

    def add(name: str, rows: list[int], radius: float, colour: Colour, nearer: float = 0.0) -> None:
        depth = sum(depths[row] for row in rows) / len(rows) - nearer * height
        parts.append(_Part(_NUMBER[name], [ends[row] for row in rows], radius * height, depth, colour))

    girth = look.girth
    add("trunk", [5, 6, 12, 11], 0.030 * girth, look.shirt)
    add("neck", [_NECK, _SKULL], 0.026 * girth, look.skin)
    add("head", [_SKULL], 0.066, look.skin)
    # hair covers the skull's far side: behind the face when that is seen, over it from behind
    back = p[_SKULL] + 0.30 * (p[_SKULL] - p[0]) + 0.35 * (p[_CROWN] - p[_SKULL])
    depth = float(p[_SKULL, 2] + (back[2] - p[_SKULL, 2]) * 0.3)
    parts.append(_Part(_NUMBER["hair"], _fixed(back[None, :2]), 0.070 * height, depth, look.hair))
    add("nose", [0], 0.011, _shade(look.skin, 0.55), 0.002)
    for side, first in (("left", 0), ("right", 1)):
        add(f"{side}_eye", [1 + first], 0.011, (20, 20, 30), 0.001)
        add(f"{side}_ear", [3 + first], 0.017, _shade(look.skin, 0.8))
        sleeve = look.left_sleeve if side == "left" else look.right_sleeve
        leg = look.left_leg if side == "left" else look.right_leg
        # an arm whose middle is beside the trunk still hangs before it as often as not
        add(f"{side}_arm", [5 + first, 7 + first], 0.028 * girth, sleeve, 0.01)
        forearm = sleeve if look.long_sleeves else look.skin
        add(f"{side}_forearm", [7 + first, 9 + first], 0.022 * girth, forearm, 0.015)
        add(f"{side}_thigh", [11 + first, 13 + first], 0.040 * girth, leg, 0.005)
        shin = leg if look.long_trousers else look.skin
        add(f"{side}_shin", [13 + first, 15 + first], 0.028 * girth, shin)
        add(f"{side}_foot", [15 + first, _LEFT_TOE + first], 0.021, look.shoes)
    return parts


def _stature(points: NDArray[np.float64]) -> float:
    """Height of the upright figure, from the length of its trunk: that of `figure_points`."""
    return float(np.linalg.norm(points[_CROWN] - points[_SKULL])) / 0.075


def _limb(raised: float, swung: float, sign: float, *, forwards: bool = False) -> NDArray[np.float64]:
    """Direction of an upper arm or thigh: raised sideways from hanging, then swung forwards.

    `forwards`: swing about the hips' axis even when not raised, as legs do.
    """
    hanging = np.array([sign * np.sin(raised), np.cos(raised), 0.0])
    return _turn_x(hanging, -swung) if forwards else _turn_y(hanging, sign * swung)


def _bend(
    limb: NDArray[np.float64], angle: float, twist: float, towards: NDArray[np.float64], sign: float
) -> NDArray[np.float64]:
    """Direction of the outer half of a limb, bent by an angle towards a direction turned about the limb by `twist`."""
    side = towards - (towards @ limb) * limb
    side /= max(float(np.linalg.norm(side)), 1e-9)
    (x, y, z), (u, v, w) = limb.tolist(), side.tolist()
    other = np.array([y * w - z * v, z * u - x * w, x * v - y * u])  # np.cross is slow for one vector
    direction = np.cos(twist) * side + sign * np.sin(twist) * other
    return np.cos(angle) * limb + np.sin(angle) * direction


def _turn_x(v: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return v @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def _turn_y(v: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return v @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


def _turn_z(v: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return v @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def _shade(colour: Colour, factor: float) -> Colour:
    r, g, b = colour
    return min(int(r * factor), 255), min(int(g * factor), 255), min(int(b * factor), 255)
