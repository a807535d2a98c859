"""Codecs against the reference implementations.

Golden vectors of SimCC (simcc_targets, simcc_decode), MMPose (mmpose_simcc_encode, mmpose_simcc_decode) and Simple
Baseline (heatmap_targets, heatmap_decode); inputs are drawn again from their formulas.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from ebapose.codecs import Heatmap, SimCC
from ebapose.codecs.simcc import axis_peaks, softmax
from ebapose.geometry.boxes import xywh_to_xyxy
from ebapose.geometry.crop import crop_to_image, image_to_crop_matrix
from ebapose.skeleton import COCO17
from vectors import PAIRS, cases, generator, golden

FLIPS = ["noflip", "flip", "flip_shift"]


def arrays(name: str, case: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(case + "/"): v for k, v in golden(name).items() if k.startswith(case + "/")}


def size_hw(image_size) -> tuple[int, int]:
    return int(image_size[1]), int(image_size[0])


def bump(num: int, center: np.ndarray, amplitude: np.ndarray, divisor: float) -> np.ndarray:
    return amplitude[..., None] * np.exp(-((np.arange(num) - center[..., None]) ** 2) / divisor)


def test_flip_indices_are_the_references_pairs():
    np.testing.assert_array_equal(COCO17.flip_indices, PAIRS)


# --- SimCC ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("simcc_targets"))
def test_simcc_targets(case):
    g = arrays("simcc_targets", case)
    codec = SimCC(size_hw(g["image_size"]), float(g["split_ratio"]), (float(g["sigma"]),) * 2)
    x, y, weights = codec.encode(g["joints"], g["visibility"], weight_rule="reference")
    np.testing.assert_array_equal(weights, g["target_weight"][:, 0])
    np.testing.assert_allclose(x, g["target_x"], atol=1e-6)
    np.testing.assert_allclose(y, g["target_y"], atol=1e-6)


@pytest.mark.parametrize("case", cases("simcc_targets"))
def test_simcc_labels(case):
    g = arrays("simcc_targets", case)
    codec = SimCC(size_hw(g["image_size"]), float(g["split_ratio"]))
    labels, weights = codec.encode_labels(g["joints"], g["visibility"])
    np.testing.assert_array_equal(weights, g["label_weight"][:, 0])
    np.testing.assert_array_equal(labels, g["label"])


@cache
def simcc_logits(case: str, nx: int, ny: int):
    """The logits (x, y) of a crop and of its mirror image."""
    g = generator(f"simcc_decode/{case}")
    mx, my = ((0.03 + 0.94 * g.random((2, 17))) * n for n in (nx, ny))
    a = 4 + 6 * g.random((2, 17, 2, 2))
    d = 3 * g.standard_normal((2, 17, 2))
    centers = (mx, my, nx - 1 - mx[:, PAIRS] + d[..., 0], my[:, PAIRS] + d[..., 1])
    logits = [
        bump(num, center, a[..., axis, mirrored], 32) + 0.5 * g.standard_normal((2, 17, num))
        for (mirrored, axis), center, num in zip(product((0, 1), (0, 1)), centers, (nx, ny, nx, ny), strict=True)
    ]
    return [values.astype(np.float32) for values in logits]


@pytest.mark.parametrize("case", cases("simcc_decode"))
@pytest.mark.parametrize("mode", ["sa-simdr", "simdr"])
@pytest.mark.parametrize("flip", FLIPS)
def test_simcc_decode(case, mode, flip):
    g = arrays("simcc_decode", case)
    codec = SimCC(
        size_hw(g["image_size"]), float(g["split_ratio"]), targets="gaussian" if mode == "sa-simdr" else "one_hot"
    )
    x, y, x_mirrored, y_mirrored = simcc_logits(case, *codec.bins_wh)
    np.testing.assert_array_equal(x.ravel()[:8], g["logits_x_check"])
    np.testing.assert_array_equal(y_mirrored[-1, -1, :8], g["logits_y_flipped_check"])
    outputs = (x, y)
    if flip != "noflip":
        outputs = codec.merge_flip(outputs, (x_mirrored, y_mirrored), PAIRS, shift_bins=int(flip == "flip_shift"))
    decoded = codec.decode(outputs, refine="none")
    g |= {k.removeprefix(f"{mode}/{flip}/"): v for k, v in g.items() if k.startswith(f"{mode}/{flip}/")}
    np.testing.assert_allclose(decoded.keypoints, g["crop_xy"], atol=1e-4)
    peaks = [axis_peaks(values) for values in outputs]
    score = np.minimum(*peaks) if mode == "sa-simdr" else np.maximum(*peaks)
    np.testing.assert_allclose(score, g["score"], atol=1e-6)
    matrices = image_to_crop_matrix(xywh_to_xyxy(g["box_xywh"]), codec.size_hw, crop_center="corner")
    np.testing.assert_allclose(crop_to_image(decoded.keypoints, matrices), g["image_xy"], atol=1e-3)
    if "prob_x" in g:
        for values, name in zip(outputs, ("prob_x", "prob_y"), strict=True):
            np.testing.assert_allclose(softmax(values[0, :4]), g[name], atol=1e-6)


# --- MMPose -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in cases("mmpose_simcc_encode") if not c.startswith("standard")])
def test_mmpose_gaussian_targets(case):
    g = arrays("mmpose_simcc_encode", case)
    codec = SimCC(size_hw(g["input_size"]), float(g["split_ratio"]), tuple(g["sigma"].tolist()))
    x, y, weights = codec.encode(
        g["joints"], g["visibility"], round_centers=True, normalized=bool(g["normalize"]), weight_rule="bins"
    )
    np.testing.assert_array_equal(weights, g["weights"])
    np.testing.assert_allclose(x, g["x_labels"], atol=2e-7)
    np.testing.assert_allclose(y, g["y_labels"], atol=2e-7)
    used = weights > 0  # MMPose decodes an all-zero target as -1
    decoded = codec.decode((x[None], y[None]), refine="none")
    np.testing.assert_allclose(decoded.keypoints[0][used], g["decoded_xy"][used], atol=1e-6)


@pytest.mark.parametrize("case", ["standard_ls0", "standard_ls0.1"])
def test_mmpose_class_labels(case):
    g = arrays("mmpose_simcc_encode", case)
    codec = SimCC(size_hw(g["input_size"]), float(g["split_ratio"]), targets="one_hot")
    labels, weights = codec.encode_labels(g["joints"], g["visibility"])
    np.testing.assert_array_equal(weights, g["weights"])
    smoothing = float(g["label_smooth_weight"])
    for axis, name in enumerate(("x_labels", "y_labels")):
        num = codec.bins_wh[axis]
        one_hot = np.eye(num)[labels[:, axis]]
        smooth = (one_hot * (1 - smoothing) + (1 - one_hot) * smoothing / (num - 1)) * weights[:, None]
        np.testing.assert_allclose(smooth, g[name], atol=2e-7)


@cache
def mmpose_responses():
    g = generator("mmpose_decode")
    mx, my = ((0.05 + 0.9 * g.random((2, 17))) * n for n in (384, 512))
    a = 0.3 + 0.6 * g.random((2, 17, 2, 2))
    centers = (mx, my, 383 - mx[:, PAIRS], my[:, PAIRS])
    values = [
        bump(num, center, a[..., axis, mirrored], 72) + 0.01 * g.standard_normal((2, 17, num))
        for (mirrored, axis), center, num in zip(product((0, 1), (0, 1)), centers, (384, 512) * 2, strict=True)
    ]
    values[0][0, 5] = -0.2 - np.abs(values[0][0, 5])
    return [v.astype(np.float32) for v in values]


@pytest.mark.parametrize("flip", ["noflip", "flip"])
@pytest.mark.parametrize("refine", ["none", "dark"])
def test_mmpose_decode(flip, refine):
    g = golden("mmpose_simcc_decode")
    x, y, x_mirrored, y_mirrored = mmpose_responses()
    np.testing.assert_array_equal(x.ravel()[:8], g["simcc_x_check"])
    np.testing.assert_array_equal(y_mirrored[-1, -1, :8], g["flipped_y_check"])
    codec = SimCC((256, 192), 2.0, (4.9, 5.66))
    outputs = (x, y)
    if flip == "flip":
        outputs = codec.merge_flip(outputs, (x_mirrored, y_mirrored), PAIRS, shift_bins=0)
    decoded = codec.decode(outputs, refine=refine)
    name = "plain" if refine == "none" else "dark"
    positive = np.minimum(outputs[0].max(-1), outputs[1].max(-1)) > 0  # MMPose puts the others at (-1, -1) / k
    assert positive.sum() >= 33
    tolerance = 1e-6 if refine == "none" else 2e-3
    np.testing.assert_allclose(decoded.keypoints[positive], g[f"{flip}/{name}/xy"][positive], rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        np.minimum(outputs[0].max(-1), outputs[1].max(-1)), g[f"{flip}/{name}/score"], rtol=0, atol=1e-6
    )
    visibility = np.minimum(*(axis_peaks(150 * s * v) for s, v in zip(codec.sigma, outputs, strict=True)))
    np.testing.assert_allclose(visibility, g[f"{flip}/visibility/visibility"], atol=2e-5)


# --- Simple Baseline --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("heatmap_targets"))
def test_heatmap_targets(case):
    g = arrays("heatmap_targets", case)
    codec = Heatmap(size_hw(g["image_size"]), sigma=float(g["sigma"]))
    assert codec.map_hw == size_hw(g["heatmap_size"])
    maps, weights = codec.encode(g["joints"], g["visibility"])
    np.testing.assert_array_equal(weights, g["target_weight"][:, 0])
    np.testing.assert_allclose(maps, g["target"], atol=1e-6)


@cache
def heatmaps():
    """The maps (2, 17, 64, 48) of a crop and of its mirror image."""
    g = generator("heatmap_decode_maps")
    mx, my = 48 * g.random((2, 17)), 64 * g.random((2, 17))
    mx[0, :6], my[0, 6:12] = (0, 1, 2, 45, 46, 47), (0, 1, 2, 61, 62, 63)
    my[0, :6], mx[0, 6:12] = 20.3 + np.arange(6), 11.7 + np.arange(6)
    a = 0.3 + 0.6 * g.random((2, 17, 2))
    a[0, 12] = -0.5
    d = 0.4 * g.standard_normal((2, 17, 2))
    noises = [0.002 * g.standard_normal((2, 17, 64, 48)) for _ in range(2)]

    def blob(x, y, amplitude):
        columns, rows = np.arange(48) - x[..., None, None], np.arange(64)[:, None] - y[..., None, None]
        return amplitude[..., None, None] * np.exp(-(columns**2 + rows**2) / 8)

    plain = blob(mx, my, a[..., 0]) + noises[0]
    mirrored = blob(47 - mx[:, PAIRS] + d[:, PAIRS, 0], my[:, PAIRS] + d[:, PAIRS, 1], a[:, PAIRS, 1]) + noises[1]
    plain[0, 12] -= 0.05
    mirrored[0, PAIRS[12]] -= 0.05
    return plain.astype(np.float32), mirrored.astype(np.float32)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("refine", ["none", "quarter"])
def test_heatmap_decode(flip, refine):
    g = golden("heatmap_decode")
    plain, mirrored = heatmaps()
    np.testing.assert_array_equal(plain.ravel()[:8], g["heatmap_check"])
    np.testing.assert_array_equal(mirrored[-1, -1, -1, :8], g["flipped_check"])
    codec = Heatmap(size_hw(g["image_size"]))
    outputs = (plain,)
    if flip != "noflip":
        outputs = codec.merge_flip(outputs, (mirrored,), PAIRS, shift_cells=int(flip == "flip_shift"))
        np.testing.assert_allclose(
            outputs[0][1, [0, 3]], g[f"{flip}/argmax/fused_heatmap_joints_0_3_sample_1"], atol=1e-6
        )
    decoded = codec.decode(outputs, refine=refine)
    if refine == "none":
        np.testing.assert_array_equal(decoded.keypoints / codec.stride, g[f"{flip}/argmax/heatmap_xy"])
    name = f"{flip}/{'argmax' if refine == 'none' else 'quarter'}"
    # the reference leaves scores of maps without a positive value negative, ours lie in 0..1
    np.testing.assert_allclose(decoded.scores, np.clip(g[f"{name}/score"], 0, 1), atol=1e-6)
    matrices = image_to_crop_matrix(xywh_to_xyxy(g["box_xywh"]), codec.size_hw, crop_center="corner")
    np.testing.assert_allclose(crop_to_image(decoded.keypoints, matrices), g[f"{name}/image_xy"], atol=1e-3)
