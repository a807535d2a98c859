"""What the EBA-PRNetCC paper publishes, row by row, and what is known about how those numbers came about.

Zakir, Salman, Benitez-Garcia, Takahashi: "EBA-PRNetCC: An Efficient Bridge Attention-Integration PoseResNet for
Coordinate Classification in 2D Human Pose Estimation". Numbers only; `evaluation.tables` sets ours beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR")

Convention = Literal["true", "paper", "hrnet"]


@dataclass(frozen=True)
class PublishedRow:
    """One row of the paper.

    Attributes:
        title: as the paper calls the system.
        model: our model of the same design, as `create_model` takes it.
        parameters_m: in millions, as printed.
        cost: "GFLOPs" as printed.
        counted_as: the convention of `models.complexity` by which `cost` was counted; None where that cannot be told.
        accuracy: COCO metrics in per cent; a missing one is not published.
        boxes: the person boxes and the split that the row seems to be measured with.
        notes: numbers of `FINDINGS` that concern the row.
    """

    title: str
    model: str
    parameters_m: float | None = None
    cost: float | None = None
    counted_as: Convention | None = "paper"
    accuracy: Mapping[str, float] = field(default_factory=dict)
    boxes: str = ""
    notes: tuple[int, ...] = ()


def _accuracy(*values: float) -> dict[str, float]:
    return dict(zip(METRICS, values, strict=False))


_TEST_DEV = "test-dev, detector boxes"
_VAL_DETECTOR = "val2017, detector boxes"
_VAL_GT = "pattern of val2017, ground-truth boxes"

SIMPLE_BASELINE = PublishedRow(
    "Simple Baseline R50",
    "simple_baseline50_384x288",
    34.0,
    20.0,
    "hrnet",
    _accuracy(71.5, 91.1, 78.7, 67.8, 78.0, 76.9),
    _TEST_DEV,
    (2, 3),
)
# Our levels were chosen with the quoted cost in view (`models.tfpose`): that "true" and "paper" both come near it does
# not tell how it was counted.
TFPOSE = PublishedRow(
    "TFPose R50", "tfpose50_384x288", 38.0, 20.4, None, _accuracy(72.2, 90.9, 80.1, 69.1, 78.8), _TEST_DEV, (3,)
)
SIMCC = PublishedRow(
    "SimCC R50",
    "simcc50_384x288",
    36.8,
    20.4,
    "hrnet",
    _accuracy(73.4, 89.2, 80.0, 69.7, 80.6, 78.8),
    _VAL_DETECTOR,
    (2, 3, 5),
)
EBA18 = PublishedRow(
    "EBA-PRNetCC18",
    "eba_prnetcc18_384x288",
    19.0,
    4.0,
    "paper",
    _accuracy(74.3, 92.5, 81.5, 71.5, 79.0, 77.2),
    _VAL_GT,
    (1, 2, 3, 4),
)
EBA34 = PublishedRow(
    "EBA-PRNetCC34",
    "eba_prnetcc34_384x288",
    29.0,
    8.1,
    "paper",
    _accuracy(76.9, 93.5, 83.6, 73.9, 81.6, 79.6),
    _VAL_GT,
    (1, 2, 3),
)
EBA34_SLP = PublishedRow(
    "EBA-PRNetCC34, SLP head",
    "eba_prnetcc34_slp_384x288",
    35.0,
    8.2,
    "paper",
    _accuracy(76.3, 93.5, 82.6, 73.2, 80.9, 79.0),
    _VAL_GT,
    (1, 2, 3),
)
EBA18_SMALL = PublishedRow(
    "EBA-PRNetCC18",
    "eba_prnetcc18_256x256",
    17.0,
    2.4,
    "paper",
    _accuracy(71.3, 91.4, 78.1, 68.2, 75.8, 74.5),
    _VAL_GT,
    (1, 2, 3),
)
EBA34_SMALL = PublishedRow(
    "EBA-PRNetCC34",
    "eba_prnetcc34_256x256",
    28.0,
    4.8,
    "paper",
    _accuracy(74.3, 92.5, 81.5, 71.5, 79.0, 77.2),
    _VAL_GT,
    (1, 2, 3, 4),
)
LITE18 = PublishedRow("EBA-PRNetCC lite18 (ours, not in the paper)", "eba_prnetcc_lite18_384x288", notes=(6,))
LITE34 = PublishedRow("EBA-PRNetCC lite34 (ours, not in the paper)", "eba_prnetcc_lite34_384x288", notes=(6,))

TABLES: tuple[tuple[str, tuple[PublishedRow, ...]], ...] = (
    ("Table 1: comparison at 384x288", (SIMPLE_BASELINE, TFPOSE, SIMCC, EBA18, EBA34, LITE18, LITE34)),
    ("Table 2: head of one layer (SLP) or two (MLP)", (EBA34_SLP, EBA34)),
    ("Table 3: input size", (EBA18_SMALL, EBA18, EBA34_SMALL, EBA34)),
    ("Table 4: depth", (EBA18_SMALL, EBA34_SMALL, EBA18, EBA34)),
)

FINDINGS = (
    (
        "The paper's figures for EBA-PRNetCC are truncated, not rounded, and its cost leaves the transposed "
        "convolutions out: Conv2d and Linear layers only (convention *paper*). With k = 2, hidden width 256, r = "
        "16 and 256 channels in the deconvolutions all ten of them come out; the true cost is 1.3 to 1.6 times as "
        "high."
    ),
    (
        "The figures of Simple Baseline and SimCC were counted by another tool (convention *HRNet*): a transposed "
        "convolution counts four times too much, a SimCC head almost nothing, and the sum is divided by 1024^3. "
        "Counted alike, SimCC R50 costs 1.16 times as much as EBA-PRNetCC34 and 1.88 times as much as "
        "EBA-PRNetCC18, not 2.5 and 5 times."
    ),
    (
        "Table 1 mixes splits and boxes: the rows of Simple Baseline and TFPose are test-dev with detector boxes, "
        "that of SimCC is val2017 with detector boxes, and those of EBA-PRNetCC show the pattern of val2017 with "
        "ground-truth boxes (AR - AP of 2.7 where detector boxes give about 5). Ground-truth boxes are worth "
        "about 2 AP."
    ),
    (
        "The row of EBA-PRNetCC18 at 384x288 equals that of EBA-PRNetCC34 at 256x256 in all six metrics: one of "
        "them is a copying error. The paper also gives 74.1 AP for EBA-PRNetCC34 at 256x256 in another place."
    ),
    (
        "SimCC's 36.8 M parameters are those of its 256x192 model (36,753,105). At 384x288 and k = 2 it has "
        "43,290,769, because its head grows with the input."
    ),
    (
        "In the small-scale study (64x64, 180,000 samples from scratch, two seeds) lite18 loses no accuracy against "
        "EBA-PRNetCC18 beyond the spread: ahead on sports persons, behind on everyday ones by less than two seeds "
        "differ. So short a training favours a small network; long training and lite34 were not compared."
    ),
)
