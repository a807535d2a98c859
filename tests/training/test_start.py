"""What a run starts from."""

from __future__ import annotations

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
