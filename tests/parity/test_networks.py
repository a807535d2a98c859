"""The networks against the outputs of the published implementations, on weights that a formula gives."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from ebapose.models import create_model
from ebapose.models.attention import BridgeAttention
from ebapose.models.resnet import BasicBlock, Bottleneck, PoseResNet, ResNet
from vectors import GOLDEN, golden, network_image, network_weight, normal


def entries(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}_names.json").read_text())


def own_name(name: str) -> str:
    """Our name of a bridge attention parameter of the reference (without block prefix the module's own)."""
    prefix, _, rest = name.rpartition("ba.") if "ba." in name else ("", "", name)
    attention = f"{prefix}attention." if "ba." in name else ""
    kind, *parts = rest.split(".")
    if kind == "pre_fusions":
        return f"{attention}{('squeeze', 'norm')[int(parts[1])]}.{parts[0]}.{parts[2]}"
    if kind == "cur_fusion":
        return f"{attention}{('squeeze', 'norm')[int(parts[0])]}.LAST.{parts[1]}"
    if kind == "generation":
        return f"{attention}restore.{parts[1]}"
    return name


def fill(
    model: nn.Module,
    names: list[dict[str, Any]],
    prefix: str = "",
) -> nn.Module:
    """Give every entry of the state dict its formula value; the names must be exactly the model's."""
    attentions = {name: m for name, m in model.named_modules() if isinstance(m, BridgeAttention)}
    state = {}
    for entry in names:
        name = own_name(entry["name"].removeprefix(prefix))
        if ".LAST." in f".{name}":
            owner = name.split("attention.")[0] + "attention" if "attention." in name else ""
            name = name.replace("LAST", str(len(attentions[owner].squeeze) - 1))
        state[name] = torch.from_numpy(network_weight(entry["name"], tuple(entry["shape"])))
    model.load_state_dict(state, strict=True)
    return model


def stage_means(model: nn.Module, stages: list[str]) -> dict[str, np.ndarray]:
    """Filled while the model runs: mean over height and width of each stage's output."""
    means: dict[str, np.ndarray] = {}
    for stage in stages:
        model.get_submodule(stage).register_forward_hook(
            lambda module, inputs, output, stage=stage: means.__setitem__(stage, output.detach().mean((2, 3)).numpy())
        )
    return means


def run_network(
    name: str, model_name: str, dtype: torch.dtype
) -> tuple[tuple[torch.Tensor, ...], dict[str, np.ndarray]]:
    vectors = golden(name)
    model = create_model(model_name)
    assert isinstance(model, PoseResNet)
    fill(model, entries(name)).to(dtype).eval()
    assert sum(p.numel() for p in model.parameters()) == vectors["num_parameters"]
    image = network_image(f"input/{name}", 1, 3, *model.input_hw)
    assert_allclose(image.ravel()[: len(vectors["input_check"])], vectors["input_check"], rtol=1e-6)
    means = stage_means(model, [key.removeprefix("stage_mean_") for key in vectors if key.startswith("stage_mean_")])
    with torch.no_grad():
        return model(torch.from_numpy(image).to(dtype)), means


SIMCC = [("simcc_resnet50_256x192", "simcc50_256x192"), ("simcc_resnet18_384x288", "simcc18_384x288")]


@pytest.mark.parametrize(("name", "model_name"), SIMCC)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 5e-5)], ids=["f64", "f32"])
def test_simcc(name: str, model_name: str, dtype: torch.dtype, tolerance: float) -> None:
    outputs, means = run_network(name, model_name, dtype)
    vectors = golden(name)
    for axis, logits in zip("xy", outputs, strict=True):
        assert logits.dtype == dtype
        assert_allclose(logits.numpy(), vectors[f"output_{axis}"], rtol=0, atol=tolerance)
        assert (logits.argmax(-1).numpy() == vectors[f"argmax_{axis}"]).all()
    for stage, mean in means.items():
        assert_allclose(mean, vectors[f"stage_mean_{stage}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 5e-5)], ids=["f64", "f32"])
def test_simple_baseline(dtype: torch.dtype, tolerance: float) -> None:
    name = "simple_baseline_resnet50_256x192"
    (maps,), means = run_network(name, "simple_baseline50_256x192", dtype)
    vectors = golden(name)
    assert_allclose(maps[:, vectors["joints"]].numpy(), vectors["heatmap"], rtol=0, atol=tolerance)
    assert_allclose(maps.mean((2, 3)).numpy(), vectors["heatmap_joint_mean"], rtol=0, atol=tolerance)
    assert_allclose(maps.amax((2, 3)).numpy(), vectors["heatmap_joint_max"], rtol=0, atol=tolerance)
    assert (maps.flatten(2).argmax(-1).numpy() == vectors["argmax_flat"]).all()
    for stage, mean in means.items():
        assert_allclose(mean, vectors[f"stage_mean_{stage}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    ("case", "channels"), [("one_bridge", [64, 64]), ("two_bridges", [64, 64, 256]), ("unequal", [32, 48, 80, 160])]
)
def test_bridge_attention(case: str, channels: list[int], mode: str) -> None:
    name = f"ba_module_{case}"
    module = BridgeAttention(channels, 16, "relu")
    fill(module, entries("ba_module")[name], f"{name}.").double().train(mode == "train")
    features = [
        torch.from_numpy(normal(f"input/{name}/{i}", 4, c, 1, 1).astype(np.float32)).double()
        for i, c in enumerate(channels)
    ]
    with torch.no_grad():
        weights = module(features)
    assert_allclose(weights[:, :, 0, 0].numpy(), golden("ba_module")[f"{case}/{mode}"], rtol=0, atol=1e-9)


def block_and_input(case: str) -> tuple[BasicBlock | Bottleneck, torch.Tensor]:
    vectors = golden("ba_blocks")
    in_channels, width, stride = (int(vectors[f"{case}/{key}"]) for key in ("in_channels", "planes", "stride"))
    block_type = Bottleneck if case.startswith("bottleneck") else BasicBlock
    block = block_type(in_channels, width, stride, "relu", 16)
    fill(block, entries("ba_blocks")[f"ba_{case}"], f"ba_{case}.").double()
    x = normal(f"input/ba_{case}", 4, in_channels, 8, 6) + normal(f"input/ba_{case}/offset", 4, in_channels, 1, 1)
    x = np.maximum(0, x).astype(np.float32)
    assert_allclose(x.ravel()[:6], vectors[f"{case}/input_check"], rtol=1e-6)
    return block, torch.from_numpy(x).double().requires_grad_()


@pytest.mark.parametrize("case", ["basic", "basic_down", "bottleneck", "bottleneck_down"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_blocks(case: str, mode: str) -> None:
    vectors = golden("ba_blocks")
    block, x = block_and_input(case)
    block.train(mode == "train")
    seen: dict[str, torch.Tensor] = {}
    block.attention.register_forward_hook(lambda module, inputs, output: seen.update(attention=output))
    out = block(x)
    key = f"{case}/{mode}"
    assert_allclose(seen["attention"][:, :, 0, 0].detach().numpy(), vectors[f"{key}/attention"], rtol=0, atol=1e-9)
    assert_allclose(out.mean((2, 3)).detach().numpy(), vectors[f"{key}/output_mean"], rtol=0, atol=1e-9)
    assert_allclose(out[:2, :16].detach().numpy(), vectors[f"{key}/output_first16"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["basic", "basic_down", "bottleneck", "bottleneck_down"])
def test_block_gradients_and_running_statistics(case: str) -> None:
    vectors = golden("ba_blocks")
    block, x = block_and_input(case)
    out = block.train()(x)
    (out * torch.from_numpy(normal(f"gradient/ba_{case}", *out.shape))).sum().backward()
    attention = block.attention
    for key, gradient in {
        "grad_input_mean": x.grad.mean((2, 3)),
        "grad_generation": attention.restore.weight.grad[:16],
        "grad_cur_fusion": attention.squeeze[-1].weight.grad[:, :32],
        "grad_conv1_abs_sum": block.conv1.weight.grad.abs().sum(),
    }.items():
        expected = vectors[f"{case}/train/{key}"]
        assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=key)

    state = block.state_dict()
    prefix = f"{case}/train/updated/"
    updated = [key for key in vectors if key.startswith(prefix)]
    assert updated
    for key in updated:
        name = own_name(key.removeprefix(prefix)).replace("LAST", str(len(attention.squeeze) - 1))
        assert_allclose(state[name].numpy(), vectors[key], rtol=1e-5, atol=1e-6, err_msg=name)


class Classifier(ResNet):
    """The backbone as it was published: with average pooling and a classifier."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth, "relu", 16)
        self.fc = nn.Linear(self.stage_channels[-1], 1000)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        last = self.stages(x)[-1]
        return self.fc(last.mean((2, 3))), last


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_backbones(depth: int) -> None:
    name = f"ba_resnet{depth}"
    vectors = golden(name)
    model = Classifier(depth)
    fill(model, entries(name)).double()
    assert sum(p.numel() for p in model.parameters()) == vectors["num_parameters"]
    means = stage_means(model, ["bn1", "maxpool", "layer1", "layer2", "layer3", "layer4"])
    x = torch.from_numpy(network_image(f"input/{name}", 3, 3, 128, 96)).double()
    for mode in ("eval", "train"):
        with torch.no_grad():
            logits, last = model.train(mode == "train")(x)
        assert_allclose(logits[:, :100].numpy(), vectors[f"{mode}/logits_first100"], rtol=0, atol=1e-9)
        assert_allclose(last[:, :8].numpy(), vectors[f"{mode}/layer4_first8"], rtol=0, atol=1e-5)
        for stage, mean in means.items():
            expected = vectors[f"{mode}/stage_mean_{stage}"]
            assert_allclose(mean[: len(expected)], expected, rtol=0, atol=1e-9, err_msg=stage)
