"""Import of the published SimCC and Simple Baseline checkpoints.

The checkpoints are PyTorch files (.pth, .pth.tar); only tensors are read from them, no code runs. They were trained on
pictures in BGR order that were normalised with ImageNet's RGB means, on crops whose box centre lands at (W/2, H/2).
The import makes the first convolution read RGB and says the rest in the card, so that the network is used as it was
trained.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ebapose.card import InputSpec, ModelCard
from ebapose.errors import ModelFileError, UsageError
from ebapose.models.registry import create_model, default_card, model_name
from ebapose.models.resnet import BLOCKS_OF_DEPTH, Bottleneck
from ebapose.models.weights import StateDict, copy_weights, save_weights
from ebapose.skeleton import COCO17, Skeleton


def import_official(
    path: str | Path,
    out: str | Path,
    *,
    input_hw: tuple[int, int] | None = None,
    targets: Literal["gaussian", "one_hot"] = "gaussian",
    sigma: float | None = None,
    color: Literal["bgr", "rgb"] = "bgr",
    skeleton: Skeleton = COCO17,
    license: str = "",  # noqa: A002  # the card's word
) -> ModelCard:
    """Convert a published checkpoint into a weights file with its card.

    Depth, number of keypoints and, for SimCC, input size and split ratio are read from the tensors' shapes.

    Args:
        path: the checkpoint.
        out: NAME.safetensors to write, and NAME.card.json beside it.
        input_hw: needed for Simple Baseline, which fits any size; None: as the file's name says ("..._256x192...").
        targets: what SimCC was trained with: "gaussian" (the authors' "sa-simdr" files) or "one_hot" ("simdr").
        sigma: of the target Gaussian; None: the architecture's default.
        color: channel order of the training pictures; the published ResNet configurations say BGR.
        skeleton: of the keypoints.
        license: of the checkpoint, for the card.

    Raises:
        ModelFileError: the file is missing, not a checkpoint of tensors, or not one of the two architectures.
        UsageError: the skeleton does not fit, the input size is neither given nor in the file's name, or what is given
            contradicts the tensors.
    """
    path, out = Path(path), Path(out)
    state_dict = _read_checkpoint(path)
    depth, num_keypoints = _depth(state_dict, path), state_dict["final_layer.weight"].shape[0]
    options: dict[str, float] = {} if sigma is None else {"sigma": sigma}
    if "mlp_head_x.weight" in state_dict:
        architecture = f"simcc{depth}"
        found_hw, split_ratio = _simcc_size(state_dict, path)
        if input_hw not in (None, found_hw):
            raise UsageError(f"{path}: its heads are for {found_hw[0]}x{found_hw[1]}, not {input_hw[0]}x{input_hw[1]}")
        input_hw = found_hw
        if split_ratio != 2.0:
            options["split_ratio"] = split_ratio
    else:
        architecture = f"simple_baseline{depth}"
        if targets == "one_hot":
            raise UsageError(f"{path}: one-hot targets are SimCC's, this is Simple Baseline, trained with heatmaps")
        input_hw = input_hw or _size_in_name(path)
    model = create_model(model_name(architecture, input_hw), num_keypoints, **options)
    if color == "bgr":
        state_dict["conv1.weight"] = state_dict["conv1.weight"].flip(1)
    copy_weights(model, state_dict, str(path))

    size = InputSpec(size_hw=input_hw)
    step = -1 if color == "bgr" else 1
    mean, std = size.mean[::step], size.std[::step]  # the means stay with the channels that they were applied to
    card = default_card(model, name=out.name.removesuffix(out.suffix), skeleton=skeleton)
    card = card.model_copy(
        update={
            "input": size.model_copy(update={"mean": mean, "std": std, "crop_center": "corner"}),
            "codec": card.codec.model_copy(update={"targets": targets}),
            "license": license,
            "source": f"converted from {path.name}",
        }
    )
    return save_weights(out, model.state_dict(), card)


def _read_checkpoint(path: Path) -> StateDict:
    if not path.is_file():
        raise ModelFileError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's word on how the file was pickled
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the unpickler meets, with advice to unpickle all the same
        # Only the cause: torch's long text advises to run the file's code.
        what = "damaged or cut off" if "zip archive" in str(error) else "other content"
        forbidden = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if forbidden is not None:
            what = f"it holds {forbidden[1]}"
        raise ModelFileError(f"{path}: not a PyTorch file of tensors only ({what})") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelFileError(f"{path}: holds no state dict")
    state_dict = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    for name, tensor in state_dict.items():
        if tensor.layout != torch.strided or tensor.is_complex():
            raise ModelFileError(f"{path}: {name} is no plain tensor of real numbers ({tensor.dtype}, {tensor.layout})")
    dimensions = {"conv1.weight": 4, "layer1.0.conv1.weight": 4, "deconv_layers.0.weight": 4, "final_layer.weight": 4}
    if any(name.startswith("mlp_head_") for name in state_dict):
        dimensions |= {"mlp_head_x.weight": 2, "mlp_head_y.weight": 2}
    for name, number in dimensions.items():
        if name not in state_dict:
            raise ModelFileError(f"{path}: neither Simple Baseline nor SimCC on a ResNet ({name} is missing)")
        if state_dict[name].ndim != number or not state_dict[name].numel():
            raise ModelFileError(
                f"{path}: neither Simple Baseline nor SimCC on a ResNet ({name} has shape "
                f"{tuple(state_dict[name].shape)}, expected {number} dimensions)"
            )
    return {name: tensor.float() for name, tensor in state_dict.items()}


def _depth(state_dict: StateDict, path: Path) -> int:
    bottleneck = "layer1.0.conv3.weight" in state_dict
    blocks = tuple(sum(f"layer{stage}.{i}.conv1.weight" in state_dict for i in range(64)) for stage in range(1, 5))
    for depth, (block, counts) in BLOCKS_OF_DEPTH.items():
        if counts == blocks and (block is Bottleneck) == bottleneck:
            return depth
    raise ModelFileError(f"{path}: no known ResNet has {blocks} blocks")


def _simcc_size(state_dict: StateDict, path: Path) -> tuple[tuple[int, int], float]:
    """Input size and split ratio k from the heads: W k bins, H k bins, (W / 4)(H / 4) inputs."""
    bins_x, inputs = state_dict["mlp_head_x.weight"].shape
    bins_y = state_dict["mlp_head_y.weight"].shape[0]
    split_ratio = round(math.sqrt(bins_x * bins_y / (16 * inputs)), 3)
    input_hw = round(bins_y / split_ratio), round(bins_x / split_ratio)
    if input_hw[0] * input_hw[1] != 16 * inputs or any(side % 32 for side in input_hw):
        raise ModelFileError(f"{path}: heads of {bins_x} and {bins_y} bins on {inputs} cells fit no input size")
    return input_hw, split_ratio


def _size_in_name(path: Path) -> tuple[int, int]:
    match = re.search(r"(?<!\d)(\d{2,4})x(\d{2,4})(?!\d)", path.name)
    if match is None:
        raise UsageError(f"{path}: a heatmap model fits any input size; say which it was trained with (input_hw)")
    return int(match[1]), int(match[2])
