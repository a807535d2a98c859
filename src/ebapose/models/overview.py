"""The models in one table: input, parameters, cost in the three conventions of `complexity`, bundled weights.

The figures stand in `costs.json`, so that the table needs no torch. After a change of a network or of the bundled
weights, write them anew:

    python -m ebapose.models.overview
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebapose import zoo
from ebapose.atomic import write_text
from ebapose.models.registry import list_models, model_name

if TYPE_CHECKING:
    from rich.table import Table

COSTS = Path(__file__).with_name("costs.json")
CONVENTIONS = ("true", "paper", "hrnet")  # as in `complexity`, which needs torch

# Sizes of published results, beside the usual size of each architecture.
_FURTHER_SIZES = {
    "eba_prnetcc18": ((256, 256),),
    "eba_prnetcc34": ((256, 256),),
    "simcc50": ((256, 192),),
    "simple_baseline50": ((256, 192),),
}
_FOOTNOTE = (
    "MACs per crop, 10^9 (HRNet's counter: 1024^3). True: convolutions, transposed convolutions, linear layers and "
    "attention. As in the EBA-PRNetCC paper: transposed convolutions left out. HRNet's and SimCC's counter: transposed "
    "convolutions four times too much, a SimCC head almost nothing. Compare within one column only."
)


@dataclass(frozen=True)
class ModelRow:
    """One line of the table.

    Attributes:
        name: as `create_model` takes it.
        input_hw: height and width of the crop in px.
        num_parameters: None where unknown.
        gmac: cost of one crop by convention: "true", "paper", "hrnet"; empty where unknown.
        bundled: the names under which weights of this model ship with the package.
        options: that differ from the architecture's defaults (of bundled weights).
    """

    name: str
    input_hw: tuple[int, int]
    num_parameters: int | None = None
    gmac: Mapping[str, float] = field(default_factory=dict)
    bundled: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "input_hw": list(self.input_hw),
            "num_parameters": self.num_parameters,
            "gmac": dict(self.gmac) or None,
            "bundled": list(self.bundled),
            "options": dict(self.options),
        }


def describe_models(include_test: bool = False) -> list[ModelRow]:
    """Bundled weights first, then every architecture at its usual size and at the sizes of published results.

    Figures that are not in `costs.json` (a model of your own, say) are counted if torch is installed.
    """
    costs: dict[str, dict[str, Any]] = json.loads(COSTS.read_text(encoding="utf-8"))
    return [_filled(row, costs) for row in _rows(include_test)]


def _rows(include_test: bool) -> list[ModelRow]:
    """The table without its figures."""
    names_of: dict[Path, list[str]] = {}
    for name, path in zoo.bundled_models().items():
        names_of.setdefault(path, []).append(name)
    rows = []
    for path, names in names_of.items():
        card = zoo.bundled_card(path)
        name = model_name(card.architecture, card.input.size_hw)
        rows.append(ModelRow(name, card.input.size_hw, bundled=tuple(names), options=card.options))
    for info in list_models(include_test):
        for input_hw in (info.default_hw, *_FURTHER_SIZES.get(info.architecture, ())):
            name = model_name(info.architecture, input_hw)
            if not any(row.name == name and not row.options for row in rows):
                rows.append(ModelRow(name, input_hw))
    return rows


def _key(row: ModelRow) -> str:
    return " ".join([row.name, *(f"{option}={value}" for option, value in sorted(row.options.items()))])


def _filled(row: ModelRow, costs: Mapping[str, Mapping[str, Any]]) -> ModelRow:
    cost = costs.get(_key(row))
    if cost is None:
        if importlib.util.find_spec("torch") is None:
            return row
        cost = _measure(row)
    return ModelRow(row.name, row.input_hw, cost["num_parameters"], cost["gmac"], row.bundled, row.options)


def _measure(row: ModelRow) -> dict[str, Any]:
    from ebapose.models.complexity import measure_name

    complexity = measure_name(row.name, **row.options)
    gmac = {"true": complexity.gmac("true"), "paper": complexity.gmac("paper"), "hrnet": complexity.gmac("hrnet")}
    return {"num_parameters": complexity.num_parameters, "gmac": gmac}


def measured_costs() -> dict[str, dict[str, Any]]:
    """What `costs.json` holds, counted anew; needs torch."""
    return {_key(row): _measure(row) for row in _rows(include_test=True)}


def models_table(rows: list[ModelRow]) -> Table:
    """The rows for a terminal."""
    from rich.table import Table

    table = Table(title="Models", caption=_FOOTNOTE, caption_justify="left", title_justify="left")
    table.add_column("model", no_wrap=True)
    table.add_column("input HxW", no_wrap=True)
    for header in ("parameters", "GMAC true", "GMAC paper", "GMAC HRNet"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("weights")
    for row in rows:
        options = "".join(f" {option}={value}" for option, value in sorted(row.options.items()))
        table.add_row(
            row.name,
            f"{row.input_hw[0]}x{row.input_hw[1]}",
            "-" if row.num_parameters is None else f"{row.num_parameters / 1e6:.3f} M",
            *(f"{row.gmac[name]:.3f}" if row.gmac else "-" for name in CONVENTIONS),
            f"bundled: {', '.join(row.bundled)}{options}" if row.bundled else "",
        )
    return table


if __name__ == "__main__":
    write_text(COSTS, json.dumps(measured_costs(), indent=1) + "\n")
