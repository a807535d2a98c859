"""The card of a model file: everything needed to run it and to judge it, in one small JSON.

A card lies beside each weights file (`NAME.card.json`), and a copy travels inside the file's own metadata, so that
an exported file alone is enough to predict.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, ValidationError, field_validator, model_validator

from ebapose.config import Config, explain
from ebapose.errors import InputError, ModelFileError, UsageError
from ebapose.skeleton import COCO17, SKELETONS, Skeleton

METADATA_KEY = "ebapose_card"  # under this name the card stands in safetensors and ONNX metadata


class InputSpec(Config):
    """How a person box becomes the network's input.

    Attributes:
        size_hw: height and width of the crop in px, divisible by 32.
        mean, std: per RGB channel, in grey levels 0..255.
        padding: the box, grown to the crop's aspect, is enlarged by this factor.
        crop_center: where the box centre lands in the crop. "symmetric": ((W-1)/2, (H-1)/2), so that mirroring
            the crop is exact; "corner": (W/2, H/2), as the published Simple Baseline and SimCC weights expect.
    """

    size_hw: tuple[int, int]
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    padding: float = Field(default=1.25, gt=0)
    crop_center: Literal["symmetric", "corner"] = "symmetric"

    @field_validator("size_hw")
    @classmethod
    def _divisible(cls, size_hw: tuple[int, int]) -> tuple[int, int]:
        if any(n <= 0 or n % 32 for n in size_hw):
            raise ValueError(f"input size {size_hw[0]}x{size_hw[1]} is not divisible by 32")
        return size_hw


class CodecSpec(Config):
    """How the network's outputs encode keypoints; see `ebapose.codecs`.

    Attributes:
        type: "simcc" (two classified axes), "heatmap" (one map per keypoint) or "coordinate" (regression).
        split_ratio: SimCC bins per px (k of the papers).
        sigma: standard deviation of the target Gaussian, (x, y), in bins for SimCC and in map px for heatmaps.
        targets: what SimCC was trained with; decides whether mirrored outputs are averaged as logits ("gaussian") or
            as probabilities ("one_hot").
        stride: crop px per map px (heatmaps).
        position: how SimCC reads a keypoint from its distributions. "peak": the largest bin, as published. "expected":
            the place that is nearest to the truth on average, see `ebapose.codecs.simcc.expected_closeness`; better
            where a network is often unsure. `ebapose weights calibrate --position` chooses.
    """

    type: Literal["simcc", "heatmap", "coordinate"] = "simcc"
    split_ratio: float = Field(default=2.0, gt=0)
    sigma: tuple[PositiveFloat, PositiveFloat] = (6.0, 6.0)
    targets: Literal["gaussian", "one_hot"] = "gaussian"
    stride: int = Field(default=4, gt=0)
    position: Literal["peak", "expected"] = "peak"

    @model_validator(mode="after")
    def _simcc_only(self) -> CodecSpec:
        if self.position == "expected" and self.type != "simcc":
            raise ValueError(f"position: 'expected' needs the distributions of a simcc codec, this one is {self.type}")
        return self


class Calibration(Config):
    """Corrections measured on validation data, so that scores and sigmas mean what they say.

    score = 1 / (1 + exp(-(score_scale * logit(raw score) + score_shift))); sigma = sigma_scale * raw sigma.
    Each list holds one number per keypoint, or is empty (nothing to correct).
    """

    score_scale: tuple[float, ...] = ()
    score_shift: tuple[float, ...] = ()
    sigma_scale: tuple[float, ...] = ()
    measured_on: str = ""


class ModelCard(Config):
    """See the module's text. `extra` information (data, recipe, figures) lives under `about`.

    Attributes:
        name: id of these weights, e.g. "eba_prnetcc18_256x192".
        architecture: registered model name without its size, e.g. "eba_prnetcc18".
        options: keyword arguments of the architecture that differ from its defaults.
        skeleton: the keypoints; the name of a built-in skeleton or all of it.
        sha256: of the file beside the card, see `sha256_of`; empty in the copy inside the file.
        license, source, about: for people; `about` may hold anything.
    """

    name: str
    architecture: str
    options: dict[str, Any] = Field(default_factory=dict)
    input: InputSpec
    codec: CodecSpec
    skeleton: Skeleton = COCO17
    calibration: Calibration = Calibration()
    license: str = ""
    source: str = ""
    sha256: str = ""
    about: dict[str, Any] = Field(default_factory=dict)

    @field_validator("skeleton", mode="before")
    @classmethod
    def _skeleton(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in SKELETONS:
                raise ValueError(f"unknown skeleton {value!r}; built in: {', '.join(SKELETONS)}")
            return SKELETONS[value]
        if isinstance(value, dict):
            try:
                return Skeleton.from_dict(value)
            except InputError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _lengths(self) -> ModelCard:
        for what in ("score_scale", "score_shift", "sigma_scale"):
            if len(getattr(self.calibration, what)) not in (0, self.skeleton.num_keypoints):
                raise ValueError(f"calibration.{what}: one number per keypoint expected")
        return self

    def to_json(self, **changes: Any) -> str:
        """The card as JSON text, with some fields replaced."""
        card = self.model_copy(update=changes)
        data = card.model_dump(mode="json", exclude={"skeleton"})
        built_in = SKELETONS.get(card.skeleton.name) == card.skeleton
        data["skeleton"] = card.skeleton.name if built_in else card.skeleton.to_dict()
        return json.dumps(data, indent=2) + "\n"


def parse_card(text: str, where: str) -> ModelCard:
    """Read a card's JSON. Raises ModelFileError, one line, naming `where`."""
    try:
        return ModelCard.model_validate(json.loads(text))
    except json.JSONDecodeError:
        raise ModelFileError(f"{where}: the model card is not JSON") from None
    except ValidationError as error:
        raise ModelFileError(explain(error, ModelCard, where)) from None


def card_path(model_path: Path) -> Path:
    """Where the card of a model file lies: `NAME.onnx` -> `NAME.card.json`."""
    return model_path.with_name(model_path.name.removesuffix(model_path.suffix) + ".card.json")


def refuse_shared_card(model_path: Path) -> None:
    """Raise UsageError where another model file lies beside whose card one called `model_path` would replace."""
    for suffix in (".safetensors", ".onnx", ".xml"):
        other = model_path.with_suffix(suffix)
        if suffix != model_path.suffix and other.exists():
            raise UsageError(
                f"{model_path}: {other.name} beside it has the card of that name, {card_path(other).name}: "
                "choose another folder"
            )


def read_card(model_path: Path) -> ModelCard | None:
    """The card beside a model file, None if there is none. Raises ModelFileError if it is unreadable."""
    path = card_path(model_path)
    try:
        return parse_card(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: {error}") from None


def sha256_of(path: Path) -> str:
    """Hex digest of a model file; of an OpenVINO model's .xml followed by its .bin, where the weights are."""
    digest = hashlib.sha256()
    for part in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
        with part.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def verify_sha256(model_path: Path, card: ModelCard) -> None:
    """Compare a file with its card; an empty sha256 is not checked.

    Raises ModelFileError when the sha256 differs or the file cannot be read.
    """
    if not card.sha256:
        return
    try:
        found = sha256_of(model_path)
    except OSError as error:
        raise ModelFileError(f"{error.filename or model_path}: {error.strerror or error}") from None
    if found != card.sha256:
        raise ModelFileError(
            f"{model_path}: sha256 differs from its card {card_path(model_path).name}: damaged or replaced"
        )
