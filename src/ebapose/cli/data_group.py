"""The verbs of `ebapose data`: each function is one command; its signature and docstring are the command's options and
help. They print for a person and return the exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ebapose.cli.terminal import print_json, print_rich
from ebapose.errors import UsageError


def check(
    annotations: Path,
    /,
    images: Path | None = None,
    *,
    skeleton: str | None = None,
    category: str | None = None,
    pictures: bool = True,
    examples: int = 3,
    json: bool = False,
) -> int:
    """Find what is wrong with a COCO keypoint file and its pictures.

    Args:
        annotations: the JSON file.
        images: folder of the pictures; default: looked for beside the file, as for training.
        skeleton: name (coco17, lsp14, mpii16, crowdpose14) or file of the skeleton; default: that of the file.
        category: name of the category, if several have keypoints.
        pictures: decode every picture too.
        examples: how many places to name for each kind of problem.
        json: print JSON instead of tables.

    Returns:
        0 if there is no error (there may be warnings), else 1.
    """
    from ebapose.data.check import check_annotations

    report = check_annotations(
        annotations, images, skeleton=skeleton, category=category, read_pictures=pictures, max_examples=examples
    )
    if json:
        print_json(report.to_dict())
    else:
        print_rich(report)
    return 0 if report.ok else 1


def show(
    annotations: Path,
    /,
    out: Path = Path("sheet.png"),
    *,
    images: Path | None = None,
    skeleton: str | None = None,
    category: str | None = None,
    count: int = 24,
    size_hw: tuple[int, int] = (256, 192),
    augment: Literal["none", "paper", "strong"] = "none",
    seed: int = 0,
) -> int:
    """Draw annotated persons on a sheet, as the network will see them: left orange, right blue, hidden ones faint.

    Args:
        annotations: the COCO keypoint JSON.
        out: the sheet to write, .png or .jpg.
        images: folder of the pictures; default: looked for beside the file, as for training.
        skeleton: name or file of the skeleton; default: that of the file.
        category: name of the category, if several have keypoints.
        count: how many persons.
        size_hw: height and width of each crop in px.
        augment: also change them at random as training does.
        seed: another seed shows other persons.

    Returns:
        0.
    """
    from ebapose.data.coco import load_coco
    from ebapose.data.show import contact_sheet, write_sheet
    from ebapose.data.transforms import AUGMENTATIONS

    records = load_coco(annotations, images, skeleton, category).persons()
    changes = None if augment == "none" else AUGMENTATIONS[augment]
    write_sheet(out, contact_sheet(records, count=count, size_hw=size_hw, augment=changes, seed=seed))
    print(f"{out}: {min(count, len(records)) if changes is None else count} of {len(records)} persons")
    return 0


def convert(
    kind: Literal["lsp", "mpii", "crowdpose", "yolo"],
    source: Path,
    out: Path,
    /,
    *,
    images: Path | None = None,
    split: str = "train",
    skeleton: str | None = None,
) -> int:
    """Make COCO keypoint JSON of another data set's labels. The pictures stay where they are.

    Args:
        kind: lsp (LSP and LSP-Extended, joints.mat), mpii (.mat release or JSON), crowdpose (JSON), yolo (data.yaml).
        source: the labels: joints.mat, mpii_human_pose_v1_u12_1.mat, crowdpose_train.json, data.yaml, ...
        out: the JSON to write.
        images: folder of the pictures; default: `images` beside the source. YOLO's data.yaml names it itself.
        split: for yolo a key of data.yaml; for mpii train or all.
        skeleton: for yolo with other keypoints than COCO's: name or file of the skeleton.

    Returns:
        0.
    """
    from ebapose.data.convert import crowdpose_to_coco, lsp_to_coco, mpii_to_coco
    from ebapose.data.convert_yolo import yolo_to_coco

    folder = images or source.parent / "images"
    if kind == "lsp":
        done = lsp_to_coco(source, folder, out)
    elif kind == "crowdpose":
        done = crowdpose_to_coco(source, folder, out)
    elif kind == "yolo":
        done = yolo_to_coco(source, out, split, skeleton)
    elif split in ("train", "all"):
        done = mpii_to_coco(source, folder, out, "all" if split == "all" else "train")
    else:
        raise UsageError(f"MPII has no split {split!r}: choose train or all")
    print(f"{done.path}: {done.num_images} pictures, {done.num_persons} persons")
    for line in done.skipped[:10]:
        print(f"left out: {line}")
    if len(done.skipped) > 10:
        print(f"left out: {len(done.skipped) - 10} more")
    return 0


def synth(
    out: Path,
    /,
    *,
    images: int = 1000,
    validation: int | None = None,
    seed: int = 0,
    size_hw: tuple[int, int] = (128, 128),
    max_people: int = 2,
    turn_deg: float = 50.0,
) -> int:
    """Draw people with exact COCO-17 keypoints: data to try everything with, without a download.

    Args:
        out: folder to make; it gets `images`, `annotations.json` and, for other pictures, `validation.json`.
        images: how many pictures.
        validation: how many more pictures in validation.json; default: a tenth of `images`.
        seed: the same seed draws the same pictures.
        size_hw: height and width of the pictures in px.
        max_people: persons per picture, at most.
        turn_deg: they turn away from the viewer by up to this angle; 180 shows them from behind too.

    Returns:
        0.
    """
    from ebapose.data.synthetic import make_dataset

    others = -(-images // 10) if validation is None else validation
    path = make_dataset(out, images, seed, size_hw, max_people, turn_deg, others)
    print(f"{path}: {images} pictures")
    if others:
        print(f"{path.with_name('validation.json')}: {others} others")
    return 0
