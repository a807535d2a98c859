"""What is measured during training, and when it cannot be."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import ebapose.training.validation as validation
from ebapose.data.coco import CocoKeypoints, load_coco
from ebapose.errors import UsageError
from ebapose.geometry.oks import pose_scores
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


def test_only_labelled_keypoints_count(people):
    """Only labelled keypoints count, wherever the network puts the others."""
    persons = load_coco(people / "val" / "annotations.json").persons()
    visibility = persons.visibility.copy()
    visibility[:, 9:11] = 0
    found = persons.keypoints.astype(float)
    found[:, 9:11] += 500
    values = measure(found, np.ones(visibility.shape), replace(persons, visibility=visibility))
    assert values["oks"] == pytest.approx(1)


def test_the_mirrored_crops_are_merged(monkeypatch):
    """Every crop is looked at mirrored, too, and both outputs are merged."""
    monkeypatch.setattr(validation, "gather_object", list)
    seen = []

    class Codec:
        def merge_flip(self, plain, mirrored, flip_indices):
            seen.append((plain[0], mirrored[0], flip_indices))
            return ("merged",)

        def decode(self, outputs):
            assert outputs == ("merged",)
            return SimpleNamespace(keypoints=np.zeros((1, 2, 2)), scores=np.ones((1, 2)))

    images = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    batch = SimpleNamespace(broken=[], images=images, samples=[{"index": 0, "matrix": np.eye(2, 3)}])
    spec = SimpleNamespace(mean=(0, 0, 0), std=(1, 1, 1))
    accelerator = SimpleNamespace(num_processes=1, device="cpu", autocast=nullcontext)
    skeleton = SimpleNamespace(num_keypoints=2, flip_indices=np.array([1, 0]))

    class Echo(nn.Module):
        def forward(self, images):
            return (images,)

    validation.predict(Echo(), [batch], Codec(), spec, skeleton, accelerator)
    ((plain, mirrored, flip_indices),) = seen
    np.testing.assert_array_equal(mirrored, plain[..., ::-1])
    assert flip_indices is skeleton.flip_indices
