"""Identities from pixels: the real detector and network on videos whose persons are known."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest

import ebapose
from ebapose.geometry import boxes as box_geometry
from ebapose.tracking.metrics import Match, TrackingScores, score_tracks
from ebapose.tracking.scenarios import walk
from io_video_files import write_clip

pytest.importorskip("av")

EXAMPLES = Path(__file__).parents[2] / "examples"


@functools.cache
def predictor() -> ebapose.Predictor:
    return ebapose.load()


def scores_of(path: Path, truths: list[tuple[list[int], np.ndarray]]) -> TrackingScores:
    frames: list[Match] = []
    with predictor().track(path) as tracked:
        for (identities, boxes_xyxy), (_, poses) in zip(truths, tracked, strict=True):
            assert poses.track_ids is not None
            overlap = box_geometry.iou(boxes_xyxy, poses.boxes.xyxy)
            frames.append((identities, poses.track_ids.tolist(), overlap))
    return score_tracks(frames)


def test_drawn_walkers_who_cross(tmp_path: Path) -> None:
    """At 10 frames/s, half of the picture's size: 4 s in which one hides the other."""
    truths = list(walk("crossing", 4.0, draw=True, fps=10))
    images = [cv2.resize(truth.frame.image, (320, 240), interpolation=cv2.INTER_AREA) for truth in truths]
    path = write_clip(tmp_path / "walk.mp4", len(images), hw=(240, 320), fps=10, images=images)
    found = scores_of(path, [(truth.identities.tolist(), truth.boxes_xyxy / 2) for truth in truths])
    assert found.idf1 > 0.85
    assert found.switches == 0


def test_people_whom_the_detector_is_never_sure_of(tmp_path: Path) -> None:
    """A photograph of two, turned on its side, as a clip: scores of 0.29 and 0.32."""
    park = cv2.cvtColor(cv2.imread(str(EXAMPLES / "park.jpg")), cv2.COLOR_BGR2RGB)
    lying = np.ascontiguousarray(np.rot90(park)[:, :540])
    path = write_clip(tmp_path / "lying.mp4", 8, hw=lying.shape[:2], fps=30, images=[lying] * 8)
    with predictor().track(path) as tracked:
        found = [poses for _, poses in tracked]
        assert tracked.counts.detections < 8  # who is in sight is followed
    assert [poses.track_ids.tolist() for poses in found] == [[1, 2]] * 8
    assert max(poses.boxes.scores.max() for poses in found) < 0.35


def test_a_real_person_who_moves_through_another_picture(tmp_path: Path) -> None:
    """The sitting woman of one photograph, moved to and fro before another's wall."""
    park = cv2.cvtColor(cv2.imread(str(EXAMPLES / "park.jpg")), cv2.COLOR_BGR2RGB)
    left, top, right, bottom = 705, 296, 825, 506
    person = park[top - 10 : bottom + 10, left - 10 : right + 10]
    other = cv2.cvtColor(cv2.imread(str(EXAMPLES / "balance.jpg")), cv2.COLOR_BGR2RGB)
    scene = cv2.GaussianBlur(np.tile(other[:280, :100], (1, 4, 1)), (0, 0), 4)
    images, truths = [], []
    for index in range(24):
        x = round(20 + 200 * np.sin(np.pi * index / 23) ** 2)
        image = scene.copy()
        image[40 : 40 + person.shape[0], x : x + person.shape[1]] = person
        images.append(image)
        truths.append(([0], np.array([[x + 10, 50, x + 10 + right - left, 50 + bottom - top]], float)))
    found = scores_of(write_clip(tmp_path / "a.mp4", 24, hw=(280, 400), fps=15, images=images), truths)
    assert found.idf1 > 0.9
    assert found.switches == 0
