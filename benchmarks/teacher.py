"""What a run learns from its teacher, and what from its labels, asked of the run's checkpoint.

    python benchmarks/teacher.py runs/192x128

First the norm of each loss term's gradient on each part of the network, for one augmented batch: a term whose gradient
is far below the others' on the backbone teaches it little, whatever its value says. Then, on the first persons of the
training and the validation file, upright and unchanged, averaged weights: the error of the teacher's features (1:
whoever always says the average) and PCK@0.2, one pass, of the head, of the highest cells of the maps learned from
labels and from the teacher, and of the teacher's own maps. Where the labels of the two files are not alike, the
teacher's own maps show it: what the head loses beyond that on the validation persons is what it knows by heart.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from ebapose.card import InputSpec
from ebapose.codecs import build_codec
from ebapose.config import load_config
from ebapose.data.coco import CocoKeypoints
from ebapose.evaluation.pck import pck, relative_errors, torso_sizes
from ebapose.geometry.crop import crop_to_image
from ebapose.training.checkpoint import CHECKPOINT_NAME
from ebapose.training.config import TrainConfig
from ebapose.training.loader import (
    Batch,
    Plan,
    TrainSamples,
    ValidationSamples,
    load_records,
    train_loader,
    validation_loader,
)
from ebapose.training.loss import compute_loss
from ebapose.training.start import build_model, build_teacher
from ebapose.training.validation import normalize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run with a teacher")
    parser.add_argument("--persons", type=int, default=128, help="of either file")
    parser.add_argument("--seed", type=int, default=77, help="of the augmented batch")
    args = parser.parse_args()

    config = load_config(TrainConfig, args.run / "recipe.yaml")
    sources, val = load_records(config.data)
    model, card, _ = build_model(config, sources[0].skeleton)
    teacher = build_teacher(config, model)
    if teacher is None or val is None:
        parser.error(f"{args.run}: the run has no teacher, or no validation set")
    codec = build_codec(card.codec, card.input, sources[0].skeleton)

    def put(prefix: str) -> None:
        with safe_open(args.run / CHECKPOINT_NAME, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - not a mapping
            model.load_state_dict({name.removeprefix(prefix): file.get_tensor(name) for name in names})

    def see(batch: Batch) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.run.precision == "bf16"):
            outputs = model(normalize(batch.images, card.input), return_maps=True)
        return tuple(output.float() for output in outputs)

    # Gradients, in training mode.
    put("model.")
    model.train()
    samples = TrainSamples(sources, config, card.input, args.seed)
    plan = Plan(len(samples), config.run.batch_size, 1, 0, 1, args.seed)
    batch = next(iter(train_loader(samples, plan, 0, 1, codec, config, False)))
    outputs = see(batch)
    labels = config.loss.model_copy(update={"map_weight": 0.0})
    simcc, _ = compute_loss(outputs, batch.targets, batch.weights, card.codec.type, labels)
    both, _ = compute_loss(outputs, batch.targets, batch.weights, card.codec.type, config.loss)
    terms = {"simcc": simcc, "maps": both - simcc, **teacher.losses(outputs[3], teacher.look(batch.images))}
    print("gradient on".ljust(16) + "".join(name.rjust(18) for name in terms))
    norms: dict[str, dict[str, float]] = {}
    for term, loss in terms.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        for name, parameter in model.named_parameters():
            square = 0.0 if parameter.grad is None else float(parameter.grad.square().sum())
            row = norms.setdefault(name.split(".")[0], {})
            row[term] = row.get(term, 0.0) + square
    for part, row in norms.items():
        print(part.ljust(16) + "".join(f"{np.sqrt(row[term]):18.4f}" for term in terms))

    # What was learned, averaged weights where there are any.
    put("ema." if config.optim.ema_decay else "model.")
    model.eval()
    teacher.config = teacher.config.model_copy(update={"feature_weight": 1.0})
    for title, records in (("training", sources[0]), ("validation", val)):
        errors: list[float] = []
        points: dict[str, list[NDArray[np.float64]]] = {}
        for batch in _first(records, args.persons, card.input):
            seen = teacher.look(batch.images)
            with torch.no_grad():
                outputs = see(batch)
            errors.append(float(teacher.losses(outputs[3], seen)["teacher_features"]))
            found = {
                "head": codec.decode(tuple(output.numpy() for output in outputs[:2])).keypoints,
                "maps of the labels": _peaks(outputs[2]),
                "maps of the teacher": _peaks(outputs[3][:, teacher.channels[0] :]),
                "the teacher's own maps": _peaks(seen[1]),
            }
            matrices = np.stack([sample["matrix"] for sample in batch.samples])
            for name, keypoints in found.items():
                points.setdefault(name, []).append(crop_to_image(keypoints, matrices))
        truth = records.keypoints[: args.persons]
        there = records.visibility[: args.persons] > 0
        sizes = torso_sizes(truth, there, records.skeleton)
        right = {
            name: pck(relative_errors(np.concatenate(parts)[: args.persons], truth, there, sizes), 0.2).overall
            for name, parts in points.items()
        }
        found_by = ", ".join(f"{name} {100 * value:.1f}" for name, value in right.items())
        print(f"{title}: error of the features {np.mean(errors):.3f}; PCK@0.2: {found_by}")


def _peaks(maps: Tensor) -> NDArray[np.float64]:
    """Centre of each map's highest cell, (B, K, h, w) to (B, K, 2) crop px."""
    cells = maps.flatten(2).argmax(-1).numpy()
    return np.stack([cells % maps.shape[-1], cells // maps.shape[-1]], axis=-1) * 4.0 + 1.5


def _first(records: CocoKeypoints, count: int, spec: InputSpec) -> Iterator[Batch]:
    samples = ValidationSamples(records, spec)
    for batch in validation_loader(samples, 32, 0, 1, 0, False):
        if count <= 0:
            return
        yield batch
        count -= len(batch.samples)


if __name__ == "__main__":
    main()
