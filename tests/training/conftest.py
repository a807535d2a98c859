"""A tiny network and two dozen drawn people: a run takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from ebapose.data.synthetic import make_dataset  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> Path:
    """Folder with `train/` (24 pictures) and `val/` (10), one person each."""
    folder = tmp_path_factory.mktemp("people")
    make_dataset(folder / "train", num_images=24, seed=1, image_hw=(64, 64), max_people=1)
    make_dataset(folder / "val", num_images=10, seed=2, image_hw=(64, 64), max_people=1)
    return folder


@pytest.fixture
def recipe(people) -> dict[str, Any]:
    """A recipe as plain data; 3 steps per epoch."""
    return {
        "name": "tiny",
        "data": {
            "root": str(people),
            "train": [{"annotations": "train/annotations.json", "images": "train/images"}],
            "val": {"annotations": "val/annotations.json", "images": "val/images"},
        },
        "model": {"name": "test_eba_prnetcc_64x64", "options": {"split_ratio": 2.0, "sigma": 3.0, "dropout": 0.1}},
        "augment": {"dropout_probability": 0.3, "paste_probability": 0.3},
        "loss": {"map_weight": 0.1},
        "optim": {"lr": 1e-3, "schedule": "cosine", "warmup_steps": 1, "ema_decay": 0.9, "clip_norm": 5.0},
        "run": {"epochs": 3, "batch_size": 8, "workers": 0, "validate_every": 2, "metric": "oks", "log_every": 1},
    }


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose one feature is the brightness of each cell.

    Takes (1, 64, 64, 3); "cells" (1, 2, 16, 16): brightness 0..1 and its half; "spots" (1, 1, 16, 16): logits.

    Behind them stands something that holds for this one size only, as in networks that decode keypoints themselves.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    brightness = np.stack([np.full((3, 4, 4), part / (3 * 16 * 255), np.float32) for part in (1, 0.5)])
    constants = {
        "brightness": brightness,
        "spot": np.array([20, 0], np.float32).reshape(1, 2, 1, 1),
        "bias": np.array([-10], np.float32),
        "flat": np.array([1, 16 * 16], np.int64),
        "half": np.array([[32]], np.int32),
        "float": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["picture"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "brightness"], ["cells"], strides=[4, 4], kernel_shape=[4, 4]),
        helper.make_node("Conv", ["cells", "spot", "bias"], ["spots"], kernel_shape=[1, 1]),
        helper.make_node("AveragePool", ["cells"], ["coarse"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["spots", "flat"], ["row"]),
        helper.make_node("ArgMax", ["row"], ["where"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("picture", TensorProto.INT32, [1, 64, 64, 3])],
        [
            helper.make_tensor_value_info("where", TensorProto.INT64, [1, 1]),
            helper.make_tensor_value_info("coarse", TensorProto.FLOAT, [1, 2, 8, 8]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path
