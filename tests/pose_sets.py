"""Small annotated sets and results, made by hand or at random."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebapose.skeleton import COCO17

STANDING = np.array(
    [
        (50, 10), (54, 7), (46, 7), (58, 10), (42, 10), (65, 30), (35, 30), (72, 55), (28, 55), (74, 78),
        (26, 78), (60, 85), (40, 85), (62, 120), (38, 120), (63, 155), (37, 155),
    ],
    float,
)  # fmt: skip


def annotation(
    number: int, image_id: int, keypoints: np.ndarray, visibility: Any = 2, **changes: Any
) -> dict[str, Any]:
    """A COCO annotation; box and area from the keypoints."""
    visibility = np.broadcast_to(visibility, len(keypoints))
    labelled = keypoints[visibility > 0] if (visibility > 0).any() else keypoints
    (x0, y0), (x1, y1) = labelled.min(axis=0), labelled.max(axis=0)
    triples = np.column_stack([keypoints * (visibility > 0)[:, None], visibility])
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
        "area": float((x1 - x0) * (y1 - y0) * 0.53),
        "iscrowd": 0,
        "num_keypoints": int((visibility > 0).sum()),
        "keypoints": triples.ravel().tolist(),
        **changes,
    }


def dataset(annotations: list[dict[str, Any]], image_ids: Any = (1,)) -> dict[str, Any]:
    """A COCO annotation file's content."""
    images = [{"id": int(i), "file_name": f"{i}.jpg", "width": 400, "height": 300} for i in image_ids]
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.keypoint_names)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def result(image_id: int, keypoints: np.ndarray, score: float = 0.9, scores: Any = 0.9, **extra: Any) -> dict[str, Any]:
    """One entry of a COCO results file."""
    triples = np.column_stack([keypoints, np.broadcast_to(scores, len(keypoints))])
    return {"image_id": image_id, "category_id": 1, "keypoints": triples.ravel().tolist(), "score": score, **extra}


def random_set(seed: int, num_images: int = 8, most_persons: int = 4) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations with crowds, unlabelled persons and empty pictures; results with ties and background."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        for _ in range(rng.integers(0, most_persons + 1)):
            keypoints = STANDING * rng.uniform(0.1, 1.8) + rng.uniform(0, 200, 2)
            visibility = rng.choice(3, 17, p=[0.3, 0.2, 0.5]) * (rng.random() > 0.1)
            crowd = int(rng.random() < 0.08)
            annotations.append(annotation(len(annotations) + 1, image_id, keypoints, visibility, iscrowd=crowd))
            for _ in range(rng.integers(0, 3)):
                noise = rng.normal(size=(17, 2)) * rng.choice([0.0, 2.0, 10.0])
                results.append(result(image_id, keypoints + noise, float(rng.integers(0, 6)) / 5, rng.random(17)))
        for _ in range(rng.integers(0, 3)):
            results.append(result(image_id, rng.uniform(0, 300, (17, 2)), float(rng.random()), rng.random(17)))
    return dataset(annotations, range(1, num_images + 1)), [results[i] for i in rng.permutation(len(results))]
