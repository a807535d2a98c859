"""Learning from a teacher: a trained network is shown a batch's very crops, and the own network has to see the same.

Labels say something about a few points of a crop, a teacher about every position of it, whatever augmentation has made
of it (Beyer et al., "Knowledge distillation: A good teacher is patient and consistent"). From the features in front of
the keypoint maps a 1x1 convolution, the hint (Romero et al., "FitNets"), predicts two of the teacher's tensors: its
features and its keypoint maps. The hint is trained along and thrown away: weights that come out neither hold nor need
anything of the teacher.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebapose.errors import ModelFileError, UsageError
from ebapose.geometry.crop import warp_crop
from ebapose.inference.runtime import OpenVINORuntime, openvino_core
from ebapose.models.pose_model import PoseModel
from ebapose.training.config import TeacherConfig

HINT = "hint."  # names of the state dict that are not written into weights
_STRIDE = 4  # of the keypoint maps, and of the teacher's tensors, in px
_COARSEST = 32  # the teacher's input must be a multiple of this many px


class Teacher:
    """A teacher for crops of one size, calculated by OpenVINO on the CPU (bfloat16 where the CPU has it).

    Args:
        config: which file, and what of it.
        path: the file.
        crop_hw: height and width of the crops in px.

    Raises:
        ModelFileError: the file cannot be loaded, or does not take pictures of another size.
        UsageError: it has no tensors of these names, or they have not a quarter of the input's size.
    """

    def __init__(self, config: TeacherConfig, path: Path, crop_hw: tuple[int, int]) -> None:
        self.config, self.crop_hw = config, crop_hw
        height, width = (int(np.ceil(side * config.enlarge / _COARSEST)) * _COARSEST for side in crop_hw)
        self.input_hw = (height, width)
        self._network = _read(path, [config.features, config.maps], self.input_hw)
        self._compiled: Any = None
        shapes = [output.partial_shape for output in self._network.outputs]
        for name, shape in zip((config.features, config.maps), shapes, strict=True):
            if [str(n) for n in shape][2:] != [str(height // _STRIDE), str(width // _STRIDE)]:
                raise UsageError(
                    f"teacher: {name!r} of {path} is {shape} for pictures of {height}x{width}: a quarter of their "
                    "height and width is needed, channels first"
                )
        self.channels = tuple(shape[1].get_length() for shape in shapes)

    def give_hints_to(self, model: PoseModel) -> None:
        """Add the hint to a network. Raises UsageError for one that has no place for it."""
        if not hasattr(model, "hint"):
            raise UsageError(f"teacher: {model.architecture} cannot learn from one, the eba_prnetcc models can")
        in_channels = model.get_submodule("final_layer").in_channels
        model.hint = nn.Conv2d(in_channels, sum(self.channels), 1)  # type: ignore[arg-type]

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Crops uint8 (B, 3, H, W) to features (B, C, H / 4, W / 4) and keypoint maps of probabilities."""
        if self._compiled is None:
            precision = "bf16" if OpenVINORuntime.has_bfloat16() else "f32"
            settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}
            self._compiled = openvino_core().compile_model(self._network, "CPU", settings)
        factor = self.config.enlarge
        matrix = [[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]]  # pixel borders fall on each other
        crops = images.permute(0, 2, 3, 1).numpy(force=True)
        shown = np.stack([warp_crop(crop, matrix, self.input_hw) for crop in crops])
        seen = self._compiled(shown.astype(self._compiled.inputs[0].element_type.to_dtype()))
        features, logits = (torch.from_numpy(np.array(seen[i], np.float32)) for i in range(2))
        return self._to_cells(features), self._to_cells(logits.sigmoid())

    def _to_cells(self, values: Tensor) -> Tensor:
        """The teacher's cells (B, C, h', w') to the cells of the own maps, bilinear."""
        axes = []
        for side, own in zip(self.input_hw, self.crop_hw, strict=True):
            centres = (torch.arange(own // _STRIDE) + 0.5) * _STRIDE * self.config.enlarge  # px from the border
            axes.append(2 * centres / side - 1)
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        grid = torch.stack([columns, rows], dim=-1).expand(len(values), -1, -1, -1)
        return F.grid_sample(values, grid, padding_mode="border", align_corners=False)

    def losses(self, hints: Tensor, seen: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """What is to be minimised, by name, already weighted.

        Features: mean squared error in units of each channel's standard deviation over the batch. Maps: cross entropy
        of the map as a distribution over its cells with that of the squared probabilities, which leaves little but the
        peaks; a map counts by its highest probability.

        hints (B, C + K', h, w) from the network, `seen` from `look`.
        """
        features, maps = (part.to(hints.device) for part in seen)
        own_features, own_maps = torch.split(hints.float(), list(self.channels), dim=1)
        mean, std = features.mean((0, 2, 3), keepdim=True), features.std((0, 2, 3), keepdim=True)
        feature_loss = (own_features - (features - mean) / (std + 1e-3)).square().mean()
        target = maps.square().flatten(2)
        target = target / target.sum(-1, keepdim=True).clamp_min(1e-6)
        cross_entropy = -(target * F.log_softmax(own_maps.flatten(2), dim=-1)).sum(-1)
        map_loss = (cross_entropy * maps.amax((2, 3))).mean()
        return {
            "teacher_features": self.config.feature_weight * feature_loss,
            "teacher_maps": self.config.map_weight * map_loss,
        }


def _read(path: Path, names: list[str], input_hw: tuple[int, int]) -> Any:
    """The part of an ONNX file that leads to two of its tensors, for pictures of another size, any number at a time."""
    import openvino

    try:
        whole = openvino_core().read_model(path)
        outputs = {name: output for node in whole.get_ops() for output in node.outputs() for name in output.names}
        for name in names:
            if name not in outputs:
                raise UsageError(f"teacher: {path} has no tensor {name!r}")
        model = openvino.Model([outputs[name] for name in names], whole.get_parameters())
        model.reshape([-1, *input_hw, 3])
    except RuntimeError as error:
        raise ModelFileError(f"{path}: it cannot be a teacher ({str(error).strip().splitlines()[-1]})") from None
    return model
