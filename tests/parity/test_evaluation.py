"""OKS, OKS-NMS and COCO metrics against the values of the reference implementations.

Golden vectors oks_nms and coco_* in tests/golden, made by SimCC (leeyegy/SimCC aa6e089), MMPose (open-mmlab/mmpose
759b39c) and pycocotools 2.0.11 on synthetic data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ebapose.evaluation.coco_ap import coco_ap
from ebapose.evaluation.inputs import Results, read_annotations, read_results
from ebapose.geometry.oks import decay_scores, oks, oks_nms, pose_oks, pose_scores, select_poses, soft_oks_nms
from ebapose.skeleton import COCO17

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def nms():
    return dict(np.load(GOLDEN / "oks_nms.npz"))


@pytest.fixture(scope="module")
def coco():
    return dict(np.load(GOLDEN / "coco_eval.npz"))


def test_pose_oks(nms):
    keypoints, area = nms["keypoints"][..., :2], nms["area"]
    np.testing.assert_allclose(pose_oks(keypoints, area, COCO17.sigmas), nms["oks"], atol=1e-12)
    custom = pose_oks(keypoints, area, nms["custom_sigmas"])[0]
    np.testing.assert_allclose(custom, nms["custom_sigmas_oks_row0"], atol=1e-12)


def test_oks_of_keypoints_visible_in_both_poses(nms):
    visible = nms["keypoints"][..., 2] > 0.5
    row = pose_oks(nms["keypoints"][..., :2], nms["area"], COCO17.sigmas, visible)[0]
    np.testing.assert_allclose(row, nms["vis_thre_0.5_mmpose_row0"], atol=1e-6)  # stored in float32


def test_pose_scores(nms):
    score = pose_scores(nms["box_score"], nms["keypoints"][..., 2], threshold=0.2)
    np.testing.assert_allclose(score, nms["score"], atol=1e-12)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9])
def test_oks_nms(nms, threshold):
    poses = (nms["keypoints"][..., :2], nms["score"], nms["area"], COCO17.sigmas, threshold)
    assert oks_nms(*poses).tolist() == nms[f"keep_{threshold}"].tolist()
    assert soft_oks_nms(*poses).tolist() == nms[f"soft_keep_{threshold}"].tolist()


def test_oks_nms_with_other_sigmas(nms):
    keep = oks_nms(nms["keypoints"][..., :2], nms["score"], nms["area"], nms["custom_sigmas"], 0.5)
    assert keep.tolist() == nms["custom_sigmas_keep_0.5"].tolist()


@pytest.mark.parametrize(("kind", "threshold"), [("gaussian", 0.9), ("linear", 0.5)])
def test_decay_scores(nms, kind, threshold):
    # the reference decays the scores of the poses after pose 0
    decayed = decay_scores(nms["oks"][0, 1:], nms["score"][1:], threshold, kind)
    np.testing.assert_allclose(decayed, nms[f"rescore_{kind}_{threshold}"], atol=1e-12)


def test_coco_metrics(coco):
    result = coco_ap(GOLDEN / "coco_gt.json", GOLDEN / "coco_dt.json", box_mode="unknown")
    np.testing.assert_allclose(list(result.stats.values()), coco["stats"], atol=1e-12)
    np.testing.assert_allclose(result.precision, coco["precision"], atol=1e-12)
    np.testing.assert_allclose(result.recall, coco["recall"], atol=1e-12)


def test_oks_with_annotations(coco):
    truth = read_annotations(GOLDEN / "coco_gt.json")
    poses = read_results(GOLDEN / "coco_dt.json", truth)
    found = []
    for image_id, rank, person_of_image, value in zip(
        coco["oks_image_id"], coco["oks_dt_rank"], coco["oks_gt_index"], coco["oks_value"], strict=True
    ):
        rows = np.flatnonzero(poses.image_ids == image_id)
        row = rows[np.argsort(-poses.scores[rows], kind="stable")[rank]]
        person = np.flatnonzero(truth.person_image_ids == image_id)[person_of_image]
        mine = oks(
            poses.keypoints[[row]],
            truth.keypoints[[person]],
            truth.labelled[[person]],
            truth.areas[[person]],
            COCO17.sigmas,
            truth.boxes_xywh[[person]],
        )
        found.append((mine.item(), value))
    np.testing.assert_allclose(*np.transpose(found), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "score_threshold", "oks_threshold", "soft"),
    [
        ("thr0.005_oks0.9", 0.005, 0.9, False),
        ("thr0.02_oks0.5", 0.02, 0.5, False),
        ("soft_thr0.005_oks0.9", 0.005, 0.9, True),
    ],
)
def test_from_predictions_to_ap(coco, name, score_threshold, oks_threshold, soft):
    predictions, boxes = coco["pipeline/predictions"].astype(float), coco["pipeline/boxes"]
    image_ids, keypoints = coco["pipeline/image_id"], predictions[..., :2]
    scores = pose_scores(boxes[:, 5], predictions[..., 2], score_threshold)
    kept = select_poses(image_ids, keypoints, scores, boxes[:, 4], COCO17.sigmas, oks_threshold, soft)
    assert kept.tolist() == coco[f"pipeline/{name}/kept"].tolist()
    np.testing.assert_allclose(scores[kept], coco[f"pipeline/{name}/kept_score"], atol=1e-7)
    result = Results(image_ids, keypoints, predictions[..., 2], scores)[kept]
    stats = coco_ap(GOLDEN / "coco_gt.json", result, box_mode="detector").stats
    np.testing.assert_allclose(list(stats.values()), coco[f"pipeline/{name}/stats"], atol=1e-9)
