"""Validation during training: averaged weights, ground-truth boxes, flip test; every person counted once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from ebapose.card import InputSpec
from ebapose.codecs import Codec
from ebapose.data.coco import CocoKeypoints
from ebapose.errors import UsageError
from ebapose.evaluation.coco_ap import coco_ap, require_cocoeval
from ebapose.evaluation.inputs import Annotations, Results
from ebapose.evaluation.pck import pck, relative_errors, torso_sizes
from ebapose.geometry.boxes import xyxy_to_xywh
from ebapose.geometry.crop import crop_to_image
from ebapose.geometry.oks import keypoint_similarity, pose_scores
from ebapose.skeleton import Skeleton
from ebapose.structures import UInt8Array
from ebapose.training.loader import Batch, ValidationSamples
from ebapose.training.monitor import draw_samples

Poses = tuple[NDArray[np.float32], NDArray[np.float32]]


def normalize(images: Tensor, spec: InputSpec) -> Tensor:
    """uint8 RGB (B, 3, H, W) to the network's float32 input, same memory layout."""
    mean = torch.tensor(spec.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(1, 3, 1, 1)
    return (images.float() - mean) / std


@torch.no_grad()
def predict(
    model: nn.Module,
    loader: Iterable[Batch],
    codec: Codec,
    spec: InputSpec,
    skeleton: Skeleton,
    accelerator: Accelerator,
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Poses of a validation set, gathered from all processes.

    All of them use the statistics of the main process's batch norms: those are what is written.

    Returns:
        keypoints (N, K, 2) in image px and scores (N, K), NaN and 0 for persons whose picture could not be used; and
        the messages about those pictures.
    """
    found: list[tuple[int, NDArray[np.float64], NDArray[np.float32]]] = []
    broken: list[str] = []
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
    for batch in loader:
        broken += batch.broken
        if not batch.samples:
            continue
        images = normalize(batch.images.to(accelerator.device, non_blocking=True), spec)
        with accelerator.autocast():
            both = [model(images), model(images.flip(-1))]
        plain, mirrored = (tuple(o.float().cpu().numpy() for o in outputs) for outputs in both)
        decoded = codec.decode(codec.merge_flip(plain, mirrored, skeleton.flip_indices))
        points = crop_to_image(decoded.keypoints, np.stack([s["matrix"] for s in batch.samples]))
        found += list(zip([s["index"] for s in batch.samples], points, decoded.scores, strict=True))
    everything = gather_object(found)
    messages = gather_object(broken)
    num = 1 + max((index for index, _, _ in everything), default=-1)
    keypoints = np.full((num, skeleton.num_keypoints, 2), np.nan)
    scores = np.zeros((num, skeleton.num_keypoints))
    for index, points, score in everything:
        keypoints[index], scores[index] = points, score
    return keypoints, scores, sorted(set(messages))


def check_metric(metric: str, records: CocoKeypoints) -> None:
    """Raise what would end the first validation.

    Raises:
        UsageError: "pck" of a validation set in which nobody has a torso to measure by.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    require_cocoeval()
    if metric != "pck":
        return
    try:
        sizes = torso_sizes(records.keypoints, records.visibility > 0, records.skeleton)
    except UsageError as error:
        raise UsageError(f"run.metric: pck: {error}; choose oks or ap") from None
    if not np.isfinite(sizes).any():
        raise UsageError(
            f"run.metric: pck: {records.source}: nobody has both left_shoulder and right_hip labelled, so there is no "
            "torso size; take metric: oks"
        )


def measure(keypoints: NDArray[np.float64], scores: NDArray[np.float64], records: CocoKeypoints) -> dict[str, float]:
    """PCK@0.2 of the torso ("pck", where somebody's can be measured), mean OKS ("oks") and OKS AP ("ap"), each 0..1.

    Args:
        keypoints: (N, K, 2) image px, NaN for a person without a pose; N may be smaller than the set where the last
            persons have none.
        scores: (N, K) 0..1.
        records: the validation persons, all with ground-truth boxes.
    """
    missing = len(records) - len(keypoints)
    keypoints = np.concatenate([keypoints, np.full((missing, *keypoints.shape[1:]), np.nan)])
    scores = np.concatenate([scores, np.zeros((missing, scores.shape[1]))])
    labelled = records.visibility > 0
    values: dict[str, float] = {}
    try:
        sizes = torso_sizes(records.keypoints, labelled, records.skeleton)
        values["pck"] = pck(relative_errors(keypoints, records.keypoints, labelled, sizes), 0.2).overall
    except UsageError:
        pass
    distance_sq = np.nan_to_num(((keypoints - records.keypoints) ** 2).sum(-1), nan=np.inf)
    similarity = keypoint_similarity(distance_sq, records.areas[:, None], records.skeleton.sigmas)
    values["oks"] = float(((similarity * labelled).sum(1) / labelled.sum(1)).mean())
    there = np.isfinite(keypoints).all(axis=(1, 2))
    image_ids = records.image_ids[records.image_indices]
    of_poses = pose_scores(np.ones(there.sum()), scores[there])  # as `ebapose evaluate` ranks them
    poses = Results(image_ids[there], keypoints[there], scores[there], of_poses)
    values["ap"] = coco_ap(_annotations(records), poses, "gt").stats["AP"]
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def _annotations(records: CocoKeypoints) -> Annotations:
    return Annotations(
        name=records.source.name,
        skeleton=records.skeleton,
        category_id=1,
        image_ids=records.image_ids,
        file_names={},
        ids=records.annotation_ids,
        person_image_ids=records.image_ids[records.image_indices],
        keypoints=records.keypoints.astype(np.float64),
        visibility=records.visibility.astype(np.int64),
        boxes_xywh=xyxy_to_xywh(records.boxes_xyxy),
        areas=records.areas.astype(np.float64),
        iscrowd=records.iscrowd,
        num_keypoints=(records.visibility > 0).sum(axis=1),
    )


def as_metrics(values: dict[str, Any]) -> str:
    """One line for a person: "PCK@0.2 34.0, OKS 41.2, AP 2.8 (ground-truth boxes)"."""
    labels = {"pck": "PCK@0.2", "oks": "OKS", "ap": "AP"}
    return ", ".join(f"{labels[k]} {100 * v:.1f}" for k, v in values.items()) + " (ground-truth boxes)"


@torch.no_grad()
def draw_panel(
    model: nn.Module, samples: ValidationSamples, codec: Codec, spec: InputSpec, device: torch.device
) -> UInt8Array:
    """Up to eight validation crops with what the network finds: an RGB picture (H, W, 3)."""
    found = [s for s, _ in (samples[0, i] for i in range(min(8, len(samples)))) if s is not None]
    crops = [s["image"] for s in found]
    if not crops:
        return np.zeros((8, 8, 3), np.uint8)
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(device)
    poses = codec.decode(tuple(o.float().cpu().numpy() for o in model(normalize(images, spec))))
    truth, seen = np.stack([s["keypoints"] for s in found]), np.stack([s["visibility"] for s in found]) > 0
    return draw_samples(crops, poses.keypoints, truth, seen, samples.dataset.records.skeleton)
