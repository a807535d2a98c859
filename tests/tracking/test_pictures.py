"""Angles with their uncertainty, contact sheets, plots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ebapose.skeleton import COCO17
from ebapose.tracking import pictures
from ebapose.tracking.angles import joint_angle_sigmas, joint_angles, joint_triplets
from ebapose.tracking.pictures import ContactSheet, TrackPlots
from poses_factory import make_poses


def test_angles() -> None:
    assert joint_angles([0, 1], [0, 0], [1, 0]) == pytest.approx(90)
    assert joint_angles([-1, 0], [0, 0], [1, 0]) == pytest.approx(180)
    assert joint_angles([1, 1], [0, 0], [2, 0]) == pytest.approx(45)
    triplets = joint_triplets(COCO17)
    assert len(triplets) == 8
    assert triplets["left_knee"] == (11, 13, 15)


@pytest.mark.parametrize("bend_deg", [40.0, 90.0, 130.0])
def test_angle_sigma_against_drawn_samples(bend_deg: float) -> None:
    rng = np.random.default_rng(0)
    bend = np.radians(bend_deg)
    points = np.array([[0, -80.0], [0, 0], [100 * np.sin(bend), -100 * np.cos(bend)]])
    sigmas = np.array([[3.0, 5.0], [2.0, 4.0], [6.0, 3.0]])
    samples = points + rng.normal(size=(20_000, 3, 2)) * sigmas
    drawn = joint_angles(samples[:, 0], samples[:, 1], samples[:, 2]).std()
    assert joint_angle_sigmas(points, sigmas) == pytest.approx(drawn, rel=0.05)
    assert joint_angle_sigmas(points, 1000 * sigmas) == pytest.approx(180 / np.sqrt(12))


@pytest.mark.parametrize("num", [1, 5, 16, 500])
def test_contact_sheet_covers_the_clip(num: int) -> None:
    sheet = ContactSheet(tiles=16, width_px=400)
    for index in range(num):
        sheet.add(np.full((60, 80, 3), 255 * index // max(1, num - 1), np.uint8), index / 30)
    image = sheet.image()
    assert image.shape[1] <= 400
    assert image[5, 5, 0] == 0  # the first frame
    if num > 1:
        assert image.max() == 255
    assert len(sheet._kept) < 32  # however long the clip


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots = TrackPlots()
    for index in [*range(20), *range(60, 80)]:  # with a gap
        plots.add(make_poses(2, track_ids=True, seed=index), index / 30)
    plots.add(make_poses(3, track_ids=True), 80 / 30)  # a third person, in one frame only: no plot
    files = plots.save(tmp_path / "plots")
    assert [file.name for file in files] == ["track_0007.png", "track_0008.png"]
    picture = cv2.imread(str(files[0]))
    assert picture is not None
    assert picture.std() > 5
    assert TrackPlots().save(tmp_path) == []


def test_a_sheet_is_even_in_time_whatever_the_rate():
    sheet = ContactSheet(tiles=8, width_px=80)
    times = [i / 30 for i in range(300)] + [10.0 + i for i in range(1, 11)]
    for time_s in times:
        sheet.add(np.zeros((6, 8, 3), np.uint8), time_s)
    kept = [time_s for _, time_s in sheet._kept]
    assert len(kept) < 16
    assert sum(time_s < 10 for time_s in kept) <= len(kept) / 2 + 2


def test_long_tracks_and_many_short_ones_stay_small(monkeypatch):
    monkeypatch.setattr(pictures, "_MOST_POSES", 16)
    plots = TrackPlots(most=3)
    for second in range(400):
        poses = make_poses(2)
        plots.add(replace(poses, track_ids=np.array([1, 2 + second // 2])), float(second))
    assert len(plots._paths[1].poses) < 16
    assert plots._paths[1].frames == 400
    assert len(plots._paths) < 2 * pictures._MANY_PATHS
    assert 1 in plots._paths
