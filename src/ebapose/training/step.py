"""One optimiser step: part after part forward and backward, then gradients shared, judged, clipped and applied."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from ebapose.card import ModelCard
from ebapose.training.config import TrainConfig
from ebapose.training.loader import Batch
from ebapose.training.loss import compute_loss
from ebapose.training.teacher import Teacher
from ebapose.training.trouble import not_finite
from ebapose.training.validation import normalize


@dataclass(frozen=True)
class StepResult:
    """What a step tells.

    Attributes:
        loss: mean over the samples of all processes.
        gradient_norm: before it was clipped.
        terms: of the loss, of this process's last part.
        stopping: whether any process was told to stop.
    """

    loss: float
    gradient_norm: float
    terms: dict[str, Tensor]
    stopping: bool


@dataclass(frozen=True, eq=False)
class OptimizerStep:
    """What a step needs, the same for all of a run.

    Attributes:
        model: whose parameters are trained.
        network: the same, as the accelerator prepared it.
        optimizers: as the accelerator prepared them.
        card: of the model.
        config: the recipe.
        teacher: what is learned from besides the labels.
        accelerator: of this process.
        out: the run's folder, where a batch is kept that cannot be learned from.
    """

    model: nn.Module
    network: nn.Module
    optimizers: Sequence[AcceleratedOptimizer]
    card: ModelCard
    config: TrainConfig
    teacher: Teacher | None
    accelerator: Accelerator
    out: Path

    def take(self, step: int, batches: Sequence[Batch], stop: bool) -> StepResult:
        """Learn from the batches, this process's parts of the step.

        Args:
            step: its number.
            batches: none of them empty.
            stop: whether this process was told to stop.

        Raises:
            EbaposeError: loss or gradient is not finite; nothing was learned, and the batch is in the run's folder.
        """
        accelerator, device = self.accelerator, self.accelerator.device
        rank = accelerator.process_index
        _seed(self.config.run.seed, step, rank)
        total = torch.zeros((), device=device)
        terms: dict[str, Tensor] = {}
        suspect = batches[0]
        # Gradients travel between processes only with the last part.
        for part, batch in enumerate(batches):
            last = part == len(batches) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.network):
                loss, terms = self._loss(batch)
                accelerator.backward(loss / len(batches))
            total += loss.detach() / len(batches)
            suspect = suspect if torch.isfinite(loss) else batch

        mean_loss, stopping = _agree(total, stop, accelerator)
        if not np.isfinite(mean_loss):
            raise not_finite("loss", mean_loss, step, suspect, self.out, rank)
        norm = _clip(self.model, self.config.optim.clip_norm, accelerator)
        if not np.isfinite(norm) and accelerator.scaler is None:  # a scaler skips such a step, and scales less
            raise not_finite("gradient", norm, step, suspect, self.out, rank)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return StepResult(mean_loss, norm, terms, stopping)

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one part, a float32 scalar, and its terms."""
        card, config, device = self.card, self.config, self.accelerator.device
        images = normalize(batch.images.to(device, non_blocking=True), card.input)
        targets = tuple(t.to(device, non_blocking=True) for t in batch.targets)
        with self.accelerator.autocast():
            wants_maps = card.codec.type == "simcc" and (config.loss.map_weight > 0 or self.teacher is not None)
            outputs = self.network(images, return_maps=True) if wants_maps else self.network(images)
        weights = batch.weights.to(device, non_blocking=True)
        loss, terms = compute_loss(outputs, targets, weights, card.codec.type, config.loss)
        if self.teacher is not None:
            taught = self.teacher.losses(outputs[3], self.teacher.look(batch.images))
            loss = loss + torch.stack(list(taught.values())).sum()
            terms |= {name: value.detach() for name, value in taught.items()}
        return loss, terms


def _seed(seed: int, step: int, rank: int) -> None:
    """Let random numbers in the network (dropout) depend on the step alone: resuming needs no generator state."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _agree(loss: Tensor, stop: bool, accelerator: Accelerator) -> tuple[float, bool]:
    """Mean loss over the processes, and whether any of them was told to stop."""
    both = torch.stack([loss.float(), torch.tensor(float(stop), device=loss.device)])
    if accelerator.num_processes > 1:
        both = accelerator.reduce(both, reduction="mean")
    mean, stopping = both.tolist()
    return mean, stopping > 0


def _clip(model: nn.Module, largest: float | None, accelerator: Accelerator) -> float:
    """Norm of the gradient before it was clipped."""
    return float(accelerator.clip_grad_norm_(model.parameters(), float("inf") if largest is None else largest))
