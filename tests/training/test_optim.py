from __future__ import annotations

import pytest
import torch
from torch import nn

from ebapose.config import parse_config
from ebapose.errors import UsageError
from ebapose.training.config import OptimConfig
from ebapose.training.optim import (
    Ema,
    Muon,
    build_optimizers,
    check_schedule,
    freeze,
    lr_factor,
    orthogonalize,
    parameter_groups,
    set_lr,
    training_mode,
)


def config(**keys) -> OptimConfig:
    return parse_config(OptimConfig, {"lr": 0.1, **keys}, "test")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16, 2))


def test_schedules():
    def factors(num_steps, **keys):
        return [lr_factor(step, num_steps, 10, config(**keys)) for step in range(num_steps)]

    assert factors(30) == [1.0] * 30
    steps = factors(60, schedule="step", milestones=[2, 4.5], gamma=0.5)
    assert steps == [1.0] * 20 + [0.5] * 25 + [0.25] * 15
    cosine = factors(101, schedule="cosine", warmup_steps=10, final_lr_factor=0.1)
    assert cosine[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.55)
    assert cosine[100] == pytest.approx(0.1)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)


def test_a_run_too_short_for_its_schedule_is_refused():
    check_schedule(config(schedule="step", milestones=[1, 2.5], warmup_steps=30), 30, 10)
    with pytest.raises(UsageError, match=r"optim\.warmup_steps: 31 are more than the 30 steps"):
        check_schedule(config(warmup_steps=31), 30, 10)
    with pytest.raises(UsageError, match=r"optim\.milestones: 3 is not within the 3 epochs"):
        check_schedule(config(schedule="step", milestones=[1, 3]), 30, 10)


def test_parameter_groups():
    groups = parameter_groups(network(), config(weight_decay=0.2, lr_factors={"0": 0.1, "0.bias": 0.5}))
    found = {name: (g["weight_decay"], g["lr_factor"], g["matrix"]) for g in groups for name in g["names"]}
    assert found == {
        "0.weight": (0.2, 0.1, True),
        "0.bias": (0.0, 0.5, False),
        "1.weight": (0.0, 1.0, False),
        "1.bias": (0.0, 1.0, False),
        "3.weight": (0.2, 1.0, True),
        "3.bias": (0.0, 1.0, False),
    }
    with pytest.raises(UsageError, match="lr_factors"):
        parameter_groups(network(), config(lr_factors={"layer9": 0.1}))
    optimizers = build_optimizers(network(), config(lr_factors={"0": 0.1}))
    set_lr(optimizers, 0.5)
    assert {round(g["lr"], 6) for o in optimizers for g in o.param_groups} == {0.05, 0.5}


@pytest.mark.parametrize("name", ["adamw", "adam", "muon"])
def test_every_optimizer_fits_a_linear_rule(name):
    model = network()
    images = torch.randn(64, 3, 4, 4)
    wanted = images.mean((2, 3))[:, :2]
    optimizers = build_optimizers(model, config(name=name, weight_decay=0.0))
    assert len(optimizers) == (2 if name == "muon" else 1)
    set_lr(optimizers, 0.01)
    losses = []
    for _ in range(80):
        loss = ((model(images) - wanted) ** 2).mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_decay_is_what_the_recipe_says_and_adam_has_none_of_its_own():
    """One step without a gradient: adamw takes its share, adam leaves everything in place."""
    for chosen, share in (({}, 1e-4), ({"name": "adam"}, 0.0), ({"weight_decay": 0.2}, 2e-3)):
        model = network()
        before = model[0].weight.detach().clone()
        optimizers = build_optimizers(model, config(**chosen))
        set_lr(optimizers, 0.01)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(model[0].weight.detach(), before * (1 - share))
    assert config(name="adam", weight_decay=0.1).weight_decay == 0.1


def test_muon_with_learning_rates_of_its_own_for_a_layer():
    model = network()
    matrices, rest = build_optimizers(model, config(name="muon", lr_factors={"3": 10}))
    set_lr([matrices, rest], 0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [{names[id(p)]: g["lr"] for g in o.param_groups for p in g["params"]} for o in (matrices, rest)]
    assert found == [
        {"0.weight": 0.5, "3.weight": 5.0},
        {"0.bias": 0.5, "1.weight": 0.5, "1.bias": 0.5, "3.bias": 5.0},
    ]


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_orthogonalized_matrices_keep_their_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonalize(matrix) @ v.T
    values = found.diagonal()
    assert ((values > 0.3) & (values < 1.3)).all()
    assert values[s > s.max() / 5].min() > 0.6
    torch.testing.assert_close(found, torch.diag(values), atol=1e-3, rtol=0)


def test_averaged_weights():
    model = network()
    ema = Ema(model, 0.9)
    expected = model[3].weight.detach().clone()
    for step in range(100):
        with torch.no_grad():
            model[3].weight.add_(0.1)
            model[1].running_mean.add_(1)
            model[1].num_batches_tracked.add_(1)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[3].weight.detach()
        ema.update(model, step)
    torch.testing.assert_close(ema.model[3].weight, expected)
    assert ema.model[1].num_batches_tracked == 100  # a counter is copied
    assert 80 < ema.model[1].running_mean[0] < 100  # statistics are averaged
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_frozen_parts():
    model = network()
    freeze(model, ["0."], True)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["3.weight", "3.bias"]
    training_mode(model, ["0."], True)
    assert model.training
    assert not model[1].training
    training_mode(model, [], False)
    assert model[1].training
    with pytest.raises(UsageError, match="no parameter starts with"):
        freeze(network(), ["9"], False)
    with pytest.raises(UsageError, match="nothing remains"):
        freeze(network(), ["0", "1", "3"], False)


def test_a_norm_named_by_a_frozen_prefix_keeps_its_statistics():
    """A norm keeps its statistics where a frozen prefix names it, and only there."""
    model = network()
    training_mode(model, ["1."], False)
    assert not model[1].training
    training_mode(model, ["0."], False)
    assert model[1].training


def test_muon_decays():
    """Muon's decay is decoupled: without a gradient to follow the weights shrink by lr * weight_decay."""
    weight = nn.Parameter(torch.ones(3, 5))
    weight.grad = torch.zeros(3, 5)
    Muon([{"params": [weight], "weight_decay": 0.2}], lr=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.full((3, 5), 0.98))
