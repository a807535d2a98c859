"""Identities on made scenarios with simulated noise: crossing, occlusion, turning, leaving and returning."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest

from ebapose.geometry import boxes as box_geometry
from ebapose.skeleton import COCO17
from ebapose.structures import Boxes, Frame, Poses
from ebapose.tracking.assignment import assign
from ebapose.tracking.metrics import Match, TrackingScores, score_tracks
from ebapose.tracking.motion import BoxMotion
from ebapose.tracking.scenarios import SimulatedEyes, walk
from ebapose.tracking.stream import look
from ebapose.tracking.tracker import MAX_COST, Tracker, TrackerOptions

SEEDS = (0, 1)


@functools.cache
def scores(scenario: str, every: int = 3, max_lost_s: float | None = None) -> tuple[TrackingScores, ...]:
    found = []
    for seed in SEEDS:
        options = TrackerOptions() if max_lost_s is None else TrackerOptions(max_lost_s=max_lost_s)
        tracker, eyes, frames, last = Tracker(options), SimulatedEyes(seed), [], -every
        for truth in walk(scenario, seed=seed):
            eyes.look(truth)
            frame, time_s = truth.frame, truth.frame.time_s or 0.0
            if frame.index - last >= every or tracker.needs_detection:
                last = frame.index
                poses = look(tracker, eyes.detect, eyes.estimate, frame, time_s)
            else:
                poses = tracker.follow(eyes.estimate(frame, tracker.expected(time_s, frame.hw)), time_s)
            overlap = box_geometry.iou(truth.boxes_xyxy, poses.boxes.xyxy)
            frames.append((truth.identities.tolist(), poses.track_ids.tolist(), overlap))
        found.append(score_tracks(frames))
    return tuple(found)


def mean(results: tuple[TrackingScores, ...], name: str) -> float:
    return float(np.mean([getattr(result, name) for result in results]))


@pytest.mark.parametrize(
    ("scenario", "idf1", "hota", "switches"),
    [
        ("crossing", 0.88, 0.68, 0.0),
        ("pillar", 0.88, 0.66, 0.0),
        ("turning", 0.85, 0.62, 0.0),
        ("returning", 0.80, 0.62, 0.5),
    ],
)
def test_identities_are_kept(scenario: str, idf1: float, hota: float, switches: float) -> None:
    results = scores(scenario)
    assert mean(results, "idf1") >= idf1
    assert mean(results, "hota") >= hota
    assert mean(results, "switches") <= switches


def test_the_thresholds_can_fail() -> None:
    """A tracker that forgets at once is found out by the scenarios in which persons are out of sight."""
    assert mean(scores("pillar", max_lost_s=0.1), "idf1") < 0.85
    assert mean(scores("pillar", max_lost_s=0.1), "switches") >= 1


def test_detecting_less_often_costs_little() -> None:
    often, seldom = scores("crossing", 1), scores("crossing", 3)
    assert mean(seldom, "mota") >= mean(often, "mota") - 0.05


def two_poses(xs: tuple[float, ...], box_scores: tuple[float, ...] = (0.9, 0.9), spread: float = 1.0) -> Poses:
    rng = np.random.default_rng(0)
    shape = rng.uniform((0, 0), (60, 160), (17, 2))
    corners = [[x, 100, x + 60, 260] for x in xs]
    points = np.stack([shape * (spread if n else 1.0) + (x, 100) for n, x in enumerate(xs)])
    num = len(xs)
    arrays = (points, np.full((num, 17), 0.9), np.full((num, 17, 2), 2.0))
    return Poses(*arrays, Boxes.from_xyxy(corners, box_scores[:num]), COCO17, "m", (480, 640))


def test_a_false_box_gets_no_identity() -> None:
    tracker = Tracker()
    tracker.update(two_poses((100,)), 0.0)
    assert tracker.update(two_poses((100, 400)), 0.03).track_ids.tolist() == [1]  # not believed at once
    assert tracker.update(two_poses((100,)), 0.06).track_ids.tolist() == [1]
    assert tracker.update(two_poses((100, 400)), 0.09).track_ids.tolist() == [1]  # it had to be there twice in a row
    assert tracker.update(two_poses((100, 400)), 0.12).track_ids.tolist() == [1, 2]


@pytest.mark.parametrize("interval_s", [1.0, 5.0, 60.0])
def test_frames_far_apart(interval_s: float) -> None:
    tracker = Tracker()
    found = [tracker.update(two_poses((100,) if n < 2 else (100, 400)), n * interval_s).track_ids for n in range(4)]
    assert [ids.tolist() for ids in found] == [[1], [1], [1, 2], [1, 2]]


@pytest.mark.parametrize(("keypoint_score", "expected"), [(0.49, [1]), (0.51, [1, 2])])
def test_low_scores_continue_but_begin_only_with_a_convincing_pose(keypoint_score: float, expected: list[int]) -> None:
    tracker = Tracker()
    tracker.update(two_poses((100,)), 0.0)
    for index in range(1, 6):
        poses = two_poses((100, 400), (0.4, 0.4))
        found = tracker.update(replace(poses, scores=np.full_like(poses.scores, keypoint_score)), index / 30)
        assert found.track_ids.tolist() == (expected if index > 1 else [1])


def test_a_part_of_somebody_who_is_overlooked_begins_nothing() -> None:
    """For three frames the detector sees the upper body only, and is not sure of it."""
    tracker, whole = Tracker(), two_poses((100,))
    found = []
    for index in range(14):
        boxes = Boxes.from_xyxy([[100, 100, 140, 150]], [0.4]) if 5 <= index < 8 else whole.boxes

        def estimate(frame: Frame, boxes: Boxes) -> Poses:
            if not len(boxes):
                return Poses.empty(COCO17, "m", (480, 640))
            corner, size = boxes.xyxy[:, None, :2], boxes.xyxy[:, None, 2:] - boxes.xyxy[:, None, :2]
            points = corner + (whole.keypoints - (100, 100)) / (60, 160) * size
            arrays = (np.repeat(part, len(boxes), axis=0) for part in (whole.scores, whole.sigmas_px))
            return Poses(points, *arrays, boxes, COCO17, "m", (480, 640))

        frame = Frame(np.zeros((480, 640, 3), np.uint8))
        poses = look(tracker, lambda frame, boxes=boxes: boxes, estimate, frame, index / 30)
        found.append(poses.track_ids.tolist())
    assert found == [[1]] * 14


def test_poses_that_state_no_certainty_begin_nothing_for_weak_boxes() -> None:
    tracker = Tracker()
    for index in range(5):
        poses = two_poses((100, 400), (0.9, 0.4))
        poses = replace(poses, scores=np.ones_like(poses.scores), sigmas_px=np.full_like(poses.sigmas_px, np.nan))
        assert tracker.update(poses, index / 30).track_ids.tolist() == [1]


def test_the_first_who_is_believed_is_believed_at_once() -> None:
    tracker = Tracker()
    weak = two_poses((400,), (0.3,))
    assert len(tracker.update(replace(weak, scores=np.full_like(weak.scores, 0.2)), 0.0)) == 0
    assert tracker.update(two_poses((100,)), 0.03).track_ids.tolist() == [1]


def test_a_second_box_on_somebody_begins_nothing() -> None:
    tracker = Tracker()
    for index in range(5):
        poses = two_poses((100, 103))
        assert tracker.update(poses, index / 30).track_ids.tolist() == [1]


def test_weak_detections_get_a_pose_where_they_continue_a_track_or_nobody_is_in_sight() -> None:
    tracker = Tracker(TrackerOptions(sure_score=0.35))

    def looked_at(*rows: tuple[float, float]) -> list[tuple[float, float]]:
        """Left edge and score of those of such boxes that get a pose."""
        boxes = Boxes.from_xyxy([[x, 100, x + 60, 260] for x, _ in rows], [score for _, score in rows])
        chosen = tracker.worth_a_look(boxes, 1.0)
        return [(float(x), round(float(score), 2)) for x, score in zip(chosen.xyxy[:, 0], chosen.scores, strict=True)]

    assert looked_at() == []
    assert looked_at((100, 0.5), (110, 0.3), (400, 0.2)) == [(100, 0.5), (400, 0.2)]  # nobody in sight: as in a picture
    tracker.update(two_poses((100,)), 1.0)
    assert looked_at((100, 0.5), (400, 0.2)) == [(100, 0.5)]
    assert looked_at((110, 0.3), (104, 0.2), (400, 0.2)) == [(104, 0.2)]  # the nearest
    assert looked_at((140, 0.3), (400, 0.2)) == []  # IoU 0.2
    assert looked_at((400, 0.4), (104, 0.2)) == [(400, 0.4), (104, 0.2)]
    assert looked_at((102, 0.4), (100, 0.2)) == [(102, 0.4)]  # nobody was overlooked
    assert looked_at((125, 0.4), (112, 0.2)) == [(125, 0.4)]  # IoU 0.65 with either: the other's copy
    tracker = Tracker(TrackerOptions(sure_score=0.35))
    tracker.update(two_poses((100,)), 0.0)
    tracker.update(Poses.empty(COCO17, "m", (480, 640)), 0.5)
    tracker.update(two_poses((400,)), 0.9)  # not yet believed: as if nobody was in sight
    assert looked_at((400, 0.5), (200, 0.2)) == [(400, 0.5), (200, 0.2)]


def followed(seconds: float, score: float, other_x: float | None = None) -> list[int]:
    """Track ids when person 1 is seen by the detector for 0.5 s and then only by the network, with `score`."""
    tracker = Tracker()
    for index in range(round((0.5 + seconds) * 30)):
        time_s = index / 30
        unseen = time_s >= 0.5
        xs = ((100.0,) if not unseen else ()) + (() if other_x is None else (other_x,))

        def estimate(frame: Frame, boxes: Boxes, unseen: bool = unseen) -> Poses:
            if not len(boxes):
                return Poses.empty(COCO17, "m", (480, 640))
            poses = two_poses(tuple(boxes.xyxy[:, 0].tolist()), tuple(boxes.scores.tolist()))
            alone = abs(boxes.xyxy[:, 0] - 100) < 5
            return replace(
                poses, scores=np.where((alone & unseen)[:, None], score, 0.9).astype(np.float32) * np.ones(17)
            )

        frame = Frame(np.zeros((480, 640, 3), np.uint8), "made", index, time_s)
        boxes = [[x, 100, x + 60, 260] for x in xs]
        found = look(tracker, lambda frame, boxes=boxes: Boxes.from_xyxy(boxes), estimate, frame, time_s)
    assert found.track_ids is not None
    return found.track_ids.tolist()


def test_whom_the_detector_overlooks_is_followed_for_a_while() -> None:
    assert followed(0.4, 0.9) == [1]
    assert followed(1.5, 0.9) == []
    assert followed(0.4, 0.3) == []  # the network sees nobody there
    assert followed(0.4, 0.9, 400.0) == [1, 2]
    assert followed(0.4, 0.9, 120.0) == [2]  # there it would see the other


def test_numbers_are_never_used_again() -> None:
    tracker = Tracker(TrackerOptions(max_lost_s=0.5))
    assert tracker.update(two_poses((100,)), 0.0).track_ids.tolist() == [1]
    tracker.update(Poses.empty(COCO17, "m", (480, 640)), 4.9)
    for index in range(3):
        found = tracker.update(two_poses((100,)), 5.0 + index / 30)
    assert found.track_ids.tolist() == [2]


def test_nobody() -> None:
    tracker = Tracker()
    empty = Poses.empty(COCO17, "m", (480, 640))
    assert len(tracker.update(empty, 0.0)) == 0
    assert tracker.needs_detection
    assert len(tracker.expected(0.1, (480, 640))) == 0
    assert len(tracker.follow(empty, 0.1)) == 0
    assert tracker.update(two_poses((100, 300)), 0.2).track_ids.tolist() == [1, 2]  # still the first persons


def test_assignment_is_the_best_one() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (3, 3), (4, 2), (2, 5), (0, 3), (4, 3)):
        for _ in range(20):
            costs = rng.uniform(size=(rows, columns))
            found = assign(costs, 0.6)
            total = sum(costs[i, j] for i, j in found) + 0.6 * (rows - len(found))
            best = min(
                (
                    sum(min(costs[i, j], 0.6) for i, j in enumerate(chosen) if j < columns)
                    + 0.6 * sum(j >= columns for j in chosen)
                    for chosen in itertools.permutations(range(columns + rows), rows)
                ),
                default=0.0,
            )
            assert total == pytest.approx(best)
            assert all(costs[i, j] <= 0.6 for i, j in found)


def frames_of(ids: list[list[int]], num: int = 2) -> list[Match]:
    return [(list(range(num)), found, np.eye(num)[:, : len(found)]) for found in ids]


def test_metrics_by_hand() -> None:
    perfect = score_tracks(frames_of([[1, 2]] * 10))
    assert (perfect.mota, perfect.idf1, perfect.switches) == (1.0, 1.0, 0)
    assert perfect.hota == pytest.approx(1.0)
    swapped = score_tracks(frames_of([[1, 2]] * 5 + [[2, 1]] * 5))
    assert swapped.switches == 2
    assert swapped.mota == pytest.approx(1 - 2 / 20)
    assert swapped.idf1 == pytest.approx(0.5)
    assert swapped.deta == pytest.approx(1.0)
    assert swapped.assa == pytest.approx(5 / 15)  # TPA / (TPA + FNA + FPA)
    halved = score_tracks(frames_of([[1, 2]] * 5 + [[1]] * 5))
    assert (halved.misses, halved.switches) == (5, 0)
    assert halved.mota == pytest.approx(0.75)
    assert halved.idf1 == pytest.approx(2 * 15 / 35)
    nothing = score_tracks([([0], [], np.zeros((1, 0)))])
    assert (nothing.mota, nothing.idf1, nothing.misses) == (0.0, 0.0, 1)


def test_of_two_overlooked_who_overlap_one_is_followed():
    """Of two overlooked persons who overlap only one is followed: both boxes would give the same pose."""
    tracker = Tracker()
    for index in range(3):
        tracker.update(two_poses((100, 130)), index / 30)
    tracker.update(Poses.empty(COCO17, "m", (480, 640)), 0.1)
    assert len(tracker.overlooked(0.1, (480, 640))) == 1


def cost(tracker, poses, time_s):
    return tracker._costs(tracker._tracks, poses, time_s)[0, 0]


def test_boxes_apart_are_two_persons():
    """Boxes that nowhere overlap are two persons, whatever the poses look like."""
    tracker = Tracker()
    tracker.update(two_poses((100,)), 0.0)
    poses = replace(two_poses((100,)), boxes=Boxes.from_xyxy([[500, 100, 560, 260]], [0.9]))
    assert cost(tracker, poses, 1 / 30) > MAX_COST


def test_poses_are_expected_further_on():
    """A person on the way is compared where the pose should be by now."""
    tracker = Tracker()
    for index in range(20):
        tracker.update(two_poses((100 + 10 * index,)), index / 30)
    assert cost(tracker, two_poses((300 + 20,)), 22 / 30) < 0.2


def test_unsure_keypoints_prove_little():
    """Where the model is unsure of the keypoints a distance between two poses proves little."""
    costs = []
    for sigma in (0.5, 20.0):
        sure = replace(two_poses((100,)), sigmas_px=np.full((1, 17, 2), sigma))
        tracker = Tracker()
        tracker.update(sure, 0.0)
        costs.append(cost(tracker, replace(sure, keypoints=sure.keypoints + 15), 1 / 30))
    assert costs[1] < costs[0] - 0.1


def test_time_stamps_that_go_back():
    """Time stamps that go back do not throw a person backwards."""
    motion = BoxMotion.start([0, 0, 10, 20], 0.0).detected([5, 0, 15, 20], 0.1)
    np.testing.assert_array_equal(motion.at(0.0).center, motion.center)


def test_a_runner_whose_boxes_do_not_overlap_is_believed_at_the_second_sight():
    tracker = Tracker()
    tracker.update(Poses.empty(COCO17, "m", (480, 640)), 0.0)
    found = [tracker.update(two_poses((50 + 130 * i,)), 0.2 * (i + 1)) for i in range(4)]
    assert [len(poses) for poses in found] == [1, 1, 1, 1]  # the first of all is believed at once
    tracker = Tracker()
    tracker.update(two_poses((560,)), 0.0)
    found = [tracker.update(two_poses((560, x)), 0.2 * (i + 1)) for i, x in enumerate((20, 150, 280))]
    assert [poses.track_ids.tolist() for poses in found] == [[1], [1, 2], [1, 2]]


def test_two_who_are_seen_once_each_far_apart_are_nobody_yet():
    tracker = Tracker()
    tracker.update(two_poses((300,)), 0.0)
    assert tracker.update(two_poses((300, 50)), 0.2).track_ids.tolist() == [1]
    assert tracker.update(two_poses((300, 550)), 0.4).track_ids.tolist() == [1]  # three heights in a fifth of a second


def test_a_box_that_ends_at_the_border_is_not_followed():
    tracker = Tracker()
    tracker.update(two_poses((100,)), 0.0)
    tracker._tracks[0].motion.center = np.array([670 - 1e-6, 180.0])  # as float32 it begins where the picture ends
    assert len(tracker.expected(0.0, (480, 640))) == 0
