"""A tiny teacher whose one feature is the brightness of each cell: where it sees something is known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ebapose.config import parse_config
from ebapose.errors import EbaposeError
from ebapose.models.registry import create_model
from ebapose.models.weights import load_model
from ebapose.training import TrainConfig, train
from ebapose.training.config import TeacherConfig
from ebapose.training.teacher import Teacher


def config_of(teacher_file: Path, **changes: Any) -> TeacherConfig:
    return TeacherConfig.model_validate({"model": teacher_file, "features": "cells", "maps": "spots", **changes})


@pytest.mark.parametrize("enlarge", [1.0, 1.333, 2.0])
def test_it_sees_things_where_they_are(teacher_file: Path, enlarge: float) -> None:
    """A bright cell of the crop is that cell of the maps, whatever the crop was enlarged by; one crop or several."""
    teacher = Teacher(config_of(teacher_file, enlarge=enlarge), teacher_file, (64, 32))
    images = torch.zeros(3, 3, 64, 32, dtype=torch.uint8)
    places = [(2, 1), (9, 6), (15, 7)]
    for image, (row, column) in zip(images, places, strict=True):
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
    features, maps = teacher.look(images)
    assert features.shape == (3, 2, 16, 8)
    assert maps.shape == (3, 1, 16, 8)
    for seen in (features[:, 0], features[:, 1], maps[:, 0]):
        assert [divmod(int(i), 8) for i in seen.flatten(1).argmax(1)] == places
    assert torch.allclose(features[:, 1], features[:, 0] / 2, atol=0.01)
    assert float(maps.min()) < 0.01  # probabilities, not logits
    assert float(maps.max()) > 0.9 if enlarge == 1 else float(maps.max()) > 0.5
    again = teacher.look(images[1:2])
    assert torch.allclose(again[0], features[1:2], atol=0.01)


def test_the_losses_are_smallest_for_what_was_seen(teacher_file: Path) -> None:
    teacher = Teacher(config_of(teacher_file, feature_weight=3.0, map_weight=0.5), teacher_file, (32, 32))
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    features, maps = seen = teacher.look(images)
    scaled = (features - features.mean((0, 2, 3), keepdim=True)) / features.std((0, 2, 3), keepdim=True)
    right = torch.cat([scaled, (maps.square() + 1e-9).log()], 1)
    best = teacher.losses(right, seen)
    assert float(best["teacher_features"]) == pytest.approx(0, abs=0.01)
    nothing = teacher.losses(torch.zeros_like(right), seen)
    assert float(nothing["teacher_features"]) == pytest.approx(3.0, rel=0.05)  # the variance, 1, times the weight
    cells = 8 * 8
    assert float(nothing["teacher_maps"]) == pytest.approx(0.5 * np.log(cells) * float(maps.amax((2, 3)).mean()))
    assert float(best["teacher_maps"]) < float(nothing["teacher_maps"])


def test_a_run_learns_from_it_and_leaves_it_behind(recipe: dict[str, Any], teacher_file: Path, tmp_path: Path) -> None:
    recipe["teacher"] = {"model": str(teacher_file), "features": "cells", "maps": "spots"}
    recipe["optim"]["lr"] = 1e-2
    config = parse_config(TrainConfig, {**recipe, "run": {**recipe["run"], "epochs": 20}}, "recipe")
    seen: list[float] = []
    losses = Teacher.losses

    def noting(self: Teacher, *arguments: Any) -> dict[str, torch.Tensor]:
        parts = losses(self, *arguments)
        seen.append(float(parts["teacher_features"].detach()))
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "losses", noting)
        result = train(config, tmp_path / "run")
    assert len(seen) == result.steps
    assert np.mean(seen[-5:]) < 0.97 < 1 < np.mean(seen[:5])  # 1: whoever always says the average
    assert result.weights is not None
    model, _ = load_model(result.weights)  # refuses names that the network does not have
    assert not [name for name in load_file(result.weights) if "hint" in name]
    assert len(model(torch.zeros(1, 3, 64, 64), return_maps=True)) == 3


def test_interrupted_it_resumes_to_the_same_bits(recipe: dict[str, Any], teacher_file: Path, tmp_path: Path) -> None:
    recipe["teacher"] = {"model": str(teacher_file), "features": "cells", "maps": "spots"}
    config = parse_config(TrainConfig, recipe, "recipe")
    straight = train(config, tmp_path / "straight")
    losses, calls = Teacher.losses, []

    def interrupting(self: Teacher, *arguments: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return losses(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "losses", interrupting)
        patch.setitem(recipe["run"], "checkpoint_every_s", 0)
        with pytest.raises(KeyboardInterrupt):
            train(parse_config(TrainConfig, recipe, "recipe"), tmp_path / "cut")
    resumed = train(parse_config(TrainConfig, recipe, "recipe"), tmp_path / "cut", resume=True)
    assert (resumed.steps, resumed.finished) == (straight.steps, "complete")
    ours, theirs = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("straight", "cut"))
    assert "model.hint.weight" in ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "toes"}, "has no tensor 'toes'"),
        ({"features": "coarse"}, r"'coarse' .* is \[.*,2,8,8\] .* a quarter of their height and width is needed"),
        ({"maps": "coarse"}, r"'coarse' .* is \[.*,2,8,8\] .* a quarter of their height and width is needed"),
        ({"maps": "where"}, "cannot be a teacher|a quarter of their height"),
    ],
)
def test_what_is_no_teacher_is_refused_in_one_line(teacher_file: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EbaposeError, match=message) as caught:
        Teacher(config_of(teacher_file, **changes), teacher_file, (64, 64))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_network_is_named(teacher_file: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes(teacher_file.read_bytes()[:100])
    for name in ("missing.onnx", "torn.onnx"):
        with pytest.raises(EbaposeError, match=name) as caught:
            Teacher(config_of(teacher_file), tmp_path / name, (64, 64))
        assert "\n" not in str(caught.value)


def test_a_network_without_a_place_for_it_is_refused(teacher_file: Path) -> None:
    teacher = Teacher(config_of(teacher_file), teacher_file, (64, 64))
    with pytest.raises(EbaposeError, match="cannot learn from one, the eba_prnetcc models can"):
        teacher.give_hints_to(create_model("test_simple_baseline_64x64"))
