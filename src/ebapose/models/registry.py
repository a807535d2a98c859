"""Models by name: `create_model("eba_prnetcc34_384x288")`.

A model's name is the name of a registered function followed by the input size, height x width. Listing the names
imports no torch; only creating a model does.

Adding a new model: write one file with a class derived from `PoseModel` and, per size, a function of three lines with
`@register` above it; its name is the model's name. Built-in models also stand in `_BUILT_IN` below (their module, so
that it is imported only when one of its models is wanted). Models of your own only need to be registered before
`create_model` is called: they can live in any file.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from ebapose.card import CodecSpec, InputSpec, ModelCard
from ebapose.config import explain
from ebapose.errors import MissingDependencyError, UsageError
from ebapose.skeleton import COCO17, Skeleton

if TYPE_CHECKING:
    from ebapose.models.pose_model import PoseModel

ModelFunction = Callable[..., "PoseModel"]
FunctionT = TypeVar("FunctionT", bound=ModelFunction)

_DEPTHS = (18, 34, 50, 101, 152)
_BUILT_IN: dict[str, tuple[str, tuple[int, int]]] = {  # architecture: (module of this package, usual input size)
    **{f"eba_prnetcc{d}{head}": ("eba_prnetcc", (384, 288)) for head in ("", "_slp") for d in _DEPTHS},
    **{f"eba_prnetcc_lite{d}": ("eba_prnetcc_lite", (384, 288)) for d in (18, 34)},
    **{f"simcc{d}": ("simcc", (384, 288)) for d in _DEPTHS},
    **{f"simple_baseline{d}": ("simple_baseline", (384, 288)) for d in _DEPTHS},
    "tfpose50": ("tfpose", (384, 288)),
    "tfpose18_small": ("tfpose", (256, 192)),
    "test_eba_prnetcc": ("eba_prnetcc", (64, 64)),
    "test_eba_prnetcc_bottleneck": ("eba_prnetcc", (64, 64)),
    "test_eba_prnetcc_lite": ("eba_prnetcc_lite", (64, 64)),
    "test_simcc": ("simcc", (64, 64)),
    "test_simple_baseline": ("simple_baseline", (64, 64)),
    "test_tfpose": ("tfpose", (64, 64)),
}
_registered: dict[str, ModelFunction] = {}


@dataclass(frozen=True)
class ModelInfo:
    """One registered architecture.

    Attributes:
        architecture: name without the input size, e.g. "eba_prnetcc34".
        default_hw: the input size, height and width in px, that it is usually run at.
    """

    architecture: str
    default_hw: tuple[int, int]

    @property
    def name(self) -> str:
        """The full name at the usual size, as `create_model` takes it."""
        return model_name(self.architecture, self.default_hw)


def register(function: FunctionT) -> FunctionT:
    """Make `function(input_hw, num_keypoints=17, **options)` known to `create_model` under its own name."""
    name = function.__name__
    if name in _registered and _registered[name].__module__ != function.__module__:
        raise UsageError(f"model {name}: already registered by {_registered[name].__module__}")
    _registered[name] = function
    return function


def model_name(architecture: str, input_hw: tuple[int, int]) -> str:
    """The full name of an architecture at an input size: "eba_prnetcc34_384x288"."""
    return f"{architecture}_{input_hw[0]}x{input_hw[1]}"


def list_models(include_test: bool = False) -> list[ModelInfo]:
    """All known architectures, without importing torch; the tiny `test_*` models only when asked for."""
    names = {**{name: size for name, (_, size) in _BUILT_IN.items()}}
    names.update({name: (256, 192) for name in _registered if name not in names})
    return [ModelInfo(name, size) for name, size in names.items() if include_test or not name.startswith("test_")]


def parse_name(name: str) -> tuple[str, tuple[int, int]]:
    """Split "eba_prnetcc34_384x288" into the architecture and the input size (height, width).

    Raises UsageError, with the nearest known name, when the architecture is unknown, the size is missing or a side is
    not a positive multiple of 32.
    """
    match = re.fullmatch(r"(\w+?)_(\d+)x(\d+)", name)
    architecture = match[1] if match else name
    known = {info.architecture: info for info in list_models(include_test=True)}
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, 1, cutoff=0.4)
        size = name.removeprefix(architecture) if match else ""
        hint = f", did you mean {near[0] + (size or known[near[0]].name.removeprefix(near[0]))!r}?" if near else ""
        raise UsageError(f"unknown model {name!r}{hint}")
    if match is None:
        raise UsageError(f"model {name!r}: add the input size, height x width, e.g. {known[name].name!r}")
    input_hw = int(match[2]), int(match[3])
    if any(side <= 0 or side % 32 for side in input_hw):
        raise UsageError(f"model {name!r}: both sides of the input size must be multiples of 32")
    return architecture, input_hw


def create_model(name: str, num_keypoints: int = COCO17.num_keypoints, **options: Any) -> PoseModel:
    """A freshly initialised model by its full name; its weights depend on torch's random state.

    Args:
        name: architecture and input size, e.g. "eba_prnetcc18_256x192".
        num_keypoints: K.
        options: what the architecture's class takes beyond that (split_ratio, activation, reduction, ...).

    Raises:
        UsageError: the name or an option is not known, or an option's value does not fit.
        MissingDependencyError: torch is not installed.
    """
    architecture, input_hw = parse_name(name)
    if architecture not in _registered:
        try:
            importlib.import_module(f"ebapose.models.{_BUILT_IN[architecture][0]}")
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise MissingDependencyError("torch", "torch", f"creating {name}") from None
    if num_keypoints < 1:
        raise UsageError(f"model {name!r}: num_keypoints must be at least 1, not {num_keypoints}")
    try:
        model = _registered[architecture](input_hw, num_keypoints, **options)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # pydantic's errors are ValueErrors
        if not options:
            raise
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is not None and unknown[1] in options:
            raise UsageError(f"model {name!r} has no option {unknown[1]!r}") from None
        given = ", ".join(f"{key}={value!r:.40}" for key, value in options.items())
        cause = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ValidationError):
            cause = explain(error, CodecSpec, "codec")
        raise UsageError(f"model {name!r} cannot be made with {given} ({cause})") from error
    model.architecture = architecture
    model.options = dict(options)
    return model


def default_card(model: PoseModel, name: str | None = None, skeleton: Skeleton = COCO17) -> ModelCard:
    """The card of a model that `create_model` made: input and codec are the model's own, the rest are defaults.

    Raises UsageError when the skeleton's number of keypoints is not the model's.
    """
    name = name or model_name(model.architecture, model.input_hw)
    if skeleton.num_keypoints != model.num_keypoints:
        raise UsageError(
            f"model {name!r} has {model.num_keypoints} keypoints, skeleton {skeleton.name!r} {skeleton.num_keypoints}"
        )
    return ModelCard(
        name=name,
        architecture=model.architecture,
        options=model.options,
        input=InputSpec(size_hw=model.input_hw),
        codec=model.codec_spec,
        skeleton=skeleton,
    )
