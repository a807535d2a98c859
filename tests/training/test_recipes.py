"""Every recipe in recipes/ loads, names a network that exists and trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ebapose.card import InputSpec
from ebapose.config import load_yaml
from ebapose.errors import UsageError
from ebapose.models.registry import create_model, parse_name
from ebapose.training import load_train_config, train
from ebapose.training.loader import TrainSamples, load_records

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))


def shrunk(path: Path, people: Path, teacher_file: Path, steps: int = 2) -> list[str]:
    """Overrides that leave a recipe's keys as they are but make it small: few channels, a 64 px input, few persons.

    Networks that start from weights keep their channels.
    """
    config = load_train_config(path)
    model = config.model
    architecture, _ = parse_name(model.name)
    narrow = {"width": 8, "deconv_channels": 8, "reduction": 4} if model.weights is None else {}
    changes: dict[str, Any] = {
        "model.name": f"{architecture}_64x64",
        "model.options": narrow | model.options,
        "data.root": people,
        "data.train": [{"annotations": "train/annotations.json", "images": "train/images"}],
        "data.val": {"annotations": "val/annotations.json", "images": "val/images"},
        "run.batch_size": 4,
        "run.accumulation": 1,
        "run.samples": 4 * steps,
        "run.workers": 0,
        "run.compile": "none",
        "optim.warmup_steps": min(1, config.optim.warmup_steps),
        "optim.milestones": [1 / 6] if config.optim.milestones else [],  # after the first of 6 steps per epoch
    }
    if config.teacher is not None:
        changes["teacher"] = {"model": str(teacher_file), "features": "cells", "maps": "spots"}
    return [f"--{key}={value}" for key, value in changes.items()]


def test_there_are_recipes() -> None:
    assert {"smoke", "fine_tune"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains(path: Path, people: Path, teacher_file: Path, tmp_path: Path) -> None:
    config = load_train_config(path)
    with torch.device("meta"):
        assert create_model(config.model.name, 17, **config.model.options).codec_spec
    assert path.read_text().startswith("# ")
    assert path.name in path.read_text() or "python benchmarks/" in path.read_text()  # the command
    result = train(load_train_config(path, shrunk(path, people, teacher_file)), tmp_path)
    assert (result.finished, result.steps) == ("complete", 2)
    assert all(np.isfinite(value) for value in result.validation.values())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("paper_*.yaml")), ids=lambda path: path.stem)
def test_the_papers_recipes_say_what_the_paper_says(path: Path) -> None:
    config = load_train_config(path)
    assert (config.run.batch_size, config.run.epochs, config.run.workers) == (16, 140, 6)
    assert (config.optim.name, config.optim.lr, config.optim.schedule) == ("adamw", 1e-5, "constant")
    assert (config.augment.flip_probability, config.augment.rotation_deg, config.augment.scale) == (0.5, 30, (0.7, 1.3))
    assert path.stem == f"paper_{config.model.name}" == config.name


def test_a_given_length_takes_the_place_of_the_recipes() -> None:
    run = load_train_config(FOLDER / "smoke.yaml", ["--run.samples", "100"]).run
    assert (run.samples, run.epochs) == (100, None)
    run = load_train_config(FOLDER / "bundled18_128x96.yaml", ["--run.epochs=2"]).run
    assert (run.samples, run.epochs) == (None, 2)
    with pytest.raises(UsageError, match=r"smoke\.yaml: run: give either epochs or samples"):
        load_train_config(FOLDER / "smoke.yaml", ["--run.samples=100", "--run.epochs=2"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--optim.lrr=1", r"unknown key 'optim\.lrr', did you mean 'optim\.lr'"),
        ("--optim.milestones=[3]", "optim: milestones belong to schedule 'step'"),
        ("--model.new_head=true", "model: new_head needs weights"),
        ("--run.accumulation=3", "run: batch_size 32 does not split into 3 equal parts"),
        ("--optim.betas=[1.5, 0.9]", r"optim\.betas\.0: Input should be less than 1"),
        ("--optim.lr_factors={layer1: -1}", r"optim\.lr_factors\.layer1: Input should be greater than or equal to 0"),
        ("--optim={lr: 1, schedule: step, milestones: [-3]}", r"optim\.milestones\.0: Input should be greater than 0"),
        ("--optim={lr: 1, momentum: 0.5}", "optim: momentum belongs to name 'muon', not 'adamw'"),
        ("--optim.gamma=0.5", "optim: gamma belongs to schedule 'step', not 'cosine'"),
        ("--optim={lr: 1, final_lr_factor: 0.1}", "optim: final_lr_factor belongs to schedule 'cosine', not 'const"),
        ("--run={samples: 4, batch_size: 8}", r"run: samples: 4 are less than one batch \(batch_size 8\)"),
        ("--model.options={num_keypoints: 3}", "model: options: 'num_keypoints' is none of them"),
        ("--run.metric=loss", "run.metric: Input should be 'pck', 'ap' or 'oks'"),
        ("--name=a/b", "name: must not contain path separators"),
        ("--data.train={annotations: a, augment: {rotation: 3}}", r"train\.0\.augment: unknown key 'rotation', did"),
        ("--data.train={annotations: a, augment: {rotation_deg: 181}}", r"train\.0\.augment: rotation_deg: Input"),
        ("--data.val={annotations: a, augment: {rotation_deg: 3}}", r"data\.val\.augment: validation persons are seen"),
        ("--data.val={annotations: a, repeat: 2}", r"data\.val\.repeat: validation persons are seen once"),
        ("--data.val={annotations: a, complete: true}", r"data\.val\.complete: validation persons are seen"),
        ("--run.seed=9223372036854775808", r"run\.seed: Input should be less than 9223372036854775808"),
        ("--run={epochs: 1.0e+300}", r"run\.epochs: Input should be less than or equal to 1000000"),
        ("--run={samples: 99999999999999999999}", r"run\.samples: Input should be less than or equal to"),
        ("--run.validate_every=1.0e+308", r"run\.validate_every: Input should be less than or equal to 1000000"),
    ],
)
def test_contradictory_keys_get_one_line_that_names_them(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        load_train_config(FOLDER / "smoke.yaml", [override])
    assert "\n" not in str(refused.value)
    assert load_yaml(FOLDER / "smoke.yaml")["name"] == "smoke"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out is missing"),
        (["smoke.yaml"], "--out is missing"),
        (["--out", "x"], "the recipe is missing"),
        (["nowhere.yaml", "--out", "x"], "nowhere.yaml: No such file"),
        (["--data.root", "x", "nowhere.yaml", "--out", "x"], "nowhere.yaml: No such file"),
        ([str(FOLDER / "smoke.yaml"), "--out", "x", "--optim.lr"], "--optim.lr: a value is missing"),
        ([str(FOLDER / "smoke.yaml"), "--run.compile", "--out", "x"], "--run.compile: a value is missing"),
        ([str(FOLDER / "smoke.yaml"), "--out", "x", "--optim.lr", "-1"], "optim.lr: Input should be greater than 0"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], message: str, capsys, tmp_path, monkeypatch) -> None:
    from ebapose.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_source_can_be_one_path_or_one_mapping(tmp_path: Path) -> None:
    config = load_train_config(FOLDER / "smoke.yaml", ["--data.train", "mine.json", "--data.val=other.json"])
    assert [source.annotations for source in config.data.train] == [Path("mine.json")]
    assert config.data.val is not None
    assert config.data.val.annotations == Path("other.json")
    (source,) = load_train_config(FOLDER / "smoke.yaml", ["--data.train={annotations: a.json, repeat: 2}"]).data.train
    assert (source.annotations, source.repeat) == (Path("a.json"), 2)


def test_a_source_may_be_augmented_differently(people: Path) -> None:
    file = {"annotations": "val/annotations.json", "images": "val/images"}
    calm = {"rotation_probability": 0, "scale": [1, 1], "flip_probability": 0, "photometric": {"blur_probability": 0.5}}
    sources = [file, {**file, "augment": calm}]
    config = load_train_config(
        FOLDER / "smoke.yaml",
        [
            f"--data.root={people}",
            f"--data.train={sources}",
            "--data.val=null",
            "--augment.rotation_deg=40",
            "--augment.shift=0",
        ],
    )
    usual, calmer = map(config.augment_of, config.data.train)
    assert usual == config.augment
    assert calmer.photometric == usual.photometric.model_copy(update={"blur_probability": 0.5})
    assert calmer.rotation_deg == usual.rotation_deg == 40  # what the source does not name
    records, _ = load_records(config.data)
    samples = TrainSamples(records, config, InputSpec(size_hw=(64, 64)), seed=0)
    matrices = np.array([sample["matrix"] for sample in (samples[0, i][0] for i in range(len(samples))) if sample])
    turned = np.abs(matrices[:, 0, 1]) > 1e-6
    assert turned[: len(records[0])].all()
    assert not turned[len(records[0]) :].any()
