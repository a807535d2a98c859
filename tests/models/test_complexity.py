from __future__ import annotations

import json

import pytest
import torch

from ebapose.models import create_model
from ebapose.models.complexity import CONVENTIONS, measure, measure_name
from vectors import GOLDEN

# name, parameters in thousands, cost in 10^9 of Conv2d and Linear, and of all layers
PAPER = [
    ("eba_prnetcc34_384x288", 29_606, 8.170, 10.66),
    ("eba_prnetcc34_slp_384x288", 35_013, 8.262, 10.75),
    ("eba_prnetcc18_384x288", 19_393, 4.093, 6.58),
    ("eba_prnetcc34_256x256", 28_082, 4.843, 6.32),
    ("eba_prnetcc18_256x256", 17_869, 2.427, 3.90),
]


@pytest.mark.parametrize(("name", "thousands", "paper", "true"), PAPER)
def test_the_papers_figures_come_out(name: str, thousands: int, paper: float, true: float) -> None:
    cost = measure_name(name)
    assert round(cost.num_parameters / 1000) == thousands
    assert round(cost.gmac("paper"), 3) == paper
    assert round(cost.gmac("true"), 2) == true


@pytest.mark.parametrize(
    ("name", "parameters", "true", "hrnet"),
    [
        # hrnet: the costs that the published tables quote for these networks
        ("simple_baseline50_256x192", 33_999_697, 5.43, 8.99),
        ("simple_baseline50_384x288", 33_999_697, 12.21, 20.23),
        ("simcc50_256x192", 36_753_105, 5.47, 8.99),
        ("simcc50_384x288", 43_290_769, 12.37, 20.23),
    ],
)
def test_the_published_networks(name: str, parameters: int, true: float, hrnet: float) -> None:
    cost = measure_name(name)
    assert cost.num_parameters == parameters
    assert round(cost.gmac("true"), 2) == true
    assert round(cost.gmac("hrnet"), 2) == hrnet


def test_parameter_counts_of_the_official_simcc() -> None:
    entries = json.loads((GOLDEN / "simcc_parameter_counts.json").read_text())
    assert len(entries) == 25

    def count(name: str, **options: float) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in create_model(name, **options).parameters())

    heatmap = {depth: count(f"simple_baseline{depth}_256x192") for depth in (18, 34, 50, 101, 152)}
    for entry in entries:
        depth, (width, height) = entry["depth"], entry["image_size_wh"]
        assert heatmap[depth] == entry["heatmap_parameters"]
        # Only the heads depend on the size; the whole network is counted for the shallowest.
        head = count(f"simcc18_{height}x{width}", split_ratio=entry["split_ratio"]) - heatmap[18]
        assert heatmap[depth] + head == entry["simcc_parameters"]


@pytest.mark.parametrize(("depth", "extra"), [(18, 131), (34, 237), (50, 3149)])
def test_bridge_attention_costs_what_its_paper_says(depth: int, extra: int) -> None:
    def count(reduction: int | None) -> int:
        with torch.device("meta"):
            model = create_model(f"eba_prnetcc{depth}_64x64", reduction=reduction)
        return sum(p.numel() for p in model.parameters())

    assert round((count(16) - count(None)) / 1000) == extra


def test_tfpose_has_the_size_and_cost_of_its_paper() -> None:
    cost = measure_name("tfpose50_384x288")
    assert abs(cost.num_parameters / 38.0e6 - 1) < 0.1
    assert abs(cost.gmac("true") / 20.4 - 1) < 0.02
    assert any(layer.type == "DeformableAttention" and layer.macs > 0 for layer in cost.layers)


@pytest.mark.parametrize("size", ["384x288", "256x256", "128x96"])
def test_the_lite_model_costs_at_most_60_per_cent(size: str) -> None:
    lite, full = measure_name(f"eba_prnetcc_lite18_{size}"), measure_name(f"eba_prnetcc18_{size}")
    assert lite.gmac("true") <= 0.6 * full.gmac("true")
    assert lite.num_parameters <= 0.6 * full.num_parameters
    deeper = measure_name(f"eba_prnetcc34_{size}").gmac("true")
    assert measure_name(f"eba_prnetcc_lite34_{size}").gmac("true") <= 0.65 * deeper


def test_layers_by_hand() -> None:
    """A stem whose products can be counted on paper."""
    cost = measure_name("test_simcc_64x32", num_keypoints=3)
    layers = {layer.name: layer for layer in cost.layers}
    assert layers["conv1"].macs == 7 * 7 * 3 * 8 * (32 * 16)
    assert layers["deconv_layers.0"].macs == 64 * 8 * 16 * (2 * 1)  # every input cell meets the whole kernel
    assert layers["deconv_layers.0"].hrnet_macs == 64 * 8 * 16 * (4 * 2)
    assert layers["mlp_head_x"].macs == 3 * (16 * 8) * 64
    assert layers["mlp_head_x"].hrnet_macs == 3 * 64 * 3
    assert {layer.type for layer in cost.layers} == {"Conv2d", "ConvTranspose2d", "Linear"}
    assert cost.gmac("true") * 1e9 == pytest.approx(sum(layer.macs for layer in cost.layers))
    published = sum(layer.macs for layer in cost.layers if layer.type != "ConvTranspose2d")
    assert cost.gmac("paper") * 1e9 == pytest.approx(published)
    assert set(CONVENTIONS) == {"true", "paper", "hrnet"}


def test_measuring_leaves_the_model_alone() -> None:
    model = create_model("test_eba_prnetcc_64x64").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert measure(model) == measure_name("test_eba_prnetcc_64x64")
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
