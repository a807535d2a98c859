"""The recipe of a training run: one frozen, validated tree, its YAML file and its command line overrides.

Everything is checked before any work starts; an unknown or contradictory key is refused by its name. A recipe names no
absolute paths: `data.root` (default: the current folder) is where its relative paths start.

Adding a new key: give it to the section it belongs to, with a default that keeps older recipes as they were, and a
docstring below it, which `ebapose train --keys` shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ebapose.config import Config, explain, load_yaml, parse_config
from ebapose.data.transforms import AugmentConfig
from ebapose.errors import UsageError


class SourceConfig(Config, use_attribute_docstrings=True):
    """One annotation file; a path alone means `annotations`."""

    annotations: Path
    """COCO keypoint JSON, relative to `data.root`."""
    images: Path | None = None
    """Folder that its file names start from; default: found beside the annotations."""
    only: str = "*"
    """A pattern; persons of pictures whose file names do not match it ("coco/*") are left out."""
    smallest_px: float = Field(default=0.0, ge=0)
    """Persons are left out whose box is lower than so many px, and narrower than three quarters of that: enlarged to
    the input they are blurred."""
    category: str | None = None
    """Name of the category to learn from, where several have keypoints."""
    repeat: int = Field(default=1, ge=1)
    """How often each person is seen in an epoch, to balance sources of different size."""
    complete: bool = False
    """Every keypoint that can be seen, or guessed, is labelled, as in COCO: the others are absent, see
    `loss.absent_weight`."""
    augment: dict[str, Any] = Field(default_factory=dict)
    """Keys of `augment` with other values for this source, e.g. {rotation_deg: 15}: people in everyday photographs
    stand more upright than gymnasts."""
    skeleton: str | dict[str, Any] | None = None
    """Where the file lacks flip pairs or sigmas: a known name, a file relative to `data.root`, or the skeleton itself
    (name, keypoint_names, edges, flip_pairs, sigmas)."""

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"annotations": value} if isinstance(value, str | Path) else value


class DataConfig(Config, use_attribute_docstrings=True):
    """What is learned from, and what the progress is measured on."""

    root: Path = Path()
    """Where relative paths start."""
    train: tuple[SourceConfig, ...] = Field(min_length=1)
    """One or more annotation files with the same skeleton."""
    val: SourceConfig | None = None
    """Annotation file for validation (ground-truth boxes), or nothing."""
    max_broken: int = Field(default=20, ge=0)
    """So many unreadable pictures are reported by name and skipped; one more stops the run. Each process counts those
    that it meets."""

    @field_validator("train", mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path | Mapping | SourceConfig) else value


class ModelConfig(Config, use_attribute_docstrings=True):
    """What is trained."""

    name: str
    """Registered name with the input size, height x width, e.g. "eba_prnetcc18_256x192"."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the model, e.g. {split_ratio: 3, sigma: 4}."""
    padding: float | None = Field(default=None, ge=1, le=3)
    """By what factor person boxes are enlarged for the crop; nothing: as for `weights`, 1.25 from scratch. Less shows
    the person larger, and more of them cut off where boxes are not exact."""
    weights: str | None = None
    """Weights to start from: a file, bundled ones by the name in their card, "default" (the bundled ones of this
    architecture) or nothing (scratch)."""
    new_head: bool = False
    """Start from `weights` also where the keypoints are others: one that the weights know by the same name goes on
    from there, the others begin at random, and so does every tensor that does not fit (of another architecture).
    Without it other keypoint names are an error."""
    frozen: tuple[str, ...] = ()
    """Parameters whose names start with one of these are not trained."""
    freeze_batch_norm: bool = False
    """Keep batch norm statistics and scales as they are (small batches, small data)."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.new_head and self.weights is None:
            raise ValueError("new_head needs weights to start from")
        for key in ("name", "input_hw", "num_keypoints"):
            if key in self.options:
                raise ValueError(f"options: {key!r} is none of them, it follows from the model's name and the data")
        return self


class LossConfig(Config, use_attribute_docstrings=True):
    """What is minimised; which loss it is follows from the model's codec (KL or cross entropy, heatmap MSE, L1)."""

    targets: Literal["gaussian", "one_hot"] | None = None
    """Targets of SimCC models, "gaussian" or "one_hot"; default: the model's own."""
    reduction: Literal["paper", "reference", "nmt"] = "paper"
    """How the SimCC loss is averaged, see `training.loss.simcc_loss`; other models have none."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all bins; for one-hot SimCC targets."""
    map_weight: float = Field(default=0.0, ge=0)
    """Weight of the auxiliary loss on maps: cross entropy on a SimCC model's maps, heatmap MSE of TFPose."""

    absent_weight: float = Field(default=0.0, ge=0)
    """Weight of keypoints that are not in the crop, cut off or hidden from everybody (`complete` of a source): the
    network learns not to know where they are, so that their scores are low; 0: what it says about them is its own
    affair. For SimCC models and heatmaps."""

    @model_validator(mode="after")
    def _consistent(self) -> LossConfig:
        if self.label_smoothing and self.targets != "one_hot":
            raise ValueError("label_smoothing needs targets: one_hot")
        return self


class TeacherConfig(Config, use_attribute_docstrings=True):
    """A trained network that is asked what it sees at every position of a crop; see `training.teacher`."""

    model: Path
    """Its ONNX file, relative to `data.root`. It takes RGB 0..255 as (N, H, W, 3), of any size once only convolutions
    are left of it, and has a stride of 4, as the keypoint maps have."""
    features: str
    """Name of its tensor of features, (N, C, H / 4, W / 4)."""
    maps: str
    """Name of its tensor of keypoint maps, logits, (N, C, H / 4, W / 4)."""
    enlarge: float = Field(default=1.0, gt=0, le=8)
    """It is shown the crop this much larger."""
    feature_weight: float = Field(default=1.0, ge=0)
    """Weight of what is learned from the features."""
    map_weight: float = Field(default=0.2, ge=0)
    """Weight of what is learned from the maps."""


_BelowOne = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Config, use_attribute_docstrings=True):
    """How it is minimised."""

    name: Literal["adamw", "adam", "muon"] = "adamw"
    """The optimiser: "adamw", "adam", or "muon" (orthogonalised momentum for weight matrices, AdamW for the rest)."""
    lr: float = Field(gt=0)
    """Peak learning rate for `batch_size` samples per step."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Each step takes away this share of a weight, times lr; norms and biases keep theirs. With "adam", where it is 0
    if not given, this share is added to the gradient instead: far more where gradients are small."""
    betas: tuple[_BelowOne, _BelowOne] = (0.9, 0.999)
    """Of Adam: decay of the means of gradient and squared gradient."""
    eps: float = Field(default=1e-8, gt=0)
    """Of Adam: added to the divisor."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Of Muon: decay of the mean gradient."""
    lr_factors: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Prefix of parameter names: factor on their lr, e.g. {layer1: 0.1}; the longest matching prefix counts."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """Learning rate over time: "constant", "step" (times `gamma` after each of `milestones`) or "cosine" (down to
    `final_lr_factor`)."""
    milestones: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = ()
    """Of the schedule "step": epochs, all within the run."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """Of the schedule "step": what lr is multiplied by."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which lr rises from 0; at most those of the run."""
    final_lr_factor: float = Field(default=0.01, ge=0, le=1)
    """Of the schedule "cosine": share of lr at the end."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; nothing: not clipped."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the running mean of the weights, which is what is validated and written; 0: no averaging."""

    @model_validator(mode="before")
    @classmethod
    def _adam_without_decay(cls, data: Any) -> Any:
        """The references train by plain Adam; decay that it normalises moves every weight by lr."""
        return {"weight_decay": 0.0, **data} if isinstance(data, Mapping) and data.get("name") == "adam" else data

    @model_validator(mode="after")
    def _consistent(self) -> OptimConfig:
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("milestones belong to schedule 'step': give both or neither")
        # a recipe written by a run names every key: only another value than the default contradicts
        for key, part, needed in (
            ("momentum", "name", "muon"),
            ("gamma", "schedule", "step"),
            ("final_lr_factor", "schedule", "cosine"),
        ):
            if getattr(self, part) != needed and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} belongs to {part} {needed!r}, not {getattr(self, part)!r}")
        return self


class RunConfig(Config, use_attribute_docstrings=True):
    """How long, how fast, how often."""

    epochs: float | None = Field(default=None, gt=0, le=1e6)
    """Length in passes over the data; either this or `samples`."""
    samples: int | None = Field(default=None, gt=0, le=10**12)
    """Length in samples; either this or `epochs`."""
    batch_size: int = Field(default=32, ge=2)
    """Samples per optimiser step, over all processes and accumulated parts together, so that a recipe means the same on
    any number of devices."""
    accumulation: int = Field(default=1, ge=1)
    """Each step's samples go through the network in so many parts."""
    workers: int = Field(default=2, ge=0)
    """Loader processes per training process; 0 loads in the training process."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of everything. A run from weights mixes them into the seed of order and augmentation, so that it does not
    show again what they were trained on."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network: "fp32", "bf16" or "fp16" (GPU only)."""
    compile: Literal["none", "whole", "regional"] = "none"
    """What torch.compile compiles: "none", "whole" or "regional" (each residual block on its own: compiles faster)."""
    channels_last: bool = False
    """Keep the weights channels last in memory, too, as crops and feature maps are. What is faster depends on network,
    precision and machine."""
    sync_batch_norm: bool = True
    """Share batch statistics between GPUs."""
    validate_every: float = Field(default=1.0, gt=0, le=1e6)
    """Epochs between validations."""
    metric: Literal["pck", "ap", "oks"] = "pck"
    """What "best" means: "pck" (PCK@0.2 of the torso), "ap" (OKS AP, ground-truth boxes) or "oks" (mean OKS, for
    skeletons without a torso)."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better value; nothing: run to the end."""
    keep: Literal["best", "last"] = "best"
    """`weights.safetensors` holds the "best" or the "last" validated weights."""
    checkpoint_every_s: float = Field(default=300.0, ge=0)
    """Time between checkpoints in s; 0: after every step."""
    log_every: int = Field(default=50, ge=1)
    """Steps between rows of the log."""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if (self.epochs is None) == (self.samples is None):
            raise ValueError("give either epochs or samples")
        if self.batch_size % self.accumulation or self.batch_size // self.accumulation < 2:
            raise ValueError(
                f"batch_size {self.batch_size} does not split into {self.accumulation} equal parts (accumulation) of "
                "2 or more"
            )
        if self.samples is not None and self.samples < self.batch_size:
            raise ValueError(f"samples: {self.samples} are less than one batch (batch_size {self.batch_size})")
        return self


class TrainConfig(Config, use_attribute_docstrings=True):
    """A whole recipe."""

    name: str = Field(min_length=1)
    """Name of the weights that come out."""
    data: DataConfig
    model: ModelConfig
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    teacher: TeacherConfig | None = None
    """A network to learn from besides the labels, or nothing."""
    optim: OptimConfig
    run: RunConfig
    license: str = ""
    """Licence of the weights, for their card."""
    source: str = ""
    """Source of the weights or their data, for their card."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if any(c in name for c in "/\\\0"):
            raise ValueError("must not contain path separators")
        return name

    def augment_of(self, source: SourceConfig) -> AugmentConfig:
        """How samples of one training source are changed: as `augment` says, but for what the source itself says."""
        common = self.augment.model_dump()
        own = {k: {**common[k], **v} if isinstance(v, dict) and k in common else v for k, v in source.augment.items()}
        return AugmentConfig.model_validate({**common, **own})

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        for i, source in enumerate(self.data.train):
            try:
                self.augment_of(source)
            except ValidationError as error:
                raise ValueError(explain(error, AugmentConfig, f"data.train.{i}.augment")) from None
        val = self.data.val
        for key, changed in (
            ("augment", val and val.augment),
            ("repeat", val and val.repeat > 1),
            ("complete", val and val.complete),
        ):
            if changed:
                raise ValueError(f"data.val.{key}: validation persons are seen once and as they are")
        if self.data.val is None and self.run.patience is not None:
            raise ValueError("run.patience (early stopping) needs data.val")
        if self.optim.name == "muon" and self.run.precision == "fp16":  # the gradients of the second are unscaled twice
            raise ValueError(
                "optim.name muon has two optimisers, which run.precision fp16 cannot serve: take bf16, or adamw"
            )
        return self


def apply_overrides(recipe: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe with dotted keys replaced: ["--optim.lr", "1e-3", "--data.train.0.repeat=2"].

    Values are read as YAML. Whether keys exist and values fit is checked afterwards, by `parse_config`.

    Raises:
        UsageError: an option without a value, or something that is not an option.
    """
    changed = deepcopy(recipe)
    words = list(overrides)
    while words:
        option = words.pop(0)
        key, has_value, text = option.removeprefix("--").partition("=")
        if not option.startswith("--") or not all(key.split(".")):
            raise UsageError(f"{option!r} is not an override: write --section.key VALUE")
        if not has_value:
            if not words:
                raise UsageError(f"{option}: a value is missing")
            text = words.pop(0)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(f"{option}: {text!r} is not a YAML value") from None
        _set(changed, key.split("."), value, option)
    return changed


def _set(tree: Any, keys: list[str], value: Any, option: str) -> None:
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(tree, list):
            if not key.isdigit() or int(key) >= len(tree):
                raise UsageError(f"{option}: {key!r} is not one of the {len(tree)} entries (counted from 0)")
            place: Any = int(key)
        elif isinstance(tree, dict):
            place = key
        else:
            raise UsageError(f"{option}: {'.'.join(keys[:depth])} has no parts")
        if last:
            tree[place] = value
        else:
            if isinstance(tree, dict) and tree.get(place) is None:
                tree[place] = {}
            tree = tree[place]


def load_train_config(recipe: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe and apply command line overrides. Raises UsageError, one line that names the key.

    A length given as an override takes the place of the recipe's, in whichever unit that is (`run.epochs` or
    `run.samples`).
    """
    data = apply_overrides(load_yaml(recipe), overrides)
    given = {word.removeprefix("--").partition("=")[0] for word in overrides}
    for length, other in (("run.epochs", "run.samples"), ("run.samples", "run.epochs")):
        if length in given and other not in given and isinstance(data["run"], dict):
            data["run"].pop(other.removeprefix("run."), None)
    return parse_config(TrainConfig, data, str(recipe))
