"""Checkpoints: everything a run needs to go on, in one safetensors file that is either complete or not there.

Tensors are named `model.NAME`, `ema.NAME` and `optimizer.PARAMETER.STATE`; the rest is one JSON text in the file's
metadata. Nothing is pickled. What a step does besides depends only on the recipe and the step's number (the learning
rate, the random numbers, which samples come next), so a checkpoint taken in the middle of an epoch continues exactly.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ebapose.atomic import atomic_write
from ebapose.card import ModelCard, parse_card
from ebapose.config import parse_config
from ebapose.data.coco import CocoKeypoints
from ebapose.errors import EbaposeError, ModelFileError, UsageError
from ebapose.training.config import TrainConfig

CHECKPOINT_NAME = "checkpoint.safetensors"
_METADATA_KEY = "ebapose_checkpoint"

# Differences in these keys do not change what is learned, only how fast or how it is watched.
_FREE_KEYS = {
    "data.root",
    "data.max_broken",
    "run.workers",
    "run.checkpoint_every_s",
    "run.log_every",
    "license",
    "source",
}
_PLAN_KEYS = {"run.samples", "run.epochs", "run.validate_every"}  # a run may be planned anew on the way


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: optimiser steps done; the next step's number.
        best_value: best validated value so far (higher is better), None before the first validation.
        best_step: steps done when it was reached.
        bad_validations: validations since then.
        elapsed_s: training time so far, over all resumed parts.
        broken: pictures that the main process could not read.
        validation: metrics of the last validation, 0..1, by name.
        persons: of each annotation file, those of the training first; empty in older checkpoints.
        logged_samples, logged_loss: since the last row of the log, samples and the sum of their losses.
    """

    step: int = 0
    best_value: float | None = None
    best_step: int = 0
    bad_validations: int = 0
    elapsed_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    validation: dict[str, float] = field(default_factory=dict)
    persons: list[int] = field(default_factory=list)
    logged_samples: int = 0
    logged_loss: float = 0.0

    def judge(self, value: float) -> bool:
        """Whether a validated value, of the step that it has come to, is the best so far; keeps count."""
        if self.best_value is None or value > self.best_value:
            self.best_value, self.best_step, self.bad_validations = value, self.step, 0
            return True
        self.bad_validations += 1
        return False


@dataclass(frozen=True)
class Origin:
    """What follows from the weights that a run began from: it goes on without them, and whatever became of them.

    Attributes:
        seed: of order and augmentation.
        card: of what is trained; its `input` and `codec` count.
    """

    seed: int
    card: ModelCard


def save_checkpoint(
    path: Path,
    model: nn.Module,
    ema: nn.Module | None,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: dict[str, Any] | None,
    progress: Progress,
    config: dict[str, Any],
    origin: Origin | None = None,
) -> None:
    """Write a checkpoint atomically: an older one stays until the new one is complete on disk.

    Raises:
        EbaposeError: it cannot be written (disk full); the older one is untouched.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if ema is not None:
        tensors.update({f"ema.{name}": value for name, value in ema.state_dict().items()})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                tensors[f"optimizer.{names[id(parameter)]}.{key}"] = torch.as_tensor(value)
    state = {"progress": asdict(progress), "scaler": scaler, "config": config, "torch": torch.__version__}
    if origin is not None:
        state["origin"] = {"seed": origin.seed, "card": origin.card.to_json()}
    # an own copy of each: safetensors takes neither shared memory nor channels-last
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        with atomic_write(path) as temporary:
            save_file(ready, temporary, metadata={_METADATA_KEY: json.dumps(state)})
    except (OSError, SafetensorError) as error:
        kept = "; the previous one is intact" if path.exists() else ""
        raise EbaposeError(f"{path}: the checkpoint cannot be written ({error}){kept}") from error


def is_there(path: Path) -> bool:
    """Whether a run's file exists. Raises UsageError unless all processes say the same: each must read a checkpoint."""
    found: list[bool] = gather_object([path.exists()])
    if any(found) and not all(found):
        raise UsageError(
            f"{path}: process {found.index(False)} of {len(found)} does not see the file that process "
            f"{found.index(True)} sees: the run's folder must be on storage that all machines read"
        )
    return found[0]


def read_origin(path: Path) -> Origin | None:
    """What the run at `path` began from; None in older checkpoints. Raises ModelFileError as `load_checkpoint` does."""
    with _opened(path) as (_, state):
        origin = state.get("origin")
        return None if origin is None else Origin(origin["seed"], parse_card(origin["card"], str(path)))


def load_checkpoint(
    path: Path,
    model: nn.Module,
    ema: nn.Module | None,
    optimizers: Sequence[torch.optim.Optimizer],
    config: dict[str, Any],
) -> tuple[Progress, dict[str, Any] | None, list[str]]:
    """Put a checkpoint's state into model, EMA and optimisers.

    Returns:
        progress, the gradient scaler's state, and a note for each key of the run's length that is another one now.

    Raises:
        ModelFileError: the file is missing or damaged.
        UsageError: it was made with another recipe; the message names the first differing key.
    """
    with _opened(path) as (file, state):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    notes = _refuse_other_recipe(state["config"], config, path)
    try:
        model.load_state_dict(_part(tensors, "model."))
        if ema is not None:
            ema.load_state_dict(_part(tensors, "ema."))
        parameters = dict(model.named_parameters())
        by_id = {id(p): optimizer for optimizer in optimizers for g in optimizer.param_groups for p in g["params"]}
        for name, value in _part(tensors, "optimizer.").items():
            parameter_name, key = name.rsplit(".", 1)
            parameter = parameters[parameter_name]
            if value.shape == parameter.shape:  # in the parameter's memory layout and place
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            by_id[id(parameter)].state[parameter][key] = value
        return Progress(**state["progress"]), state["scaler"], notes
    except (KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: the checkpoint does not fit the model ({reason:.300})") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A checkpoint's file and the JSON in its metadata. Raises ModelFileError where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {})[_METADATA_KEY])
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no checkpoint there") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: not a complete checkpoint ({error})") from None


def refuse_other_data(before: Sequence[int], data: Sequence[CocoKeypoints], path: Path) -> None:
    """Raise UsageError where a file holds another number of persons than the checkpoint at `path` was made with.

    `before` is the checkpoint's `Progress.persons`, `data` what is learned from now, in the same order.
    """
    for records, persons in zip(data, before, strict=False):  # older checkpoints name no numbers
        if len(records) != persons:
            raise UsageError(
                f"{records.source}: {len(records)} persons, but {path} was made with {persons}; "
                "to learn from other data, start a new run from the weights (model.weights)"
            )


def remove_leftovers(*paths: Path) -> None:
    """Remove what a process that was killed while it wrote one of these files left beside them.

    That is the temporary file of `atomic_write`, and beside it one of safetensors' own.
    """
    for path in paths:
        for left in path.parent.glob(f".{path.stem}.{'[0-9a-f]' * 12}{path.suffix}"):
            for partial in path.parent.glob(f".tmp{'[0-9A-Za-z]' * 6}"):
                partial.unlink(missing_ok=True)
            left.unlink(missing_ok=True)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _refuse_other_recipe(made_with: dict[str, Any], config: dict[str, Any], path: Path) -> list[str]:
    with contextlib.suppress(UsageError):  # keys that the recipe did not have then were at their defaults
        made_with = parse_config(TrainConfig, made_with, "recipe").model_dump(mode="json")
    before, now = _flatten(made_with), _flatten(config)
    notes = []
    for key in sorted(before.keys() | now.keys()):
        if key in _FREE_KEYS or before.get(key) == now.get(key):
            continue
        if key in _PLAN_KEYS:
            notes.append(f"{key}: {now.get(key)} instead of {before.get(key)}")
        else:
            raise UsageError(
                f"{key}: {now.get(key)!r}, but {path} was made with {before.get(key)!r}; "
                "to change it, start a new run from the weights (model.weights)"
            )
    return notes


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {k: v for name, part in tree.items() for k, v in _flatten(part, f"{prefix}.{name}".lstrip(".")).items()}
    return {prefix: tree}
