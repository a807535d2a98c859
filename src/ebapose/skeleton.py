"""Skeleton: what the keypoints are called and how they belong together.

The skeleton owns the left/right pairs, because mirroring a picture without relabelling left and right is the
commonest silent bug of pose software. It validates itself when it is made.

Adding a new skeleton: build a `Skeleton` (or put `keypoints`, `skeleton`, `flip_pairs` and `sigmas` into the COCO
category of your annotation file) and, if it should be available by name, add it to `SKELETONS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebapose.errors import InputError

_SIDE = re.compile(r"(?:^|[_\W])(left|right|l|r)(?=$|[_\W])", re.IGNORECASE)
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


def name_side(name: str) -> str | None:
    """Side that a keypoint's name claims: "left", "right" or None (a word of its own: `left_eye`, `eye_r`)."""
    match = _SIDE.search(name)
    if match is None:
        return None
    return {"l": "left", "r": "right"}.get(match[1].lower(), match[1].lower())


def mirrored_name(name: str) -> str:
    """The name with its side swapped (`left_eye` -> `right_eye`); unchanged where it claims no side."""
    match = _SIDE.search(name)
    if match is None:
        return name
    other = _OTHER_SIDE[match[1].lower()]
    if match[1].isupper():
        other = other.upper()
    elif match[1][0].isupper():
        other = other.capitalize()
    return name[: match.start(1)] + other + name[match.end(1) :]


@dataclass(frozen=True)
class Skeleton:
    """Keypoint names, edges to draw, left/right pairs and OKS sigmas.

    Attributes:
        name: short name of the skeleton, e.g. "coco17".
        keypoint_names: K names, in the order of every keypoint array.
        edges: pairs of keypoint indices that are joined by a line.
        flip_pairs: pairs (left, right) of keypoint indices that change places in a mirror image.
        sigmas: K per-keypoint OKS sigmas (COCO's convention: the k_i of the OKS formula is 2 sigma_i).

    Raises:
        InputError: names are not unique, an index is out of range, flip pairs are not an involution or contradict
            the left/right in the names, or sigmas are not K positive numbers.
    """

    name: str
    keypoint_names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        def refuse(why: str) -> InputError:
            return InputError(f"skeleton {self.name!r}: {why}")

        num = len(self.keypoint_names)
        if num == 0 or len(set(self.keypoint_names)) != num:
            raise refuse("keypoint names must be unique and at least one")
        if len(self.sigmas) != num:
            raise refuse(f"{len(self.sigmas)} sigmas for {num} keypoints")
        if not all(np.isfinite(s) and s > 0 for s in self.sigmas):
            raise refuse("sigmas must be positive numbers")
        for what, pairs in (("edge", self.edges), ("flip pair", self.flip_pairs)):
            for a, b in pairs:
                if not (0 <= a < num and 0 <= b < num) or a == b:
                    raise refuse(f"{what} ({a}, {b}) must join two different keypoints of 0..{num - 1}")
        members = [i for pair in self.flip_pairs for i in pair]
        if len(set(members)) != len(members):
            raise refuse("a keypoint stands in more than one flip pair")
        for a, b in self.flip_pairs:
            left, right = self.keypoint_names[a], self.keypoint_names[b]
            if mirrored_name(left) != right and (name_side(left) or name_side(right)):
                raise refuse(f"flip pair ({left}, {right}) disagrees with the names")
        for i, keypoint in enumerate(self.keypoint_names):
            if i not in members and mirrored_name(keypoint) in self.keypoint_names and name_side(keypoint):
                raise refuse(f"{keypoint} has a mirror image {mirrored_name(keypoint)} but stands in no flip pair")

    @property
    def num_keypoints(self) -> int:
        """K."""
        return len(self.keypoint_names)

    @cached_property
    def flip_indices(self) -> NDArray[np.intp]:
        """(K,) permutation: keypoint i of the mirror image is keypoint flip_indices[i] of the original."""
        indices = np.arange(self.num_keypoints)
        for a, b in self.flip_pairs:
            indices[a], indices[b] = b, a
        indices.flags.writeable = False
        return indices

    @cached_property
    def sides(self) -> tuple[str | None, ...]:
        """Body side of every keypoint by its name: "left", "right" or None."""
        return tuple(name_side(name) for name in self.keypoint_names)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        return {
            "name": self.name,
            "keypoint_names": list(self.keypoint_names),
            "edges": [list(e) for e in self.edges],
            "flip_pairs": [list(p) for p in self.flip_pairs],
            "sigmas": list(self.sigmas),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Skeleton:
        """Read what `to_dict` wrote. Raises InputError when a part is missing or wrong."""
        missing = [k for k in ("name", "keypoint_names", "edges", "flip_pairs", "sigmas") if k not in data]
        if missing:
            raise InputError(f"skeleton: {', '.join(missing)} missing")
        parts: dict[str, Any] = {}
        for part, read in (("keypoint_names", _names), ("edges", _pairs), ("flip_pairs", _pairs), ("sigmas", _floats)):
            try:
                parts[part] = read(data[part])
            except (TypeError, ValueError):
                raise InputError(f"skeleton {data['name']!r}: {part} cannot be {data[part]!r:.80}") from None
        return cls(name=str(data["name"]), **parts)


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError
    return tuple(str(name) for name in names)


def _pairs(pairs: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(a), int(b)) for a, b in pairs)


def _floats(numbers: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(number) for number in numbers)


COCO17 = Skeleton(
    name="coco17",
    keypoint_names=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    edges=(
        (15, 13),
        (13, 11),
        (16, 14),
        (14, 12),
        (11, 12),
        (5, 11),
        (6, 12),
        (5, 6),
        (5, 7),
        (6, 8),
        (7, 9),
        (8, 10),
        (1, 2),
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    # pycocotools, Params.kpt_oks_sigmas
    sigmas=(
        0.026,
        0.025,
        0.025,
        0.035,
        0.035,
        0.079,
        0.079,
        0.072,
        0.072,
        0.062,
        0.062,
        0.107,
        0.107,
        0.087,
        0.087,
        0.089,
        0.089,
    ),
)

# LSP and MPII never published OKS sigmas: COCO's of the same joint; neck and head as CrowdPose; MPII's pelvis as a hip,
# its thorax as a shoulder.
_SIGMA_OF = {
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
    "neck": 0.079,
    "upper_neck": 0.079,
    "head": 0.079,
    "head_top": 0.079,
    "thorax": 0.079,
    "pelvis": 0.107,
}


def _with_usual_sigmas(
    name: str,
    keypoint_names: tuple[str, ...],
    edges: tuple[tuple[int, int], ...],
    flip_pairs: tuple[tuple[int, int], ...],
) -> Skeleton:
    sigmas = tuple(_SIGMA_OF[n.removeprefix("left_").removeprefix("right_")] for n in keypoint_names)
    return Skeleton(name, keypoint_names, edges, flip_pairs, sigmas)


LSP14 = _with_usual_sigmas(
    "lsp14",
    (
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "neck",
        "head_top",
    ),
    edges=(
        (0, 1),
        (1, 2),
        (3, 4),
        (4, 5),
        (2, 3),
        (6, 7),
        (7, 8),
        (9, 10),
        (10, 11),
        (8, 12),
        (9, 12),
        (12, 13),
        (2, 8),
        (3, 9),
    ),
    flip_pairs=((5, 0), (4, 1), (3, 2), (11, 6), (10, 7), (9, 8)),
)

MPII16 = _with_usual_sigmas(
    "mpii16",
    (
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "upper_neck",
        "head_top",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    ),
    edges=(
        (0, 1),
        (1, 2),
        (2, 6),
        (3, 6),
        (3, 4),
        (4, 5),
        (6, 7),
        (7, 8),
        (8, 9),
        (10, 11),
        (11, 12),
        (12, 7),
        (7, 13),
        (13, 14),
        (14, 15),
    ),
    flip_pairs=((5, 0), (4, 1), (3, 2), (15, 10), (14, 11), (13, 12)),
)

# Li et al., CrowdPose, CVPR 2019; its sigmas are those of the CrowdPose API
CROWDPOSE14 = _with_usual_sigmas(
    "crowdpose14",
    (
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "head",
        "neck",
    ),
    edges=(
        (10, 8),
        (8, 6),
        (11, 9),
        (9, 7),
        (6, 7),
        (0, 6),
        (1, 7),
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (12, 13),
        (0, 13),
        (1, 13),
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
)

SKELETONS: dict[str, Skeleton] = {s.name: s for s in (COCO17, LSP14, MPII16, CROWDPOSE14)}
