"""ebapose: 2D human pose estimation by coordinate classification.

    import ebapose

    predictor = ebapose.load()
    poses = predictor(image)          # RGB uint8 (H, W, 3)
    poses.keypoints                   # (persons, 17, 2), px
    poses.scores                      # (persons, 17), 0..1
    poses.sigmas_px                   # (persons, 17, 2), px

Names are loaded when they are first used: importing ebapose imports neither torch nor a runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ebapose.errors import EbaposeError, InputError, MissingDependencyError, ModelFileError, UsageError
    from ebapose.evaluation.run import evaluate
    from ebapose.inference.loading import load
    from ebapose.inference.predictor import Predictor
    from ebapose.models.registry import create_model, list_models
    from ebapose.skeleton import COCO17, Skeleton
    from ebapose.structures import Boxes, Frame, Poses
    from ebapose.training import load_train_config, train

_HOMES = {
    "EbaposeError": "errors",
    "InputError": "errors",
    "MissingDependencyError": "errors",
    "ModelFileError": "errors",
    "UsageError": "errors",
    "Predictor": "inference.predictor",
    "load": "inference.loading",
    "evaluate": "evaluation.run",
    "train": "training",
    "load_train_config": "training",
    "create_model": "models.registry",
    "list_models": "models.registry",
    "COCO17": "skeleton",
    "Skeleton": "skeleton",
    "Boxes": "structures",
    "Frame": "structures",
    "Poses": "structures",
}

__all__ = [
    "COCO17",
    "Boxes",
    "EbaposeError",
    "Frame",
    "InputError",
    "MissingDependencyError",
    "ModelFileError",
    "Poses",
    "Predictor",
    "Skeleton",
    "UsageError",
    "create_model",
    "evaluate",
    "list_models",
    "load",
    "load_train_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebapose' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"ebapose.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from ebapose.errors import MissingDependencyError

        missing = MissingDependencyError.explaining(error, f"ebapose.{name}", "train" if name == "train" else "")
        if missing is None:
            raise
        raise missing from error


def __dir__() -> list[str]:
    return [*_HOMES, "__version__"]
