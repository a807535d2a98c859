from __future__ import annotations

import json
import resource
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import ebapose.training.checkpoint as checkpoint
from ebapose.errors import EbaposeError, ModelFileError, UsageError
from ebapose.training.checkpoint import Progress, load_checkpoint, refuse_other_data, remove_leftovers, save_checkpoint
from ebapose.training.config import load_train_config

RECIPE = {"optim": {"lr": 0.1}, "run": {"workers": 2}}


def trained(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def save(path: Path, seed: int = 0, step: int = 7) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, optimizer = trained(seed)
    save_checkpoint(path, model, None, [optimizer], None, Progress(step=step, broken=["a.jpg"]), RECIPE)
    return model, optimizer


def test_everything_comes_back(tmp_path):
    path = tmp_path / "c.safetensors"
    model, optimizer = save(path)
    other, other_optimizer = trained(1)
    recipe = RECIPE | {"run": {"workers": 5, "samples": 100}}
    progress, scaler, notes = load_checkpoint(path, other, None, [other_optimizer], recipe)
    assert (progress, scaler) == (Progress(step=7, broken=["a.jpg"]), None)
    assert notes == ["run.samples: 100 instead of None"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[ours].items():
            assert torch.equal(value, other_optimizer.state[theirs][key])


def test_keys_that_a_recipe_did_not_have_then_were_at_their_defaults(tmp_path):
    path = tmp_path / "c.safetensors"
    model, optimizer = trained(0)
    recipe = load_train_config(Path(__file__).parents[2] / "recipes/smoke.yaml").model_dump(mode="json")
    older = deepcopy(recipe)
    del older["augment"]["truncation_probability"], older["data"]["train"][0]["only"], older["teacher"]
    save_checkpoint(path, model, None, [optimizer], None, Progress(step=7), older)
    assert load_checkpoint(path, model, None, [optimizer], recipe)[0].step == 7
    recipe["augment"]["truncation_probability"] = 0.5
    with pytest.raises(UsageError, match=r"truncation_probability: 0\.5, but .* was made with 0\.0"):
        load_checkpoint(path, model, None, [optimizer], recipe)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    model, optimizer = save(path)
    with pytest.raises(UsageError, match=r"optim\.lr: 0\.2, but .* was made with 0\.1"):
        load_checkpoint(path, model, None, [optimizer], {"optim": {"lr": 0.2}, "run": {"workers": 2}})
    with pytest.raises(ModelFileError, match="does not fit the model"):
        load_checkpoint(path, nn.Linear(2, 2), None, [], RECIPE)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nonsense" * 10):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="not a complete checkpoint"):
            load_checkpoint(path, model, None, [optimizer], RECIPE)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="not a complete checkpoint"):
        load_checkpoint(path, model, None, [optimizer], RECIPE)
    with pytest.raises(ModelFileError, match="no checkpoint there"):
        load_checkpoint(tmp_path / "none", model, None, [optimizer], RECIPE)


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save(path)
    before = path.read_bytes()

    def full(tensors, name, metadata):
        Path(name).write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(EbaposeError, match=r"cannot be written \(.*No space left.*\); the previous one is intact"):
        save(path, seed=1)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_only_leftovers_of_a_killed_write_are_removed(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save(path)
    foreign = [".tmpAbC123", ".c.0123456789ab.json", ".c.txt.safetensors", "c.0123456789ab.safetensors"]
    for name in foreign:
        (tmp_path / name).touch()
    remove_leftovers(path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, *foreign}
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # as if killed: nothing is cleaned up
    monkeypatch.setattr(checkpoint, "save_file", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 6
    remove_leftovers(path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, *foreign[1:]}  # without safetensors' own


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_checkpoint import save
from ebapose.errors import EbaposeError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    save(Path(sys.argv[2]), seed=1, step=9)
except EbaposeError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """A real write that the operating system cuts off after 2000 bytes."""
    assert resource.RLIMIT_FSIZE is not None
    path = tmp_path / "c.safetensors"
    save(path)
    command = [sys.executable, "-c", FULL, str(Path(__file__).parent), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "cannot be written" in done.stdout, done.stderr
    assert "the previous one is intact" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["ebapose_checkpoint"])["progress"]["step"] == 7


def test_standing_still_is_not_better():
    """Standing still is not getting better: patience runs out."""
    progress = Progress(step=1)
    assert progress.judge(0.5)
    progress.step = 2
    assert not progress.judge(0.5)
    assert (progress.best_step, progress.bad_validations) == (1, 1)


class Records(list):
    source = "a.json"


def test_more_or_fewer_persons_are_refused(tmp_path):
    refuse_other_data([3], [Records([0] * 3)], tmp_path)
    for now in (2, 4):
        with pytest.raises(UsageError, match=f"{now} persons, but .* was made with 3"):
            refuse_other_data([3], [Records([0] * now)], tmp_path)


def test_averaged_weights_come_back(tmp_path):
    model, ema = nn.Linear(3, 2), nn.Linear(3, 2)
    save_checkpoint(tmp_path / "c.safetensors", model, ema, [], None, Progress(), {})
    other, other_ema = nn.Linear(3, 2), nn.Linear(3, 2)
    load_checkpoint(tmp_path / "c.safetensors", other, other_ema, [], {})
    assert all(torch.equal(value, other_ema.state_dict()[name]) for name, value in ema.state_dict().items())
