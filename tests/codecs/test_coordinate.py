from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ebapose.codecs import Coordinate
from ebapose.errors import ModelFileError

SWAP = np.array([1, 0, 2])


@given(arrays(np.float64, (2, 3, 2), elements=st.floats(0, 127)))
def test_round_trip(keypoints):
    codec = Coordinate((128, 128))
    coordinates, weights = codec.encode(keypoints, np.ones((2, 3)))
    assert ((coordinates >= 0) & (coordinates <= 1)).all()
    assert (weights == 1).all()
    np.testing.assert_allclose(codec.decode((coordinates,)).keypoints, keypoints, atol=1e-3)


def test_pixel_centers_lie_half_a_pixel_inside():
    coordinates, _ = Coordinate((64, 48)).encode([[0, 0], [47, 63]], [1, 1])
    np.testing.assert_allclose(coordinates, [[0.5 / 48, 0.5 / 64], [1 - 0.5 / 48, 1 - 0.5 / 64]])


def test_unlabelled_keypoints_and_those_outside_weigh_nothing():
    _, weights = Coordinate((64, 48)).encode([[5, 5], [5, 5], [-0.6, 5], [47.6, 5], [5, 63.5]], [2, 0, 1, 1, 1])
    np.testing.assert_array_equal(weights, [1, 0, 0, 0, 1])


@given(arrays(np.float64, (2, 3, 2), elements=st.floats(-20, 150)))
def test_merging_with_the_mirror_image_changes_nothing(keypoints):
    codec = Coordinate((128, 96))
    mirrored = (keypoints * [-1, 1] + [95, 0])[:, SWAP]
    (merged,) = codec.merge_flip((codec.encode(keypoints, 1)[0],), (codec.encode(mirrored, 1)[0],), SWAP)
    np.testing.assert_allclose(codec.decode((merged,)).keypoints, keypoints, atol=1e-3)


def test_regression_states_no_certainty():
    decoded = Coordinate((64, 48)).decode((np.full((2, 3, 2), 0.5),))
    assert (decoded.scores == 1).all()
    assert np.isnan(decoded.sigmas_px).all()


def test_a_broken_networks_coordinates_are_refused():
    with pytest.raises(ModelFileError, match="not finite"):
        Coordinate((64, 48)).decode((np.full((1, 3, 2), np.nan),))
