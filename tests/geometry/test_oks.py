from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebapose.geometry.oks import (
    group_rows,
    keypoint_similarity,
    oks,
    oks_nms,
    pose_scores,
    select_poses,
    soft_oks_nms,
)
from ebapose.skeleton import COCO17
from pose_sets import STANDING

SIGMAS = COCO17.sigmas


def test_similarity_is_one_half_at_the_published_distance():
    area = 5000.0
    distance_sq = 2 * np.log(2) * area * (2 * np.array(SIGMAS)) ** 2
    np.testing.assert_allclose(keypoint_similarity(distance_sq, area, SIGMAS), 0.5)


def test_oks_is_the_mean_over_labelled_keypoints():
    labelled = np.zeros((1, 17), bool)
    labelled[0, [0, 5]] = True
    pose = STANDING.copy()
    pose[5] += 1e6  # one of two labelled keypoints is far away
    pose[9] += 1e6  # not labelled: does not count
    assert oks(pose[None], STANDING[None], labelled, [4000.0], SIGMAS).item() == pytest.approx(0.5)


def test_a_person_without_labels_is_compared_by_the_doubled_box_or_not_at_all():
    labelled = np.zeros((1, 17), bool)
    box = [[20.0, 0, 60, 160]]
    assert oks(STANDING[None], STANDING[None], labelled, [4000.0], SIGMAS).item() == 0
    assert oks(STANDING[None], STANDING[None], labelled, [4000.0], SIGMAS, box).item() == 1
    assert oks(STANDING[None] + 1000, STANDING[None], labelled, [4000.0], SIGMAS, box).item() == 0


def test_oks_without_anybody():
    assert oks(np.zeros((0, 17, 2)), np.zeros((3, 17, 2)), np.ones((3, 17), bool), np.ones(3), SIGMAS).shape == (0, 3)
    assert oks(np.zeros((2, 17, 2)), np.zeros((0, 17, 2)), np.ones((0, 17), bool), np.ones(0), SIGMAS).shape == (2, 0)


def test_pose_scores_count_only_what_lies_above_the_threshold():
    scores = pose_scores([0.5, 0.5], [[0.8, 0.4, 0.2], [0.1, 0.2, 0.0]], threshold=0.2)
    np.testing.assert_allclose(scores, [0.5 * 0.6, 0])


def test_nms_keeps_the_better_of_two_equal_poses_and_the_other_person():
    poses = np.stack([STANDING, STANDING + 0.1, STANDING + 500])
    for suppress in (oks_nms, soft_oks_nms):
        assert suppress(poses, [0.3, 0.9, 0.5], np.full(3, 5000.0), SIGMAS).tolist()[:2] == [1, 2]
    assert oks_nms(poses, [0.3, 0.9, 0.5], np.full(3, 5000.0), SIGMAS).tolist() == [1, 2]
    assert oks_nms(np.zeros((0, 17, 2)), [], [], SIGMAS).tolist() == []


def test_equal_scores_keep_their_order():
    poses = np.stack([STANDING, STANDING + 500, STANDING + 1000])
    assert oks_nms(poses, [0.5, 0.5, 0.5], np.full(3, 5000.0), SIGMAS).tolist() == [0, 1, 2]


def test_select_poses_works_picture_by_picture():
    poses = np.stack([STANDING, STANDING, STANDING])
    kept = select_poses([7, 3, 7], poses, [0.1, 0.5, 0.2], np.full(3, 5000.0), SIGMAS)
    assert kept.tolist() == [2, 1]
    assert select_poses([], np.zeros((0, 17, 2)), [], [], SIGMAS).tolist() == []


@given(st.lists(st.integers(0, 5)))
def test_group_rows(ids):
    groups = group_rows(np.array(ids, int))
    assert [ids[g[0]] for g in groups] == list(dict.fromkeys(ids))
    assert all(g.tolist() == [i for i, v in enumerate(ids) if v == ids[g[0]]] for g in groups)


@given(st.integers(0, 1000))
def test_kept_poses_are_different_and_the_others_like_a_better_one(seed):
    rng = np.random.default_rng(seed)
    poses = STANDING + rng.normal(size=(12, 1, 2)) * 6
    scores, areas = rng.random(12), rng.uniform(1000, 5000, 12)
    kept = oks_nms(poses, scores, areas, SIGMAS, 0.6)
    similar = {(i, j) for i in range(12) for j in range(12) if _pair(poses, areas, i, j) > 0.6}
    assert all((i, j) not in similar for i in kept for j in kept if i != j)
    for dropped in set(range(12)) - set(kept.tolist()):
        assert any((dropped, k) in similar and scores[k] >= scores[dropped] for k in kept)


def _pair(poses, areas, i, j):
    area = (areas[i] + areas[j]) / 2
    return keypoint_similarity(((poses[i] - poses[j]) ** 2).sum(-1), area, SIGMAS).mean()
