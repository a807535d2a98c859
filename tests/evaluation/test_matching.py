from __future__ import annotations

import numpy as np
import pytest

from ebapose.evaluation.coco_ap import coco_ap
from ebapose.evaluation.inputs import read_annotations, read_results
from ebapose.evaluation.matching import match_persons
from pose_sets import STANDING, annotation, dataset, result


def match(people, results, box_mode, image_ids=(1,)):
    truth = read_annotations(dataset(people, image_ids))
    return match_persons(truth, read_results(results, truth), box_mode)


def test_better_scored_poses_choose_first():
    people = [annotation(1, 1, STANDING), annotation(2, 1, STANDING + 200)]
    matches = match(
        people, [result(1, STANDING, 0.2), result(1, STANDING + 2, 0.9), result(1, STANDING + 200)], "detector"
    )
    assert matches.pose_of.tolist() == [1, 2]
    assert matches.oks[1] == 1
    assert not matches.ignored.any()


def test_a_pose_far_from_everybody_belongs_to_nobody_unless_boxes_were_given():
    people = [annotation(1, 1, STANDING)]
    assert match(people, [result(1, STANDING + 300)], "detector").pose_of.tolist() == [-1]
    assert match(people, [result(1, STANDING + 300)], "gt").pose_of.tolist() == [0]


def test_what_remains_with_given_boxes_is_paired_by_nearness():
    people = [annotation(1, 1, STANDING), annotation(2, 1, STANDING + 500)]
    assert match(people, [result(1, STANDING + 400), result(1, STANDING + 100)], "gt").pose_of.tolist() == [1, 0]


def test_the_named_annotation_wins_over_nearness():
    people = [annotation(7, 1, STANDING), annotation(8, 1, STANDING + 2)]
    results = [result(1, STANDING, annotation_id=8), result(1, STANDING + 2, annotation_id=7)]
    assert match(people, results, "gt").pose_of.tolist() == [1, 0]


def test_of_several_poses_for_one_annotation_the_best_scored_one_counts():
    people = [annotation(7, 1, STANDING)]
    results = [result(1, STANDING, 0.1, annotation_id=7), result(1, STANDING + 50, 0.8, annotation_id=7)]
    assert match(people, results, "gt").pose_of.tolist() == [1]


def test_poses_on_crowds_are_ignored():
    people = [annotation(1, 1, STANDING, iscrowd=1), annotation(2, 2, STANDING, 0)]
    results = [result(1, STANDING), result(2, STANDING), result(1, STANDING + 500)]
    matches = match(people, results, "detector", (1, 2))
    assert matches.pose_of.tolist() == [-1, -1]
    assert matches.ignored.tolist() == [True, True, False]


def test_every_person_of_a_crowded_picture_has_its_pose():
    """COCO's 20 poses per picture are a rule of AP alone."""
    people = [annotation(i + 1, 1, STANDING + 500 * i) for i in range(30)]
    results = [result(1, STANDING + 500 * i, 0.9 - 0.02 * i) for i in range(30)]
    for mode in ("gt", "detector"):
        matches = match(people, results, mode)
        assert matches.pose_of.tolist() == list(range(30))
        assert not matches.ignored.any()
    assert coco_ap(dataset(people, (1,)), results, "gt").stats["AR"] == pytest.approx(2 / 3)


def test_nobody_on_either_side():
    matches = match([], [result(1, STANDING)], "gt")
    assert (len(matches.pose_of), matches.ignored.tolist()) == (0, [False])
    matches = match([annotation(1, 1, STANDING)], [], "gt")
    assert matches.pose_of.tolist() == [-1]
    assert np.isnan(matches.predicted(np.zeros((0, 17, 2)))).all()


def test_nearness_is_that_of_labelled_keypoints():
    seen = np.where(np.arange(17) < 3, 2, 0)
    people = [annotation(1, 1, STANDING + 1000, seen), annotation(2, 1, STANDING - 300)]
    truth = read_annotations(dataset(people))
    poses = read_results([result(1, STANDING + 900), result(1, STANDING + 300)], truth)
    assert match_persons(truth, poses, "gt").pose_of.tolist() == [0, 1]
