from __future__ import annotations

import warnings
from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebapose.errors import InputError
from ebapose.geometry.crop import (
    compose,
    crop_scale,
    crop_to_image,
    fit_boxes,
    image_to_crop,
    image_to_crop_matrix,
    invert,
    warp_crop,
)


@st.composite
def boxes_xyxy(draw):
    left, top = draw(st.floats(-100, 900)), draw(st.floats(-100, 900))
    return [left, top, left + draw(st.floats(1, 800)), top + draw(st.floats(1, 800))]


sizes_hw = st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda s: (32 * s[0], 32 * s[1]))
centers = st.sampled_from(["symmetric", "corner"])
augmentations = st.fixed_dictionaries(
    {
        "rotation_deg": st.floats(-180, 180),
        "scale": st.floats(0.5, 2),
        "flip": st.booleans(),
        "shift": st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    }
)


@cache
def smooth_picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 3
    waves = [np.sin(x / 37 + y / 53), np.sin(y / 41 - x / 71), np.cos(x / 59) * np.sin(y / 67)]
    return np.stack([127.5 + 120 * wave for wave in waves], axis=-1).round().astype(np.uint8)


def noise_picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.lists(boxes_xyxy(), min_size=1, max_size=4), sizes_hw, st.floats(1, 2))
def test_fitted_boxes_have_the_crops_aspect_and_hold_the_box(boxes, size_hw, padding):
    middle, sizes_wh = fit_boxes(boxes, size_hw, padding)
    boxes = np.asarray(boxes)
    np.testing.assert_allclose(sizes_wh[:, 0] / sizes_wh[:, 1], size_hw[1] / size_hw[0])
    given_wh = boxes[:, 2:] - boxes[:, :2]
    assert (sizes_wh >= given_wh * padding * (1 - 1e-9)).all()
    assert np.isclose(sizes_wh, given_wh * padding).any(axis=1).all()  # only the short side grew
    np.testing.assert_allclose(middle, (boxes[:, :2] + boxes[:, 2:]) / 2)


@given(boxes_xyxy(), sizes_hw, centers, augmentations, st.data())
def test_points_go_to_the_crop_and_back(box, size_hw, crop_center, augmentation, data):
    matrices = image_to_crop_matrix([box], size_hw, crop_center=crop_center, **augmentation)
    points = np.array([[[data.draw(st.floats(-500, 2000)) for _ in range(2)] for _ in range(3)]])
    np.testing.assert_allclose(crop_to_image(image_to_crop(points, matrices), matrices), points, atol=1e-6)
    identity = compose(invert(matrices), matrices)[0]
    np.testing.assert_allclose(identity, [[1, 0, 0], [0, 1, 0]], atol=1e-6)


@given(boxes_xyxy(), sizes_hw, st.floats(-180, 180), st.floats(0.5, 2), st.booleans())
def test_the_box_center_lands_at_the_stated_place(box, size_hw, rotation_deg, scale, flip):
    middle = [[[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]]]
    for crop_center, target in (
        ("symmetric", ((size_hw[1] - 1) / 2, (size_hw[0] - 1) / 2)),
        ("corner", (size_hw[1] / 2, size_hw[0] / 2)),
    ):
        matrices = image_to_crop_matrix(
            [box], size_hw, crop_center=crop_center, rotation_deg=rotation_deg, scale=scale, flip=flip
        )
        np.testing.assert_allclose(image_to_crop(middle, matrices)[0, 0], target, atol=1e-7)


@given(boxes_xyxy(), sizes_hw, st.floats(-180, 180), st.floats(0.5, 2), st.booleans())
def test_the_scale_is_that_of_the_padded_box(box, size_hw, rotation_deg, scale, flip):
    matrices = image_to_crop_matrix([box], size_hw, rotation_deg=rotation_deg, scale=scale, flip=flip)
    _, sizes_wh = fit_boxes([box], size_hw, 1.25)
    np.testing.assert_allclose(crop_scale(matrices), size_hw[1] / (sizes_wh[:, 0] * scale))


@given(boxes_xyxy(), sizes_hw, st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)))
def test_a_shift_moves_the_window_by_a_fraction_of_the_padded_box(box, size_hw, shift):
    plain, moved = (image_to_crop_matrix([box], size_hw, shift=s)[0] for s in ((0, 0), shift))
    np.testing.assert_allclose(plain[:, 2] - moved[:, 2], np.multiply(shift, size_hw[::-1]), atol=1e-6)


@given(boxes_xyxy(), sizes_hw, st.floats(0.5, 2))
def test_a_flip_is_the_mirrored_crop(box, size_hw, scale):
    plain = image_to_crop_matrix([box], size_hw, scale=scale)
    flipped = image_to_crop_matrix([box], size_hw, scale=scale, flip=True)
    mirror = np.array([[-1.0, 0, size_hw[1] - 1], [0, 1, 0]])
    np.testing.assert_allclose(flipped, compose(mirror, plain), atol=1e-6)


def test_boxes_together_are_as_each_alone():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 100, (5, 4)) + np.array([0, 0, 200, 300])
    every = {
        "rotation_deg": rng.uniform(-180, 180, 5),
        "scale": rng.uniform(0.5, 2, 5),
        "flip": np.arange(5) % 2 == 0,
        "shift": rng.uniform(-0.3, 0.3, (5, 2)),
    }
    together = image_to_crop_matrix(boxes, (256, 192), **every)
    for i, box in enumerate(boxes):
        alone = image_to_crop_matrix(box, (256, 192), **{name: values[i] for name, values in every.items()})
        np.testing.assert_array_equal(together[i], alone[0])
    assert image_to_crop_matrix(np.zeros((0, 4)), (256, 192)).shape == (0, 2, 3)


@pytest.mark.parametrize("box", [[10, 20, 58, 84], [3, 7, 80.3, 75.1], [-20, -10, 60, 70]])
def test_a_flip_warps_to_the_mirrored_pixels(box):
    image = smooth_picture(90, 120)
    crops = [
        warp_crop(image, image_to_crop_matrix([box], (64, 64), padding=1.0, flip=flip)[0], (64, 64), antialias=False)
        for flip in (False, True)
    ]
    difference = np.abs(crops[0][:, ::-1].astype(int) - crops[1])
    if box[0] == 10:  # a whole number of pixels: nothing is rounded
        assert difference.max() == 0
    assert difference[2:-2, 2:-2].max() <= 1


def test_rotation_turns_the_person_counter_clockwise_on_the_screen():
    matrices = image_to_crop_matrix([[0, 0, 64, 64]], (64, 64), padding=1.0, rotation_deg=90)
    right_of_center = [[[42.0, 32.0]]]
    np.testing.assert_allclose(image_to_crop(right_of_center, matrices)[0, 0], [31.5, 21.5], atol=1e-9)


def test_a_flip_comes_before_the_rotation():
    matrices = image_to_crop_matrix([[0, 0, 64, 64]], (64, 64), padding=1.0, rotation_deg=90, flip=True)
    right_of_center = [[[42.0, 32.0]]]
    np.testing.assert_allclose(image_to_crop(right_of_center, matrices)[0, 0], [31.5, 41.5], atol=1e-9)


def test_each_box_has_its_own_augmentation():
    boxes = [[0, 0, 50, 80], [10, 10, 90, 60]]
    together = image_to_crop_matrix(
        boxes, (64, 48), rotation_deg=[10, -20], scale=[0.8, 1.2], flip=[True, False], shift=[(0.1, 0), (0, -0.1)]
    )
    first = image_to_crop_matrix(boxes[:1], (64, 48), rotation_deg=10, scale=0.8, flip=True, shift=(0.1, 0))
    second = image_to_crop_matrix(boxes[1:], (64, 48), rotation_deg=-20, scale=1.2, shift=(0, -0.1))
    np.testing.assert_allclose(together, np.concatenate([first, second]))


def test_no_boxes_give_no_matrices():
    assert image_to_crop_matrix([], (64, 48)).shape == (0, 2, 3)


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [0, 0, np.nan, 5], [0, 0, np.inf, 5], [9, 9, 2, 2]])
def test_boxes_without_an_area_are_refused(box):
    with pytest.raises(InputError, match=r"box \(.*enclose an area"):
        image_to_crop_matrix([[0, 0, 10, 10], box], (64, 48))


def test_a_line_is_a_box():
    """A side of length 0 grows to the crop's aspect."""
    assert np.isfinite(image_to_crop_matrix([[5, 5, 5, 25]], (64, 48))).all()


def test_identity_warp_returns_the_picture():
    image = noise_picture(40, 30)
    np.testing.assert_array_equal(warp_crop(image, [[1, 0, 0], [0, 1, 0]], (40, 30)), image)


def test_outside_the_picture_is_black():
    crop = warp_crop(np.full((20, 20, 3), 255, np.uint8), [[1, 0, 10], [0, 1, 0]], (20, 30))
    assert (crop[:, :10] == 0).all()
    assert (crop[:, 10:] == 255).all()
    far = warp_crop(np.full((20, 20, 3), 255, np.uint8), [[0.1, 0, 1000], [0, 0.1, 0]], (20, 30))
    assert (far == 0).all()


@pytest.mark.parametrize("order", [np.s_[::-1], np.s_[:, ::-1], np.s_[..., ::-1]])
def test_any_memory_layout_is_taken(order):
    image = noise_picture(200, 150)[order]
    matrix = image_to_crop_matrix([[10, 10, 140, 190]], (64, 48))[0]
    np.testing.assert_array_equal(
        warp_crop(image, matrix, (64, 48)), warp_crop(np.ascontiguousarray(image), matrix, (64, 48))
    )


@given(st.floats(0.05, 1.5), st.floats(-180, 180), st.tuples(st.floats(-40, 40), st.floats(-40, 40)))
def test_antialiasing_does_not_shift_a_smooth_picture(scale, rotation_deg, shift):
    """Where both windows lie inside the picture, averaging first changes a smooth picture by little."""
    image = smooth_picture(700, 900)
    linear = cv2.getRotationMatrix2D((0, 0), rotation_deg, scale)[:, :2]
    center = np.array([450, 350]) + shift
    matrix = np.column_stack([linear, [23.5, 31.5] - linear @ center])
    plain = warp_crop(image, matrix, (64, 48), antialias=False).astype(int)
    averaged = warp_crop(image, matrix, (64, 48)).astype(int)
    y, x = np.mgrid[:64, :48]
    source = crop_to_image(np.stack([x, y], axis=-1).reshape(-1, 2).astype(float), matrix).reshape(64, 48, 2)
    reach = 3 / scale + 3
    inside = ((source > reach) & (source < [900 - reach, 700 - reach])).all(axis=-1)
    assert inside.any()
    assert np.abs(plain - averaged)[inside].max() <= 2


@pytest.mark.parametrize("factor", [1.3, 2, 2.7, 5, 11.3])
@pytest.mark.parametrize("place", [(300.0, 410.5), (351.7, 299.2)])
def test_a_blob_lands_where_its_center_is_mapped(factor, place):
    y, x = np.mgrid[:800, :700]
    blob = 250 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * (4 * factor) ** 2))
    image = np.repeat(blob[..., None], 3, axis=-1).round().astype(np.uint8)
    box = [place[0] - 30 * factor, place[1] - 36 * factor, place[0] + 26 * factor, place[1] + 40 * factor]
    matrices = image_to_crop_matrix([box], (96, 96), padding=96 / 76, rotation_deg=20)
    crop = warp_crop(image, matrices[0], (96, 96)).astype(float)[..., 0]
    rows, columns = np.mgrid[:96, :96]
    centroid = [(crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum()]
    np.testing.assert_allclose(centroid, image_to_crop([[place]], matrices)[0, 0], atol=0.05)


@given(
    st.floats(20, 880),
    st.floats(20, 680),
    st.tuples(st.floats(-100, 800), st.floats(-100, 600)),
    st.sampled_from([1, 2, 4, 1000]),
    st.booleans(),
)
def test_the_crop_of_a_mirrored_picture_is_the_mirrored_crop(width, height, corner, parts, reduced):
    """Whether box edges lie on pixels, between them or anywhere, and however much the picture is shrunk."""
    image = noise_picture(701, 900)
    left, top, right, bottom = np.round(np.array([*corner, corner[0] + width, corner[1] + height]) * parts) / parts
    size_hw = (32, 24) if reduced else (128, 96)
    matrix, other = image_to_crop_matrix([[left, top, right, bottom], [899 - right, top, 899 - left, bottom]], size_hw)
    crop, back = warp_crop(image, matrix, size_hw), warp_crop(np.ascontiguousarray(image[:, ::-1]), other, size_hw)
    assert np.abs(crop.astype(int) - back[:, ::-1]).max() <= 1


def test_antialiasing_averages_what_bilinear_sampling_skips():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::4] = 255
    matrix = image_to_crop_matrix([[40, 40, 360, 360]], (32, 32), padding=1.0)[0]
    averaged = warp_crop(stripes, matrix, (32, 32)).astype(float)
    plain = warp_crop(stripes, matrix, (32, 32), antialias=False).astype(float)
    assert np.abs(averaged - 255 / 4).max() < 35
    assert np.abs(plain - 255 / 4).max() > 60


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_very_wide_pictures(scale):
    """OpenCV 4 keeps source positions in 16 bits; persons beyond pixel 32767 must not turn black."""
    image = np.zeros((60, 40000, 3), np.uint8)
    image[:, 39000:39400] = smooth_picture(60, 400)
    matrix = np.array([[scale, 0, -39100 * scale], [0, scale, 0]])
    expected = warp_crop(image[:, 39000:39400], matrix @ [[1, 0, 39000], [0, 1, 0], [0, 0, 1]], (24, 64))
    assert np.abs(warp_crop(image, matrix, (24, 64)).astype(int) - expected).max() <= 1


def test_tiny_persons_in_tiny_pictures():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = noise_picture(2, 3)
        crop = warp_crop(image, image_to_crop_matrix([[0, 0, 1, 1]], (64, 48))[0], (64, 48))
        assert crop.shape == (64, 48, 3)
        assert crop.any()
        shrunk = warp_crop(image, [[0.01, 0, 5], [0, 0.01, 5]], (10, 10))
    assert shrunk.shape == (10, 10, 3)


def test_a_box_a_million_times_its_picture():
    """A box that is a million times larger than its picture needs no block of a million px."""
    matrix = image_to_crop_matrix([[-2e7, -2e7, 2e7, 2e7]], (256, 192))[0]
    assert warp_crop(np.full((40, 40, 3), 200, np.uint8), matrix, (256, 192)).shape == (256, 192, 3)
