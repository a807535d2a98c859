from __future__ import annotations

import copy
import importlib
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebapose.errors import UsageError
from ebapose.models import create_model, default_card, list_models, register, registry
from ebapose.skeleton import COCO17, Skeleton


def test_listing_the_models_imports_no_torch() -> None:
    code = "import sys, ebapose.models as m; assert len(m.list_models()) > 20; assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_the_modules_register_exactly_the_built_in_names() -> None:
    for module in {module for module, _ in registry._BUILT_IN.values()}:
        importlib.import_module(f"ebapose.models.{module}")
    built_in = {name for name, f in registry._registered.items() if f.__module__.startswith("ebapose.models.")}
    assert built_in == set(registry._BUILT_IN)
    for name in built_in:
        function = registry._registered[name]
        assert function.__module__ == f"ebapose.models.{registry._BUILT_IN[name][0]}"
        assert function.__doc__


def test_test_models_are_listed_only_on_request() -> None:
    names = [info.architecture for info in list_models()]
    assert "eba_prnetcc34_slp" in names
    assert not any(name.startswith("test_") for name in names)
    assert any(info.name == "test_tfpose_64x64" for info in list_models(include_test=True))


@given(st.sampled_from(list_models(include_test=True)), st.integers(1, 40), st.integers(1, 40))
def test_every_size_that_is_a_multiple_of_32_parses(info: registry.ModelInfo, rows: int, columns: int) -> None:
    hw = (32 * rows, 32 * columns)
    assert registry.parse_name(registry.model_name(info.architecture, hw)) == (info.architecture, hw)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eba_prnetc34_384x288", "did you mean 'eba_prnetcc34_384x288'"),
        ("simc50_256x192", "did you mean 'simcc50_256x192'"),
        (
            "eba_prnetcc35_slp_384x288",
            "did you mean 'eba_prnetcc.._slp_384x288'",
        ),
        ("eba_prnetcc34", "add the input size.*eba_prnetcc34_384x288"),
        ("eba_prnetcc34_100x288", "multiples of 32"),
        ("eba_prnetcc34_0x288", "multiples of 32"),
        ("zzzzzz", "unknown model 'zzzzzz'"),
        ("", "unknown model ''"),
    ],
)
def test_bad_names_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        create_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": 1}, "no option 'colour'"),
        ({"split_ratio": 0}, "split_ratio"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"reduction": 0}, "reduction"),
        ({"reduction": 2.5}, "reduction must be a whole number from 1 on .* not 2.5"),
        ({"reduction": True}, "reduction must be a whole number"),
        ({"reduction": "16"}, "reduction must be a whole number"),
        ({"head": "conv"}, "unknown head 'conv'"),
        ({"num_keypoints": 0}, "num_keypoints"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model("test_eba_prnetcc_64x64", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, r"channels must be divisible by heads \(3\) and by 4, not 16"),
        ({"channels": 6, "heads": 2}, r"channels must be divisible by heads \(2\) and by 4, not 6"),
        ({"points": 0}, "points must be at least 1, not 0"),
        ({"encoder_layers": 0}, "encoder_layers must be at least 1, not 0"),
        ({"decoder_layers": -1}, "decoder_layers must be at least 1, not -1"),
    ],
)
def test_options_of_tfpose_go_together(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model("test_tfpose_64x64", **options)


def test_a_model_of_your_own_needs_only_the_decorator() -> None:
    from ebapose.models.simcc import SimCC

    @register
    def my_net(input_hw: tuple[int, int], num_keypoints: int = 17, **options: object) -> SimCC:
        return SimCC(10, input_hw, num_keypoints, width=8, deconv_channels=8)

    try:
        assert create_model("my_net_64x32").architecture == "my_net"
        assert "my_net" in [info.architecture for info in list_models()]
    finally:
        del registry._registered["my_net"]


def test_a_name_is_not_taken_twice() -> None:
    def simcc50(input_hw: tuple[int, int]) -> None: ...

    create_model("test_simcc_64x64")
    with pytest.raises(UsageError, match="simcc50: already registered"):
        register(simcc50)


def test_a_model_knows_all_its_options() -> None:
    design = registry.create_model("test_eba_prnetcc_64x64", sigma=3.0).design
    assert (design["sigma"], design["width"], design["activation"], design["head"]) == (3.0, 8, "mish", "mlp")
    assert registry.create_model("tfpose18_small_64x64").design["channels"] == 128
    copied = copy.deepcopy(registry.create_model("test_simcc_64x64", split_ratio=3.0))
    assert copied.design["split_ratio"] == 3.0


def test_default_card_describes_the_model() -> None:
    model = create_model("test_eba_prnetcc_64x32", split_ratio=3.0, sigma=4.0)
    card = default_card(model)
    assert card.name == "test_eba_prnetcc_64x32"
    assert (card.architecture, card.input.size_hw) == ("test_eba_prnetcc", (64, 32))
    assert card.options == {"split_ratio": 3.0, "sigma": 4.0}
    assert (card.codec.type, card.codec.split_ratio, card.codec.sigma) == ("simcc", 3.0, (4.0, 4.0))
    assert card.skeleton == COCO17


def test_default_card_refuses_a_skeleton_of_another_size() -> None:
    two = Skeleton("two", ("left_eye", "right_eye"), (), ((0, 1),), (0.1, 0.1))
    model = create_model("test_simcc_64x64", num_keypoints=3)
    with pytest.raises(UsageError, match="3 keypoints, skeleton 'two' 2"):
        default_card(model, skeleton=two)
