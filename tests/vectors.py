"""Golden vectors and the formulas that regenerate their inputs, for the parity tests.

The files in tests/golden hold outputs of published reference implementations (SimCC leeyegy/SimCC aa6e089, Simple
Baseline microsoft/human-pose-estimation.pytorch 49f3f44, BA-Net zhaoy376/Bridge-Attention 4d99540, MMPose
open-mmlab/mmpose 759b39c) on inputs that anybody can draw again with numpy:

    from vectors import generator, golden
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GOLDEN = Path(__file__).parent / "golden"
SEED = 2026
PAIRS = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])  # the mirror keypoint of each of COCO's


@cache
def golden(name: str) -> dict[str, NDArray]:
    """All arrays of tests/golden/NAME.npz."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def cases(name: str) -> list[str]:
    """First parts of the keys of a file, in order, for parametrisation."""
    return list(dict.fromkeys(key.split("/")[0] for key in golden(name) if "/" in key))


def generator(tag: str) -> np.random.Generator:
    """The generator that a tag names; arrays are drawn from it in a fixed order."""
    return np.random.default_rng(zlib.crc32(tag.encode()) ^ SEED)


def normal(tag: str, *shape: int) -> NDArray[np.float64]:
    """The first standard normal array of a tag."""
    return generator(tag).standard_normal(shape)


def uniform(tag: str, *shape: int) -> NDArray[np.float64]:
    """The first uniform array of a tag, in 0..1."""
    return generator(tag).random(shape)


def network_image(tag: str, batch: int, channels: int, height: int, width: int) -> NDArray[np.float32]:
    """A coarse pattern of 32 x 32 blocks plus fine noise, (B, C, H, W)."""
    g = generator(tag)
    coarse = g.standard_normal((batch, channels, height // 32, width // 32))
    fine = g.standard_normal((batch, channels, height, width))
    return (np.kron(coarse, np.ones((32, 32))) + 0.5 * fine).astype(np.float32)


def network_weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The value of one state-dict entry of a golden network, by its name and shape."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.float32)
    g = normal(name, *shape)
    if name.endswith(("running_mean", "bias")):
        value = 0.1 * g
    elif name.endswith("running_var"):
        value = 1 + 0.2 * np.abs(g)
    elif len(shape) == 1:
        value = 1 + 0.1 * g
    elif len(shape) == 4 and "deconv_layers" in name:
        value = g * np.sqrt(2 / (shape[0] * shape[2] * shape[3] / 4))
    else:
        value = g * np.sqrt(1 / np.prod(shape[1:]))
    return value.astype(np.float32)
