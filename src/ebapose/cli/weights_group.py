"""The verbs of `ebapose weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from ebapose.cli.terminal import ProgressBar


def import_weights(
    checkpoint: tyro.conf.Positional[Path],
    /,
    *,
    out: Path,
    input_hw: tuple[int, int] | None = None,
    targets: Literal["gaussian", "one_hot"] = "gaussian",
    sigma: float | None = None,
    color: Literal["bgr", "rgb"] = "bgr",
    skeleton: str = "coco17",
    license: str = "",  # noqa: A002 - the card's word
) -> int:
    """Convert a published SimCC or Simple Baseline checkpoint (.pth) into weights with a card. Only its numbers
    are read: no code of it runs.

    Args:
        checkpoint: The published file; architecture and size are recognised by its tensors.
        out: The .safetensors file to write.
        input_hw: Input height and width, where neither the tensors nor the file name say it.
        targets: What SimCC was trained with.
        sigma: Of SimCC's Gaussian targets, in bins; default: the architecture's.
        color: Channel order of the training pictures; the published configurations say BGR.
        skeleton: Name (coco17, lsp14, mpii16, crowdpose14) or file of the checkpoint's keypoints.
        license: Of the checkpoint, for the card.
    """
    from ebapose.data.coco_file import load_skeleton
    from ebapose.models.official import import_official

    card = import_official(
        checkpoint,
        out,
        input_hw=input_hw,
        targets=targets,
        sigma=sigma,
        color=color,
        skeleton=load_skeleton(skeleton),
        license=license,
    )
    print(f"{out}: {card.name}")
    return 0


def average_weights(
    weights: tyro.conf.Positional[tuple[Path, ...]],
    /,
    *,
    out: Path,
    shares: tuple[float, ...] = (),
) -> int:
    """Write the mean of several weights files that were trained from the same weights; it often generalises better.

    Args:
        weights: Files of the same model, or names of bundled ones, two or more; another input size is resampled to the
            first one's.
        out: The .safetensors file to write; its card, with the parts named, lies beside it. Calibrate it afterwards.
        shares: One number per file, for a weighted mean; all alike if not given.
    """
    from ebapose.inference.loading import resolve_model
    from ebapose.models.weights import average_weights as run_average

    card = run_average([resolve_model(path) for path in weights], out, shares)
    parts = ", ".join(f"{part['share']:.3g} {part['file']}" for part in card.about["average_of"])
    print(f"{out}: {card.name}, mean of {parts}")
    return 0


def calibrate_weights(
    weights: tyro.conf.Positional[Path],
    /,
    *,
    annotations: tuple[Path, ...],
    images: Path | None = None,
    skeleton: str | None = None,
    category: str | None = None,
    position: Literal["peak", "expected"] | None = None,
) -> int:
    """Make scores and standard deviations mean what they say: measure them on data, correct them in the card.

    Args:
        weights: The .safetensors file whose card is replaced.
        annotations: COCO keypoint annotations of persons that the model was not trained on; several files count alike.
        images: Folder of the pictures; found beside the annotations if it has a usual name.
        skeleton: Name (coco17, lsp14, mpii16, crowdpose14) or file of the skeleton; default: that of the annotations.
        category: Name of the category, if several have keypoints.
        position: How a SimCC model reads its distributions from now on: the peak, as published, or the place nearest to
            the truth on average, which is better where the model is often unsure. As before if not given.
    """
    from ebapose.evaluation.run import calibrate_weights as run_calibration

    with ProgressBar("calibrating", "pictures", quiet=False) as progress:
        gain = run_calibration(
            weights,
            annotations,
            images_dir=images,
            skeleton=skeleton,
            category=category,
            position=position,
            on_start=progress.start,
            on_image=progress.advance,
        )
    print(
        "on persons not fitted to: expected calibration error of the scores "
        f"{gain.score_error_before:.3f} -> {gain.score_error_after:.3f}, errors within one sigma "
        f"{gain.within_sigma_before:.3f} -> {gain.within_sigma_after:.3f} (0.683 is right)"
    )
    return 1 if gain.unreadable else 0
