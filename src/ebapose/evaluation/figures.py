"""The paper's figures 5 and 6: accuracy against size and cost; poses under other views, occlusion and bad light."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.atomic import atomic_write
from ebapose.draw import draw_poses
from ebapose.errors import EbaposeError, MissingDependencyError
from ebapose.geometry.crop import transform_points
from ebapose.io.pictures import PICTURE_SUFFIXES, encode_picture, read_image
from ebapose.structures import Boxes, Poses, UInt8Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE_5, FIGURE_6 = "figure_5_accuracy.png", "figure_6_conditions.jpg"
TURN_DEG = 35.0
LIGHT = 0.22  # share of the light that is left
CELL_WH = (300, 300)
CAPTION_H_PX, GAP_PX = 30, 4
_MARK_PT = 11.5  # so that the paper's marks 4 and 8 do not cover each other
KEY_CHARACTERS, KEY_LINE_INCH = 80, 0.17  # a line of figure 5's key: its longest and its height
_BLUE, _ORANGE, _GREY = "#2f6db5", "#d9792b", "#8a8f98"

Changed = tuple[UInt8Array, Boxes]


def plot_accuracy(content: Mapping[str, Any], path: Path) -> Path:
    """Figure 5: AP against parameters and against cost.

    Hollow: the paper's numbers at the paper's size and cost, joined to where the true size and cost lie. Filled: what
    evaluation reports measured, at the true size and cost, below in axes of their own: other data, other AP.

    Args:
        content: from `evaluation.tables.build_tables`.
        path: the PNG to write.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise MissingDependencyError("matplotlib", "train", "drawing figures") from None
    rows = {row["model"]: row for table in content["tables"] for row in table["rows"]}
    rows.update({row["model"]: row for row in content["other_models"]})
    published = [row for row in rows.values() if row["published_accuracy"] is not None]
    measured = [
        (row, report)
        for row in rows.values()
        for report in row["measured_accuracy"]
        if report["AP"] is not None and row["parameters_m"]["ours"] is not None
    ]
    texts = [f"{row['title']} {_size(row)}: {row['published_conditions']}" for row in published]
    texts += [f"{row['model']}: {report['conditions']}" for row, report in measured]
    texts = [textwrap.fill(text, KEY_CHARACTERS) for text in texts]
    further_lines = max(0, sum(text.count("\n") + 1 for text in texts) - 10) / 2  # the key has two columns
    height = (7.6 if measured else 5.4) + KEY_LINE_INCH * further_lines
    figure = Figure(figsize=(10, height), layout="constrained", dpi=110)
    ratios = [3.0, 1.7] if measured else [1.0]
    axes = figure.subplots(len(ratios), 2, sharex="col", sharey="row", squeeze=False, height_ratios=ratios)
    for column, of in enumerate(("parameters_m", "gmac")):
        for number, row in enumerate(published, 1):
            quoted, true = row[of]["published"], _true(row, of)
            color = _ORANGE if row["model"].startswith("eba_") else _GREY
            _published_mark(axes[0, column], number, (quoted, true), row["published_accuracy"]["AP"], color)
        for number, (row, report) in enumerate(measured, len(published) + 1):
            ax = axes[1, column]
            ax.plot(_true(row, of), report["AP"], "o", color=_BLUE, markersize=_MARK_PT)
            _write_number(ax, number, _true(row, of), report["AP"], "white")
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#e4e6ea", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.margins(0.06, 0.14)
    axes[0, 0].set(ylabel="AP, %: as published")
    if measured:
        axes[1, 0].set(ylabel="AP, %: measured")
        axes[1, 0].set_ylim(0, 1.25 * max(1.0, *(report["AP"] for _, report in measured)))
    axes[-1, 0].set(xlabel="parameters, millions")
    axes[-1, 1].set(xlabel="cost, 10^9 multiply-accumulates per crop")
    what = "measured" if measured else "measured: nothing yet"
    marks = [
        Line2D([], [], marker="o", mfc="white", mec=_ORANGE, mew=1.8, linestyle="", label="paper: EBA-PRNetCC"),
        Line2D([], [], marker="o", mfc="white", mec=_GREY, mew=1.8, linestyle="", label="paper: others"),
        Line2D([], [], marker="|", color=_GREY, linestyle="-", markersize=9, label="the same at its true size, cost"),
        Line2D([], [], marker="o", color=_BLUE, linestyle="", label=what),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    key = [Line2D([], [], linestyle="", label=f"{number}  {text}") for number, text in enumerate(texts, 1)]
    style = {"frameon": False, "fontsize": 7.5, "handlelength": 0.0, "handletextpad": 0.0}
    figure.legend(handles=key, loc="outside lower center", ncols=2, **style)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, metadata={"Software": "ebapose"})
    return path


def _true(row: Mapping[str, Any], of: str) -> float:
    value: float = row["gmac"]["true"]["ours"] if of == "gmac" else row[of]["ours"]
    return value


def _size(row: Mapping[str, Any]) -> str:
    return "x".join(map(str, row["input_hw"]))


def _published_mark(ax: Axes, number: int, quoted_true: tuple[float, float], ap: float, color: str) -> None:
    ax.plot(quoted_true, [ap, ap], color="#c9ccd1", linewidth=1, zorder=1)
    ax.plot(quoted_true[1], ap, "|", color=_GREY, markersize=9, zorder=2)
    ax.plot(quoted_true[0], ap, "o", mfc="white", mec=color, mew=1.5, markersize=_MARK_PT, zorder=3)
    _write_number(ax, number, quoted_true[0], ap, "#333333")


def _write_number(ax: Axes, number: int, x: float, y: float, color: str) -> None:
    ax.annotate(str(number), (x, y), ha="center", va="center_baseline", fontsize=7, color=color, zorder=4)


def picture_files(folder: Path, count: int) -> list[Path]:
    """Up to `count` pictures of a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)[:count]


def draw_conditions(predict: Callable[[UInt8Array, Boxes | None], Poses], pictures: Sequence[Path], path: Path) -> Path:
    """Figure 6: a row per picture: as it is, turned, partly covered, in bad light, each with the poses found.

    The persons are found once, in the picture as it is; their boxes are carried over, so that the figure shows what the
    pose network does, not the detector. Each cell is the part of the picture with the persons.

    Args:
        predict: picture and boxes (None: look for persons) to poses.
        pictures: files.
        path: the JPEG to write.
    """
    rows = []
    for file in pictures:
        image = read_image(file).image
        poses = predict(image, None)
        left, top, right, bottom = region = _region(poses.boxes, image.shape[:2])
        changes = (turned(image, poses.boxes, region), covered(image, poses.boxes), darkened(image, poses.boxes))
        drawn = [draw_poses(image, poses)]
        drawn += [draw_poses(changed, predict(changed, boxes) if len(boxes) else poses) for changed, boxes in changes]
        rows.append(_side_by_side([_cell(picture[top:bottom, left:right]) for picture in drawn]))
    titles = ("as it is", f"turned by {TURN_DEG:.0f} deg", "partly covered", f"{100 * LIGHT:.0f} % of the light")
    sheet = np.concatenate([_side_by_side([_caption(title) for title in titles]), *rows])
    try:
        data = encode_picture(sheet, quality=85)
    except ValueError as error:
        raise EbaposeError(f"{path}: {error}") from None
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path


def turned(image: UInt8Array, boxes: Boxes, region_xyxy: tuple[int, int, int, int]) -> Changed:
    """The camera rolled by `TURN_DEG` about the middle of a region; what comes in from outside is grey."""
    left, top, right, bottom = region_xyxy
    matrix = cv2.getRotationMatrix2D(((left + right - 1) / 2, (top + bottom - 1) / 2), TURN_DEG, 1.0)
    size_wh = (image.shape[1], image.shape[0])
    out = cv2.warpAffine(image, matrix, size_wh, flags=cv2.INTER_LINEAR, borderValue=(128, 128, 128))
    corners = boxes.xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)
    moved = transform_points(corners, np.broadcast_to(matrix, (len(boxes), 2, 3)))
    # The extent of the turned corners is larger than the turned person: take back half of what it grew.
    low, high = moved.min(axis=1), moved.max(axis=1)
    upright = (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]) / 2
    half = ((high - low) / 2 + np.minimum((high - low) / 2, upright)) / 2
    centre = (low + high) / 2
    return np.asarray(out, np.uint8), Boxes.from_xyxy(
        np.concatenate([centre - half, centre + half], axis=1), boxes.scores
    )


def covered(image: UInt8Array, boxes: Boxes) -> Changed:
    """A grey board before the lower left quarter of each person's box."""
    out = image.copy()
    for left, top, right, bottom in boxes.xyxy.tolist():
        x1, x2 = max(0, round(left)), max(0, round((left + right) / 2))
        y1, y2 = max(0, round((top + bottom) / 2)), max(0, round(bottom))
        out[y1:y2, x1:x2] = (96, 96, 96)
    return out, boxes


def darkened(image: UInt8Array, boxes: Boxes) -> Changed:
    """`LIGHT` of the light is left, with the noise of a sensor in the dark."""
    noise = np.random.default_rng(0).normal(0, 5, image.shape)
    return np.clip(image * LIGHT + noise, 0, 255).astype(np.uint8), boxes


def _region(boxes: Boxes, image_hw: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the part of a picture with all persons, in the shape of a cell where it fits."""
    height, width = image_hw[:2]
    if not len(boxes):
        return 0, 0, width, height
    low, high = boxes.xyxy[:, :2].min(axis=0), boxes.xyxy[:, 2:].max(axis=0)
    size = (high - low) * 1.25
    scale = max(size[0] / CELL_WH[0], size[1] / CELL_WH[1])
    sides = np.minimum(np.array(CELL_WH) * scale, (width, height))
    corner = np.clip((low + high - sides) / 2, 0, np.array((width, height)) - sides)
    left, top = (int(v) for v in corner)
    return left, top, left + max(1, int(sides[0])), top + max(1, int(sides[1]))


def _cell(image: UInt8Array) -> UInt8Array:
    """Fitted into a cell, white around it."""
    scale = min(CELL_WH[0] / image.shape[1], CELL_WH[1] / image.shape[0])
    width, height = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    cell: NDArray[np.uint8] = np.full((CELL_WH[1], CELL_WH[0], 3), 255, np.uint8)
    x, y = (CELL_WH[0] - width) // 2, (CELL_WH[1] - height) // 2
    cell[y : y + height, x : x + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cell


def _side_by_side(cells: Sequence[UInt8Array]) -> UInt8Array:
    """With a white margin; all of one height."""
    framed = [np.pad(cell, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=255) for cell in cells]
    return np.concatenate(framed, axis=1)


def _caption(text: str) -> UInt8Array:
    cell: NDArray[np.uint8] = np.full((CAPTION_H_PX, CELL_WH[0], 3), 255, np.uint8)
    cv2.putText(cell, text, (4, CAPTION_H_PX - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (30, 30, 30), 1, cv2.LINE_AA)
    return cell
