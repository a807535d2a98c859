"""Typed, frozen configurations and their YAML files. Unknown keys are refused with the key's name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticUndefined

from ebapose.errors import UsageError


class Config(BaseModel):
    """Base of every configuration: immutable, no unknown keys, numbers stay what they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Config)


def explain(error: ValidationError, schema: type[BaseModel], where: str) -> str:
    """One line that names the first offending key of a pydantic error, with the nearest known key for a typo."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{where}: {key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
    known = [key.name for key in list_keys(schema)]
    names = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    path = ".".join(part for part in first["loc"] if isinstance(part, str))  # without places in a list
    name = path.rsplit(".", 1)[-1]
    # A key of another section, else the nearest whole key, else the nearest last part.
    near = [name] if name in names else difflib.get_close_matches(path, known, 1)
    near = near or difflib.get_close_matches(name, names, 1)
    return f"{where}: unknown key {key!r}" + (f", did you mean {names.get(near[0], near[0])!r}?" if near else "")


@dataclass(frozen=True)
class Key:
    """One key of a schema.

    Attributes:
        name: dotted, e.g. "optim.lr".
        default: None also where a section or a list has none.
        required: whether a file must give it.
        is_section: whether its value is another schema, or a list of them, whose keys follow.
        meaning: its docstring, if the schema was made with `use_attribute_docstrings`, or that of the section's class.
    """

    name: str
    default: Any
    required: bool
    is_section: bool
    meaning: str


def list_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """All keys of a schema, with those of the schemas in it (also `Schema | None` and `tuple[Schema, ...]`)."""
    for name, info in schema.model_fields.items():
        inner = [
            part
            for part in (info.annotation, *get_args(info.annotation))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        required = info.is_required()
        default = info.get_default(call_default_factory=True)
        default = None if inner or default is PydanticUndefined else default
        meaning = info.description or (inner[0].__doc__ or "" if inner else "")
        yield Key(prefix + name, default, required, bool(inner), " ".join(meaning.split()))
        for section in inner:
            yield from list_keys(section, f"{prefix}{name}.")


def parse_config(schema: type[ConfigT], data: Any, where: str) -> ConfigT:
    """Validate plain data (from YAML or JSON). Raises UsageError, one line, naming `where` and the key."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise UsageError(explain(error, schema, where)) from None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UsageError when the file is missing, not YAML or not a mapping."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected keys and values, found {type(data).__name__}")
    return data


def load_config(schema: type[ConfigT], path: str | Path) -> ConfigT:
    """Read and validate a YAML file. Raises UsageError."""
    return parse_config(schema, load_yaml(path), str(path))


def dump_yaml(config: Config) -> str:
    """The YAML text that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
