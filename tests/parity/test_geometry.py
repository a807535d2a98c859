"""Crop geometry against the reference implementations: golden vectors affine.npz.

The reference (Simple Baseline, bit-equal in SimCC) builds its matrices from three points in float32, so ours (closed
form, float64) differ from them by up to 2e-4.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ebapose.geometry.boxes import xywh_to_xyxy
from ebapose.geometry.crop import (
    crop_to_image,
    fit_boxes,
    image_to_crop,
    image_to_crop_matrix,
    invert,
    transform_points,
    warp_crop,
)
from ebapose.skeleton import COCO17
from vectors import golden

SIZES = ["256x192", "384x288", "128x128", "256x256"]


def size_hw(size: str) -> tuple[int, int]:
    height, width = size.split("x")
    return int(height), int(width)


@pytest.fixture
def affine():
    return golden("affine")


@pytest.mark.parametrize("size", SIZES)
def test_centers_and_scales(affine, size):
    centers, sizes_wh = fit_boxes(xywh_to_xyxy(affine["box_xywh"]), size_hw(size), 1.25)
    np.testing.assert_allclose(centers, affine[f"{size}/center"], atol=1e-4)
    np.testing.assert_allclose(sizes_wh / 200, affine[f"{size}/scale"], atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_matrices_and_points(affine, size):
    matrices = image_to_crop_matrix(
        xywh_to_xyxy(affine["box_xywh"]),
        size_hw(size),
        crop_center="corner",
        rotation_deg=affine["rotation_deg"],
    )
    np.testing.assert_allclose(matrices, affine[f"{size}/forward"], atol=2e-3)
    np.testing.assert_allclose(invert(matrices), affine[f"{size}/inverse"], atol=2e-3)
    points = affine["points"]
    forward = image_to_crop(points, matrices)
    np.testing.assert_allclose(forward, affine[f"{size}/points_forward"], atol=2e-3)
    np.testing.assert_allclose(crop_to_image(forward, matrices), points, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_points_back_to_the_image(affine, size):
    height, width = size_hw(size)
    matrices = image_to_crop_matrix(xywh_to_xyxy(affine["box_xywh"]), (height, width), crop_center="corner")
    points = np.mod(affine["points"], [width, height])
    np.testing.assert_allclose(crop_to_image(points, matrices), affine[f"{size}/transform_preds"], atol=2e-3)


def test_mirrored_keypoints(affine):
    joints, visibility = affine["fliplr/joints"], affine["fliplr/visibility"]
    mirror = np.array([[-1.0, 0, affine["fliplr/width"] - 1], [0, 1, 0]])
    flipped = transform_points(joints[:, :2], mirror)[COCO17.flip_indices]
    flipped_visibility = visibility[COCO17.flip_indices]
    np.testing.assert_array_equal(flipped_visibility, affine["fliplr/visibility_out"])
    # the reference sets the coordinates of invisible keypoints to 0, ours keeps them
    np.testing.assert_allclose(flipped * flipped_visibility[:, :2], affine["fliplr/joints_out"][:, :2], atol=1e-12)


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("kind", ["", "smooth_"])
def test_warp(affine, index, kind):
    """Given the reference's matrix: equal bits with OpenCV 5, which made the vectors; older ones quantise positions."""
    image = affine["warp/image_smooth" if kind else "warp/image"]
    size = tuple(affine["warp/output_size"][::-1].tolist())
    crop = warp_crop(image, affine[f"warp/matrix_{index}"], size, antialias=False)
    name = f"out_{kind}{index}"
    if int(cv2.__version__.split(".")[0]) >= 5:
        np.testing.assert_array_equal(crop, affine[f"warp/{name}"])
    else:
        assert np.abs(crop.astype(int) - affine[f"warp_cv48/{name}"]).max() <= 6


@pytest.mark.parametrize("index", range(3))
def test_warp_with_our_matrix(affine, index):
    """From the box itself: our matrix differs in the last digits only, the smooth picture by a grey level at most."""
    size = tuple(affine["warp/output_size"][::-1].tolist())
    matrix = image_to_crop_matrix(
        xywh_to_xyxy(affine["warp/box_xywh"])[index],
        size,
        crop_center="corner",
        rotation_deg=affine["warp/rotation_deg"][index],
    )[0]
    np.testing.assert_allclose(matrix, affine[f"warp/matrix_{index}"], atol=2e-3)
    crop = warp_crop(affine["warp/image_smooth"], matrix, size, antialias=False).astype(int)
    tolerance = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 6
    assert np.abs(crop - affine[f"warp/out_smooth_{index}"]).max() <= tolerance + 1
