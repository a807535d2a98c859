from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebapose.codecs import Heatmap
from ebapose.errors import ModelFileError

SWAP = np.array([1, 0])
inner_places = st.tuples(st.floats(0.15, 0.85), st.floats(0.15, 0.85))


def gaussians(codec: Heatmap, keypoints: np.ndarray) -> np.ndarray:
    """Maps of Gaussians at the exact places (N, K, 2) in crop px, not at the nearest cells."""
    height, width = codec.map_hw
    x, y = (keypoints[..., axis, None] / codec.stride - np.arange(n) for axis, n in ((0, width), (1, height)))
    maps = np.exp(-(x[..., None, :] ** 2 + y[..., :, None] ** 2) / (2 * codec.sigma**2))
    return maps.astype(np.float32)


@given(inner_places, st.floats(1, 3), st.sampled_from([1, 2, 4, 8]))
def test_targets_give_the_keypoint_back_to_half_a_cell(place, sigma, stride):
    codec = Heatmap((256, 192), stride, sigma)
    keypoints = np.array([[place]]) * [192, 256]
    maps, weights = codec.encode(keypoints, [[2]])
    assert maps.shape == (1, 1, *codec.map_hw)
    assert weights == 1
    assert maps.max() == 1
    decoded = codec.decode((maps,), refine="none")
    assert np.abs(decoded.keypoints - keypoints).max() <= stride / 2 + 1e-3
    assert decoded.scores == 1
    assert np.isnan(decoded.sigmas_px).all()


@given(inner_places, st.floats(1.5, 3))
def test_refinement_comes_nearer(place, sigma):
    codec = Heatmap((256, 192), 4, sigma)
    keypoints = np.array([[place]]) * [192, 256]
    maps = gaussians(codec, keypoints)
    errors = {r: np.abs(codec.decode((maps,), refine=r).keypoints - keypoints).max() for r in ("none", "quarter")}
    assert errors["none"] <= 2 + 1e-3
    assert errors["quarter"] <= 1 + 1e-3
    assert np.abs(codec.decode((maps,), refine="dark").keypoints - keypoints).max() < 0.1


@pytest.mark.parametrize("refine", ["none", "quarter", "dark"])
def test_peaks_at_the_borders_stay_in_the_map(refine):
    codec = Heatmap((64, 48))
    corners = np.array([[[0, 0], [44, 0], [0, 60], [44, 60]]], float)
    np.testing.assert_array_equal(codec.decode((gaussians(codec, corners),), refine=refine).keypoints, corners)


def test_keypoints_whose_window_misses_the_map_weigh_nothing():
    codec = Heatmap((64, 48))  # windows of 6 cells, 24 px
    maps, weights = codec.encode([[20, 20], [20, 20], [-40, 20], [20, 100], [-20, 20]], [2, 0, 2, 2, 2])
    np.testing.assert_array_equal(weights, [1, 0, 0, 0, 1])
    assert (maps[1:4] == 0).all()
    assert maps[4].max() > 0


def test_windows_end_after_three_sigma():
    maps, _ = Heatmap((256, 256), 4, 2.0).encode([[128, 128]], [1])
    rows, columns = np.nonzero(maps[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (26, 38, 26, 38)


@given(inner_places, inner_places)
def test_merging_with_the_mirror_image_stays_within_the_published_error(first, second):
    """Whole cells cannot undo a shift of stride - 1 px: the merged maps lie up to 0.125 cells beside."""
    codec = Heatmap((256, 192))
    keypoints = np.array([[first, second]]) * [192, 256]
    mirrored = (keypoints * [-1, 1] + [191, 0])[:, SWAP]
    (merged,) = codec.merge_flip((gaussians(codec, keypoints),), (gaussians(codec, mirrored),), SWAP)
    refined = codec.decode((merged,), refine="dark").keypoints
    np.testing.assert_allclose(refined[..., 0], keypoints[..., 0] + 0.5, atol=0.1)
    np.testing.assert_allclose(refined[..., 1], keypoints[..., 1], atol=0.1)


def test_shifted_maps_keep_their_first_column():
    codec = Heatmap((16, 16))
    mirrored = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    (merged,) = codec.merge_flip((np.zeros_like(mirrored),), (mirrored,), np.array([0]))
    np.testing.assert_array_equal(merged[0, 0, 0] * 2, [3, 3, 2, 1])
    (merged,) = codec.merge_flip((np.zeros_like(mirrored),), (mirrored,), np.array([0]), shift_cells=0)
    np.testing.assert_array_equal(merged[0, 0, 0] * 2, [3, 2, 1, 0])
    np.testing.assert_array_equal(mirrored.ravel(), np.arange(16))


@pytest.mark.parametrize("refine", ["none", "quarter", "dark"])
def test_maps_without_a_peak_score_nothing(refine):
    codec = Heatmap((64, 48))
    maps = np.stack([np.full((16, 12), -0.5), np.zeros((16, 12))])[None].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = codec.decode((maps,), refine=refine)
    np.testing.assert_array_equal(decoded.keypoints, 0)
    np.testing.assert_array_equal(decoded.scores, 0)


def test_scores_stay_below_one():
    maps = np.zeros((1, 1, 16, 12), np.float32)
    maps[0, 0, 5, 5] = 1.3
    assert Heatmap((64, 48)).decode((maps,)).scores == 1


def test_a_broken_networks_maps_are_refused():
    maps = np.zeros((2, 3, 16, 12), np.float32)
    maps[1, 2, 3, 4] = np.nan
    with pytest.raises(ModelFileError, match="not finite"):
        Heatmap((64, 48)).decode((maps,))


@pytest.mark.parametrize("refine", ["none", "quarter", "dark"])
def test_no_persons(refine):
    codec = Heatmap((64, 48))
    assert codec.decode((np.zeros((0, 17, 16, 12), np.float32),), refine=refine).keypoints.shape == (0, 17, 2)


def test_dark_moves_by_a_cell_at_most():
    codec = Heatmap((256, 192))
    y, x = np.mgrid[:64, :48]
    maps = np.exp(-((x - 20) ** 2 + (y - 30) ** 2) / 18).astype(np.float32)[None, None]
    maps[0, 0, 30, 24] = 1.05  # a lone cell beside the mountain
    found = codec.decode((maps,), refine="dark").keypoints[0, 0]
    np.testing.assert_allclose(found, [4 * 23, 4 * 30], atol=0.5)
