"""One suite over every registered model."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor

from ebapose.models import ModelInfo, create_model, default_card, list_models
from ebapose.models.pose_model import PoseModel
from ebapose.models.weights import model_from_card
from vectors import GOLDEN, network_image, network_weight

EVERY = list_models(include_test=True)
TINY = [info for info in EVERY if info.architecture.startswith("test_")]


def every(models: list[ModelInfo]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("info", models, ids=lambda info: info.architecture)


def with_formula_weights(model: PoseModel) -> PoseModel:
    """Weights that anybody can draw again, and with which every part of the network matters."""
    state = {name: torch.from_numpy(network_weight(name, tuple(t.shape))) for name, t in model.state_dict().items()}
    model.load_state_dict(state)
    return model


def expected_shapes(model: PoseModel, batch: int) -> list[tuple[int, ...]]:
    """What the card promises, for one forward pass in eval mode."""
    height, width = model.input_hw
    codec = model.codec_spec
    lead = (batch, model.num_keypoints)
    if codec.type == "simcc":
        return [(*lead, int(width * codec.split_ratio)), (*lead, int(height * codec.split_ratio))]
    if codec.type == "heatmap":
        return [(*lead, height // codec.stride, width // codec.stride)]
    return [(*lead, 2)]


def total(outputs: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([(output.float() ** 2).sum() for output in outputs]).sum()


@every(EVERY)
def test_card_matches_reality(info: ModelInfo) -> None:
    """At the usual size, on the meta device: the way through the card, shapes, and a gradient for every parameter."""
    with torch.device("meta"):
        card = default_card(create_model(info.name))
    assert (card.architecture, card.input.size_hw) == (info.architecture, info.default_hw)
    model = model_from_card(card, device="meta").train()
    assert model.codec_spec == card.codec

    images = torch.empty(2, 3, *info.default_hw, device="meta")
    outputs = model(images)
    total(outputs).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    if card.codec.type == "coordinate":  # in training mode it returns what its losses need
        outputs = model.eval()(images)
    assert [tuple(output.shape) for output in outputs] == expected_shapes(model, 2)


@every(TINY)
def test_every_parameter_gets_a_gradient_that_is_finite_and_not_zero(info: ModelInfo) -> None:
    model = with_formula_weights(create_model(f"{info.architecture}_64x64", num_keypoints=4)).train()
    total(model(torch.from_numpy(network_image("gradient", 2, 3, 64, 64)))).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@every(TINY)
@pytest.mark.parametrize("hw", [(64, 64), (64, 32), (32, 96)])
def test_other_sizes(info: ModelInfo, hw: tuple[int, int]) -> None:
    model = create_model(f"{info.architecture}_{hw[0]}x{hw[1]}", num_keypoints=3).eval()
    with torch.no_grad():
        outputs = model(torch.zeros(1, 3, *hw))
    assert [tuple(output.shape) for output in outputs] == expected_shapes(model, 1)


@every(TINY)
def test_stored_numbers(info: ModelInfo) -> None:
    """Anything that changes what a network computes changes these. To write them anew: the test prints them."""
    stored = json.loads((GOLDEN / "tiny_models.json").read_text())
    model = with_formula_weights(create_model(f"{info.architecture}_64x64", num_keypoints=4)).eval()
    with torch.no_grad():
        outputs = model(torch.from_numpy(network_image("tiny", 2, 3, 64, 64)))
    numbers = [[output.flatten()[i * output.numel() // 16].item() for i in range(16)] for output in outputs]
    print(json.dumps({info.architecture: [[round(v, 7) for v in row] for row in numbers]}))
    torch.testing.assert_close(torch.tensor(numbers), torch.tensor(stored[info.architecture]), rtol=1e-4, atol=1e-5)


# 34 layers repeat the blocks of 18, 101 and 152 those of 50; the deepest of all stands for the deep ones.
@every([i for i in EVERY if not re.search("34|101|152", i.architecture) or i.architecture == "eba_prnetcc152"])
def test_a_hundred_steps_lower_the_loss(info: ModelInfo) -> None:
    """At full depth; few channels, so that 152 layers take seconds."""
    torch.manual_seed(0)
    side = 64 if info in TINY else 32
    narrow = {"width": 8, "reduction": 4}
    if "tfpose" in info.architecture:
        narrow |= {"channels": 32, "hidden": 64}
    elif "lite" not in info.architecture:
        narrow["deconv_channels"] = 8
    model = create_model(f"{info.architecture}_{side}x{side}", num_keypoints=4, **narrow).train()
    images = torch.randn(4, 3, side, side)
    targets = [torch.rand(4, 4, 2), torch.rand(4, 4, side // 4, side // 4), torch.randint(0, 2 * side, (2, 4, 4))]

    def loss() -> Tensor:
        outputs = model(images)
        if model.codec_spec.type == "simcc":
            axes = zip(outputs, targets[2], strict=True)
            return sum(torch.nn.functional.cross_entropy(o.flatten(0, 1), t.flatten()) for o, t in axes)
        if model.codec_spec.type == "heatmap":
            return (outputs[0] - targets[1]).square().mean()
        return (outputs[0] - targets[0]).abs().mean()

    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert sum(losses[-10:]) / 10 < 0.6 * losses[0]


@every([info for info in TINY if info.architecture not in ("test_simple_baseline", "test_tfpose")])
def test_maps_in_front_of_the_head_on_request(info: ModelInfo) -> None:
    model = create_model(info.name).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        *logits, maps = model(images, return_maps=True)
        assert maps.shape == (2, 17, 16, 16)
        assert torch.equal(maps, model.maps(images))
        for with_maps, without in zip(logits, model(images), strict=True):
            assert torch.equal(with_maps, without)


def test_initial_logits_are_nearly_even() -> None:
    """The loss begins at ln(bins), and the deconvolutions neither blow up nor swallow the signal."""
    torch.manual_seed(0)
    for name in ("eba_prnetcc18_64x64", "eba_prnetcc_lite18_64x64", "simcc18_64x64"):
        model = create_model(name).train()
        images = torch.randn(8, 3, 64, 64)
        with torch.no_grad():
            logits_x, logits_y, maps = model(images, return_maps=True)
        assert 0.3 < maps.std() < 3, name
        assert 0.01 < logits_x.std() < 0.7, name
        assert 0.01 < logits_y.std() < 0.7, name


def test_dropout_keeps_the_names_and_works_only_in_training() -> None:
    plain, dropping = create_model("test_eba_prnetcc_64x64"), create_model("test_eba_prnetcc_64x64", dropout=0.5)
    dropping.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    for a, b in zip(plain.eval()(images), dropping.eval()(images), strict=True):
        assert torch.equal(a, b)
    dropping.train()
    assert not torch.equal(dropping(images)[0], dropping(images)[0])


def test_ablations_are_options() -> None:
    from ebapose.models.attention import BridgeAttention, Mish

    model = create_model("test_eba_prnetcc_64x64", activation="relu", reduction=None)
    assert not any(isinstance(module, Mish | BridgeAttention) for module in model.modules())
    model = create_model("test_simcc_64x64", activation="mish", reduction=4)
    assert sum(isinstance(module, BridgeAttention) for module in model.modules()) == 4
    assert not any(isinstance(module, torch.nn.ReLU) for module in model.modules())


@every([info for info in TINY if not info.architecture.endswith("bottleneck")])
def test_attention_and_activation_are_free_in_every_resnet(info: ModelInfo) -> None:
    """A matter of configuration, and part of the card."""
    from ebapose.models.attention import BridgeAttention, Mish

    blocks = 3 if info.architecture == "test_eba_prnetcc_lite" else 4
    for options in ({"activation": "mish", "reduction": 2}, {"activation": "relu", "reduction": None}):
        model = model_from_card(default_card(create_model(info.name, **options)))
        backbone = [module for name, module in model.named_modules() if re.search(r"(^|\.)layer\d", name)]
        attention = [module for module in backbone if isinstance(module, BridgeAttention)]
        assert len(attention) == (blocks if options["reduction"] else 0)
        assert all(module.restore.in_features == module.restore.out_features // 2 for module in attention)
        unwanted = torch.nn.ReLU if options["activation"] == "mish" else Mish
        assert not any(isinstance(module, unwanted) for module in backbone)
        with torch.no_grad():
            assert len(model.eval()(torch.zeros(1, 3, 64, 64))) == len(expected_shapes(model, 1))


@every(TINY)
def test_compiles_without_graph_breaks(info: ModelInfo) -> None:
    model = with_formula_weights(create_model(info.name)).eval()
    images = torch.from_numpy(network_image("compile", 2, 3, 64, 64))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for traced, plain in zip(compiled(images), model(images), strict=True):
        torch.testing.assert_close(traced, plain)


@every(TINY)
def test_autocast_gives_usable_outputs(info: ModelInfo) -> None:
    model = create_model(info.name).train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.randn(2, 3, 64, 64))
    assert all(torch.isfinite(output).all() for output in outputs)
    if model.codec_spec.type == "simcc":
        assert all(output.dtype == torch.float32 for output in outputs)
