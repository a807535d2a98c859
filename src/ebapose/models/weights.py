"""Weights on disk: safetensors with a card inside and beside, and what else a state dict can be read from.

A weights file `NAME.safetensors` carries its `ModelCard` in its metadata; the same card, with the file's sha256, lies
beside it as `NAME.card.json`. Files are never unpickled. ONNX files that ebapose exported keep the names of the state
dict and can be read back (`load_weights`), so that one bundled file serves prediction and fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import exists, samefile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ebapose.atomic import atomic_write, write_text
from ebapose.card import (
    METADATA_KEY,
    Calibration,
    ModelCard,
    card_path,
    parse_card,
    read_card,
    refuse_shared_card,
    sha256_of,
    verify_sha256,
)
from ebapose.errors import MissingDependencyError, ModelFileError, UsageError
from ebapose.models.pose_model import PoseModel
from ebapose.models.registry import create_model, model_name

StateDict = dict[str, Tensor]
_COUNTER = "num_batches_tracked"  # of every batch norm; means nothing outside of a training run


def save_weights(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    card: ModelCard,
    dtype: Literal["float32", "float16"] = "float32",
) -> ModelCard:
    """Write a state dict as safetensors, its card inside and beside it. Both files are complete or not there.

    Args:
        path: ends in ".safetensors".
        state_dict: of the model that the card describes.
        card: its sha256 is replaced.
        dtype: of storage; float16 halves the file.

    Returns the card as it lies beside the file. Raises ModelFileError when a tensor is not finite, or beyond float16,
    UsageError where a model file of that name and another suffix would lose its card.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelFileError(f"{path}: a weights file is called NAME.safetensors")
    refuse_shared_card(path)
    tensors = {}
    for name, tensor in state_dict.items():
        if name.endswith(_COUNTER):
            continue
        stored = tensor.detach().to("cpu", torch.float16 if dtype == "float16" else torch.float32).contiguous()
        if not torch.isfinite(stored).all():
            why = "not finite" if not torch.isfinite(tensor).all() else "too large for float16, store as float32"
            raise ModelFileError(f"{path}: {name} holds values that are {why}")
        tensors[name] = stored
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: card.to_json(sha256="")})
        card = card.model_copy(update={"sha256": sha256_of(temporary)})
        # An interruption between the two files must not leave a card that contradicts the weights.
        card_path(path).unlink(missing_ok=True)
    write_text(card_path(path), card.to_json())
    return card


def beyond_float16(state_dict: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds a finite number too large for float16 (above 65504), if any."""
    for name, tensor in state_dict.items():
        written = not name.endswith(_COUNTER) and torch.isfinite(tensor).all()
        if written and not torch.isfinite(tensor.to(torch.float16)).all():
            return name
    return None


def load_weights(path: str | Path) -> tuple[StateDict, ModelCard]:
    """Read a weights file and its card: safetensors, or an ONNX file that ebapose exported.

    The card beside the file counts, else the one inside. Returns the state dict as float32 on the CPU, without the
    batch norms' counters.

    Raises ModelFileError when the file is missing, damaged, of another kind, differs from the sha256 of its card, has
    no card, or numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: {'is a folder, not a model file' if path.is_dir() else 'no such file'}")
    if path.suffix not in {".safetensors", ".onnx"}:
        raise ModelFileError(f"{path}: weights are read from .safetensors and .onnx files")
    card = read_card(path)
    if card is not None:
        verify_sha256(path, card)
    if path.suffix == ".onnx":
        state_dict, embedded = _read_onnx(path)
    else:
        state_dict, embedded = _read_safetensors(path)
    if card is None and embedded is None:
        raise ModelFileError(f"{path}: no model card, neither inside nor as {card_path(path).name} beside it")
    card = card or parse_card(embedded or "", str(path))
    if path.suffix == ".onnx":
        known = model_from_card(card, where=str(path), device="meta").state_dict()
        missing = [name for name in known if name not in state_dict and not name.endswith(_COUNTER)]
        if missing:
            raise ModelFileError(
                f"{path}: {missing[0]} is missing: the file holds only what prediction needs; use its .safetensors"
            )
        state_dict = {name: state_dict[name] for name in known if name in state_dict}  # exporters add constants
    for name, tensor in state_dict.items():
        if not torch.isfinite(tensor).all():
            raise ModelFileError(f"{path}: {name} holds values that are not finite")
    return state_dict, card


def load_model(path: str | Path) -> tuple[PoseModel, ModelCard]:
    """A model in eval mode with the weights of a file, and its card. Raises ModelFileError as `load_weights` does."""
    state_dict, card = load_weights(path)
    model = model_from_card(card, where=str(path))
    copy_weights(model, state_dict, str(path))
    return model.eval(), card


def model_from_card(card: ModelCard, where: str = "", device: str = "cpu") -> PoseModel:
    """The network that a card describes, freshly initialised. Raises ModelFileError when there is no such network."""
    name = model_name(card.architecture, card.input.size_hw)
    try:
        with torch.device(device):
            model = create_model(name, card.skeleton.num_keypoints, **card.options)
    except UsageError as error:
        raise ModelFileError(f"{where or card.name}: {error}") from None
    spec = model.codec_spec
    if (spec.type, spec.split_ratio, spec.stride) != (card.codec.type, card.codec.split_ratio, card.codec.stride):
        raise ModelFileError(
            f"{where or card.name}: the card's codec ({card.codec.type}, split_ratio {card.codec.split_ratio}, stride "
            f"{card.codec.stride}) is not the network's ({spec.type}, {spec.split_ratio}, {spec.stride})"
        )
    return model


def copy_weights(model: PoseModel, state_dict: Mapping[str, Tensor], where: str, strict: bool = True) -> list[str]:
    """Copy a state dict into a model.

    Args:
        model: changed in place, only if nothing is wrong.
        state_dict: names and tensors; batch norm counters may be missing.
        where: names the source in errors.
        strict: False takes what has the right name and shape (a backbone, or weights for other keypoints).

    Returns the names of the model's tensors that were left as they were. Raises ModelFileError, one line, when names or
    shapes do not fit (strict), or nothing fits at all.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(_COUNTER)}
    given = {name: tensor for name, tensor in state_dict.items() if not name.endswith(_COUNTER)}
    reshaped = [name for name in own if name in given and own[name].shape != given[name].shape]
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    if strict and reshaped:
        name = reshaped[0]
        raise ModelFileError(
            f"{where}: {name} has shape {tuple(given[name].shape)}, {model.architecture} needs {tuple(own[name].shape)}"
            + (f" ({len(reshaped)} such tensors)" if len(reshaped) > 1 else "")
        )
    if strict and (missing or unknown):
        what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
        raise ModelFileError(
            f"{where}: not the weights of {model.architecture}: {what} ({len(missing)} missing, {len(unknown)} unknown)"
        )
    fitting = {name: given[name] for name in own if name in given and name not in reshaped}
    if not fitting:
        raise ModelFileError(f"{where}: no tensor fits {model.architecture}")
    model.load_state_dict(fitting, strict=False)
    return missing + reshaped


def carry_keypoints(
    model: PoseModel, state_dict: Mapping[str, Tensor], before: Sequence[str], now: Sequence[str]
) -> tuple[StateDict, list[str]]:
    """Weights for a network with other keypoints: each keypoint keeps what is its own.

    That is its row of the tensors with one row per keypoint: the layer that makes the maps, TFPose's queries. Keypoints
    that the weights do not know get the model's rows.

    Args:
        model: the network, K keypoints.
        state_dict: weights of this or a similar network with `len(before)` keypoints.
        before, now: names of the keypoints of the weights and of the model.

    Returns a new dict, and the names of the keypoints that keep something.
    """
    with torch.device("meta"):  # one more keypoint shows which tensors have a row for each
        larger = create_model(model_name(model.architecture, model.input_hw), len(now) + 1, **model.options)
    shapes = {name: tensor.shape for name, tensor in larger.state_dict().items()}
    known = [name for name in now if name in before]
    new_rows, old_rows = ([names.index(name) for name in known] for names in (list(now), list(before)))
    carried, found = dict(state_dict), False
    for name, own in model.state_dict().items():
        per_keypoint = own.shape != shapes[name] and own.shape[1:] == shapes[name][1:]
        if per_keypoint and name in carried and carried[name].shape == (len(before), *own.shape[1:]):
            rows = own.clone()
            rows[new_rows] = carried[name][old_rows].to(own)
            carried[name], found = rows, True
    return carried, known if found else []


def average_weights(paths: Sequence[str | Path], out: str | Path, shares: Sequence[float] = ()) -> ModelCard:
    """Write the mean of several weights files ("model soup", Wortsman et al. 2022).

    Networks that were fine-tuned from the same weights lie close enough together for their mean to be a network, often
    one that generalises better than each of them. Networks that began at random do not.

    Args:
        paths: files of the same architecture, input and skeleton; batch norm statistics are averaged like the rest.
            Padding, the way outputs are read and the targets' `sigma` may differ, and the input's size where heads are
            SimCC's (`resize_state_dict`): the mean has the first file's.
        out: ends in ".safetensors".
        shares: one positive number per file, divided by their sum; none: all alike.

    Returns the new card: the first file's, without its calibration and what was measured; `about.average_of` names the
    parts. Raises UsageError when the files do not go together, ModelFileError as `load_weights` and `save_weights` do.
    """
    if len(paths) < 2:
        raise UsageError("averaging needs two weights files or more")
    if shares and (len(shares) != len(paths) or not all(0 < share < float("inf") for share in shares)):
        raise UsageError(f"shares: {len(paths)} positive numbers expected, one per file")
    if exists(out) and any(exists(path) and samefile(out, path) for path in paths):  # noqa: PTH110, PTH121
        raise UsageError(f"{out}: the mean must not replace what it is made from")
    total = sum(shares) if shares else len(paths)
    parts = [share / total for share in shares or [1.0] * len(paths)]
    mean: StateDict = {}
    first: ModelCard | None = None
    named = []
    for path, part in zip(paths, parts, strict=True):
        state_dict, card = load_weights(path)
        first = first or card
        size, old = first.input.size_hw, card.input.size_hw
        if card.codec.type == "simcc":
            card = card.model_copy(update={"input": card.input.model_copy(update={"size_hw": size})})
        # How boxes are enlarged, outputs are read and wide the targets were may differ: the first file's counts.
        same = {
            "input": card.input.model_copy(update={"padding": first.input.padding}),
            "codec": card.codec.model_copy(update={"position": first.codec.position, "sigma": first.codec.sigma}),
            "options": card.options | {key: first.options[key] for key in ("sigma",) if key in first.options},
        }
        for what in ("architecture", "options", "input", "codec", "skeleton"):
            if same.get(what, getattr(card, what)) != getattr(first, what):
                raise UsageError(f"{path}: another {what} than {paths[0]}: they cannot be averaged")
        if card.codec.type == "simcc" and old != size:
            state_dict = resize_state_dict(state_dict, old, size, card.codec.split_ratio)
        copy_weights(model_from_card(card, str(path)), state_dict, str(path))
        for name, tensor in state_dict.items():
            mean[name] = mean.get(name, torch.zeros(())) + part * tensor
        named.append(
            {
                "name": card.name,
                "file": Path(*Path(path).parts[-2:]).as_posix(),
                "sha256": sha256_of(Path(path)),
                "share": part,
            }
        )
    assert first is not None
    card = first.model_copy(update={"calibration": Calibration(), "about": {"average_of": named}})
    return save_weights(out, mean, card)


def resize_state_dict(
    state_dict: Mapping[str, Tensor],
    from_hw: tuple[int, int],
    to_hw: tuple[int, int],
    from_split_ratio: float = 2.0,
    to_split_ratio: float | None = None,
) -> StateDict:
    """Weights of a SimCC-type model for another input size (or split ratio), to continue training there.

    Only the heads depend on the size. Their first layer is a function on the map (H / 4, W / 4): it is sampled
    bilinearly on the new grid and divided by the growth of the area, so that the same picture at another size gives the
    same sums and the biases stay right. Their last layer is a function of the bin: sampled linearly where the new bins
    lie in the old crop. Both map positions by pixel centres: x_old = (x_new + 0.5) * W_old / W_new - 0.5.

    Returns a new dict; heatmap models come back unchanged.
    """
    to_split_ratio = to_split_ratio or from_split_ratio
    resized = dict(state_dict)
    for axis, side in (("x", 1), ("y", 0)):
        prefix = f"mlp_head_{axis}."
        first, last = (prefix, prefix) if f"{prefix}weight" in resized else (f"{prefix}0.", f"{prefix}2.")
        if f"{first}weight" not in resized:
            continue
        weight = resized[f"{first}weight"]
        maps = weight.reshape(-1, 1, from_hw[0] // 4, from_hw[1] // 4)
        shrink = (from_hw[0] * from_hw[1]) / (to_hw[0] * to_hw[1])
        sampled = torch.nn.functional.interpolate(maps, (to_hw[0] // 4, to_hw[1] // 4), mode="bilinear")
        resized[f"{first}weight"] = (sampled * shrink).flatten(1)
        positions = _bin_positions(from_hw[side], to_hw[side], from_split_ratio, to_split_ratio)
        for part in ("weight", "bias"):
            resized[f"{last}{part}"] = _sample_rows(resized[f"{last}{part}"], positions)
    return resized


def _bin_positions(from_px: int, to_px: int, from_ratio: float, to_ratio: float) -> Tensor:
    """Where the new bins lie among the old ones, in (fractional) old bins."""
    new_px = torch.arange(int(to_px * to_ratio), dtype=torch.float64) / to_ratio
    return ((new_px + 0.5) * (from_px / to_px) - 0.5) * from_ratio


def _sample_rows(rows: Tensor, positions: Tensor) -> Tensor:
    """Linear interpolation along the first dimension; beyond the ends the end value."""
    positions = positions.clamp(0, rows.shape[0] - 1)
    low = positions.floor().long().clamp(max=rows.shape[0] - 2)
    weight = (positions - low).to(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
    return rows[low] * (1 - weight) + rows[low + 1] * weight


def _read_safetensors(path: Path) -> tuple[StateDict, str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state_dict = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            return state_dict, (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a safetensors file, or damaged ({error})") from None


def _read_onnx(path: Path) -> tuple[StateDict, str | None]:
    try:
        import onnx
    except ModuleNotFoundError:
        raise MissingDependencyError("onnx", "torch", "reading weights out of an ONNX file") from None
    try:
        proto = onnx.load(path)
        state_dict = {
            tensor.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor), dtype=np.float32))
            for tensor in proto.graph.initializer
            if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        }
    except Exception as error:  # protobuf has no common base of its errors
        raise ModelFileError(f"{path}: not an ONNX file, or damaged ({error})") from None
    return state_dict, {entry.key: entry.value for entry in proto.metadata_props}.get(METADATA_KEY)
