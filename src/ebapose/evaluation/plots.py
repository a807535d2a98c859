"""The pictures of an evaluation report, drawn by matplotlib without touching its global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ebapose.atomic import atomic_write
from ebapose.errors import MissingDependencyError
from ebapose.evaluation.calibration import Reliability, SigmaCalibration
from ebapose.evaluation.coco_ap import RECALLS, CocoAP
from ebapose.evaluation.errors import ERROR_TYPES, LostAP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

_BLUE, _ORANGE, _GREY = "#2f6db5", "#d9792b", "#8a8f98"
# right to wrong: good, jitter, inversion, swap, miss
_KIND_COLORS = ("#4c9f70", "#a9d18e", "#f2c14e", "#8e6bbf", "#c8553d")


def _figure(width_in: float, height_in: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", "train", "drawing plots") from None
    figure = Figure(figsize=(width_in, height_in), layout="constrained", dpi=120)
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e4e6ea", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, metadata={"Software": "ebapose"})
    return path


def plot_precision_recall(ap: CocoAP, path: Path) -> Path:
    """Precision over recall at OKS 0.5, 0.75 and 0.9, and their mean over all ten thresholds."""
    figure, (ax,) = _figure(5.4, 4.2)
    for row, color in ((0, "#9cc3ea"), (5, _BLUE), (8, "#17365d")):
        curve = ap.precision[row, :, 0]
        label = f"OKS {0.5 + 0.05 * row:.2f}: AP {_percent(float(np.mean(curve)))}"
        ax.plot(RECALLS, curve, color=color, linewidth=1.8, label=label)
    mean = ap.precision[..., 0].mean(axis=0)
    label = f"mean of ten: AP {_percent(ap.stats['AP'])}"
    ax.plot(RECALLS, mean, color=_ORANGE, linewidth=1.8, linestyle="--", label=label)
    ax.set(xlabel="recall: persons found", ylabel="precision: poses that are right", xlim=(0, 1), ylim=(0, 1.02))
    ax.set_title("Precision and recall", loc="left", pad=42)
    ax.legend(frameon=False, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 1.0))
    return _save(figure, path)


def plot_keypoints(names: Sequence[str], pck_values: FloatArray, pck_label: str, oks: FloatArray, path: Path) -> Path:
    """Bars for every keypoint: PCK and mean similarity."""
    figure, (ax,) = _figure(6.4, 1.4 + 0.34 * len(names))
    y = np.arange(len(names))
    ax.barh(y - 0.2, np.nan_to_num(pck_values), 0.38, color=_BLUE, label=pck_label)
    ax.barh(y + 0.2, np.nan_to_num(oks), 0.38, color="#9cc3ea", label="mean OKS (of matched persons)")
    for i, values in enumerate(zip(pck_values, oks, strict=True)):
        for offset, value in zip((-0.2, 0.2), values, strict=True):
            text = _percent(value) if np.isfinite(value) else "nothing to measure"
            ax.text(float(np.nan_to_num(value)) + 0.01, i + offset, text, va="center", fontsize=7.5, color="#333333")
    ax.set_yticks(y, [name.replace("_", " ") for name in names])
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.grid(axis="x", color="#e4e6ea", linewidth=0.8)
    ax.set(xlim=(0, 1.08), xlabel="share, 0 to 1 (numbers in %)", ylim=(len(names) - 0.4, -0.6))
    ax.set_title("Every keypoint", loc="left", pad=24)
    ax.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(-0.02, 0.995), ncols=2)
    return _save(figure, path)


def plot_errors(names: Sequence[str], shares: FloatArray, lost: LostAP, path: Path) -> Path:
    """Left: kinds of errors for every keypoint. Right: AP lost to each kind."""
    figure, (left, right) = _figure(10.5, 1.6 + 0.32 * len(names), columns=2)
    y = np.arange(len(names))
    start = np.zeros(len(names))
    for kind, (name, color) in enumerate(zip(ERROR_TYPES, _KIND_COLORS, strict=True)):
        part = np.nan_to_num(shares[:, kind])
        left.barh(y, part, 0.8, left=start, color=color, label=name)
        start += part
    left.set_yticks(y, [name.replace("_", " ") for name in names])
    left.invert_yaxis()
    left.grid(visible=False)
    left.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), xlabel="share of the matched, labelled keypoints")
    left.set_title("Kinds of errors", loc="left", pad=24)
    left.legend(frameon=False, fontsize=9, ncols=5, loc="lower left", bbox_to_anchor=(-0.02, 0.995), handlelength=1)

    labels = ["measured", *lost.steps]
    values = np.array([lost.ap, *lost.steps.values()])
    bottoms = np.concatenate([[0], np.cumsum(values)[:-1]])
    kind_color = dict(zip(ERROR_TYPES, _KIND_COLORS, strict=True))
    bar_colors = [_BLUE, *(kind_color.get(kind, _GREY) for kind in lost.steps)]
    right.bar(labels, values, 0.7, bottom=bottoms, color=bar_colors)
    for i, value in enumerate(values):
        top = max(bottoms[i], bottoms[i] + value)
        right.text(i, top + 0.01, f"{100 * value:.1f}" if i == 0 else f"{100 * value:+.1f}", ha="center", fontsize=9)
    right.set(ylim=(0, 1.08), ylabel="AP, 0 to 1 (numbers in %)")
    right.tick_params(axis="x", labelrotation=35)
    right.set_title("AP regained by correcting one kind after the other", loc="left", pad=24)
    return _save(figure, path)


def plot_scores(curve: Reliability, path: Path) -> Path:
    """Reliability of keypoint scores, with the histogram of the scores below."""
    figure, (ax,) = _figure(5.4, 4.6)
    width = curve.edges[1] - curve.edges[0]
    ax.bar(
        curve.edges[:-1] + width / 2,
        curve.counts / max(curve.counts.sum(), 1),
        width * 0.9,
        color="#e1e5eb",
        label="share of the scores",
    )
    ax.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":", label="calibrated")
    full = curve.counts > 0
    ax.plot(curve.mean_scores[full], curve.right_shares[full], "o-", color=_BLUE, linewidth=1.8, label="measured")
    ax.set(xlabel="keypoint score", ylabel="share right (within OKS 0.5)", xlim=(0, 1), ylim=(0, 1.02))
    ece, brier = curve.expected_calibration_error, curve.brier_score
    ax.set_title(f"Scores: calibration error {_percent(ece)} %, Brier {brier:.3f}", loc="left", pad=24)
    ax.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 0.995))
    return _save(figure, path)


def plot_sigmas(curve: SigmaCalibration, path: Path) -> Path:
    """Share of errors inside the central interval of each probability."""
    figure, (ax,) = _figure(5.4, 4.6)
    ax.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":", label="calibrated")
    ax.plot(curve.promised, curve.observed, "o-", color=_BLUE, linewidth=1.8, markersize=4, label="measured")
    ax.text(0.3, 0.93, "above the line: sigmas too large", fontsize=8, color=_GREY, transform=ax.transAxes)
    ax.text(0.5, 0.05, "below the line: sigmas too small", fontsize=8, color=_GREY, transform=ax.transAxes)
    ax.set(xlabel="probability that the sigmas promise", ylabel="share of errors inside", xlim=(0, 1), ylim=(0, 1.02))
    one, two = curve.within_1_sigma, curve.within_2_sigma
    title = f"Sigmas: {_percent(one)} % within 1 (68.3), {_percent(two)} % within 2 (95.4)"
    ax.set_title(title, loc="left", fontsize=11, pad=24)
    ax.legend(frameon=False, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 0.995))
    return _save(figure, path)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
