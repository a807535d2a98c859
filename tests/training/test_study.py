"""The small-scale study with a tiny budget: it trains, evaluates, goes on where it stopped and never mixes budgets."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ebapose.models import create_model
from ebapose.training import step

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study() -> Any:
    spec = importlib.util.spec_from_file_location("study", ROOT / "benchmarks/study.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny networks for the two variants that are trained: what is tested is the study."""
    networks = {"mlp_attention": "test_eba_prnetcc_64x64", "lite": "test_eba_prnetcc_lite_64x64"}
    found = {name: (title, networks.get(name, model), *rest) for name, (title, model, *rest) in study.VARIANTS.items()}
    monkeypatch.setattr(study, "VARIANTS", found)


@pytest.fixture
def arguments(people: Path, tmp_path: Path, study: Any) -> list[str]:
    recipe = yaml.safe_load(study.RECIPE.read_text())
    recipe["data"]["train"] = [{"annotations": "train/annotations.json", "images": "train/images"}]
    recipe["data"]["val"] = {"annotations": "val/annotations.json", "images": "val/images"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = ["--root", str(people), "--out", str(tmp_path / "out"), "--recipe", str(tmp_path / "recipe.yaml")]
    found += ["--evaluate", "val/annotations.json", "--variants", "mlp_attention", "lite"]
    return [
        *found,
        "--run.samples",
        "8",
        "--run.batch_size",
        "4",
        "--run.workers",
        "0",
        "--run.compile",
        "none",
        "--run.metric",
        "oks",
        "--optim.warmup_steps",
        "1",
    ]


@pytest.mark.usefixtures("tiny")
def test_it_trains_evaluates_resumes_and_tabulates(
    study: Any, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    trained: list[Path] = []
    train = study.train

    def counting(config: Any, folder: Path, resume: bool) -> Any:
        trained.append(folder)
        return train(config, folder, resume=resume)

    monkeypatch.setattr(study, "train", counting)
    assert study.main([*arguments, "--seeds", "0", "0", "--repeats", "0"]) == 0  # the same seed twice is one run
    assert "Latency: not measured" in (tmp_path / "out/study.md").read_text()
    assert len(trained) == 2
    assert "| 1 of 1 |" in (tmp_path / "out/study.md").read_text()

    # The first seed is passed over; what only one variant is asked for keeps the others in the table.
    assert study.main([*arguments, "--seeds", "0", "1", "--repeats", "0"]) == 0
    assert study.main([*arguments, "--seeds", "0", "1", "--variants", "lite", "--repeats", "3"]) == 0
    assert [folder.name for folder in trained] == ["seed0", "seed0", "seed1", "seed1"]
    text = (tmp_path / "out/study.md").read_text()
    assert text.count("| 2 of 2 |") == 2
    assert "| simcc_slp |" not in text  # what did not run is not in the table
    assert "Not run: heatmap, simcc_one_hot," in text
    assert "median of 3 rounds" in text
    rows = {row["variant"]: row for row in json.loads((tmp_path / "out/study.json").read_text())["rows"]}
    assert list(rows) == ["mlp_attention", "lite"]
    for row in rows.values():
        low, high = row["latency"]["quartiles_ms"]
        assert 0 < low <= row["latency"]["ms_per_crop"] <= high
        assert f"| {row['latency']['ms_per_crop']:.2f} |" in text
    spread = rows["lite"]["summary"]["annotations AP"]
    assert spread["runs"] == 2
    assert spread["min"] <= spread["mean"] <= spread["max"]
    assert 0 < rows["lite"]["gmac_true"] < rows["mlp_attention"]["gmac_true"]

    # What is finished elsewhere is taken over, whole or in part, and only if its recipe was the same.
    elsewhere = json.loads((tmp_path / "out/study.json").read_text())
    for row in elsewhere["rows"]:
        row["runs"] = [run for run in row["runs"] if run["seed"] == 0 or row["variant"] == "lite"]
    known = tmp_path / "known.json"
    known.write_text(json.dumps(elsewhere))
    more = ["--seeds", "0", "1", "--repeats", "0", "--out", str(tmp_path / "more"), "--known", str(known)]
    assert study.main([*arguments, *more]) == 0
    assert trained[4:] == [tmp_path / "more/mlp_attention/seed1"]
    joined = {row["variant"]: row for row in json.loads((tmp_path / "more/study.json").read_text())["rows"]}
    for variant, row in rows.items():
        assert [run["seed"] for run in joined[variant]["runs"]] == [0, 1]
        assert joined[variant]["runs"][0] == row["runs"][0]
        assert joined[variant]["summary"].keys() == row["summary"].keys()
    capsys.readouterr()
    assert study.main([*arguments, *more, "--run.samples", "12"]) == 2
    assert "was made by another recipe" in capsys.readouterr().err
    known.write_text("[]")
    assert study.main([*arguments, *more]) == 2
    assert "known.json: not a study.json" in capsys.readouterr().err

    assert study.main([*arguments, "--seeds", "0", "--run.samples", "12"]) == 2
    assert "made by another recipe" in capsys.readouterr().err
    assert (tmp_path / "out/study.md").read_text() == text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--run.sampels", "8"], "unknown key 'run.sampels', did you mean 'run.samples'"),
        (["--run.seed", "5"], "--run.seed: the study sets it"),
        (["--model.name=simcc18_64x64"], "--model.name: the study sets it"),
        (["--model.options.reduction", "4"], "--model.options.reduction: the study sets it"),
        (["--loss.targets", "one_hot"], "--loss.targets: the study sets it"),
        (["--optim.lr", "0.1"], "--optim.lr: the study sets it"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--evaluate", "val/nowhere.json"], "val/nowhere.json: no such file"),
        (["--evaluate", "val/annotations.json", "train/annotations.json"], "several files are called annotations"),
        (["--repeats", "-1"], "--repeats: -1 rounds"),
        (["stray"], "'stray' is not an override"),
        (["--out", __file__], "is a file, not a folder"),
    ],
)
def test_nonsense_is_one_line_before_any_training(
    study: Any, arguments: list[str], tmp_path: Path, capsys: Any, wrong: list[str], message: str
) -> None:
    assert study.main([*arguments, *wrong]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("tiny")
def test_an_interrupted_run_goes_on(study: Any, arguments: list[str], tmp_path: Path) -> None:
    clip, calls = step._clip, []
    arguments = [*arguments, "--run.samples", "12", "--seeds", "0", "--variants", "lite"]

    def stopping(*parameters: Any) -> float:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return clip(*parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "_clip", stopping)
        assert study.main([*arguments, "--repeats", "0"]) == 130
    assert not (tmp_path / "out/lite/seed0/result.json").exists()
    assert study.main([*arguments, "--repeats", "0"]) == 0
    assert json.loads((tmp_path / "out/lite/seed0/result.json").read_text())["steps"] == 3


def test_a_recipe_is_the_same_wherever_its_data_lie(study: Any) -> None:
    def digest(*arguments: Any) -> str:
        return str(study.recipe_digest(study.variant_config(*arguments)))

    one = digest("mlp", 0, Path("/here"))
    assert digest("mlp", 0, Path("/there"), ["--data.max_broken", "20"]) == one  # its default, given or not
    others = [digest("mlp", 1, Path()), digest("lite", 0, Path()), digest("mlp", 0, Path(), ["--run.batch_size", "8"])]
    assert len({one, *others}) == 4


def test_variants_differ_as_they_say(study: Any) -> None:
    """One budget and augmentation for all; every variant's network exists."""
    configs = {name: study.variant_config(name, 3, Path("/data with space")) for name in study.VARIANTS}
    assert list(configs) == [
        "heatmap",
        "simcc_one_hot",
        "simcc_slp",
        "mlp",
        "mlp_attention",
        "mlp_attention_relu",
        "tfpose_small",
        "lite",
    ]
    assert len({config.model_dump_json(include={"data", "augment", "run"}) for config in configs.values()}) == 1
    assert {config.run.seed for config in configs.values()} == {3}
    assert configs["simcc_one_hot"].loss.label_smoothing == 0.1
    for config in configs.values():
        with torch.device("meta"):
            assert create_model(config.model.name, **config.model.options).input_hw == (64, 64)
