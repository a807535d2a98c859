from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebapose.errors import UsageError
from ebapose.evaluation.pck import (
    box_sizes,
    head_sizes,
    mean_error,
    pck,
    pck_auc,
    relative_errors,
    torso_sizes,
)
from ebapose.skeleton import COCO17, Skeleton

LEFT_SHOULDER, RIGHT_HIP = 5, 12


def one_person():
    truth = np.zeros((1, 17, 2))
    truth[0, LEFT_SHOULDER] = (0, 0)
    truth[0, RIGHT_HIP] = (30, 40)  # a torso of 50 px
    return truth, np.ones((1, 17), bool)


def test_torso_is_left_shoulder_to_right_hip_where_both_are_labelled():
    truth, labelled = one_person()
    assert torso_sizes(truth, labelled, COCO17).tolist() == [50]
    labelled[0, RIGHT_HIP] = False
    assert np.isnan(torso_sizes(truth, labelled, COCO17)).all()
    truth[0, RIGHT_HIP] = 0  # both on one spot: no size
    assert np.isnan(torso_sizes(truth, np.ones((1, 17), bool), COCO17)).all()


def test_pck_by_hand():
    truth, labelled = one_person()
    poses = truth.copy()
    poses[0, :4] += [6, 8]  # 10 px: 0.2 of the torso, still right
    poses[0, 4:8] += [6.1, 8]
    labelled[0, 16] = False
    result = pck(relative_errors(poses, truth, labelled, torso_sizes(truth, labelled, COCO17)), 0.2)
    assert result.overall == pytest.approx(12 / 16)
    assert result.per_keypoint[:8].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert np.isnan(result.per_keypoint[16])
    assert result.counts.tolist() == [1] * 16 + [0]


def test_persons_without_size_do_not_count_and_missing_poses_are_wrong():
    truth = np.zeros((3, 17, 2))
    poses = truth.copy()
    poses[2] = np.nan
    errors = relative_errors(poses, truth, np.ones((3, 17), bool), [np.nan, 10, 10])
    assert pck(errors, 0.1).overall == 0.5
    assert mean_error(errors) == 0  # a missing pose has no distance
    assert np.isnan(mean_error([np.nan, np.inf]))


def test_nothing_to_count():
    errors = np.full((2, 17), np.nan)
    assert np.isnan(pck(errors, 0.2).overall)
    assert np.isnan(pck_auc(errors, 0.5))


def test_box_size_is_the_longer_side():
    np.testing.assert_array_equal(box_sizes([[0, 0, 3, 7], [0, 0, 9, 1], [5, 5, 0, 0]]), [7, 9, np.nan])


def test_head_size_where_the_skeleton_has_a_head():
    body = Skeleton("body", ("pelvis", "upper_neck", "head_top"), (), (), (0.1, 0.1, 0.1))
    truth = np.array([[[0, 0], [0, 3], [4, 6]]], float)
    assert head_sizes(truth, np.ones((1, 3), bool), body).tolist() == [5]
    with pytest.raises(UsageError, match="'coco17' has no top of the head"):
        head_sizes(np.zeros((1, 17, 2)), np.ones((1, 17), bool), COCO17)
    with pytest.raises(UsageError, match="'body' has no left_shoulder"):
        torso_sizes(truth, np.ones((1, 3), bool), body)


def test_area_under_the_curve_by_hand():
    # right from 0, from 0.25 and never: shares 1, 0.5 and 0 of the thresholds up to 0.5
    assert pck_auc([[0.0, 0.25, 0.9, np.nan]], 0.5) == pytest.approx(0.5)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=30))
def test_the_area_is_the_mean_pck(errors):
    table = np.array(errors)[:, None]
    curve = [pck(table, threshold).overall for threshold in np.linspace(0, 0.5, 501)]
    assert pck_auc(table, 0.5) == pytest.approx(np.mean(curve), abs=5e-3)


def test_overall_counts_every_keypoint_alike():
    """Every countable keypoint weighs alike, not every kind of keypoint."""
    assert pck([[0.1, 0.9], [0.1, np.nan], [0.1, np.nan]], 0.2).overall == 0.75
