"""Tiny training runs: their recipes and logs."""

from __future__ import annotations

import csv
from pathlib import Path

from ebapose.config import parse_config
from ebapose.training import TrainConfig


def config_of(recipe: dict, **run) -> TrainConfig:
    return parse_config(TrainConfig, {**recipe, "run": {**recipe["run"], **run}}, "recipe")


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))
