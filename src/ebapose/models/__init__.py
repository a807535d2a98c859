"""Network architectures, their weights and their costs.

Importing this package imports neither torch nor any architecture; see `ebapose.models.registry`.
"""

from __future__ import annotations

from ebapose.models.registry import ModelInfo, create_model, default_card, list_models, register

__all__ = ["ModelInfo", "create_model", "default_card", "list_models", "register"]
