"""`ebapose train`: its own options, and every key of a recipe as one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ebapose.cli.terminal import print_rich
from ebapose.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table


def train(recipe: tyro.conf.Positional[Path], /, *, out: Path, resume: bool = False, keys: bool = False) -> int:
    """Train a model by a recipe (YAML). Any key of the recipe is an option too: --optim.lr 1e-4 --run.workers 4.

    Args:
        recipe: The recipe; see the folder recipes/ and docs/fine_tuning.md.
        out: Run folder for checkpoints, logs and the final weights.
        resume: Go on from the newest complete checkpoint in the run folder.
        keys: Only list all keys of a recipe, with their defaults and what they mean.
    """
    raise AssertionError(f"handled in main: {recipe} {out} {resume} {keys}")  # its free options need the raw arguments


def train_with_overrides(arguments: Sequence[str]) -> int:
    """Run the verb from its raw arguments; returns the exit code. Raises UsageError."""
    from ebapose.training.config import TrainConfig, load_train_config

    own, overrides = _split_overrides(arguments, set(TrainConfig.model_fields))
    if "--keys" in own:
        print_rich(_table_of_keys())
        return 0
    if not {"-h", "--help"} & set(own):
        if not any(word == "--out" or word.startswith("--out=") for word in own):
            raise UsageError("train: --out is missing: ebapose train RECIPE.yaml --out DIR")
        if len(own) == 1 or (len(own) == 2 and own[0] == "--out"):
            raise UsageError("train: the recipe is missing: ebapose train RECIPE.yaml --out DIR")
    options = tyro.cli(_TrainOptions, prog="ebapose train", args=own)
    config = load_train_config(options.recipe, overrides)
    from accelerate import PartialState  # a wrong recipe must not wait for torch

    from ebapose.training.loop import train as run_training
    from ebapose.training.start import keep_freed_memory

    keep_freed_memory()
    result = run_training(config, options.out, options.resume)
    if PartialState().is_main_process:
        print(result.summary())
    return 130 if result.finished == "interrupted" else 0


def _table_of_keys() -> Table:
    """Every key of a recipe, section by section."""
    from rich.table import Table
    from rich.text import Text

    from ebapose.config import list_keys
    from ebapose.training.config import TrainConfig

    table = Table(
        "key",
        "default",
        "meaning",
        box=None,
        caption="data.train is a list: --data.train.0.repeat 2 changes its first entry. Lists and mappings are written "
        "as in YAML: --augment.scale '[0.8, 1.2]'",
        caption_justify="left",
    )
    for key in list_keys(TrainConfig):
        style = "bold" if key.is_section else ""
        default = "" if key.is_section else "(needed)" if key.required else _as_yaml(key.default)
        table.add_row(Text(key.name, style), Text(default), Text(key.meaning, style))
    return table


def _as_yaml(value: Any) -> str:
    """A default as a recipe would say it."""
    if value is None or value == "":
        return "-"
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str).strip('"')


def _split_overrides(arguments: Sequence[str], sections: set[str]) -> tuple[list[str], list[str]]:
    """The verb's own arguments, and those that are keys of a recipe, each with its value.

    Raises UsageError for a key without a value.
    """
    own: list[str] = []
    overrides: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        key, has_value, _ = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not ("." in key or key in sections):
            own.append(word)
            continue
        overrides.append(word)
        if not has_value:
            if not words or words[0].startswith("--"):
                raise UsageError(f"{word}: a value is missing")
            overrides.append(words.pop(0))
    return own, overrides


class _TrainOptions:
    def __init__(
        self, recipe: tyro.conf.Positional[Path], /, *, out: Path, resume: bool = False, keys: bool = False
    ) -> None:
        self.recipe, self.out, self.resume = recipe, out, resume


_TrainOptions.__init__.__doc__ = train.__doc__
