from __future__ import annotations

import contextlib
import copy
import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebapose.errors import InputError, MissingDependencyError, UsageError
from ebapose.evaluation.coco_ap import STAT_NAMES, average_precision, coco_ap
from ebapose.evaluation.inputs import read_annotations, read_results
from ebapose.skeleton import COCO17, Skeleton
from pose_sets import STANDING, annotation, dataset, random_set, result


def pycocotools_stats(truth, results, sigmas=None):
    pycocotools = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = pycocotools.COCO()
        gt.dataset = copy.deepcopy(truth)
        gt.createIndex()
        dt = gt.loadRes(copy.deepcopy(results))
        evaluator = COCOeval(gt, dt, "keypoints")
        if sigmas is not None:
            evaluator.params.kpt_oks_sigmas = np.array(sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


def assert_same(ap, stats):
    mine = [-1.0 if np.isnan(ap.stats[name]) else ap.stats[name] for name in STAT_NAMES]
    np.testing.assert_allclose(mine, stats, atol=1e-12)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), num_images=st.integers(1, 8), most_persons=st.integers(1, 5))
def test_the_ten_numbers_are_those_of_pycocotools(seed, num_images, most_persons):
    truth, results = random_set(seed, num_images, most_persons)
    if results:
        assert_same(coco_ap(truth, results, "detector"), pycocotools_stats(truth, results))


def test_more_than_twenty_poses_on_a_picture():
    rng = np.random.default_rng(0)
    truth = dataset([annotation(1, 1, STANDING), annotation(2, 1, STANDING + np.array([100, 0]))])
    results = [result(1, STANDING + rng.normal(size=(17, 2)) * 3, float(s)) for s in rng.random(30)]
    assert_same(coco_ap(truth, results, "detector"), pycocotools_stats(truth, results))


def test_another_skeleton_uses_its_own_sigmas():
    skeleton = Skeleton("three", ("top", "left_end", "right_end"), ((0, 1), (0, 2)), ((1, 2),), (0.05, 0.1, 0.1))
    rng = np.random.default_rng(1)
    category = {"id": 3, "name": "bird", "keypoints": list(skeleton.keypoint_names)}
    category |= {"flip_pairs": [[1, 2]], "sigmas": list(skeleton.sigmas)}
    shapes = rng.uniform(0, 200, (12, 3, 2))
    people = [annotation(i + 1, i + 1, shape, category_id=3) for i, shape in enumerate(shapes)]
    results = [
        result(i + 1, s + rng.normal(size=(3, 2)) * 5, rng.random(), category_id=3) for i, s in enumerate(shapes)
    ]
    truth = dataset(people, range(1, 13)) | {"categories": [category]}
    ap = coco_ap(truth, results, "gt")
    assert_same(ap, pycocotools_stats(truth, results, skeleton.sigmas))
    assert 0 < ap.stats["AP"] < 1


def test_perfect_poses_reach_one_and_unknown_sizes_are_nan():
    truth = dataset([annotation(1, 1, STANDING)])  # 48 x 148 px: medium
    ap = coco_ap(truth, [result(1, STANDING)], "gt")
    assert ap.stats["AP"] == ap.stats["AR"] == ap.stats["APM"] == pytest.approx(1)
    assert np.isnan(ap.stats["APL"])
    assert (ap.box_mode, ap.num_images, ap.num_persons, ap.num_poses) == ("gt", 1, 1, 1)


def test_no_results_at_all_is_zero():
    ap = coco_ap(dataset([annotation(1, 1, STANDING)]), [], "detector")
    assert ap.stats["AP"] == ap.stats["AR"] == 0


def test_an_annotation_numbered_zero_counts_like_any_other():
    numbered_zero, numbered_one = (dataset([annotation(n, 1, STANDING)]) for n in (0, 1))
    results = [result(1, STANDING + 1)]
    assert coco_ap(numbered_zero, results, "gt").stats["AP"] == coco_ap(numbered_one, results, "gt").stats["AP"] > 0.9


def test_boxes_in_results_change_nothing():
    truth, results = random_set(3)
    with_boxes = [{**r, "bbox": [0, 0, 1, 1]} for r in results]
    assert coco_ap(truth, with_boxes, "gt").stats == pytest.approx(coco_ap(truth, results, "gt").stats, nan_ok=True)


def test_average_precision_alone_is_the_same_number():
    truth = read_annotations(random_set(5)[0])
    poses = read_results(random_set(5)[1], truth)
    assert average_precision(truth, poses) == pytest.approx(coco_ap(truth, poses, "gt").stats["AP"], abs=1e-12)


def test_inputs_are_left_alone():
    truth, results = random_set(7)
    before = copy.deepcopy((truth, results))
    coco_ap(truth, results, "gt")
    assert (truth, results) == before


def test_unknown_box_mode():
    with pytest.raises(UsageError, match="box mode 'ground truth': choose one of gt, detector"):
        coco_ap(dataset([annotation(1, 1, STANDING)]), [], "ground truth")


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependencyError, match=r"needs faster-coco-eval.*ebapose\[train\]"):
        coco_ap(dataset([annotation(1, 1, STANDING)]), [], "gt")


def test_results_of_an_unknown_picture():
    with pytest.raises(InputError, match="result 1: image 99 is not in annotations"):
        coco_ap(dataset([annotation(1, 1, STANDING)]), [result(1, STANDING), result(99, STANDING)], "gt")


def test_coco17_is_the_skeleton_of_a_bare_person_category():
    truth = dataset([annotation(1, 1, STANDING)]) | {"categories": [{"id": 1, "name": "person"}]}
    assert read_annotations(truth).skeleton is COCO17


def test_ap_of_nobody_is_unknown():
    truth = read_annotations(dataset([annotation(1, 1, STANDING, iscrowd=1)]))
    assert np.isnan(average_precision(truth, read_results([result(1, STANDING)], truth)))
