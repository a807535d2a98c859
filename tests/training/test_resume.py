"""Runs that end early, and go on."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ebapose.training.checkpoint as checkpoint
import ebapose.training.loader as loader
import ebapose.training.loop as loop
from ebapose.card import card_path, parse_card
from ebapose.errors import MissingDependencyError, ModelFileError, UsageError
from ebapose.models.weights import load_model
from ebapose.training import load_train_config, train
from ebapose.training.loader import Plan
from training_runs import config_of, rows_of

KILLER = """
import os, signal, sys
import torch
import ebapose.training.checkpoint as checkpoint
import ebapose.training.step as step
from ebapose.errors import EbaposeError
from ebapose.training import load_train_config, train

torch.set_num_threads(1)
recipe, out, how, when = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

seen = []
if how == "write":  # in the middle of writing a checkpoint
    whole = checkpoint.save_file
    def save_file(tensors, path, metadata):
        seen.append(path)
        if len(seen) == when:
            whole(tensors, path, metadata)
            os.truncate(path, os.path.getsize(path) // 2)
            die()
        whole(tensors, path, metadata)
    checkpoint.save_file = save_file
elif how == "step":  # between backward and the optimiser's step
    clip = step._clip
    def killing_clip(*arguments):
        seen.append(1)
        if len(seen) == when:
            die()
        return clip(*arguments)
    step._clip = killing_clip
elif how == "term":  # told to stop politely
    clip = step._clip
    def terminating_clip(*arguments):
        seen.append(1)
        if len(seen) == when:
            os.killpg(0, signal.SIGTERM)  # to the workers too, as schedulers do
        return clip(*arguments)
    step._clip = terminating_clip
elif how == "worker":  # one of the loading processes alone
    import multiprocessing
    clip = step._clip
    def worker_killing_clip(*arguments):
        seen.append(1)
        if len(seen) == when:
            multiprocessing.active_children()[0].kill()
        return clip(*arguments)
    step._clip = worker_killing_clip
elif how == "raise":  # something that nobody thought of
    def failing_clip(*arguments):
        raise RuntimeError("out of memory")
    step._clip = failing_clip
try:
    print(train(load_train_config(recipe), out, resume=True).finished)
except EbaposeError as error:
    sys.exit(f"one line: {error}")
"""


def test_killed_at_any_moment_it_resumes_to_the_same_bits(recipe, tmp_path):
    """Real processes, real SIGKILLs: while a checkpoint is written, in the middle of a step, and a polite SIGTERM."""
    recipe["run"] |= {"checkpoint_every_s": 0, "workers": 1, "accumulation": 2, "log_every": 3}
    straight = train(config_of(recipe), tmp_path / "straight")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    endings = []
    for how, when in (("write", 3), ("step", 3), ("term", 2), ("never", 0)):
        arguments = [sys.executable, "-c", KILLER, str(tmp_path / "recipe.yaml"), str(out), how, str(when)]
        done = subprocess.run(
            arguments, capture_output=True, text=True, env=environment, timeout=300, start_new_session=True
        )
        endings.append((done.returncode, done.stdout.strip()))
    # killed in step 3's checkpoint: back to 2; killed in step 5: back to 4; stopped after step 6
    assert endings == [(-signal.SIGKILL, ""), (-signal.SIGKILL, ""), (0, "interrupted"), (0, "complete")]
    assert [int(r["step"]) for r in rows_of(out)] == [3, 6, 9]
    ours, theirs = (
        load_file(out / "checkpoint.safetensors"),
        load_file(tmp_path / "straight" / "checkpoint.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    assert sum(name.startswith("optimizer.") for name in ours) > 100
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    for name, value in load_file(out / "weights.safetensors").items():
        assert torch.equal(value, load_file(straight.weights)[name]), name
    assert not [p for p in out.iterdir() if p.name.startswith(".") and "weights" in p.name]
    losses = [[r["loss"] for r in rows_of(folder)] for folder in (out, tmp_path / "straight")]
    assert losses[0] == losses[1]  # also of rows that begin before an interruption


def test_no_loading_process_outlives_a_run_that_is_killed_and_none_is_missed_unsaid(recipe, tmp_path):
    recipe["run"] |= {"workers": 2, "epochs": 600, "batch_size": 24, "checkpoint_every_s": 0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [sys.executable, "-c", KILLER, str(tmp_path / "recipe.yaml"), str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([*arguments, "step", "4"], env=environment, stderr=subprocess.PIPE)
    assert killed.wait(120) == -signal.SIGKILL
    killed.communicate(timeout=30)  # standard error is open for as long as one of its processes lives

    done = subprocess.run([*arguments, "worker", "2"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "one line: a loading process was ended by the system (DataLoader worker (pid" in done.stderr
    assert "--resume goes on from the last checkpoint" in done.stderr


def test_an_error_that_nobody_catches_ends_all_processes(recipe, tmp_path, monkeypatch):
    """The traceback holds on to the loader, whose processes ignore the signal that Python ends them with."""
    recipe["run"] |= {"workers": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [sys.executable, "-c", KILLER, str(tmp_path / "recipe.yaml"), str(tmp_path / "run"), "raise", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (1, "RuntimeError: out of memory")

    def broken(samples, key):
        raise ZeroDivisionError

    monkeypatch.setattr(loader.ValidationSamples, "__getitem__", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        train(config_of(recipe, epochs=1, workers=1), tmp_path / "other")
    assert caught.traceback  # which holds on to the validation's loader
    assert not multiprocessing.active_children()


def test_a_run_that_goes_on_from_weights_does_not_show_the_same_crops_again(recipe, tmp_path, monkeypatch):
    seeds = []

    def plan(*arguments):
        seeds.append(arguments[-1])
        return Plan(*arguments)

    monkeypatch.setattr(loop, "Plan", plan)

    def run(name, weights=None, resume=False):
        onward = {**recipe, "model": {**recipe["model"], "weights": weights and str(weights)}}
        return train(config_of(onward, epochs=1, seed=5), tmp_path / name, resume).weights

    first = run("first")
    second = run("second", first)
    run("second", first, resume=True)
    run("the same as the second", first)
    run("third", second)
    assert seeds[0] == 5
    assert seeds[1] == seeds[2] == seeds[3]
    assert len({seeds[0], seeds[1], seeds[4]}) == 3
    # what follows from the weights stands in the checkpoint
    (card,) = {load_model(tmp_path / name / "weights.safetensors")[1].input for name in ("second", "third")}
    shutil.copy(second, first)
    shutil.copy(card_path(second), card_path(first))
    run("second", first, resume=True)
    first.unlink()
    run("second", first, resume=True)
    assert seeds[5] == seeds[6] == seeds[1]
    # older checkpoints do not say it
    checkpoint = tmp_path / "second" / "checkpoint.safetensors"
    with safe_open(checkpoint, "pt") as file:
        state = json.loads(file.metadata()["ebapose_checkpoint"])
    assert parse_card(state.pop("origin")["card"], "").input == card
    save_file(load_file(checkpoint), checkpoint, {"ebapose_checkpoint": json.dumps(state)})
    with pytest.raises(ModelFileError, match="no such file"):
        run("second", first, resume=True)
    shutil.copy(second, first)
    run("second", first, resume=True)
    assert seeds[7] == seeds[4]


def test_a_run_may_be_planned_anew_on_the_way(recipe, tmp_path, capfd, monkeypatch):
    first = train(config_of(recipe, epochs=1), tmp_path)
    with pytest.raises(UsageError, match="3 steps are done already, the recipe plans 1"):
        train(config_of(recipe, epochs=0.4), tmp_path, resume=True)
    assert load_file(first.weights).keys()  # nothing was touched
    capfd.readouterr()

    def gone(*_):  # what the shorter run came to must not stand there while the longer one is under way
        assert not (tmp_path / "result.json").exists()
        return 1.0

    monkeypatch.setattr(loop, "lr_factor", gone)
    longer = train(config_of(recipe, epochs=2, validate_every=0.34), tmp_path, resume=True)
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == 6
    assert (longer.finished, longer.steps) == ("complete", 6)
    assert [int(r["step"]) for r in rows_of(tmp_path)] == list(range(1, 7))
    assert [int(r["step"]) for r in rows_of(tmp_path) if r["val_oks"]] == [3, 4, 5, 6]
    said = capfd.readouterr().err
    assert "run.epochs: 2.0 instead of 1.0" in said
    assert "run.validate_every: 0.34 instead of 2.0" in said
    assert load_train_config(tmp_path / "recipe.yaml").run.epochs == 2


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe, tmp_path):
    first = train(config_of(recipe, epochs=1), tmp_path)
    with pytest.raises(UsageError, match="already holds a run"):
        train(config_of(recipe, epochs=1), tmp_path)
    kept = {name: (tmp_path / name).read_bytes() for name in ("weights.safetensors", "checkpoint.safetensors")}
    (tmp_path / ".checkpoint.0123456789ab.safetensors").touch()  # of a killed process
    again = train(config_of(recipe, epochs=1), tmp_path, resume=True)
    assert (again.finished, again.steps, again.validation) == ("complete", 3, first.validation)
    assert json.loads((tmp_path / "result.json").read_text())["validation"] == first.validation
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(UsageError, match=r"run\.seed: 7, but .* was made with 0"):
        train(config_of(recipe, epochs=1, seed=7), tmp_path, resume=True)
    (tmp_path / "checkpoint.safetensors").unlink()
    for resume in (False, True):
        with pytest.raises(UsageError, match="holds weights, but no checkpoint"):
            train(config_of(recipe, epochs=1), tmp_path, resume=resume)


def test_other_data_are_noticed(recipe, people, tmp_path):
    recipe["data"]["train"] = [{"annotations": str(tmp_path / "mine.json"), "images": "train/images"}]
    data = json.loads((people / "train" / "annotations.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps(data))
    train(config_of(recipe, epochs=1), tmp_path / "run")
    data["annotations"].pop()
    (tmp_path / "mine.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"mine\.json: 23 persons, but .*checkpoint.* was made with 24"):
        train(config_of(recipe, epochs=1), tmp_path / "run", resume=True)


def test_all_processes_must_see_the_checkpoint(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "gather_object", lambda found: [True, *found])
    with pytest.raises(UsageError, match=r"process 1 of 2 does not see .* process 0 sees: .* all machines read"):
        train(config_of(recipe), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_weights_never_lie_there_without_a_checkpoint_to_go_on_from(recipe, tmp_path, monkeypatch):
    straight = train(config_of(recipe, epochs=1), tmp_path / "straight")

    def and_die(*arguments, **more):
        real(*arguments, **more)
        raise RuntimeError("killed")

    real = loop.save_weights
    monkeypatch.setattr(loop, "save_weights", and_die)
    with pytest.raises(RuntimeError, match="killed"):
        train(config_of(recipe, epochs=1), tmp_path / "run")  # its first checkpoint would come after its weights
    monkeypatch.undo()
    ended = train(config_of(recipe, epochs=1), tmp_path / "run", resume=True)
    assert ended.finished == "complete"
    assert ended.weights.read_bytes() == straight.weights.read_bytes()


def test_a_run_that_could_not_write_or_judge_its_weights_does_not_start(recipe, tmp_path, monkeypatch):
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(UsageError, match=r"weights\.onnx beside it has the card"):
        train(config_of(recipe), tmp_path)
    (tmp_path / "weights.onnx").unlink()
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependencyError, match="faster-coco-eval"):
        train(config_of(recipe), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_cannot_end_where_it_has_no_weights_yet(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "stop_signals", lambda: contextlib.nullcontext([signal.SIGTERM]))
    assert train(config_of(recipe, validate_every=9), tmp_path).finished == "interrupted"
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"1 steps are done already, and no weights were written yet: plan more$"):
        train(config_of(recipe, validate_every=9, epochs=1 / 3), tmp_path, resume=True)
    assert train(config_of(recipe, validate_every=9, epochs=2 / 3), tmp_path, resume=True).weights is not None
