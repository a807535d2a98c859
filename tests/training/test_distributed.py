"""Two processes on one CPU (gloo), started as on any number of GPUs, learn what one process learns."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ebapose.config import parse_config
from ebapose.training import TrainConfig, train
from ebapose.training.loop import TrainResult

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ebapose"]


def losses_of(out: Path) -> list[float]:
    with (out / "log.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture
def alone(recipe, tmp_path) -> tuple[Path, TrainResult]:
    """A run in one process; batch norms as they are, since each process has its own statistics on CPUs."""
    recipe["model"] |= {"options": {}, "freeze_batch_norm": True}
    recipe["data"]["max_broken"] = 5
    recipe["run"] |= {"epochs": 2, "validate_every": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path, train(parse_config(TrainConfig, recipe, "recipe"), tmp_path / "one")


def test_two_processes_learn_and_measure_what_one_does(alone):
    folder, result = alone
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*LAUNCH, "train", str(folder / "recipe.yaml"), "--out", str(folder / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses_of(folder / "two") == pytest.approx(losses_of(folder / "one"), rel=1e-4)
    written = yaml.safe_load((folder / "two" / "result.json").read_text())
    # every person counted once: half a person more or less would show
    assert written["validation"] == pytest.approx(result.validation, abs=2e-3)
    assert written["steps"] == result.steps == 6
    assert done.stderr.count("epoch 1.00, step 3/6") == 1  # only the main process speaks


def test_every_person_is_validated_by_exactly_one_process(people):
    from ebapose.card import InputSpec
    from ebapose.data.coco import load_coco
    from ebapose.training.loader import ValidationSamples, validation_loader

    records = load_coco(people / "val" / "annotations.json").persons()
    samples = ValidationSamples(records, InputSpec(size_hw=(64, 64)))
    for world in (1, 2, 3, 4):
        seen = [
            sample["index"]
            for rank in range(world)
            for batch in validation_loader(samples, 4, rank, world, 0, False)
            for sample in batch.samples
        ]
        assert sorted(seen) == list(range(len(records)))
