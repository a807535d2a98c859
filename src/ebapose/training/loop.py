"""The training loop. It reads from top to bottom: what is trained, on what, how; then step after step until the end.

A run lives in one folder: `recipe.yaml` (as used), `checkpoint.safetensors` (to resume), `weights.safetensors` with its
card (to use: averaged weights, the best or last validated), `log.csv`, `tensorboard/` and, at the end, `result.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list, gather_object
from torch import nn

from ebapose.atomic import write_text
from ebapose.card import card_path, refuse_shared_card
from ebapose.codecs import build_codec
from ebapose.config import dump_yaml, parse_config
from ebapose.errors import InputError, UsageError
from ebapose.models.weights import beyond_float16, save_weights
from ebapose.training.checkpoint import (
    CHECKPOINT_NAME,
    Origin,
    Progress,
    is_there,
    load_checkpoint,
    read_origin,
    refuse_other_data,
    remove_leftovers,
    save_checkpoint,
)
from ebapose.training.config import TrainConfig
from ebapose.training.loader import (
    Plan,
    TrainSamples,
    ValidationSamples,
    load_records,
    train_loader,
    validation_loader,
    walk,
)
from ebapose.training.monitor import Monitor
from ebapose.training.optim import Ema, build_optimizers, check_schedule, freeze, lr_factor, set_lr, training_mode
from ebapose.training.start import build_model, build_teacher, compile_model, seed_after
from ebapose.training.step import OptimizerStep
from ebapose.training.teacher import HINT
from ebapose.training.trouble import note_broken, stop_signals, writing
from ebapose.training.validation import as_metrics, check_metric, draw_panel, measure, predict

WEIGHTS_NAME = "weights.safetensors"
_FILES = (CHECKPOINT_NAME, WEIGHTS_NAME, "recipe.yaml", "result.json", "log.csv")


@dataclass(frozen=True)
class TrainResult:
    """How a run ended; also `result.json`.

    Attributes:
        weights: the written weights, to be given to `ebapose.load`; None if an interrupted run has not written any.
        finished: "complete", "early stop" (no better validation for `run.patience`) or "interrupted" (by a signal; a
            checkpoint was written).
        steps, samples, epochs: done, over all resumed parts.
        elapsed_s: time in s, over all resumed parts.
        best: value of `run.metric` (0..1) of the best validation, None without validation.
        best_step: steps done when it was reached.
        validation: metrics of the last validation, 0..1, by name.
        broken: messages about pictures that could not be used, of all processes.
    """

    weights: Path | None
    finished: str
    steps: int
    samples: int
    epochs: float
    elapsed_s: float
    best: float | None
    best_step: int
    validation: dict[str, float]
    broken: tuple[str, ...]

    def summary(self) -> str:
        """What happened, in one or two lines for a person."""
        best = "" if self.best is None else f", best {self.best:.3f} after step {self.best_step}"
        lines = [f"{self.finished}: {self.samples} samples in {self.steps} steps, {self.elapsed_s / 60:.1f} min{best}"]
        if self.weights is not None:
            lines.append(f"weights: {self.weights}")
        return "\n".join(lines)


def train(config: TrainConfig | Mapping[str, Any], out: str | Path, resume: bool = False) -> TrainResult:
    """Train a recipe.

    Args:
        config: the recipe, or the same as plain data.
        out: the run's folder.
        resume: go on from the folder's checkpoint, in the middle of an epoch if need be. On a CPU the result is to
            the bit that of an uninterrupted run. Without a checkpoint the run starts from the beginning. A run's length
            (`run.samples`, `run.epochs`) may be another one than before: the learning rate goes on by the new plan. So
            may `run.validate_every`.

    Started by torchrun or `accelerate launch`, the processes share each step's samples.

    Raises:
        UsageError, InputError: the recipe or the data cannot be used; nothing was started.
        EbaposeError: the loss is not finite (the batch is saved in the run's folder), too many pictures are broken, or
            the disk is full; the last checkpoint remains.
    """
    if not isinstance(config, TrainConfig):
        config = parse_config(TrainConfig, config, "recipe")
    out, run = Path(out), config.run
    checkpoint_path, weights_path = out / CHECKPOINT_NAME, out / WEIGHTS_NAME
    accelerator = _accelerator(config)
    device, world = accelerator.device, accelerator.num_processes
    begun = is_there(checkpoint_path)
    if begun and not resume:
        raise UsageError(f"{out}: already holds a run: resume it, or choose another folder")
    if not begun and is_there(weights_path):
        raise UsageError(f"{out}: holds weights, but no checkpoint to go on from: choose another folder")
    refuse_shared_card(weights_path)

    # What is learned from.
    sources, val_records = load_records(config.data)
    skeleton = sources[0].skeleton
    if val_records is not None:
        check_metric(run.metric, val_records)

    # What is trained.
    torch.manual_seed(run.seed)
    origin = read_origin(checkpoint_path) if begun else None
    resumed = None if origin is None else origin.card
    model, card, notes = build_model(config, skeleton, resumed, older=begun and origin is None)
    spec, codec = card.input, build_codec(card.codec, card.input, skeleton)
    if origin is None:
        origin = Origin(run.seed if config.model.weights is None else seed_after(run.seed, model), card)
    seed = origin.seed
    teacher = build_teacher(config, model)
    model.to(device)
    if run.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = Ema(model, config.optim.ema_decay) if config.optim.ema_decay else None
    if world > 1 and device.type == "cuda" and run.sync_batch_norm and not config.model.freeze_batch_norm:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    freeze(model, config.model.frozen, config.model.freeze_batch_norm)
    optimizers = build_optimizers(model, config.optim)

    # How long.
    samples = TrainSamples(sources, config, spec, seed)
    plan = Plan(len(samples), run.batch_size, run.accumulation, accelerator.process_index, world, seed)
    if run.samples is not None:
        num_steps = max(1, run.samples // run.batch_size)
    else:
        num_steps = max(1, round((run.epochs or 0) * plan.steps_per_epoch))
    validate_steps = max(1, round(run.validate_every * plan.steps_per_epoch))
    check_schedule(config.optim, num_steps, plan.steps_per_epoch)

    # Where it stands.
    data = sources if val_records is None else [*sources, val_records]
    progress, recipe = Progress(persons=[len(records) for records in data]), config.model_dump(mode="json")
    scaler_state = None
    if begun:
        persons, averaged = progress.persons, ema.model if ema else None
        progress, scaler_state, changes = load_checkpoint(checkpoint_path, model, averaged, optimizers, recipe)
        notes = [f"resumed after step {progress.step} of {num_steps}", *changes]
        refuse_other_data(progress.persons, data, checkpoint_path)
        if progress.step > num_steps:
            raise UsageError(f"{checkpoint_path}: {progress.step} steps are done already, the recipe plans {num_steps}")
        if progress.step == num_steps and not is_there(weights_path):
            raise UsageError(f"{out}: {num_steps} steps are done already, and no weights were written yet: plan more")
        progress.persons = persons
    stopped_early = run.patience is not None and progress.bad_validations >= run.patience
    end = progress.step if stopped_early else num_steps
    if accelerator.scaler is not None and scaler_state is not None:
        accelerator.scaler.load_state_dict(scaler_state)
    if accelerator.is_main_process:
        with writing(out):
            remove_leftovers(*(out / name for name in (*_FILES, card_path(weights_path).name)))
            write_text(out / "recipe.yaml", dump_yaml(config))
            if progress.step < end:  # of a run that was shorter then
                (out / "result.json").unlink(missing_ok=True)

    compile_model(model, run.compile)
    network, *prepared = accelerator.prepare(model, *optimizers)
    optimizer_step = OptimizerStep(model, network, prepared, card, config, teacher, accelerator, out)
    evaluated = ema.model if ema else model
    finished = "early stop" if stopped_early else "complete"

    def checkpoint() -> None:
        progress.elapsed_s = elapsed_before + time.monotonic() - started
        if accelerator.is_main_process:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
            averaged = ema.model if ema else None
            save_checkpoint(checkpoint_path, model, averaged, optimizers, scaler, progress, recipe, origin)

    def write_weights() -> None:
        if accelerator.is_main_process:
            measured = {**card.about, **_about(config, plan, progress)}
            finished_card = card.model_copy(update={"about": measured})
            with writing(out):
                own = {name: value for name, value in evaluated.state_dict().items() if not name.startswith(HINT)}
                large = beyond_float16(own)
                if large is not None:
                    monitor.note(f"weights in float32: {large} holds a number that is too large for float16")
                save_weights(weights_path, own, finished_card, dtype="float16" if large is None else "float32")

    def validate() -> dict[str, float]:
        assert val_records is not None
        val_samples = ValidationSamples(val_records, spec)
        batch_size = max(2, run.batch_size // plan.parts // world)
        val_loader = validation_loader(val_samples, batch_size, plan.rank, world, run.workers, device.type == "cuda")
        evaluated.eval()
        with walk(val_loader) as crops:
            poses, scores, broken = predict(evaluated, crops, codec, spec, skeleton, accelerator)
        note_broken(broken, progress, config.data.max_broken, monitor.note)  # every process knows all of them
        shared: list[Any] = [measure(poses, scores, val_records) if accelerator.is_main_process else None]
        broadcast_object_list(shared)
        if accelerator.is_main_process:
            monitor.pictures(progress.step, draw_panel(evaluated, val_samples, codec, spec, device))
        return shared[0]

    started = last_checkpoint = interval_started = time.monotonic()
    elapsed_before, interval_samples = progress.elapsed_s, 0
    training_mode(model, config.model.frozen, config.model.freeze_batch_norm)
    # the loader comes first: its processes are forked while there are no other threads
    with (
        walk(train_loader(samples, plan, progress.step, end, codec, config, device.type == "cuda")) as parts,
        Monitor(out, accelerator.is_main_process, progress.step, num_steps, config.name) as monitor,
        stop_signals() as stop,
    ):
        for note in notes:
            monitor.note(note)
        for step in range(progress.step, end):
            lr = config.optim.lr * lr_factor(step, num_steps, plan.steps_per_epoch, config.optim)
            set_lr(optimizers, lr)
            due = (step + 1) % validate_steps == 0 or step + 1 == num_steps
            if due and not begun:  # weights without a checkpoint could not be gone on from
                checkpoint()
                begun = True
            batches = [next(parts) for _ in range(plan.parts)]
            for batch in batches:
                note_broken(batch.broken, progress, config.data.max_broken, monitor.warn)
                if not batch.samples:
                    raise InputError(f"no picture to learn from can be used, the first: {batch.broken[0]}")
            learned = optimizer_step.take(step, batches, bool(stop))
            if ema:
                ema.update(model, step)
            progress.step = step + 1

            # Validate, log, keep.
            interval_samples += run.batch_size
            progress.logged_samples += run.batch_size
            progress.logged_loss += learned.loss * run.batch_size
            speed = interval_samples / max(time.monotonic() - interval_started, 1e-9)
            row: dict[str, Any] = {
                "step": progress.step,
                "epoch": progress.step / plan.steps_per_epoch,
                "samples": progress.step * run.batch_size,
                "loss": progress.logged_loss / progress.logged_samples,
                "lr": lr,
                "gradient_norm": learned.gradient_norm,
                "samples_per_s": speed,
            }
            monitor.tick(progress.step, f"loss {row['loss']:.4g}  {speed:.0f} samples/s")
            if due:
                better = False
                if val_records is not None:
                    progress.validation = validate()
                    training_mode(model, config.model.frozen, config.model.freeze_batch_norm)
                    better = progress.judge(progress.validation[run.metric])
                    row |= {f"val_{name}": value for name, value in progress.validation.items()}
                    monitor.note(
                        f"epoch {row['epoch']:.2f}, step {progress.step}/{num_steps}: loss {row['loss']:.4g}, "
                        f"{as_metrics(progress.validation)}, {speed:.0f} samples/s, {monitor.eta(progress.step)} to go"
                    )
                if better or val_records is None or run.keep == "last":
                    write_weights()
            if due or progress.step % run.log_every == 0:
                monitor.row(row, {f"loss_{name}": float(value) for name, value in learned.terms.items()})
                interval_started, interval_samples = time.monotonic(), 0
                progress.logged_samples, progress.logged_loss = 0, 0.0
            if run.patience is not None and progress.bad_validations >= run.patience:
                finished = "early stop"
            ending = finished != "complete" or progress.step == num_steps or learned.stopping
            if due or ending or time.monotonic() - last_checkpoint >= run.checkpoint_every_s:
                checkpoint()
                last_checkpoint = time.monotonic()
            if finished == "early stop":
                break
            if learned.stopping and progress.step < num_steps:
                finished = "interrupted"
                monitor.note(f"stopped after step {progress.step} of {num_steps}; resume to go on")
                break
    accelerator.wait_for_everyone()
    progress.elapsed_s = elapsed_before + time.monotonic() - started
    result = TrainResult(
        weights=weights_path if weights_path.exists() else None,
        finished=finished,
        steps=progress.step,
        samples=progress.step * run.batch_size,
        epochs=progress.step / plan.steps_per_epoch,
        elapsed_s=progress.elapsed_s,
        best=progress.best_value,
        best_step=progress.best_step,
        validation=progress.validation,
        broken=tuple(dict.fromkeys(gather_object(progress.broken))),
    )
    if accelerator.is_main_process and finished != "interrupted":
        weights = WEIGHTS_NAME if result.weights else None
        text = {**asdict(result), "name": config.name, "metric": run.metric, "weights": weights}
        with writing(out):
            write_text(out / "result.json", json.dumps(text, indent=2) + "\n")
    return result


def _accelerator(config: TrainConfig) -> Accelerator:
    on_gpu = torch.cuda.is_available()
    if config.run.precision == "fp16" and not on_gpu:
        raise UsageError("run.precision: fp16 needs a GPU; choose bf16 or fp32")
    AcceleratorState._reset_state()  # it remembers the precision of an earlier run in this process
    return Accelerator(
        mixed_precision="no" if config.run.precision == "fp32" else config.run.precision,
        cpu=not on_gpu,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # not the environment's: a recipe says
    )


def _about(config: TrainConfig, plan: Plan, progress: Progress) -> dict[str, Any]:
    """What the card says about the making of the weights."""
    return {
        "recipe": config.name,
        "data": [f"{source.annotations} x{source.repeat}" for source in config.data.train],
        "samples": progress.step * plan.batch_size,
        "validation": {
            "annotations": str(config.data.val.annotations) if config.data.val else None,
            "boxes": "ground truth",
            "flip_test": True,
            **{name: round(value, 5) for name, value in progress.validation.items()},
        },
    }
