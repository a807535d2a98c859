from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ebapose.training.loop as loop
from ebapose.errors import EbaposeError, InputError, UsageError
from ebapose.models.weights import load_model
from ebapose.training import load_train_config, train
from ebapose.training.loader import Plan
from ebapose.training.monitor import Monitor
from ebapose.training.step import OptimizerStep
from training_runs import config_of, rows_of


def test_a_run_learns_and_leaves_usable_weights(recipe, tmp_path):
    result = train(config_of(recipe, epochs=8), tmp_path / "run")
    assert (result.finished, result.steps, result.samples) == ("complete", 24, 192)
    rows = rows_of(tmp_path / "run")
    assert [int(r["step"]) for r in rows] == list(range(1, 25))
    assert float(rows[-1]["loss"]) < 0.9 * float(rows[0]["loss"])
    assert sum(bool(r["val_oks"]) for r in rows) == 4
    model, card = load_model(result.weights)
    assert card.name == "tiny"
    assert card.about["samples"] == result.best_step * 8
    assert card.about["validation"]["oks"] == pytest.approx(result.best, abs=1e-4)
    assert all(torch.isfinite(o).all() for o in model(torch.zeros(1, 3, 64, 64)))
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["best"] == result.best
    assert set(result.validation) == {"pck", "oks", "ap"}
    # the recipe that was used can be used again
    assert load_train_config(tmp_path / "run" / "recipe.yaml") == config_of(recipe, epochs=8)


def test_plain_data_are_a_recipe_too(recipe, tmp_path, monkeypatch):
    others = ["other.jpg: broken"]  # what another process met
    monkeypatch.setattr(loop, "gather_object", lambda x: [*x, *others, *others])
    recipe["run"]["epochs"] = 1
    assert train(recipe, tmp_path).broken == tuple(others)
    with pytest.raises(UsageError, match=r"recipe: unknown key 'optim\.lrr'"):
        train({**recipe, "optim": {"lr": 1, "lrr": 1}}, tmp_path)


def test_weights_that_float16_cannot_hold_are_written_as_float32(recipe, tmp_path, monkeypatch, capfd):
    real = loop.build_model

    def large(*arguments, **more):
        built = real(*arguments, **more)
        built[0].bn1.running_var.fill_(1e9)
        return built

    monkeypatch.setattr(loop, "build_model", large)
    weights = train(config_of(recipe, epochs=1), tmp_path).weights
    assert load_file(weights)["bn1.running_var"].dtype == torch.float32
    assert "float32: bn1.running_var holds a number that is too large for float16" in capfd.readouterr().err


def test_a_full_disk_gets_one_line(recipe, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Monitor, "_write_row", full)
    with pytest.raises(EbaposeError, match=r"one: the run's files cannot be written \(No space left on device\)$"):
        train(config_of(recipe), tmp_path / "one")
    monkeypatch.undo()
    real = OptimizerStep._loss
    monkeypatch.setattr(OptimizerStep, "_loss", lambda *a: (real(*a)[0] * float("nan"), {}))
    monkeypatch.setattr(np, "savez_compressed", full)
    message = r"loss of step 0 is nan: the batch cannot be saved in .*two \(No space .*\); lower optim\.lr in a new run"
    with pytest.raises(EbaposeError, match=message):
        train(config_of(recipe), tmp_path / "two")


def test_a_loss_that_is_not_finite_stops_and_saves_the_batch(recipe, tmp_path, monkeypatch):
    real, calls = OptimizerStep._loss, []

    def poisoned(*arguments):
        loss, details = real(*arguments)
        calls.append(1)
        return (loss * float("nan") if len(calls) == 3 else loss), details

    monkeypatch.setattr(OptimizerStep, "_loss", poisoned)
    recipe["data"]["train"] *= 2
    with pytest.raises(EbaposeError, match=r"loss of step 2 is nan: .* saved in .*; the last .* intact, but .* same"):
        train(config_of(recipe, checkpoint_every_s=0), tmp_path)
    batch = np.load(tmp_path / "bad_batch_step2_process0.npz")
    assert batch["images"].shape == (8, 64, 64, 3)
    assert batch["target_0"].shape == (8, 17, 128)
    assert set(batch["sources"]) == {0, 1}
    assert batch["indices"].max() < 24
    monkeypatch.undo()
    assert train(config_of(recipe, checkpoint_every_s=0), tmp_path, resume=True).finished == "complete"


def test_broken_pictures_are_named_and_skipped_up_to_the_limit(recipe, tmp_path, capfd):
    from ebapose.data.synthetic import make_dataset

    for name, number in (("train", 24), ("val", 10)):
        make_dataset(tmp_path / name, num_images=number, seed=3, image_hw=(64, 64), max_people=1)
    (tmp_path / "train" / "images" / "000005.jpg").write_bytes(b"not a picture")
    (tmp_path / "val" / "images" / "000009.jpg").unlink()
    recipe["data"]["root"] = str(tmp_path)
    recipe["data"]["max_broken"] = 2
    recipe["augment"] = {}
    result = train(config_of(recipe, epochs=1), tmp_path / "run")
    assert result.samples == 24
    assert [Path(m.split(":")[0]).name for m in result.broken] == ["000005.jpg", "000009.jpg"]
    assert "000005.jpg" in capfd.readouterr().err.replace("\n", "")
    other = Monitor(tmp_path / "run", active=False, first_step=0, num_steps=3, title="")  # of another process
    other.note("epoch 1")
    other.warn("skipped: 000006.jpg")
    assert capfd.readouterr().err == "skipped: 000006.jpg\n"
    recipe["data"]["max_broken"] = 0
    with pytest.raises(InputError, match=r"more than 0 pictures .* the last: .*000005\.jpg"):
        train(config_of(recipe, epochs=1), tmp_path / "other")
    for number in range(24):
        (tmp_path / "train" / "images" / f"{number:06d}.jpg").write_bytes(b"")
    for limit, message in ((3, "more than 3 pictures .* the last: "), (30, "no picture to learn from .* the first: ")):
        recipe["data"]["max_broken"] = limit
        with pytest.raises(InputError, match=message + r".*\.jpg: the file is empty"):
            train(config_of(recipe, epochs=1, workers=1), tmp_path / f"run{limit}")


def test_skeletons_must_agree(recipe, people, tmp_path):
    data = json.loads((people / "val" / "annotations.json").read_text())
    data["categories"][0] |= {
        "keypoints": ["tip", "middle", *[f"joint_{i}" for i in range(15)]],
        "flip_pairs": [],
        "sigmas": [0.05] * 17,
        "skeleton": [],
        "name": "finger",
    }
    (tmp_path / "other.json").write_text(json.dumps(data))
    recipe["data"]["val"] = {"annotations": str(tmp_path / "other.json"), "images": "val/images"}
    with pytest.raises(InputError, match=r"other\.json: keypoints \(tip, middle.*\(nose, left_eye"):
        train(config_of(recipe), tmp_path / "run")
    # and so must those of the weights that a run starts from, unless a new head is asked for
    recipe["data"]["val"] = None
    coco = train(config_of(recipe, epochs=1), tmp_path / "coco")
    recipe["data"]["train"] = [{"annotations": str(tmp_path / "other.json"), "images": "val/images"}]
    recipe["model"] |= {"weights": str(coco.weights)}
    with pytest.raises(InputError, match=r"training data: keypoints \(tip, .* differ from those of the weights"):
        train(config_of(recipe, epochs=1), tmp_path / "run")
    recipe["model"] |= {"new_head": True}
    _, card = load_model(train(config_of(recipe, epochs=1), tmp_path / "run").weights)
    assert card.skeleton.name == "finger"
    assert not list((tmp_path / "run").glob(".*"))


def test_early_stopping_and_frozen_parts(recipe, tmp_path):
    start = train(config_of(recipe, epochs=1), tmp_path / "start")
    recipe["model"] |= {"weights": str(start.weights), "frozen": ["conv1", "layer", "bn1"], "freeze_batch_norm": True}
    recipe["optim"] |= {"lr": 1e-12, "ema_decay": 0.0}
    result = train(config_of(recipe, epochs=50, validate_every=1, patience=2), tmp_path / "run")
    assert result.finished == "early stop"
    assert result.steps < 150
    checkpoint = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    again = train(config_of(recipe, epochs=50, validate_every=1, patience=2), tmp_path / "run", resume=True)
    assert (again.finished, again.steps, again.validation) == ("early stop", result.steps, result.validation)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == checkpoint
    before, after = load_file(start.weights), load_file(result.weights)
    for name, value in before.items():
        if name.startswith(("conv1", "layer", "bn1")) or "running" in name:
            assert torch.equal(value, after[name]), name


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("test_simple_baseline_64x64", {"model": {}, "loss": {}}),
        ("test_tfpose_64x64", {"model": {}, "loss": {"map_weight": 1.0}}),
        ("test_simcc_64x64", {"model": {}, "loss": {"targets": "one_hot", "label_smoothing": 0.1}}),
    ],
)
def test_every_kind_of_model_trains(model, changes, recipe, tmp_path):
    recipe |= {"model": {"name": model}, "loss": changes["loss"]}
    result = train(config_of(recipe, epochs=1, precision="bf16", channels_last=True), tmp_path)
    assert np.isfinite(float(rows_of(tmp_path)[-1]["loss"]))
    _, card = load_model(result.weights)
    assert card.codec.targets == ("one_hot" if "simcc" in model else "gaussian")


@pytest.fixture
def my_net():
    """A model of one's own that has only what `PoseModel` asks of it in eval mode; the codec is an option."""
    from torch import nn

    from ebapose.card import CodecSpec
    from ebapose.models import register, registry
    from ebapose.models.pose_model import PoseModel

    class MyNet(PoseModel):
        def __init__(self, input_hw, num_keypoints, codec="coordinate"):
            super().__init__()
            self.input_hw, self.num_keypoints = input_hw, num_keypoints
            self.codec_spec = CodecSpec(type=codec, sigma=(3.0, 3.0))
            height, width = input_hw
            sides = [2] if codec == "coordinate" else [2 * width, 2 * height]
            self.body = nn.Sequential(nn.Conv2d(3, 4, 9, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
            self.heads = nn.ModuleList(nn.Linear(64, num_keypoints * side) for side in sides)

        def forward(self, x):
            features = self.body(x)
            return tuple(head(features).unflatten(1, (self.num_keypoints, -1)) for head in self.heads)

    @register
    def test_my_net(input_hw, num_keypoints, **options):
        return MyNet(input_hw, num_keypoints, **options)

    yield
    del registry._registered["test_my_net"]


@pytest.mark.parametrize("codec", ["coordinate", "simcc"])
def test_a_model_of_ones_own_trains_with_what_it_has(codec, my_net, recipe, tmp_path):
    recipe |= {"model": {"name": "test_my_net_64x64", "options": {"codec": codec}}, "loss": {}}
    assert train(config_of(recipe, epochs=1), tmp_path / "run").finished == "complete"
    recipe["loss"] = {"map_weight": 0.1}
    if codec == "simcc":
        with pytest.raises(UsageError, match=r"loss\.map_weight: test_my_net_64x64 does not give the maps"):
            train(config_of(recipe, epochs=1), tmp_path / "other")


def test_the_environment_changes_no_recipe(recipe, tmp_path, monkeypatch):
    recipe["run"] |= {"epochs": 1, "accumulation": 2}
    plain = train(config_of(recipe), tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert train(config_of(recipe), tmp_path / "other").weights.read_bytes() == plain.weights.read_bytes()


def test_weights_of_another_size_are_resampled(recipe, tmp_path):
    start = train(config_of(recipe, epochs=1), tmp_path / "start")
    recipe["model"] |= {"name": "test_eba_prnetcc_96x64", "weights": str(start.weights)}
    _, card = load_model(train(config_of(recipe, epochs=1), tmp_path / "run").weights)
    assert card.input.size_hw == (96, 64)
    recipe["model"] |= {"name": "test_simcc_64x64", "options": {}}
    with pytest.raises(UsageError, match="holds test_eba_prnetcc, the recipe trains test_simcc"):
        train(config_of(recipe, epochs=1), tmp_path / "other")


def test_impossible_requests_are_refused_before_anything_is_written(recipe, tmp_path):
    with pytest.raises(UsageError, match="one step takes 32 persons, the training set has 24"):
        train(config_of(recipe, batch_size=32), tmp_path / "run")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="fp16 needs a GPU"):
            train(config_of(recipe, precision="fp16"), tmp_path / "run")
    with pytest.raises(UsageError, match=r"optim\.warmup_steps: 10 are more than the 3 steps"):
        train(config_of({**recipe, "optim": {"lr": 1, "warmup_steps": 10}}, epochs=1), tmp_path / "run")
    for options, cause in (
        ({"width": "abc"}, r"cannot be made with width='abc' \(.+\)"),
        ({"width": -3}, r"with width=-3 \(.*negative dimension -3.*\)"),
        ({"sigma": -1}, r"with sigma=-1 \(codec: sigma\.0: Input should be greater than 0\)"),
    ):
        with pytest.raises(UsageError, match=f"model 'test_eba_prnetcc_64x64' .*{cause}$") as refused:
            train({**recipe, "model": {"name": "test_eba_prnetcc_64x64", "options": options}}, tmp_path / "run")
        assert "\n" not in str(refused.value)
    half = {**recipe, "optim": {"lr": 1, "name": "muon"}}
    with pytest.raises(UsageError, match=r"optim\.name muon .* run\.precision fp16 .*: take bf16, or adamw$"):
        config_of(half, precision="fp16")
    heatmaps = {**recipe, "model": {"name": "test_simple_baseline_64x64"}, "loss": {"reduction": "reference"}}
    with pytest.raises(UsageError, match=r"loss\.reduction: test_simple_baseline_64x64 has no SimCC head"):
        train(heatmaps, tmp_path / "run")
    places = {**recipe, "model": {"name": "test_tfpose_64x64"}, "loss": {"absent_weight": 0.5}}
    with pytest.raises(UsageError, match=r"loss\.absent_weight: test_tfpose_64x64 gives every keypoint a place"):
        train(places, tmp_path / "run")
    with pytest.raises(UsageError, match=r"8 does not split into 4 processes x 2 parts .* 2 or more"):
        Plan(num_samples=24, batch_size=8, parts=2, rank=0, world=4, seed=0)  # norms need two samples
    recipe["model"]["frozen"] = ["layer9"]
    with pytest.raises(UsageError, match="no parameter starts with 'layer9'"):
        train(config_of(recipe), tmp_path / "run")
    assert not (tmp_path / "run").exists()
