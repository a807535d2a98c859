"""Training and detector records, crops and mirroring against the SimCC reference."""

import numpy as np
import pytest

from ebapose.data.coco import CocoKeypoints, load_coco
from ebapose.data.transforms import transform_keypoints
from ebapose.geometry.crop import fit_boxes
from ebapose.skeleton import COCO17
from vectors import GOLDEN, golden

SIZES = [(256, 192), (384, 288)]


@pytest.fixture(scope="module")
def annotated() -> CocoKeypoints:
    return load_coco(GOLDEN / "coco_gt.json")


def reference_boxes(records: CocoKeypoints, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale as the reference writes them: scale is the padded size in units of 200 px."""
    centers, sizes = fit_boxes(records.boxes_xyxy, size_hw, 1.25)
    return centers, sizes / 200


@pytest.mark.parametrize("size_hw", SIZES)
def test_persons_are_the_references_records(annotated: CocoKeypoints, size_hw: tuple[int, int]) -> None:
    vectors, prefix = golden("coco_eval"), f"db_gt_boxes_{size_hw[0]}x{size_hw[1]}/"
    records = annotated.persons()
    assert len(records) < len(annotated)
    np.testing.assert_array_equal(records.image_ids[records.image_indices], vectors[prefix + "image_id"])
    centers, scales = reference_boxes(records, size_hw)
    np.testing.assert_allclose(centers, vectors[prefix + "center"], atol=1e-4)
    np.testing.assert_allclose(scales, vectors[prefix + "scale"], atol=1e-6)
    labelled = vectors[prefix + "visibility"] > 0
    np.testing.assert_array_equal(records.visibility > 0, labelled)
    np.testing.assert_allclose(records.keypoints, vectors[prefix + "joints"] * labelled[..., None], atol=1e-4)


@pytest.mark.parametrize("size_hw", SIZES)
def test_detections_are_the_references_records(annotated: CocoKeypoints, size_hw: tuple[int, int]) -> None:
    vectors, prefix = golden("coco_eval"), f"db_detector_boxes_{size_hw[0]}x{size_hw[1]}/"
    records = annotated.detections(GOLDEN / "coco_boxes.json", threshold=0.0)
    np.testing.assert_array_equal(records.image_ids[records.image_indices], vectors[prefix + "image_id"])
    np.testing.assert_allclose(records.scores, vectors[prefix + "score"], atol=1e-7)
    centers, scales = reference_boxes(records, size_hw)
    np.testing.assert_allclose(centers, vectors[prefix + "center"], atol=1e-4)
    np.testing.assert_allclose(scales, vectors[prefix + "scale"], atol=1e-6)


def test_mirroring_relabels_as_the_reference() -> None:
    vectors = golden("affine")
    joints, seen = vectors["fliplr/joints"][:, :2], vectors["fliplr/visibility"][:, 0]
    mirror = [[-1, 0, int(vectors["fliplr/width"]) - 1], [0, 1, 0]]
    visibility = seen.astype(np.uint8)
    keypoints, mirrored, weights = transform_keypoints(
        joints.astype(np.float32), visibility, seen.astype(np.float32), mirror, COCO17, flip=True
    )
    np.testing.assert_allclose(keypoints, vectors["fliplr/joints_out"][:, :2], atol=2e-3)
    np.testing.assert_array_equal(mirrored, vectors["fliplr/visibility_out"][:, 0])
    np.testing.assert_array_equal(weights, vectors["fliplr/visibility_out"][:, 0])
