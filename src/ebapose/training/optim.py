"""Optimisers, learning rate schedules and averaged weights.

Adding a new optimiser: build it in `build_optimizers` and add its name to `training.config.OptimConfig`. Its state must
consist of tensors: `training.checkpoint` stores them by parameter name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ebapose.errors import UsageError
from ebapose.training.config import OptimConfig

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)


def lr_factor(step: int, num_steps: int, steps_per_epoch: int, config: OptimConfig) -> float:
    """What the peak learning rate is multiplied by at optimiser step `step` (0 .. num_steps - 1).

    A function of the step alone, so that a resumed run needs no scheduler state.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "step":
        return config.gamma ** sum(step >= round(m * steps_per_epoch) for m in config.milestones)
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, num_steps - 1 - config.warmup_steps)
        cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return config.final_lr_factor + (1 - config.final_lr_factor) * cosine
    return 1.0


def check_schedule(config: OptimConfig, num_steps: int, steps_per_epoch: int) -> None:
    """Raise UsageError where a run of `num_steps` is too short for its schedule."""
    if config.warmup_steps > num_steps:
        raise UsageError(f"optim.warmup_steps: {config.warmup_steps} are more than the {num_steps} steps of the run")
    for milestone in config.milestones:
        if round(milestone * steps_per_epoch) >= num_steps:
            epochs = num_steps / steps_per_epoch
            raise UsageError(f"optim.milestones: {milestone:g} is not within the {epochs:g} epochs of the run")


def freeze(model: nn.Module, prefixes: Iterable[str], batch_norm: bool) -> None:
    """Exclude parameters from training: by name prefix, and those of batch norms where `batch_norm`.

    Raises UsageError for a prefix that fits no parameter, and when nothing remains to be trained.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise UsageError(f"model.frozen: no parameter starts with {prefix!r}")
    for name, parameter in model.named_parameters():
        if any(name.startswith(prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
    if batch_norm:
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError("model.frozen: nothing remains to be trained")


def training_mode(model: nn.Module, prefixes: Iterable[str], frozen_batch_norm: bool) -> None:
    """`model.train()`, but the norms that are frozen keep their statistics."""
    model.train()
    prefixes = tuple(prefixes)
    for name, module in model.named_modules():
        if isinstance(module, _NORMS) and (frozen_batch_norm or (prefixes and f"{name}.".startswith(prefixes))):
            module.eval()


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Trained parameters by (weight decay, lr factor, matrix or not).

    Norms, biases and `nn.Embedding` do not decay; matrices that a model holds itself do (TFPose's queries).
    Each group holds `params`, `names`, `weight_decay`, `lr_factor` and `matrix` (fit for Muon).
    """
    undecayed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, (*_NORMS, nn.Embedding))
        for parameter in module.parameters(recurse=False)
    }
    unused = set(config.lr_factors)
    groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        matching = [prefix for prefix in config.lr_factors if name.startswith(prefix)]
        unused.difference_update(matching)
        if not parameter.requires_grad:
            continue
        factor = config.lr_factors[max(matching, key=len)] if matching else 1.0
        plain = parameter.ndim < 2 or id(parameter) in undecayed
        key = (0.0 if plain else config.weight_decay, factor, not plain)
        group = groups.setdefault(
            key, {"params": [], "names": [], "weight_decay": key[0], "lr_factor": factor, "matrix": key[2]}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if unused:
        raise UsageError(f"optim.lr_factors: no parameter starts with {sorted(unused)[0]!r}")
    return list(groups.values())


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """One optimiser, or for "muon" two: matrices, and the rest."""
    muon: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for group in parameter_groups(model, config):
        (muon if group.pop("matrix") and config.name == "muon" else rest).append(group)
    optimizers: list[torch.optim.Optimizer] = []
    if muon:
        optimizers.append(Muon(muon, lr=config.lr, momentum=config.momentum))
    if rest:
        kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        optimizers.append(kind(rest, lr=config.lr, betas=config.betas, eps=config.eps))
    return optimizers


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Set the learning rate of every group, times the group's factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised (Jordan et al. 2024), for linear and convolution weights.

    A convolution's weight counts as a matrix (out, in * kh * kw). The update is scaled to the size of AdamW's (0.2 *
    sqrt(longer side), Liu et al. 2025), so that AdamW's learning rate and weight decay serve. torch.optim.Muon takes
    no convolutions and always computes in bfloat16, which is slow on CPUs without it.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, iterations: int = 5):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "iterations": iterations, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the parameters' gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"])  # Nesterov
                matrix = orthogonalize(update.flatten(1), group["iterations"])
                scale = 0.2 * math.sqrt(max(matrix.shape))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(matrix.view(parameter.shape), alpha=-group["lr"] * scale)


def orthogonalize(matrix: Tensor, iterations: int = 5) -> Tensor:
    """A matrix (m, n) of the same singular vectors with singular values near 1 (0.7 .. 1.2), by Newton-Schulz steps.

    The polynomial of the short side's Gram matrix is composed first and applied once: two products with the long side
    instead of two per step.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # quintic with the steepest slope at 0 (Jordan et al. 2024)
    x = matrix.float()  # a Gram matrix in bfloat16 would lose the small singular values
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    identity = torch.eye(len(gram), device=x.device)
    composed = identity
    for step in range(iterations):
        factor = a * identity + b * gram + c * gram @ gram
        composed = factor @ composed
        if step < iterations - 1:
            gram = factor @ gram @ factor
    x = composed @ x
    return (x.T if tall else x).to(matrix.dtype)


class Ema:
    """Exponentially averaged weights and buffers of a model.

    Early on the decay is (1 + step) / (10 + step), so that the average forgets the initial weights.

    Attributes:
        model: a copy of the model in evaluation mode that holds the averages.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step number `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self.model.state_dict(), model.state_dict()
        averaged = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in averaged], [theirs[n] for n in averaged], 1 - decay)
        for name in mine.keys() - set(averaged):
            mine[name].copy_(theirs[name])
