"""The example pictures, the bundled network in float32, and the bundled detector, opened once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebapose import zoo
from ebapose.card import ModelCard
from ebapose.inference.detector import NanoDet
from ebapose.inference.runtime import Runtime, load_model_file
from ebapose.io.pictures import read_image
from ebapose.structures import Frame

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def examples() -> list[Frame]:
    return [read_image(EXAMPLES / f"{name}.jpg") for name in ("balance", "park", "treadmill")]


@pytest.fixture(scope="session")
def network() -> tuple[Runtime, ModelCard]:
    return load_model_file(zoo.bundled_models()["default"], "openvino", precision="f32")


@pytest.fixture(scope="session")
def nanodet() -> NanoDet:
    return NanoDet()
