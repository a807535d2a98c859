from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ebapose.skeleton import COCO17
from pose_sets import STANDING

ROOT = Path(__file__).parents[2]
FLIP = list(COCO17.flip_indices)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("relabel", ROOT / "benchmarks/relabel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry(points, flags=None):
    flags = np.full(17, 2) if flags is None else flags
    return {"bbox": [20, 0, 60, 160], "keypoints": np.concatenate([points, flags[:, None]], axis=1).ravel().tolist()}


def seen(points, score=0.9):
    return np.concatenate([points, np.full((17, 1), score)], axis=1)


def keypoints(changed):
    return np.array(changed["keypoints"]).reshape(17, 3)


def test_legs_of_the_wrong_side_are_swapped_and_nothing_else(script):
    wrong = STANDING.copy()
    wrong[11:] = STANDING[FLIP][11:]
    changed, counts = entry(wrong), Counter()
    script.relabel(changed, seen(STANDING), counts)
    np.testing.assert_allclose(keypoints(changed)[:, :2], STANDING)
    assert changed["keypoint_weights"] == [1] * 17
    assert counts["legs swapped"] == 1
    assert counts["arms swapped"] == 0


def test_a_label_far_from_a_sure_teacher_counts_less_and_gaps_are_filled(script):
    labels, flags = STANDING.copy(), np.full(17, 2)
    labels[9] = (20, 20)
    labels[13], flags[13] = 0, 0
    changed, counts = entry(labels, flags), Counter()
    script.relabel(changed, seen(STANDING, 0.8), counts)
    assert changed["keypoint_weights"][9] == 0.3
    np.testing.assert_allclose(keypoints(changed)[9, :2], labels[9])
    np.testing.assert_allclose(keypoints(changed)[13], [*STANDING[13], 1])
    assert changed["keypoint_weights"][13] == 0.4
    assert changed["num_keypoints"] == 17


@pytest.mark.parametrize("opinion", [seen(STANDING, 0.1), seen(STANDING + 200)])
def test_an_unsure_or_lost_teacher_changes_nothing(script, opinion):
    wrong = STANDING[FLIP]
    changed = entry(wrong)
    script.relabel(changed, opinion, Counter())
    np.testing.assert_allclose(keypoints(changed)[:, :2], wrong)
    assert changed["keypoint_weights"] == [1] * 17


@pytest.mark.parametrize(("score", "weight"), [(0.7, 0.7), (0.5, 0.3), (0.3, 1.0)])
def test_a_label_far_from_the_network_is_corrected_doubted_or_kept(script, score, weight):
    labels = STANDING.copy()
    labels[9] = (20, 20)
    changed, counts = entry(labels), Counter()
    hand = script.by_hand(*script.read_labels(changed)[:2])
    script.correct(changed, hand, seen(STANDING, score), counts)
    np.testing.assert_allclose(keypoints(changed)[9, :2], STANDING[9] if score >= 0.6 else labels[9])
    assert changed["keypoint_weights"] == [weight if k == 9 else 1 for k in range(17)]
    assert counts["joints corrected"] == (score >= 0.6)


def test_the_network_fills_gaps_and_settles_what_the_teacher_doubted(script):
    flags = np.full(17, 2)
    flags[[0, 13]] = 0
    changed, counts = entry(STANDING, flags), Counter()
    hand = script.by_hand(*script.read_labels(changed)[:2])
    changed["keypoint_weights"] = [0.3 if k in (2, 9) else 1 for k in range(17)]  # an eye is an estimate anyway
    script.correct(changed, hand, seen(STANDING, 0.8), counts)
    assert changed["keypoint_weights"] == [{0: 0.4, 13: 0.4, 2: 0.3}.get(k, 1) for k in range(17)]
    np.testing.assert_allclose(keypoints(changed)[13], [*STANDING[13], 1])
    assert counts["filled in by itself"] == 2
    assert changed["num_keypoints"] == 17
