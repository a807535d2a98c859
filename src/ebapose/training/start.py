"""What a run starts from: the network with its weights and its card."""

from __future__ import annotations

import ctypes
import difflib
import inspect
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ebapose import zoo
from ebapose.card import ModelCard
from ebapose.errors import UsageError
from ebapose.inference.loading import resolve_model
from ebapose.models.pose_model import PoseModel
from ebapose.models.registry import create_model, default_card, parse_name
from ebapose.models.weights import carry_keypoints, copy_weights, load_weights, model_from_card, resize_state_dict
from ebapose.skeleton import Skeleton
from ebapose.training.config import TrainConfig
from ebapose.training.loader import refuse_other_skeleton
from ebapose.training.teacher import Teacher

# Options that weights may have been trained with differently: they are no part of the function that was learned, or
# (split_ratio) the weights are resampled.
_FREE_OPTIONS = ("sigma", "split_ratio", "dropout")
_NAMED = 12  # tensors that a note names


def build_model(
    config: TrainConfig, skeleton: Skeleton, resumed: ModelCard | None = None, older: bool = False
) -> tuple[PoseModel, ModelCard, list[str]]:
    """The network with its first weights, the card of what it will become, and notes for the person who watches.

    Weights made at another input size or split ratio are resampled; with `model.new_head`, keypoints of the same name
    keep what they have learned. Random initial weights depend on torch's random state.

    Args:
        config: the recipe.
        skeleton: of the data.
        resumed: the card of a run that goes on: its weights are in its checkpoint, `model.weights` is not read.
        older: the run goes on from a checkpoint that holds no card: `model.weights` are taken as they were when it
            began, since its seed follows from them.

    Raises:
        UsageError, InputError, ModelFileError: the model, its weights and the skeleton do not go together.
    """
    model = create_model(config.model.name, skeleton.num_keypoints, **config.model.options)
    card = default_card(model, config.name, skeleton)
    codec = (
        card.codec if config.loss.targets is None else card.codec.model_copy(update={"targets": config.loss.targets})
    )
    if config.loss.targets is not None and codec.type != "simcc":
        raise UsageError(f"loss.targets: {config.model.name} has no SimCC head")
    if config.loss.reduction != type(config.loss).model_fields["reduction"].default and codec.type != "simcc":
        raise UsageError(f"loss.reduction: {config.model.name} has no SimCC head")
    if config.loss.absent_weight and codec.type == "coordinate":
        raise UsageError(f"loss.absent_weight: {config.model.name} gives every keypoint a place")
    if config.loss.map_weight and codec.type == "heatmap":
        raise UsageError(
            f"loss.map_weight: {config.model.name} predicts its maps, there is nothing auxiliary about them"
        )
    gives_maps = "return_maps" in inspect.signature(model.forward).parameters
    if config.loss.map_weight and codec.type == "simcc" and not gives_maps:
        raise UsageError(f"loss.map_weight: {config.model.name} does not give the maps in front of its head")
    card = card.model_copy(update={"license": config.license, "source": config.source, "codec": codec})
    if resumed is not None:
        return model, card.model_copy(update={"input": resumed.input, "codec": resumed.codec}), []
    padding = {} if config.model.padding is None else {"padding": config.model.padding}
    if config.model.weights is None:
        return model, _with_input(card, padding), ["from random weights"]

    path = _weights_path(config.model.weights, config.model.name)
    state_dict, before = load_weights(path)
    notes = [f"from the weights {path.name} ({before.name})"]
    if before.architecture != model.architecture and not config.model.new_head:
        raise UsageError(
            f"model.weights: {path} holds {before.architecture}, the recipe trains {model.architecture}; "
            "model.new_head true takes the tensors that fit by name and shape"
        )
    if not config.model.new_head:
        refuse_other_skeleton(skeleton, "the training data", before.skeleton, f"the weights {path}")
    if before.architecture == model.architecture and not older:
        _refuse_other_options(model, before, path)
    old, new = before.input.size_hw, card.input.size_hw
    if before.codec.type == codec.type == "simcc" and (old, before.codec.split_ratio) != (new, codec.split_ratio):
        state_dict = resize_state_dict(state_dict, old, new, before.codec.split_ratio, codec.split_ratio)
        notes.append(f"resampled from {old[0]}x{old[1]} to {new[0]}x{new[1]}")
    if skeleton.keypoint_names != before.skeleton.keypoint_names and not older:
        names = skeleton.keypoint_names
        state_dict, kept_names = carry_keypoints(model, state_dict, before.skeleton.keypoint_names, names)
        notes += [f"keypoints that the weights know: {', '.join(kept_names)}"] if kept_names else []
        notes.append(f"new keypoints: {', '.join(name for name in names if name not in kept_names) or 'none'}")
    left = copy_weights(model, state_dict, str(path), strict=not config.model.new_head)
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        notes.append(f"new, not from the weights: {', '.join(left[:_NAMED])}{more}")
    if before.codec.type == codec.type:
        card = card.model_copy(update={"codec": codec.model_copy(update={"position": before.codec.position})})
    # Preprocessing is part of what was learned.
    kept = {key: getattr(before.input, key) for key in ("mean", "std", "padding", "crop_center")}
    return model, _with_input(card, kept | padding), notes


def _refuse_other_options(model: PoseModel, before: ModelCard, path: Path) -> None:
    """Raise UsageError where weights of the same architecture were trained with other options than the recipe's.

    Their tensors may fit all the same (another activation), and what they were trained for would be lost unsaid.
    """
    theirs = model_from_card(before, where=str(path), device="meta").design
    for option, value in model.design.items():
        if option not in _FREE_OPTIONS and theirs.get(option) != value:
            raise UsageError(
                f"model.options: {option} is {value!r}, but the weights {path} were trained with {theirs.get(option)!r}"
            )


def build_teacher(config: TrainConfig, model: PoseModel) -> Teacher | None:
    """The teacher that a recipe names, if any; the network is given the hint that learns from it.

    Raises:
        UsageError, ModelFileError: the file is no teacher, or the network has no place for a hint.
    """
    if config.teacher is None:
        return None
    teacher = Teacher(config.teacher, config.data.root / config.teacher.model, model.input_hw)
    teacher.give_hints_to(model)
    return teacher


def _with_input(card: ModelCard, changes: dict[str, Any]) -> ModelCard:
    return card.model_copy(update={"input": card.input.model_copy(update=changes)})


def _weights_path(weights: str, model: str) -> Path:
    """The file that `model.weights` means; "default": the bundled one of the architecture, nearest in size."""
    if weights != "default":
        return resolve_model(weights)
    architecture, size_hw = parse_name(model)
    cards = {path: zoo.bundled_card(path) for path in sorted(set(zoo.bundled_models().values()))}
    fitting = {path: card for path, card in cards.items() if card.architecture == architecture}
    if not fitting:
        known = sorted({card.architecture for card in cards.values()})
        near = difflib.get_close_matches(architecture, known, 1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise UsageError(f"model.weights: no bundled weights of {architecture}{hint}")
    return min(fitting, key=lambda p: abs(fitting[p].input.size_hw[0] - size_hw[0]))


def seed_after(seed: int, model: nn.Module) -> int:
    """The seed of order and augmentation for a run that starts from weights: another one for other weights.

    A chain of runs under one seed would show the same crops again in each of its links, turned, coloured and covered
    alike, and learn them by heart.
    """
    fingerprint = 0
    for value in model.state_dict().values():
        fingerprint = zlib.crc32(value.numpy(force=True).tobytes(), fingerprint)
    return int(np.random.SeedSequence([seed, fingerprint]).generate_state(1)[0])


def compile_model(model: nn.Module, how: str) -> None:
    """Compile in place: "whole" network, "regional" (each residual block on its own, compiled sooner) or "none".

    The forward function is replaced, not the module: names in the state dict and mixed precision around it stay.
    """
    if how == "whole":
        model.forward = torch.compile(model.forward, dynamic=False)
    elif how == "regional":
        for module in model.modules():
            if isinstance(module, nn.Sequential | nn.ModuleList):
                for block in module:
                    if any(True for _ in block.children()) and not isinstance(block, nn.Sequential):
                        block.forward = torch.compile(block.forward, dynamic=False)


def keep_freed_memory() -> bool:
    """Let the C library keep the memory that is freed; whether it could be told so (glibc only).

    Every step allocates and frees the same gigabyte of activations. glibc gives blocks of 32 MB and more back to the
    system at once, which has to clear each page of the next one: a third of the CPU time of a training on a CPU. It
    holds for the whole process and for good, so it is for one that does nothing but train.
    """
    trim_threshold, mmap_max = -1, -4  # names of malloc.h without their M_
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # TypeError: Windows
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in ((trim_threshold, -1), (mmap_max, 0)))
