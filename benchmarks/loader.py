"""Crops per second of one core: `ebapose.data.dataset` against decode, warp, flip one after the other.

    python benchmarks/loader.py [--pictures 200] [--rounds 3] [--size 256 192] [--picture-size 640 480]
                                [--annotations FILE]

Without an annotation file, noisy JPEGs with boxes of COCO's usual sizes are made in a temporary folder. All loaders
run alternately in one process, so that the ratio means something on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from ebapose.data.coco import CocoKeypoints, load_coco
from ebapose.data.dataset import CropDataset
from ebapose.data.transforms import AUGMENTATIONS
from ebapose.geometry.crop import image_to_crop_matrix, transform_points
from ebapose.skeleton import COCO17


def make_pictures(folder: Path, count: int, size_wh: tuple[int, int] = (640, 480), seed: int = 0) -> Path:
    """COCO-like data: JPEGs of quality 90, person boxes from small to almost the whole picture."""
    rng = np.random.default_rng(seed)
    full_width, full_height = size_wh
    images, annotations = [], []
    for i in range(count):
        smooth = cv2.resize(rng.integers(0, 256, (30, 40, 3), np.uint8), size_wh, interpolation=cv2.INTER_CUBIC)
        texture = cv2.resize(rng.normal(0, 14, (full_height // 2, full_width // 2, 3)), size_wh)
        picture = np.clip(smooth + texture, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:05d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
        height = full_height * float(np.exp(rng.uniform(np.log(0.125), np.log(0.98))))
        width = min(height * rng.uniform(0.35, 0.9), 0.94 * full_width)
        box = [rng.uniform(0, full_width - width), rng.uniform(0, full_height - height), width, height]
        points = rng.uniform(0, 1, (17, 2)) * box[2:] + box[:2]
        images.append({"id": i, "file_name": f"{i:05d}.jpg", "width": full_width, "height": full_height})
        annotations.append(
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": box,
                "area": width * height / 2,
                "iscrowd": 0,
                "keypoints": np.c_[points, np.full(17, 2)].ravel().tolist(),
            }
        )
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.keypoint_names)}
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return path


def straightforward(records: CocoKeypoints, index: int, size_hw: tuple[int, int], rng: np.random.Generator) -> dict:
    """The usual loader: read whole, to RGB, mirror the whole picture, warp."""
    record = records[index]
    image = cv2.cvtColor(cv2.imread(str(record.image_path)), cv2.COLOR_BGR2RGB)
    points, box = record.keypoints.copy(), record.box_xyxy.copy()
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
        points[:, 0] = image.shape[1] - 1 - points[:, 0]
        points = points[records.skeleton.flip_indices]
        box[[0, 2]] = image.shape[1] - 1 - box[[2, 0]]
    matrix = image_to_crop_matrix(box, size_hw, rotation_deg=rng.uniform(-30, 30), scale=rng.uniform(0.7, 1.3))[0]
    crop = cv2.warpAffine(image, matrix, (size_hw[1], size_hw[0]), flags=cv2.INTER_LINEAR)
    return {"image": crop, "keypoints": transform_points(points, matrix).astype(np.float32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 192), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--picture-size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--annotations", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        annotations = args.annotations or make_pictures(Path(folder), args.pictures, tuple(args.picture_size))
        records = load_coco(annotations).persons()
        rows = np.random.default_rng(0).permutation(len(records))[: args.pictures]
        size_hw = (args.size[0], args.size[1])
        datasets = {name: CropDataset(records, size_hw, augment=augment) for name, augment in AUGMENTATIONS.items()}
        cached = CropDataset(records, size_hw, augment=AUGMENTATIONS["paper"], cache_bytes=2**30)
        cached.preload()
        loaders = {f"ebapose, {name}": data.__getitem__ for name, data in datasets.items()}
        loaders["ebapose, paper, cached pictures"] = cached.__getitem__
        rng = np.random.default_rng(0)
        loaders = {"decode, then warp": lambda i: straightforward(records, i, size_hw, rng), **loaders}
        seconds: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(args.rounds):
            for name, load in loaders.items():
                begin = time.process_time()
                for row in rows:
                    load(int(row))
                seconds[name].append(time.process_time() - begin)
        base = min(seconds["decode, then warp"])
        for name, times in seconds.items():
            print(f"{name:34s} {len(rows) / min(times):7.0f} crops/s of CPU time   {base / min(times):5.2f}x")


if __name__ == "__main__":
    main()
