"""What a run starts from."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ebapose.models.registry import create_model, default_card
from ebapose.models.weights import save_weights
from ebapose.skeleton import COCO17
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
