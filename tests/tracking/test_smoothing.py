"""Smoothing against a known truth: much calmer at rest, hardly later in motion, stronger where the model is unsure."""

from __future__ import annotations

import numpy as np
import pytest

from ebapose.skeleton import COCO17
from ebapose.structures import Boxes, Poses
from ebapose.tracking.smoothing import Smoother

FPS = 30.0


def pose(points: np.ndarray, sigma: float | np.ndarray, track_id: int = 1) -> Poses:
    sigmas = np.broadcast_to(np.asarray(sigma, np.float32), (17, 2))
    box = Boxes.from_xyxy([[100, 100, 200, 400]])
    arrays = (points[None], np.full((1, 17), 0.9), sigmas[None], box)
    return Poses(*arrays, COCO17, "m", (480, 640), np.array([track_id]))


def run(points: np.ndarray, sigma: float, fps: float = FPS) -> np.ndarray:
    """(T, 17, 2) smoothed points."""
    smoother = Smoother()
    return np.stack([smoother(pose(p, sigma), i / fps).keypoints[0] for i, p in enumerate(points)])


def jitter(points: np.ndarray) -> float:
    """Mean second difference between frames, px: a steady movement is none."""
    return float(np.linalg.norm(np.diff(points, 2, axis=0), axis=-1).mean())


@pytest.mark.parametrize(("sigma", "fps"), [(1.0, 30.0), (3.0, 25.0), (8.0, 60.0)])
def test_jitter_of_a_standing_person_falls_threefold(sigma: float, fps: float) -> None:
    rng = np.random.default_rng(0)
    still = rng.uniform(100, 300, (17, 2))
    raw = still + rng.normal(0, sigma, (150, 17, 2))
    smooth = run(raw, sigma, fps)
    assert jitter(raw[30:]) >= 3 * jitter(smooth[30:])
    error = np.sqrt(((smooth[30:] - still) ** 2).mean())
    assert error < 0.7 * sigma  # it is nearer to the truth, too


def lag_frames(truth: np.ndarray, smooth: np.ndarray) -> float:
    """By how many frames the truth must be shifted to fit best."""
    shifts = np.arange(0, 4.01, 0.05)
    times = np.arange(len(truth))
    errors = []
    for shift in shifts:
        moved = np.interp(times - shift, times, truth)
        errors.append(float(np.abs(moved - smooth)[20:-5].mean()))
    return float(shifts[np.argmin(errors)])


@pytest.mark.parametrize("frequency_hz", [1.0, 2.0])
def test_lag_on_a_fast_movement_is_at_most_a_frame(frequency_hz: float) -> None:
    """A wrist that swings 300 px to and fro, with noise of 3 px."""
    rng = np.random.default_rng(1)
    truth = 300 + 150 * np.sin(2 * np.pi * frequency_hz * np.arange(120) / FPS)
    raw = np.zeros((120, 17, 2))
    raw[:, :, 0] = truth[:, None]
    smooth = run(raw + rng.normal(0, 3, raw.shape), 3.0)
    assert lag_frames(truth, smooth[:, :, 0].mean(axis=1)) <= 1.0


def test_a_sudden_move_arrives_within_a_frame_or_two() -> None:
    raw = np.full((60, 17, 2), 200.0)
    raw[30:] += 120
    smooth = run(raw, 3.0)
    assert abs(smooth[32] - 320).max() < 0.15 * 120


def test_strength_follows_the_predicted_sigma() -> None:
    rng = np.random.default_rng(2)
    raw = 200 + rng.normal(0, 3, (100, 17, 2))
    sure, unsure = run(raw, 0.5), run(raw, 6.0)
    assert jitter(unsure) < 0.6 * jitter(sure)


def test_a_doubtful_frame_counts_less() -> None:
    jumps = []
    for sigma in (3.0, 30.0):
        smoother = Smoother()
        for index in range(30):
            smoother(pose(np.full((17, 2), 200.0), 3.0), index / FPS)
        jumps.append(abs(smoother(pose(np.full((17, 2), 260.0), sigma), 1.0).keypoints[0] - 200).max())
    assert jumps[1] < 0.35 * jumps[0]


def test_tracks_do_not_mix_and_gaps_start_anew() -> None:
    smoother = Smoother()
    for index in range(10):
        smoother(pose(np.full((17, 2), 100.0), 3.0, track_id=1), index / FPS)
    other = smoother(pose(np.full((17, 2), 400.0), 3.0, track_id=2), 10 / FPS)
    np.testing.assert_array_equal(other.keypoints, 400)
    late = smoother(pose(np.full((17, 2), 300.0), 3.0, track_id=1), 3.0)
    np.testing.assert_array_equal(late.keypoints, 300)


def test_models_without_sigmas_and_frames_at_one_time() -> None:
    smoother = Smoother()
    first = smoother(pose(np.full((17, 2), 100.0), np.nan), 0.0)
    again = smoother(pose(np.full((17, 2), 101.0), np.nan), 0.0)
    later = smoother(pose(np.full((17, 2), 102.0), np.nan), 0.1)
    assert all(np.isfinite(p.keypoints).all() for p in (first, again, later))
    assert 101 < later.keypoints.max() < 102


def test_scores_boxes_and_sigmas_stay() -> None:
    smoother = Smoother()
    given = pose(np.full((17, 2), 100.0), 3.0)
    found = smoother(given, 0.0)
    np.testing.assert_array_equal(found.sigmas_px, given.sigmas_px)
    np.testing.assert_array_equal(found.scores, given.scores)
    with pytest.raises(ValueError, match="track ids"):
        smoother(Poses.empty(COCO17, "m", (480, 640)), 0.0)


def test_never_beyond_what_was_measured():
    """However sure one frame is after doubtful ones: the filter never goes beyond what was measured."""
    smoother = Smoother()
    for index in range(30):
        smoother(pose(np.full((17, 2), 200.0), 30.0), index / FPS)
    sure = smoother(pose(np.full((17, 2), 260.0), 0.3), 1.0).keypoints
    assert sure.min() > 200
    assert sure.max() <= 260


def test_passers_by_leave_nothing():
    """Hours of passers-by leave nothing behind."""
    smoother = Smoother()
    for number in range(100):
        smoother(pose(np.full((17, 2), 200.0), 3.0, track_id=number + 1), float(number))
    assert len(smoother._states) == 1


def test_no_model_is_that_sure():
    """A model that claims to be infinitely sure is still smoothed, by a thousandth of the person's size."""
    raw = 200 + np.random.default_rng(2).normal(0, 0.2, (60, 17, 2))
    floor = 1e-3 * np.sqrt(100 * 300)
    np.testing.assert_allclose(run(raw, 1e-6), run(raw, floor), atol=1e-3)
