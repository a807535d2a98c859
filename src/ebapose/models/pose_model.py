"""What every pose network has in common."""

from __future__ import annotations

import inspect
from typing import Any, Self

from torch import nn

from ebapose.card import CodecSpec


class PoseModel(nn.Module):
    """A network from a crop to encoded keypoints.

    Input: (B, 3, H, W) float32, RGB, normalised with the card's mean and std. In eval mode `forward` returns a tuple
    of tensors, whatever `codec_spec.type` calls for:

    - "simcc": logits_x (B, K, int(W * split_ratio)), logits_y (B, K, int(H * split_ratio));
    - "heatmap": maps (B, K, H / 4, W / 4);
    - "coordinate": coordinates (B, K, 2), x and y as fractions 0..1 of the crop.

    In training mode heatmaps are the same; coordinates may be those of several layers (L, B, K, 2), and heatmaps
    (B, K, H / 4, W / 4) may follow them for an auxiliary loss (`loss.map_weight`). Of a SimCC model the same loss, and
    a teacher, ask for the keypoint maps in front of the head: `forward(x, return_maps=True)` returns them as a third
    output (B, K, H / 4, W / 4), and a teacher needs the hint of `ebapose.training.teacher` as a fourth. A model without
    these trains as long as nothing asks for them.

    Attributes:
        input_hw: height and width of the crop in px.
        num_keypoints: K.
        codec_spec: how the outputs encode keypoints.
        architecture: registered name without the size; set by `create_model`.
        options: what `create_model` was given; with the architecture and the size it makes the same network again.
        design: every option of the class with the value it has here, also those that nobody gave.
    """

    input_hw: tuple[int, int]
    num_keypoints: int
    codec_spec: CodecSpec
    architecture: str = ""
    options: dict[str, Any]
    design: dict[str, Any]

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        """Notes the design: only here are the defaults of class and registered function known together."""
        model = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(model, *arguments, **keywords)
        given.apply_defaults()
        common = ("self", "input_hw", "num_keypoints")
        model.__dict__["design"] = {key: value for key, value in given.arguments.items() if key not in common}
        return model
