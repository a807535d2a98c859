"""Weights that ship with the package, each with its card beside it.

`NAME.onnx` + `NAME.card.json` is a pose model that users can ask for as NAME ("default" is used when they ask for
nothing) or by the `name` in its card. Replacing a model means replacing these two files.
"""

from __future__ import annotations

from pathlib import Path

from ebapose.card import ModelCard, read_card
from ebapose.errors import ModelFileError

FOLDER = Path(__file__).parent
DETECTOR = FOLDER / "nanodet_g_416.onnx"


def bundled_models() -> dict[str, Path]:
    """Names of the bundled pose models and their files; each model under its alias and under its card's name."""
    found: dict[str, Path] = {}
    for path in sorted(FOLDER.glob("*.onnx")):
        if path != DETECTOR:
            found[path.stem] = path
            found.setdefault(bundled_card(path).name, path)
    return found


def bundled_card(path: Path) -> ModelCard:
    """The card of a bundled pose model. Raises ModelFileError when the installation is incomplete."""
    card = read_card(path)
    if card is None:
        raise ModelFileError(f"{path}: its card is missing, the installation is incomplete")
    return card
