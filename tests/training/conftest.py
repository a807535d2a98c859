"""A tiny network and two dozen drawn people: a run takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
