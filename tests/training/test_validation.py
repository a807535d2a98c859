"""What is measured during training, and when it cannot be."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import ebapose.training.validation as validation
from ebapose.data.coco import CocoKeypoints, load_coco
from ebapose.errors import UsageError
from ebapose.evaluation.oks import pose_scores
from ebapose.training.validation import check_metric, measure, predict


@pytest.fixture
def persons(people) -> CocoKeypoints:
    return load_coco(people / "val" / "annotations.json").persons()


def without_torsos(persons: CocoKeypoints) -> CocoKeypoints:
    visibility = persons.visibility.copy()
    visibility[:, persons.skeleton.keypoint_names.index("right_hip")] = 0
    return replace(persons, visibility=visibility)


def test_pck_needs_somebody_with_a_torso(persons):
    check_metric("pck", persons)
    headless = without_torsos(persons)
    check_metric("oks", headless)
    with pytest.raises(UsageError, match=r"^run\.metric: pck: .*annotations\.json: nobody .*; take metric: oks$"):
        check_metric("pck", headless)
    others = replace(persons.skeleton, keypoint_names=tuple(f"k{i}" for i in range(17)))
    with pytest.raises(UsageError, match=r"no left_shoulder and right_hip: no torso size; choose oks or ap$"):
        check_metric("pck", replace(persons, skeleton=others))


def test_what_cannot_be_measured_is_not_zero(persons):
    scores = np.ones(persons.visibility.shape)
    assert measure(persons.keypoints.astype(float), scores, persons) == pytest.approx({"pck": 1, "oks": 1, "ap": 1})
    assert measure(persons.keypoints.astype(float), scores, without_torsos(persons)).keys() == {"oks", "ap"}


def test_poses_are_ranked_as_evaluate_ranks_them(persons, monkeypatch):
    real, seen = validation.coco_ap, []
    monkeypatch.setattr(
        validation, "coco_ap", lambda truth, poses, mode: seen.append(poses) or real(truth, poses, mode)
    )
    scores = np.random.default_rng(0).random(persons.visibility.shape)
    measure(persons.keypoints.astype(float), scores, persons)
    np.testing.assert_array_equal(seen[0].scores, pose_scores(np.ones(len(persons)), scores))
    assert not np.allclose(seen[0].scores, scores.mean(axis=1))


def test_all_processes_validate_with_the_main_ones_statistics(monkeypatch):
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: tensor.fill_(7))
    monkeypatch.setattr(validation, "gather_object", list)
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    weights = model[0].weight.clone()
    for processes, mean in ((1, 0), (2, 7)):
        predict(model, [], None, None, SimpleNamespace(num_keypoints=17), SimpleNamespace(num_processes=processes))
        assert model[1].running_mean.tolist() == [mean, mean]
    assert torch.equal(model[0].weight, weights)
