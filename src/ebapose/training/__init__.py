"""Training: a recipe in, weights with a card out. See `docs/training_on_coco.md` and `docs/fine_tuning.md`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebapose.training.config import TrainConfig, load_train_config
    from ebapose.training.loop import TrainResult, train

_HOME = {"TrainConfig": "config", "load_train_config": "config", "TrainResult": "loop", "train": "loop"}

__all__ = ["TrainConfig", "TrainResult", "load_train_config", "train"]


def __getattr__(name: str) -> Any:
    """Load on first use: reading a recipe must not import torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
