"""Overlays: their names, whose files they may replace, and what one that cannot be written costs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ebapose.errors import EbaposeError, InputError
from ebapose.io.overlays import Overlays
from ebapose.io.sources import read_frames
from ebapose.io.writers import PoseWriter
from ebapose.skeleton import COCO17
from ebapose.structures import Frame, Poses
from poses_factory import make_frame, make_poses


def draw(image: np.ndarray, poses: Poses) -> np.ndarray:
    """A drawing that is easy to recognise: red."""
    drawn = image.copy()
    drawn[:] = (250, 0, 0)
    return drawn


def test_overlays_keep_names_and_sub_folders(tmp_path: Path) -> None:
    with PoseWriter(tmp_path / "out", ["overlay"], draw=draw) as writer:
        writer.write(make_frame("in/a/x.v2.png", stem="a/x.v2"), make_poses())
        writer.write(make_frame("clip.mp4", index=1, time_s=0.0, stem="clip/000001"), make_poses())
        writer.write(make_frame("plain.tiff"), make_poses())
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.jpg"))
    assert found == ["a/x.v2.jpg", "clip/000001.jpg", "plain.jpg"]
    image = cv2.imread(str(tmp_path / "out" / "a" / "x.v2.jpg"))
    np.testing.assert_allclose(image.mean(axis=(0, 1)), (0, 0, 250), atol=5)  # RGB in, RGB on disk


def test_overlays_never_replace_the_original(tmp_path: Path) -> None:
    original = tmp_path / "photo.jpg"
    cv2.imwrite(str(original), np.zeros((48, 64, 3), np.uint8))
    before = original.read_bytes()
    with PoseWriter(tmp_path, ["overlay"], draw=draw) as writer:
        for frame in read_frames(original):
            writer.write(frame, make_poses())
    assert original.read_bytes() == before
    assert (tmp_path / "photo_pose.jpg").exists()


def test_overlays_replace_only_those_of_earlier_runs(tmp_path: Path) -> None:
    before = {}
    for name in ("photo.jpg", "photo_pose.jpg", "other.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
        before[name] = (tmp_path / name).read_bytes()
    for _ in range(2):
        with PoseWriter(tmp_path, ["overlay"], draw=draw) as writer:
            for frame in read_frames([tmp_path / "photo.jpg", tmp_path / "photo_pose.jpg"]):
                writer.write(frame, make_poses())
            writer.write(make_frame("in/other.png", stem="other"), make_poses())
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    new = sorted(path.name for path in tmp_path.iterdir() if path.name not in before)
    assert new == ["other_pose.jpg", "photo_pose_2.jpg", "photo_pose_pose.jpg"]
    marked = (tmp_path / "other_pose.jpg").read_bytes()
    assert marked[6:10] == b"JFIF"
    assert marked[20:22] == b"\xff\xfe"  # the comment follows it whole


def test_overlays_of_one_run_do_not_replace_each_other(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((48, 64, 3), np.uint8))
    for _ in range(2):
        with PoseWriter(tmp_path, ["overlay"], draw=draw) as writer:
            writer.write(make_frame("in/a_pose.png", stem="a_pose"), make_poses())
            for frame in read_frames(tmp_path / "a.jpg"):
                writer.write(frame, make_poses())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a_pose.jpg", "a_pose_2.jpg"]


def test_case_alone_makes_no_other_name(tmp_path: Path) -> None:
    """`A.png` and `a.png` have two overlays on file systems that do not tell A from a, too."""
    overlays = Overlays(tmp_path, lambda image, _: image)
    for name in ("in/A.png", "in/a.png"):
        overlays.write(Frame(np.zeros((8, 8, 3), np.uint8), name), Poses.empty(COCO17, "m", (8, 8)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A.jpg", "a_pose.jpg"]


def test_an_input_that_an_earlier_run_has_drawn_survives(tmp_path: Path) -> None:
    """The picture that was looked at survives, even if an earlier run has drawn it."""
    blank = np.zeros((8, 8, 3), np.uint8)
    Overlays(tmp_path, lambda image, _: image).write(Frame(blank, "in/a.png"), Poses.empty(COCO17, "m", (8, 8)))
    before = (tmp_path / "a.jpg").read_bytes()
    again = Overlays(tmp_path, lambda image, _: image + 200)
    again.write(Frame(blank, str(tmp_path / "a.jpg")), Poses.empty(COCO17, "m", (8, 8)))
    assert (tmp_path / "a.jpg").read_bytes() == before
    assert (tmp_path / "a_pose.jpg").is_file()


@pytest.mark.parametrize("stem", ["../x", "a/../../x", "/etc/x"])
def test_overlays_stay_in_their_folder(tmp_path: Path, stem: str) -> None:
    writer = PoseWriter(tmp_path / "out", ["overlay"], draw=draw)
    with pytest.raises(InputError, match="would lie outside"):
        writer.write(make_frame("x.jpg", stem=stem), make_poses())


def test_picture_too_long_for_jpeg(tmp_path: Path) -> None:
    writer = PoseWriter(tmp_path, ["overlay"], draw=lambda _image, _poses: np.zeros((1, 70_000, 3), np.uint8))
    with pytest.raises(InputError, match="cannot be written as JPEG"):
        writer.write(make_frame("long.png"), make_poses())
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_that_cannot_be_written_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "file").touch()
    with PoseWriter(tmp_path, ["overlay", "json"], draw=draw) as writer:
        for stem in ("folder", "file/1", "x" * 252):
            with pytest.raises(InputError) as error:
                writer.write(make_frame("a.jpg", stem=stem), make_poses(1))
            assert str(error.value).startswith(f"a.jpg: {tmp_path / stem}.jpg: cannot be written (")
        writer.write(make_frame("a.jpg", stem="x" * 251), make_poses(1))
    assert (tmp_path / f"{'x' * 251}.jpg").is_file()
    assert len(json.loads((tmp_path / "poses.json").read_text())["images"]) == 4


def test_a_full_disk_under_an_overlay_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with PoseWriter(tmp_path, ["overlay"], draw=draw) as writer:
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(EbaposeError, match=r"1\.jpg: cannot be written \(No space left on device\)") as error:
            writer.write(make_frame("1.jpg"), make_poses(1))
        assert not isinstance(error.value, InputError)
