"""A video at a glance: a contact sheet, and plots of every person's movement."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.atomic import atomic_write
from ebapose.draw import DRAWN_SCORE
from ebapose.errors import EbaposeError, MissingDependencyError
from ebapose.io.overlays import marked
from ebapose.io.pictures import encode_picture
from ebapose.skeleton import Skeleton
from ebapose.structures import Poses, UInt8Array
from ebapose.tracking.angles import joint_angle_sigmas, joint_angles, joint_triplets

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

SHEET_TILES = 16
SHEET_WIDTH_PX = 1600
SHORTEST_PLOT_S = 0.3
_PATHS = ("nose", "left_wrist", "right_wrist", "left_ankle", "right_ankle")
_GAP_S = 0.25  # a line is broken where a person was out of sight for longer, and for more than two frames
_MOST_POSES = 20_000  # of one person: 11 minutes at 30 frames per s
_MANY_PATHS = 64  # from here on those are forgotten who will not be drawn
_GONE_S = 60.0  # out of sight for longer: will not come back as the same
_LEFT, _RIGHT, _GREY = "#ff8c00", "#1482ff", "#60656e"  # as in `ebapose.draw`


class ContactSheet:
    """Pictures of a clip at even distances in time, whatever its length: add all frames, then `image`.

    Small copies of frames are kept, a step in time apart, which grows whenever there are too many.
    """

    def __init__(self, tiles: int = SHEET_TILES, width_px: int = SHEET_WIDTH_PX) -> None:
        self._tiles, self._width_px = max(2, tiles), width_px
        self._kept: list[tuple[UInt8Array, float]] = []
        self._step_s = 0.0

    def add(self, image: UInt8Array, time_s: float) -> None:
        """Offer the next frame, RGB uint8 (H, W, 3)."""
        if self._kept and time_s - self._kept[-1][1] < self._step_s:
            return
        width = self._width_px // self._columns(self._tiles)
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        small = cv2.resize(image, (width, min(height, 2 * width)), interpolation=cv2.INTER_AREA)
        self._kept.append((np.asarray(small, np.uint8), time_s))
        if len(self._kept) >= 2 * self._tiles:
            self._step_s = 0.999 * (time_s - self._kept[0][1]) / self._tiles
            spread = self._kept[:1]
            for one in self._kept[1:]:
                if one[1] - spread[-1][1] >= self._step_s:
                    spread.append(one)
            self._kept = spread if len(spread) < len(self._kept) else self._kept[::2]

    @staticmethod
    def _columns(tiles: int) -> int:
        return math.ceil(math.sqrt(tiles))

    def image(self) -> UInt8Array:
        """The sheet, RGB uint8: row by row, each picture with its time. Raises EbaposeError without frames."""
        if not self._kept:
            raise EbaposeError("a contact sheet needs at least one frame")
        times = np.array([time_s for _, time_s in self._kept])
        wanted = np.linspace(times[0], times[-1], self._tiles)
        chosen = np.unique(np.abs(wanted[:, None] - times).argmin(axis=1))
        kept = [self._kept[i] for i in chosen]
        height, width = kept[0][0].shape[:2]
        columns = self._columns(len(kept))
        sheet = np.full((math.ceil(len(kept) / columns) * height, columns * width, 3), 24, np.uint8)
        for number, (small, time_s) in enumerate(kept):
            tile = small if small.shape[:2] == (height, width) else cv2.resize(small, (width, height))
            top, left = number // columns * height, number % columns * width
            sheet[top : top + height, left : left + width] = tile
            place = (left + 6, top + height - 8)
            for ink, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
                cv2.putText(
                    sheet, f"{time_s:.2f} s", place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, ink, thickness, cv2.LINE_AA
                )
        return sheet

    def save(self, path: Path) -> None:
        """Write the sheet as JPEG. Raises OSError."""
        with atomic_write(path) as temporary:
            temporary.write_bytes(marked(encode_picture(self.image())))


@dataclass
class _Path:
    """One person's way; of a long one every n-th frame, where n doubles whenever there are too many."""

    frames: int = 0
    every: int = 1
    times_s: list[float] = field(default_factory=list)
    poses: list[Float32Array] = field(default_factory=list)  # (K, 5): x, y, their standard deviations, the score

    def add(self, pose: Float32Array, time_s: float) -> None:
        if self.frames % self.every == 0:
            self.times_s.append(time_s)
            self.poses.append(pose)
            if len(self.poses) >= _MOST_POSES:
                self.times_s, self.poses, self.every = self.times_s[::2], self.poses[::2], 2 * self.every
        self.frames += 1


class TrackPlots:
    """Plots of every track: where its keypoints went, and its joint angles over time. Add all frames, then `save`.

    Args:
        min_score: keypoints below are left out.
        most: persons, the longest there.
        pixel_aspect: width of a pixel divided by its height; angles are those of the picture as it is shown.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """

    def __init__(self, *, min_score: float = DRAWN_SCORE, most: int = 12, pixel_aspect: float = 1.0) -> None:
        try:
            import matplotlib.figure  # noqa: F401 - only whether it is there
        except ImportError:
            raise MissingDependencyError("matplotlib", "train", "drawing plots") from None
        self._min_score, self._most, self._pixel_aspect = min_score, most, pixel_aspect
        self._paths: defaultdict[int, _Path] = defaultdict(_Path)
        self._skeleton: Skeleton | None = None
        self._limit = _MANY_PATHS

    def add(self, poses: Poses, time_s: float) -> None:
        """Take in a frame's poses, with track ids."""
        self._skeleton = poses.skeleton
        for number, identity in enumerate(() if poses.track_ids is None else poses.track_ids.tolist()):
            parts = (poses.keypoints[number], poses.sigmas_px[number], poses.scores[number, :, None])
            self._paths[identity].add(np.concatenate(parts, axis=1), time_s)
        if len(self._paths) >= self._limit:
            self._forget(time_s)

    def _forget(self, now_s: float) -> None:
        """Those who are gone and will not be among the longest: others, gone too, were there for longer."""
        gone = [i for i, path in self._paths.items() if now_s - path.times_s[-1] > _GONE_S]
        for identity in sorted(gone, key=lambda i: -self._paths[i].frames)[self._most :]:
            del self._paths[identity]
        self._limit = max(_MANY_PATHS, 2 * len(self._paths))

    def save(self, folder: Path) -> list[Path]:
        """Write `track_0001.png` and so on for the longest tracks; returns the files. Raises OSError.

        Those of an earlier run are removed: their persons are others. A folder that stays empty is not left behind.
        """
        long = [i for i, path in self._paths.items() if path.times_s[-1] - path.times_s[0] >= SHORTEST_PLOT_S]
        chosen = sorted(sorted(long, key=lambda i: -self._paths[i].frames)[: self._most])
        earlier = set(folder.glob("track_[0-9][0-9][0-9][0-9]*.png"))
        try:
            written = [self._plot(identity, folder / f"track_{identity:04d}.png") for identity in chosen]
            for path in earlier.difference(written):
                path.unlink()
            return written
        except OSError:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()
            raise

    def _plot(self, identity: int, target: Path) -> Path:
        from matplotlib.figure import Figure

        assert self._skeleton is not None
        path, names = self._paths[identity], self._skeleton.keypoint_names
        times = np.array(path.times_s)
        poses = np.stack(path.poses).astype(np.float64)
        poses[..., [0, 2]] *= self._pixel_aspect
        points = np.where(poses[..., 4:] >= self._min_score, poses[..., :2], np.nan)
        sigmas = poses[..., 2:4]
        steps = np.diff(times)
        longest_s = max(_GAP_S, 2.5 * float(np.median(steps)))
        starts = np.flatnonzero(steps > longest_s) + 1  # nan before them breaks the lines
        times_gaps = np.insert(times, starts, np.nan)
        points = np.insert(points, starts, np.nan, axis=0)
        sigmas = np.insert(sigmas, starts, np.nan, axis=0)

        joints = joint_triplets(self._skeleton)
        kinds = list(dict.fromkeys(joint.split("_", 1)[1] for joint in joints))
        figure = Figure(figsize=(12, max(4.5, 1.9 * len(kinds))), layout="constrained", dpi=100)
        grid = figure.add_gridspec(max(1, len(kinds)), 2)
        plane = figure.add_subplot(grid[:, 0])
        shown = [name for name in _PATHS if name in names] or list(names[:5])
        for name in shown:
            x, y = points[:, names.index(name)].T
            colour = _LEFT if name.startswith("left") else _RIGHT if name.startswith("right") else _GREY
            style = "--" if name.endswith("ankle") else "-"
            plane.plot(x, y, style, color=colour, linewidth=1.4, label=name.replace("_", " "))
        plane.set(aspect="equal", xlabel="x in px", ylabel="y in px")
        plane.invert_yaxis()  # as in the picture
        plane.set_title(f"Person {identity}: paths, {times[0]:.2f} to {times[-1]:.2f} s", loc="left")
        plane.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08))
        for row, kind in enumerate(kinds):
            ax = figure.add_subplot(grid[row, 1])
            for side, colour in (("left", _LEFT), ("right", _RIGHT)):
                triplet = joints.get(f"{side}_{kind}")
                if triplet is None:
                    continue
                three = points[:, list(triplet)]
                angle = joint_angles(three[:, 0], three[:, 1], three[:, 2])
                spread = joint_angle_sigmas(three, sigmas[:, list(triplet)])
                ax.fill_between(times_gaps, angle - spread, angle + spread, color=colour, alpha=0.2, linewidth=0)
                ax.plot(times_gaps, angle, color=colour, linewidth=1.4, label=side)
            ax.set(ylabel=f"{kind} in deg", ylim=(0, 190), xlim=(times[0], times[-1]), yticks=(0, 45, 90, 135, 180))
            ax.grid(axis="y", color="#e4e6ea", linewidth=0.8)
            ax.spines[["top", "right"]].set_visible(False)
            if row == 0:
                ax.set_title("Joint angles in the picture plane, band: one standard deviation", loc="left")
                ax.legend(frameon=False, fontsize=9, ncols=2, loc="lower left")
            if row == len(kinds) - 1:
                ax.set_xlabel("time in s")
        with atomic_write(target) as temporary:
            figure.savefig(temporary, metadata={"Software": "ebapose"})
        return target
