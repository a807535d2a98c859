from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ebapose.geometry import boxes

coordinates = st.floats(-500, 500, allow_subnormal=False)
boxes_xywh = arrays(np.float64, st.tuples(st.integers(0, 8), st.just(4)), elements=st.floats(0, 300, width=32))


@given(arrays(np.float64, (5, 4), elements=coordinates))
def test_conversions_are_inverse(xywh):
    np.testing.assert_allclose(boxes.xyxy_to_xywh(boxes.xywh_to_xyxy(xywh)), xywh, atol=1e-9)


def test_conversions_of_one_box():
    np.testing.assert_array_equal(boxes.xywh_to_xyxy([10, 20, 30, 40]), [10, 20, 40, 60])
    np.testing.assert_array_equal(boxes.xyxy_to_xywh([10, 20, 40, 60]), [10, 20, 30, 40])


def test_area_is_never_negative():
    np.testing.assert_array_equal(boxes.area([[0, 0, 3, 4], [3, 0, 0, 4], [3, 4, 0, 0]]), [12, 0, 0])


def test_clip_to_the_picture():
    np.testing.assert_array_equal(
        boxes.clip([[-5, -5, 700, 500], [650, 10, 700, 20]], (480, 640)), [[0, 0, 640, 480], [640, 10, 640, 20]]
    )


def test_iou_of_known_pairs():
    a = [[0, 0, 10, 10], [0, 0, 0, 0]]
    b = [[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [0, 0, 0, 0]]
    np.testing.assert_allclose(boxes.iou(a, b), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(boxes.intersection(a, b)[0], [100, 50, 0, 0])


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4))])
def test_no_boxes(empty):
    assert boxes.iou(empty, [[0, 0, 1, 1]]).shape == (0, 1)
    assert boxes.iou([[0, 0, 1, 1]], empty).shape == (1, 0)
    assert boxes.nms(empty, [], 0.5).shape == (0,)


@given(boxes_xywh, boxes_xywh)
def test_iou_is_symmetric_and_in_0_to_1(a, b):
    a, b = boxes.xywh_to_xyxy(a), boxes.xywh_to_xyxy(b)
    iou = boxes.iou(a, b)
    np.testing.assert_allclose(iou, boxes.iou(b, a).T)
    assert ((iou >= 0) & (iou <= 1 + 1e-12)).all()


@given(boxes_xywh.filter(len), st.floats(0, 1))
def test_nms_leaves_no_pair_above_the_threshold_and_drops_none_without_reason(xywh, threshold):
    xyxy = boxes.xywh_to_xyxy(xywh)
    scores = np.linspace(0, 1, len(xyxy)) ** 2
    keep = boxes.nms(xyxy, scores, threshold)
    overlap = boxes.iou(xyxy, xyxy)
    kept = overlap[np.ix_(keep, keep)]
    assert (kept[~np.eye(len(keep), dtype=bool)] <= threshold).all()
    assert (np.diff(scores[keep]) <= 0).all()
    for dropped in set(range(len(xyxy))) - set(keep.tolist()):
        better = keep[scores[keep] > scores[dropped]]
        assert (overlap[dropped, better] > threshold).any()


def test_nms_keeps_the_first_of_equal_scores():
    np.testing.assert_array_equal(boxes.nms([[0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10]], [1, 1, 1], 0.5), [0, 2])
