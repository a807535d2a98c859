"""What a run starts from."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ebapose import zoo
from ebapose.errors import UsageError
from ebapose.models.registry import create_model, default_card
from ebapose.models.weights import save_weights
from ebapose.skeleton import COCO17, Skeleton
from ebapose.training.config import TrainConfig
from ebapose.training.start import build_model


@pytest.mark.parametrize(("given", "padding"), [(None, 1.4), (1.1, 1.1)])
def test_the_crop_stays_that_of_the_weights_unless_the_recipe_says_otherwise(
    given: float | None, padding: float, tmp_path: Path
) -> None:
    model = create_model("test_simcc_64x64")
    card = default_card(model)
    spec = card.input.model_copy(update={"padding": 1.4, "mean": (1.0, 2.0, 3.0)})
    save_weights(tmp_path / "w.safetensors", model.state_dict(), card.model_copy(update={"input": spec}))
    recipe = {"name": "x", "optim": {"lr": 0.1}, "run": {"samples": 64}}
    recipe["data"] = {"train": [{"annotations": "a.json", "images": "."}]}
    start = {"name": "test_simcc_64x64", "weights": str(tmp_path / "w.safetensors"), "padding": given}
    _, found, _ = build_model(TrainConfig.model_validate(recipe | {"model": start}), COCO17)
    assert found.input == spec.model_copy(update={"padding": padding})
    _, scratch, _ = build_model(TrainConfig.model_validate(recipe | {"model": start | {"weights": None}}), COCO17)
    assert scratch.input == card.input.model_copy(update={"padding": given or 1.25})


def test_keypoints_are_read_as_those_of_the_weights(tmp_path: Path) -> None:
    model = create_model("test_simcc_64x64")
    card = default_card(model)
    codec = card.codec.model_copy(update={"position": "expected"})
    save_weights(tmp_path / "w.safetensors", model.state_dict(), card.model_copy(update={"codec": codec}))
    recipe = {"name": "x", "optim": {"lr": 0.1}, "run": {"samples": 64}}
    recipe["data"] = {"train": [{"annotations": "a.json", "images": "."}]}
    start = {"name": "test_simcc_64x64", "weights": str(tmp_path / "w.safetensors")}
    _, found, _ = build_model(TrainConfig.model_validate(recipe | {"model": start}), COCO17)
    assert found.codec.position == "expected"
    _, scratch, _ = build_model(TrainConfig.model_validate(recipe | {"model": start | {"weights": None}}), COCO17)
    assert scratch.codec.position == "peak"


def test_bundled_weights_are_found_by_the_name_in_their_card() -> None:
    card = zoo.bundled_card(zoo.bundled_models()["default"])
    name, options = card.name, {"split_ratio": card.codec.split_ratio}
    for weights in ("default", name):
        _, _, notes = build_model(recipe_from(Path(weights), name, options=options), COCO17)
        assert notes == [f"from the weights default.onnx ({name})"]
    with pytest.raises(UsageError, match=f"did you mean '{name}'"):
        build_model(recipe_from(Path(f"{name}x"), name, options=options), COCO17)


def recipe_from(weights: Path, name: str, **more: object) -> TrainConfig:
    recipe = {"name": "x", "optim": {"lr": 0.1}, "run": {"samples": 64}}
    recipe["data"] = {"train": [{"annotations": "a.json", "images": "."}]}
    return TrainConfig.model_validate(recipe | {"model": {"name": name, "weights": str(weights), **more}})


@pytest.mark.parametrize("new_head", [False, True])
def test_weights_that_were_trained_with_other_options_are_refused(new_head: bool, tmp_path: Path) -> None:
    name, path = "test_eba_prnetcc_64x64", tmp_path / "w.safetensors"
    for theirs, ours, message in (
        ({"activation": "relu"}, {}, r"activation is 'mish', but the weights .* were trained with 'relu'$"),
        ({}, {"activation": "relu"}, r"activation is 'relu', but the weights .* were trained with 'mish'$"),
        ({"reduction": 2}, {}, "reduction is 4, but the weights .* were trained with 2$"),
        ({"activation": "mish", "width": 8, "reduction": 4}, {"sigma": 9.0, "dropout": 0.2, "split_ratio": 3.0}, None),
    ):
        model = create_model(name, **theirs)
        save_weights(path, model.state_dict(), default_card(model))
        config = recipe_from(path, name, options=ours, new_head=new_head)
        if message is None:
            assert build_model(config, COCO17)[0].options == ours
        else:
            with pytest.raises(UsageError, match=rf"^model\.options: {message}"):
                build_model(config, COCO17)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("test_eba_prnetcc", ["final_layer.weight", "final_layer.bias"]),
        ("test_eba_prnetcc_lite", ["final_layer.weight", "final_layer.bias"]),
        ("test_simcc", ["final_layer.weight", "final_layer.bias"]),
        ("test_simple_baseline", ["final_layer.weight", "final_layer.bias"]),
        ("test_tfpose", ["query", "query_position", "auxiliary_maps.3.weight", "auxiliary_maps.3.bias"]),
    ],
)
def test_keypoints_of_the_same_name_keep_what_they_have_learned(name: str, own: list[str], tmp_path: Path) -> None:
    before = create_model(f"{name}_64x64")
    save_weights(tmp_path / "w.safetensors", before.state_dict(), default_card(before))
    theirs = before.state_dict()
    config = recipe_from(tmp_path / "w.safetensors", f"{name}_64x64", new_head=True)

    dog = Skeleton("dog", ("tail", "nose", "left_wrist"), (), (), (0.1, 0.1, 0.1))
    model, card, notes = build_model(config, dog)
    assert notes[1:] == ["keypoints that the weights know: nose, left_wrist", "new keypoints: tail"]
    assert card.skeleton == dog
    assert model.eval()(torch.zeros(1, 3, 64, 64))[0].shape[1] == 3
    for tensor, value in model.state_dict().items():
        if tensor not in own:
            assert torch.equal(value, theirs[tensor]), tensor
            continue
        assert torch.equal(value[1:], theirs[tensor][[0, COCO17.keypoint_names.index("left_wrist")]]), tensor
        assert not (value[0] == theirs[tensor][0]).all(), tensor

    pairs = tuple((16 - a, 16 - b) for a, b in COCO17.flip_pairs)
    order = Skeleton("turned", COCO17.keypoint_names[::-1], (), pairs, (0.1,) * 17)
    turned, _, notes = build_model(config, order)
    assert notes[-1] == "new keypoints: none"
    assert all(torch.equal(turned.state_dict()[tensor], theirs[tensor].flip(0)) for tensor in own)

    others = Skeleton("others", tuple(f"k{i}" for i in range(17)), (), (), (0.1,) * 17)
    model, _, notes = build_model(config, others)
    assert notes[1:] == [f"new keypoints: {', '.join(others.keypoint_names)}"]
    assert not any((model.state_dict()[tensor] == theirs[tensor]).all() for tensor in own)
    # a run that began when rows were taken as they come
    model, _, _ = build_model(config, others, older=True)
    assert all(torch.equal(model.state_dict()[tensor], theirs[tensor]) for tensor in own)


_FAULTS = """
import resource, sys, torch
from ebapose.training.start import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(9):
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    torch.empty(1 << 24).fill_(1)  # 64 MB
print(faults[8] - faults[7])  # the first few find their places
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc can be told so")
def test_memory_that_is_freed_can_be_kept_so_that_its_pages_need_not_be_cleared_again() -> None:
    def faults(what: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", _FAULTS, what], capture_output=True, text=True, timeout=120, check=True
        )
        return int(done.stdout)

    assert faults("give back") > 20 > faults("keep")  # 32 where the system gives huge pages unasked, else 16,384
