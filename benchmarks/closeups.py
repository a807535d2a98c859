"""A validation set of close-ups made of another one: how good is a model where only a part of a person is in the box?

    python benchmarks/closeups.py data/pose/annotations/val.json --out val_closeups.json
    ebapose evaluate default --annotations val_closeups.json --images data/pose/images --out report

Of each person one part is chosen at random, as training does with `truncation_probability`, at most `--largest` of the
box's area; its box, area and keypoints take the place of the person's. Pictures are not changed. Persons without such a
part that holds at least four labelled keypoints are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebapose.atomic import write_text
from ebapose.cli.terminal import print_error
from ebapose.data.coco_file import read_coco_json
from ebapose.data.transforms import truncated_box
from ebapose.errors import EbaposeError, InputError
from ebapose.geometry.oks import SEGMENT_SHARE

_ATTEMPTS = 40


def close_up(
    person: dict[str, Any], picture: dict[str, Any], rng: np.random.Generator, largest: float
) -> dict[str, Any] | None:
    """A part of an annotated person as an annotation of its own, or None."""
    keypoints = np.array(person["keypoints"], np.float64).reshape(-1, 3)
    x, y, w, h = person["bbox"]
    whole = np.array([x, y, x + w, y + h], np.float64)
    points, visibility = keypoints[:, :2].astype(np.float32), keypoints[:, 2].astype(np.uint8)
    limits = np.array([picture["width"], picture["height"]] * 2, np.float64)
    for _ in range(_ATTEMPTS):
        box = np.clip(truncated_box(whole, points, visibility, rng)[0], 0, limits)
        size = box[2:] - box[:2]
        if 0 < size.prod() <= largest * w * h:
            break
    else:
        return None
    inside = ((keypoints[:, :2] >= box[:2]) & (keypoints[:, :2] <= box[2:])).all(axis=1)
    keypoints[~inside] = 0
    return {
        **person,
        "bbox": [*box[:2].tolist(), *size.tolist()],
        "area": SEGMENT_SHARE * float(size.prod()),
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the annotation file to write")
    parser.add_argument("--largest", type=float, default=0.4, help="of the box's area")
    parser.add_argument("--seed", type=int, default=0)
    known = parser.parse_args(arguments)
    try:
        data = read_coco_json(known.annotations)
        pictures = {picture.get("id"): picture for picture in data["images"]}
        rng = np.random.default_rng(known.seed)
        try:
            found = [close_up(p, pictures[p["image_id"]], rng, known.largest) for p in data["annotations"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{known.annotations}: ebapose data check says what is wrong with it ({error!r})"
            ) from None
        data["annotations"] = [person for person in found if person is not None]
        shown = {person["image_id"] for person in data["annotations"]}
        data["images"] = [picture for picture in data["images"] if picture["id"] in shown]
        write_text(known.out, json.dumps(data))
    except EbaposeError as error:
        print_error(str(error))
        return 2
    print(f"{known.out}: parts of {len(data['annotations'])} of {len(found)} persons")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
