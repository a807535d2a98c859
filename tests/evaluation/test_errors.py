from __future__ import annotations

import numpy as np
import pytest

from ebapose.evaluation.coco_ap import coco_ap
from ebapose.evaluation.errors import ERROR_TYPES, NOT_COUNTED, SWAP, classify_keypoints, error_shares, lost_ap
from ebapose.evaluation.inputs import read_annotations, read_results
from ebapose.evaluation.matching import match_persons
from ebapose.skeleton import COCO17
from pose_sets import STANDING, annotation, dataset, random_set, result

LEFT_WRIST, RIGHT_WRIST, NOSE, LEFT_KNEE = 9, 10, 0, 13


def diagnose(people, results, image_ids=(1,)):
    truth = read_annotations(dataset(people, image_ids))
    poses = read_results(results, truth)
    matches = match_persons(truth, poses, "detector")
    kinds = classify_keypoints(truth, poses, matches)
    return truth, poses, matches, kinds


def name(kind):
    return "not counted" if kind == NOT_COUNTED else ERROR_TYPES[kind]


def test_every_kind_is_recognised():
    other = STANDING + np.array([150, 0])
    visibility = np.full(17, 2)
    visibility[16] = 0
    people = [annotation(1, 1, STANDING, visibility), annotation(2, 1, other)]
    area = people[0]["area"]
    pose = STANDING.copy()
    pose[LEFT_KNEE, 0] += np.sqrt(-2 * np.log(0.7) * area) * 2 * COCO17.sigmas[LEFT_KNEE]  # similarity 0.7
    pose[LEFT_WRIST] = STANDING[RIGHT_WRIST]
    pose[RIGHT_WRIST] = other[LEFT_WRIST]  # the other person's, and the other side
    pose[NOSE] += 60
    _, _, _, kinds = diagnose(people, [result(1, pose), result(1, other)])
    assert name(kinds[0, LEFT_KNEE]) == "jitter"
    assert name(kinds[0, LEFT_WRIST]) == "inversion"
    assert name(kinds[0, RIGHT_WRIST]) == "swap"
    assert name(kinds[0, NOSE]) == "miss"
    assert name(kinds[0, 16]) == "not counted"
    assert name(kinds[0, 1]) == "good"
    assert (kinds[1] == 0).all()


def test_the_nose_cannot_be_inverted_and_unmatched_persons_are_not_counted():
    people = [annotation(1, 1, STANDING), annotation(2, 1, STANDING + 300)]
    pose = STANDING.copy()
    pose[NOSE] = STANDING[LEFT_WRIST]
    _, _, _, kinds = diagnose(people, [result(1, pose)])
    assert name(kinds[0, NOSE]) == "miss"
    assert (kinds[1] == NOT_COUNTED).all()


def test_shares():
    kinds = np.array([[0, 4, -1], [1, 4, -1]], np.int8)
    shares = error_shares(kinds)
    assert shares[:2].tolist() == [[0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert np.isnan(shares[2]).all()


def test_ap_lost_to_a_mirrored_pose_is_an_inversion():
    people = [annotation(1, 1, STANDING), annotation(2, 2, STANDING)]
    half = STANDING.copy()
    half[5:11] = STANDING[COCO17.flip_indices][5:11]
    found = lost_ap(*diagnose(people, [result(1, half), result(2, STANDING)], (1, 2)))
    assert found.ap < 0.9
    assert found.alone["inversion"] == pytest.approx(1 - found.ap)
    assert found.steps["inversion"] == pytest.approx(1 - found.ap)
    assert found.alone["miss"] == found.alone["jitter"] == found.alone["swap"] == 0


def test_with_given_boxes_nothing_is_left_to_find():
    people = [annotation(i, i, STANDING) for i in range(1, 5)]
    pose = STANDING.copy()
    pose[:, 0] += np.sqrt(-2 * np.log(0.88) * people[0]["area"]) * 2 * np.array(COCO17.sigmas)  # all good, OKS 0.88
    results = [result(i, pose) for i in range(1, 5)]
    found = lost_ap(*diagnose(people, results, range(1, 5)))
    assert found.ap == pytest.approx(0.8)
    assert found.steps["good"] == pytest.approx(0.2)
    assert found.steps["not found"] == pytest.approx(0)


def test_ap_lost_to_scores_background_and_persons_not_found():
    people = [annotation(i, i, STANDING) for i in (1, 2)]
    background = result(1, STANDING + 500, 0.95)
    found = lost_ap(*diagnose(people, [background, result(1, STANDING, 0.5)], (1, 2)))
    assert found.steps["score"] > 0.2  # the background stands before the right pose
    assert found.steps["background"] == pytest.approx(0)
    assert found.steps["not found"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_steps_add_up_to_what_was_lost(seed):
    truth, results = random_set(seed)
    annotations = read_annotations(truth)
    poses = read_results(results, annotations)
    matches = match_persons(annotations, poses, "detector")
    found = lost_ap(annotations, poses, matches, classify_keypoints(annotations, poses, matches))
    assert found.ap == pytest.approx(coco_ap(annotations, poses, "detector").stats["AP"])
    assert found.ap + sum(found.steps.values()) == pytest.approx(1)
    assert list(found.steps) == ["miss", "swap", "inversion", "jitter", "good", "score", "background", "not found"]


def test_one_near_neighbour_makes_a_swap():
    """One near neighbour is enough, however many others stand around."""
    people = [annotation(i + 1, 1, STANDING + np.array([150, 0]) * i) for i in range(5)]
    truth = read_annotations(dataset(people))
    pose = STANDING.copy()
    pose[9] = STANDING[9] + [150, 0]
    poses = read_results([result(1, pose)], truth)
    assert classify_keypoints(truth, poses, match_persons(truth, poses, "detector"))[0, 9] == SWAP
