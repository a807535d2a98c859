"""Which boxes of a detector become persons: sure ones, convincing ones, nobody twice."""

from __future__ import annotations

import numpy as np

from ebapose.geometry.persons import Doubt, believed, worth_a_look
from ebapose.skeleton import COCO17, Skeleton
from ebapose.structures import Boxes, Poses

SURE = 0.35
DOUBT = Doubt(sure=SURE, certain=0.5)
STANDING = np.random.default_rng(7).uniform(0, 1, (17, 2))  # of the box


def boxes_of(*rows: tuple[float, float, float, float, float]) -> Boxes:
    """Left, top, width, height, score."""
    array = np.array(rows, np.float64)
    return Boxes.from_xyxy(np.concatenate([array[:, :2], array[:, :2] + array[:, 2:4]], axis=1), array[:, 4])


def poses_in(boxes: Boxes) -> np.ndarray:
    corner, size = boxes.xyxy[:, None, :2], boxes.xyxy[:, None, 2:] - boxes.xyxy[:, None, :2]
    return corner + STANDING * size


def poses_of(boxes: Boxes, scores: np.ndarray, points: np.ndarray | None = None, skeleton: Skeleton = COCO17) -> Poses:
    found = poses_in(boxes) if points is None else points
    return Poses(found, scores, np.ones_like(found), boxes, skeleton, "m", (400, 900))


def chosen(boxes: Boxes, means: list[float], points: np.ndarray | None = None) -> list[int]:
    scores = np.repeat(np.array(means)[:, None], 17, axis=1)
    return np.flatnonzero(believed(poses_of(boxes, scores, points), DOUBT)).tolist()


def test_doubted_boxes_get_a_look_where_they_may_be_somebody_else() -> None:
    boxes = boxes_of(
        (0, 0, 100, 200, 0.9),
        (5, 5, 10, 10, 0.35),  # small, but sure
        (300, 0, 50, 100, 0.34),  # a quarter of the largest
        (300, 300, 49, 100, 0.33),  # less than that
        (40, 0, 100, 200, 0.32),  # beside: IoU 0.43
        (30, 0, 100, 200, 0.31),  # the same person: IoU 0.54
        (0, 100, 100, 150, 0.3),  # two thirds inside
        (0, 90, 100, 150, 0.29),  # more than 0.7 inside
    )
    assert np.flatnonzero(worth_a_look(boxes, SURE)).tolist() == [0, 1, 2, 4, 6]


def test_where_nobody_is_sure_only_the_number_is_bounded() -> None:
    boxes = boxes_of(*((0, 0, 10 * n + 10, 20, 0.34 - 0.01 * n) for n in range(12)))
    assert np.flatnonzero(worth_a_look(boxes, SURE)).tolist() == list(range(8))
    crowd = boxes_of(*((50 * n, 0, 40, 80, 0.9) for n in range(30)))
    assert worth_a_look(crowd, SURE).all()  # sure ones are not counted
    assert worth_a_look(Boxes.from_xyxy([]), SURE).shape == (0,)
    rising = boxes_of(*((50 * n, 0, 40, 80, 0.2 + 0.01 * n) for n in range(12)))
    assert np.flatnonzero(worth_a_look(rising, SURE)).tolist() == list(range(4, 12))
    huge = boxes_of((0, 0, 40, 80, 0.9), (100, 0, 40, 80, 0.3), (200, 0, 900, 900, 0.25))
    assert worth_a_look(huge, SURE).all()  # only sure boxes say what is small


def test_a_doubted_box_needs_a_pose_that_is_more_likely_right_than_not() -> None:
    boxes = boxes_of((0, 0, 100, 200, 0.9), (300, 0, 100, 200, 0.34), (600, 0, 100, 200, 0.21))
    assert chosen(boxes, [0.1, 0.5, 0.49]) == [0, 1]  # the certain one stays, whatever its pose
    assert chosen(boxes, [0.1, 0.49, 0.5]) == [0, 2]
    assert chosen(Boxes.from_xyxy([]), [], np.zeros((0, 17, 2))) == []


def test_a_sure_box_is_nobody_where_not_even_three_keypoints_convince() -> None:
    boxes = boxes_of((0, 0, 100, 200, 0.5), (300, 0, 100, 200, 0.49), (600, 0, 100, 200, 0.35))
    scores = np.zeros((3, 17))
    scores[1, [2, 9, 4]] = 0.8, 0.4, 0.3  # mean 0.5
    scores[2, [2, 9, 4, 5]] = 0.8, 0.4, 0.29, 0.29
    found = believed(poses_of(boxes, scores), DOUBT)
    assert found.tolist() == [True, True, False]  # the first one is certain
    pair = Skeleton("pair", ("head", "tail"), ((0, 1),), (), (0.05, 0.05))
    for values, expected in (((0.9, 0.2), True), ((0.9, 0.05), False)):  # fewer than three: all of them
        two = poses_of(boxes, np.broadcast_to(np.array(values), (3, 2)), poses_in(boxes)[:, :2], pair)
        assert believed(two, DOUBT).tolist() == [True, expected, expected]


def test_of_two_poses_that_are_the_same_the_better_one_stays() -> None:
    boxes = boxes_of((0, 0, 100, 200, 0.8), (3, 3, 100, 200, 0.5), (300, 0, 100, 200, 0.4))
    assert chosen(boxes, [0.9, 0.9, 0.9]) == [0, 2]
    assert chosen(boxes, [0.5, 0.9, 0.9]) == [1, 2]  # 0.40 and 0.45
    assert chosen(boxes, [0.9, 0.9, 0.9], poses_in(boxes[[0, 2, 2]])) == [0, 1]  # a pose that went over to another


def test_a_doubted_box_may_be_neither_a_copy_nor_a_part_of_somebody() -> None:
    boxes = boxes_of((0, 0, 100, 200, 0.36), (3, 3, 100, 200, 0.34))
    assert chosen(boxes, [0.51, 0.9]) == [0]  # although its product is greater: the sure one comes first
    part = boxes_of((0, 0, 100, 200, 0.34), (20, 20, 50, 50, 0.3))
    assert chosen(part, [0.6, 0.9]) == [0, 1]  # better than what it is inside of: somebody in front
    assert chosen(part, [0.9, 0.6]) == [0]
    assert chosen(part, [0.4, 0.9]) == [1]


def test_doubted_poses_must_differ_more_than_sure_ones() -> None:
    for second, expected in ((0.9, [0, 1]), (0.3, [0])):
        boxes = boxes_of((0, 0, 100, 200, 0.95), (40, 0, 100, 200, second))
        apart = poses_in(boxes)
        apart[1] = apart[0] + 8  # px: OKS 0.6
        assert chosen(boxes, [0.9, 0.9], apart) == expected


def test_persons_who_are_known_come_first() -> None:
    boxes = boxes_of((0, 0, 100, 200, 0.2), (3, 3, 100, 200, 0.9), (300, 0, 100, 200, 0.3))
    scores = np.repeat(np.array([0.1, 0.9, 0.9])[:, None], 17, axis=1)
    found = believed(poses_of(boxes, scores), DOUBT, known=[True, False, False])
    assert found.tolist() == [True, False, True]
    both = believed(poses_of(boxes, scores), DOUBT, known=[True, True, False])
    assert both.all()  # known ones are not compared with each other
