"""Batches for training and validation: which person comes when, what one process gets, crops and targets as tensors.

The order is a function of (seed, epoch) and the augmentation one of (seed, epoch, person), so the loader has no state:
it starts at any optimiser step and gives what an uninterrupted run would see there, on any number of processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ebapose.card import InputSpec
from ebapose.codecs import Coordinate, Heatmap, SimCC
from ebapose.data.coco import CocoKeypoints, load_coco
from ebapose.data.coco_file import SkeletonLike
from ebapose.data.dataset import CropDataset, Sample
from ebapose.errors import EbaposeError, InputError, UsageError
from ebapose.skeleton import SKELETONS, Skeleton
from ebapose.training.config import DataConfig, SourceConfig, TrainConfig

TargetCodec = SimCC | Heatmap | Coordinate
Key = tuple[int, int]  # (epoch, index)
_LOOK_FOR_THE_RUN_S = 2.0


@dataclass
class Batch:
    """One part of an optimiser step, or of the validation.

    Attributes:
        images: (B, 3, H, W) uint8 RGB in channels-last memory.
        targets: what the loss compares the outputs with; empty in validation.
        weights: (B, K) float32, 0 for keypoints that do not count.
        samples: the B crops' keypoints, visibility, matrices and indices; fewer than asked for, or none, where so
            many pictures are broken that the run must stop.
        broken: messages about pictures that could not be used.
    """

    images: Tensor
    targets: tuple[Tensor, ...]
    weights: Tensor
    samples: list[Sample]
    broken: list[str]

    def pin_memory(self) -> Batch:
        """Called by the loader where a GPU is used."""
        self.images, self.weights = self.images.pin_memory(), self.weights.pin_memory()
        self.targets = tuple(t.pin_memory() for t in self.targets)
        return self


def load_records(data: DataConfig) -> tuple[list[CocoKeypoints], CocoKeypoints | None]:
    """Read the annotation files: persons of each training source, and of the validation set.

    Raises:
        InputError: a file is not COCO, holds no person to learn from, or the skeletons differ.
    """

    files: dict[str, CocoKeypoints] = {}  # sources of the same file share what it holds

    def read(source: SourceConfig) -> CocoKeypoints:
        file = source.model_dump_json(exclude={"only", "smallest_px", "repeat", "complete", "augment"})
        if file not in files:
            images = None if source.images is None else data.root / source.images
            skeleton = _given_skeleton(source.skeleton, data.root)
            files[file] = load_coco(data.root / source.annotations, images, skeleton, source.category).persons()
        records = files[file]
        if source.only != "*":
            records = records.select(records.pictures_like(source.only))
        if source.smallest_px:
            width, height = (records.boxes_xyxy[:, 2:] - records.boxes_xyxy[:, :2]).T
            records = records.select((height >= source.smallest_px) | (width >= 0.75 * source.smallest_px))
        if len(records) == 0:
            of = "" if source.only == "*" else f" in a picture like {source.only!r}"
            of += f" of {source.smallest_px:g} px and more" if source.smallest_px else ""
            raise InputError(f"{data.root / source.annotations}: no person with a labelled keypoint{of}")
        return records

    train = [read(source) for source in data.train]
    val = None if data.val is None else read(data.val)
    for other in [*train[1:], *([] if val is None else [val])]:
        refuse_other_skeleton(other.skeleton, str(other.source), train[0].skeleton, str(train[0].source))
    return train, val


def _given_skeleton(given: str | dict[str, Any] | None, root: Path) -> SkeletonLike | None:
    """What a recipe says in place of an annotation file's category, for `load_coco`."""
    if isinstance(given, dict):
        return Skeleton.from_dict(given)
    return given if given is None or given in SKELETONS else root / given


def refuse_other_skeleton(found: Skeleton, found_in: str, wanted: Skeleton, wanted_by: str) -> None:
    """Raise InputError with both lists of names unless two skeletons have the same keypoints and flip pairs."""
    if found.keypoint_names != wanted.keypoint_names:
        raise InputError(
            f"{found_in}: keypoints ({', '.join(found.keypoint_names)}) differ from those of {wanted_by} "
            f"({', '.join(wanted.keypoint_names)})"
        )
    if not np.array_equal(found.flip_indices, wanted.flip_indices):
        raise InputError(
            f"{found_in}: flip pairs {found.flip_pairs} differ from those of {wanted_by} {wanted.flip_pairs}"
        )


class TrainSamples(Dataset[tuple[Sample | None, list[str]]]):
    """All training persons, of all sources, as augmented crops; keys are (epoch, index).

    An unusable picture is replaced by the next person, so that batches stay full; its message travels along. After
    more than `max_broken` pictures in a row, or all there are, the sample is None: the run, not a loader's process,
    has to say so.
    """

    def __init__(self, sources: Sequence[CocoKeypoints], config: TrainConfig, spec: InputSpec, seed: int) -> None:
        self.datasets = [
            CropDataset(
                records,
                spec.size_hw,
                padding=spec.padding,
                crop_center=spec.crop_center,
                augment=config.augment_of(source),
                seed=seed + i,
                repeat=source.repeat,
                complete=source.complete,
            )
            for i, (records, source) in enumerate(zip(sources, config.data.train, strict=True))
        ]
        self.repeats = tuple(source.repeat for source in config.data.train)
        # one row per sample of an epoch: which source, which repetition, which person
        self.rows = np.concatenate(
            [
                np.stack(np.broadcast_arrays(i, np.arange(n)[:, None], np.arange(len(r))), -1).reshape(-1, 3)
                for i, (r, n) in enumerate(zip(sources, self.repeats, strict=True))
            ]
        ).astype(np.int32)
        self.max_broken = config.data.max_broken

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> tuple[Sample | None, list[str]]:
        epoch, index = key
        broken: dict[str, None] = {}  # in their order; several persons may stand in one picture
        for attempt in range(len(self)):
            source, repetition, person = (int(n) for n in self.rows[(index + attempt) % len(self)])
            sample = self.datasets[source].try_sample((epoch * self.repeats[source] + repetition, person))
            if not isinstance(sample, InputError):
                return {**sample, "source": source}, list(broken)
            broken[str(sample)] = None
            if len(broken) > self.max_broken:
                break
        return None, list(broken)


class ValidationSamples(Dataset[tuple[Sample | None, list[str]]]):
    """The validation persons as plain crops; keys are (epoch, index), the epoch does not matter."""

    def __init__(self, records: CocoKeypoints, spec: InputSpec) -> None:
        self.dataset = CropDataset(records, spec.size_hw, padding=spec.padding, crop_center=spec.crop_center)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[Sample | None, list[str]]:
        sample = self.dataset.try_sample(key[1])
        return (None, [str(sample)]) if isinstance(sample, InputError) else (sample, [])


@dataclass(frozen=True)
class Plan:
    """How an epoch's samples are dealt out.

    Attributes:
        num_samples: persons in an epoch, repetitions counted.
        batch_size: samples per optimiser step over all processes and parts.
        parts: how many parts each process works a step off in (gradient accumulation).
        rank, world: this process, and how many there are.
        seed: of the order.
    """

    num_samples: int
    batch_size: int
    parts: int
    rank: int
    world: int
    seed: int

    def __post_init__(self) -> None:
        shares = self.parts * self.world
        if self.batch_size % shares or self.batch_size // shares < 2:
            raise UsageError(
                f"run.batch_size: {self.batch_size} does not split into {self.world} processes x {self.parts} parts "
                "(run.accumulation) of equal size, 2 or more"
            )
        if self.num_samples < self.batch_size:
            raise UsageError(
                f"run.batch_size: one step takes {self.batch_size} persons, the training set has {self.num_samples}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch; the remainder, other persons in every epoch, is left out."""
        return self.num_samples // self.batch_size

    def keys(self, step: int) -> list[list[Key]]:
        """This process's parts of an optimiser step, each a list of (epoch, index)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        begin = position * self.batch_size
        share = self._order(epoch)[begin : begin + self.batch_size].reshape(self.parts, self.world, -1)[:, self.rank]
        return [[(epoch, int(i)) for i in part] for part in share]

    def _order(self, epoch: int) -> NDArray[np.intp]:
        cached = self.__dict__.get("_cached")
        if cached is None or cached[0] != epoch:
            cached = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_samples))
            self.__dict__["_cached"] = cached
        return cached[1]

    def parts_of(self, first_step: int, num_steps: int) -> Iterator[list[Key]]:
        """All parts from `first_step` to the end of the run: the loader's batch sampler."""
        for step in range(first_step, num_steps):
            yield from self.keys(step)


class TrainCollate:
    """Stack samples and encode their targets, in the loader's processes.

    Args:
        codec: of the targets.
        absent_weight: of keypoints that are not in the crop. Their target is no place at all: as much in every bin of
            SimCC, an empty heatmap.
    """

    def __init__(self, codec: TargetCodec, absent_weight: float = 0.0) -> None:
        self.codec = codec
        self.absent_weight = absent_weight

    def __call__(self, items: list[tuple[Sample | None, list[str]]]) -> Batch:
        """Samples with their messages to one batch."""
        samples = [sample for sample, _ in items if sample is not None]
        if not samples:
            return collate_validation(items)
        keypoints = np.stack([s["keypoints"] for s in samples])
        visible = np.stack([s["visibility"] for s in samples]) > 0
        targets, inside = encode_targets(self.codec, keypoints, visible)
        weights = inside * np.stack([s["weights"] for s in samples])
        if self.absent_weight:
            absent = np.stack([s["absent"] for s in samples]) | (visible & (inside == 0))
            weights[absent] = self.absent_weight
            if isinstance(self.codec, SimCC):
                for target in targets:
                    target[absent] = 1 / target.shape[-1]
        return Batch(
            images=_images(samples),
            targets=tuple(torch.from_numpy(np.ascontiguousarray(t)) for t in targets),
            weights=torch.from_numpy(np.ascontiguousarray(weights, np.float32)),
            samples=[_without_image(s) for s in samples],
            broken=[message for _, messages in items for message in messages],
        )


def encode_targets(
    codec: TargetCodec, keypoints: NDArray[np.float32], visible: NDArray[np.bool_]
) -> tuple[tuple[NDArray[Any], ...], NDArray[np.float32]]:
    """Keypoints (B, K, 2) in crop px to the codec's targets, and weights (B, K) of 0 and 1."""
    if isinstance(codec, SimCC) and codec.targets == "one_hot":
        labels, weights = codec.encode_labels(keypoints, visible)
        axes = zip(codec.bins_wh, np.moveaxis(labels, -1, 0), strict=True)
        return tuple((np.arange(bins) == label[..., None]).astype(np.float32) for bins, label in axes), weights
    *targets, weights = codec.encode(keypoints, visible)
    if isinstance(codec, Coordinate):  # TFPose's auxiliary maps, at a quarter of the crop's size
        targets.append(Heatmap(codec.size_hw).encode(keypoints, visible)[0])
    return tuple(targets), weights


def collate_validation(items: list[tuple[Sample | None, list[str]]]) -> Batch:
    """Stack the usable samples; a batch may come out empty."""
    samples = [sample for sample, _ in items if sample is not None]
    return Batch(
        images=_images(samples) if samples else torch.empty(0),
        targets=(),
        weights=torch.empty(0),
        samples=[_without_image(s) for s in samples],
        broken=[message for _, messages in items for message in messages],
    )


def _images(samples: Sequence[Sample]) -> Tensor:
    return torch.from_numpy(np.stack([s["image"] for s in samples])).permute(0, 3, 1, 2)


def _without_image(sample: Sample) -> Sample:
    return {**sample, "image": np.empty((0, 0, 3), np.uint8)}


class _Batches:
    """An iterable of key lists that can be walked more than once."""

    def __init__(self, parts: list[list[Key]] | tuple[Plan, int, int]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[list[Key]]:
        if isinstance(self.parts, list):
            return iter(self.parts)
        plan, first_step, num_steps = self.parts
        return plan.parts_of(first_step, num_steps)

    def __len__(self) -> int:
        if isinstance(self.parts, list):
            return len(self.parts)
        plan, first_step, num_steps = self.parts
        return (num_steps - first_step) * plan.parts


def train_loader(
    samples: TrainSamples,
    plan: Plan,
    first_step: int,
    num_steps: int,
    codec: TargetCodec,
    config: TrainConfig,
    pin: bool,
) -> DataLoader[Batch]:
    """One loader for the whole run: its processes live on from epoch to epoch and never wait at an epoch's end."""
    collate = TrainCollate(codec, config.loss.absent_weight)
    return _loader(samples, _Batches((plan, first_step, num_steps)), collate, config.run.workers, pin)


def validation_loader(
    samples: ValidationSamples, batch_size: int, rank: int, world: int, workers: int, pin: bool
) -> DataLoader[Batch]:
    """Every world-th person for this process: no padding, so nobody is counted twice."""
    mine = [(0, index) for index in range(rank, len(samples), world)]
    parts = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
    return _loader(samples, _Batches(parts), collate_validation, workers, pin)


def _loader(samples: Dataset[Any], batches: _Batches, collate: Any, workers: int, pin: bool) -> DataLoader[Batch]:
    return DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_run,
    )


@contextlib.contextmanager
def walk(loader: DataLoader[Batch]) -> Iterator[Iterator[Batch]]:
    """The batches of a loader, whose processes end with the block, whatever ends it.

    An exception's traceback holds on to them otherwise, and since they ignore SIGTERM, Python would wait for them at
    its exit for ever. Raises EbaposeError where the system has ended one of them.
    """
    batches = iter(loader)
    try:
        yield batches
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise EbaposeError(
            f"a loading process was ended by the system ({error}); where memory ran out, fewer run.workers need less; "
            "--resume goes on from the last checkpoint"
        ) from None
    finally:
        if loader.num_workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]  # there is no public way to end them


def _leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C, `timeout` and job schedulers signal all processes: the run ends in order, and its workers with it.

    Also where it is killed: then nobody takes the batches any more, and a worker would wait for that for ever.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_FOR_THE_RUN_S)
    os._exit(1)
