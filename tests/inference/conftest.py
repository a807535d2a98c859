"""The example pictures, the bundled network in float32, and the bundled detector, opened once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import ebapose
from ebapose import zoo
from ebapose.card import ModelCard
from ebapose.inference.detector import NanoDet
from ebapose.inference.runtime import Runtime, load_model_file
from ebapose.io.pictures import read_image
from ebapose.structures import Frame
from io_video_files import write_clip

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


@pytest.fixture(scope="session")
def predictor() -> ebapose.Predictor:
    return ebapose.load()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The camera pans over a photograph with two persons, with sound."""
    pytest.importorskip("av")
    photo = cv2.cvtColor(cv2.imread(str(EXAMPLES / "park.jpg")), cv2.COLOR_BGR2RGB)
    width = 2 * round(320 * photo.shape[1] / photo.shape[0] / 2)
    small = cv2.resize(photo, (width, 320), interpolation=cv2.INTER_AREA)
    images = [np.roll(small, 2 * index, axis=1) for index in range(12)]
    path = tmp_path_factory.mktemp("clip") / "walk.v1.mp4"
    return write_clip(path, 12, hw=small.shape[:2], images=images, audio="aac")
