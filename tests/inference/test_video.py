"""`ebapose predict clip.mp4` from end to end: real files, the bundled model."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ebapose
from ebapose.cli import main
from ebapose.errors import EbaposeError, InputError, UsageError
from ebapose.inference import video as video_module
from ebapose.inference.run import predict_sources
from ebapose.inference.video import VideoOptions, predict_video
from ebapose.io.overlays import is_overlay
from ebapose.io.video import open_video
from ebapose.io.video_summary import is_output
from io_video_files import draw, table, write_clip

av = pytest.importorskip("av")

FRAMES = 12  # of `clip`


def test_everything_from_the_command_line(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    formats = ["overlay", "json", "csv", "parquet", "plots", "sheet"]
    assert main(["predict", str(clip), "--out", str(out), "--detect-every", "0.08", "--save", *formats]) == 0
    printed = capsys.readouterr().out
    assert f"{clip}: {FRAMES} frames, " in printed
    with open_video(out / "walk.v1.mp4") as reader:
        assert reader.info.has_audio
        assert (reader.info.fps, reader.info.codec) == (25, "h264")
        assert len(list(reader)) == FRAMES
    rows = table(out / "walk.v1.jsonl")
    assert [row["frame"] for row in rows] == list(range(FRAMES))
    np.testing.assert_allclose(np.diff([row["time_s"] for row in rows]), 0.04, atol=2e-3)
    persons = [[person["track_id"] for person in row["persons"]] for row in rows]
    assert min(map(len, persons)) >= 1
    assert set(persons[0]) & set(persons[-1])  # somebody was followed from the first frame to the last
    with (out / "walk.v1.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 17 * sum(map(len, persons))
    assert cells[0]["keypoint"] == "nose"
    assert float(cells[0]["x"]) == rows[0]["persons"][0]["keypoints"][0][0]
    from pyarrow import parquet

    assert parquet.read_table(out / "walk.v1.parquet").num_rows == len(cells)
    summary = json.loads((out / "walk.v1_summary.json").read_text(encoding="utf-8"))
    assert summary["frames"] == FRAMES
    assert summary["detections"] < FRAMES
    assert summary["skeleton"]["keypoint_names"][0] == "nose"
    assert not summary["interrupted"]
    assert all(Path(name).exists() for name in summary["files"])
    assert summary["overlay_bytes"] == (out / "walk.v1.mp4").stat().st_size
    assert is_output(out / "walk.v1.mp4")
    assert all(is_output(plot) for plot in (out / "walk.v1_plots").iterdir())
    assert not is_output(clip)
    assert cv2.imread(str(out / "walk.v1_sheet.jpg")) is not None
    assert len(list((out / "walk.v1_plots").glob("track_*.png"))) >= 1
    assert not list(out.glob("*partial*")) + list(out.glob(".*"))


def test_lazily_in_python(clip: Path, predictor: ebapose.Predictor) -> None:
    with predictor.track(clip, smooth=False) as walk:
        frame, poses = next(walk)
        assert frame.time_s == pytest.approx(0, abs=0.05)
        assert poses.track_ids is not None
        assert walk.counts.frames == 1
    assert list(walk) == []
    assert sum(1 for _ in predictor.track(str(clip))) == FRAMES


def test_smoothing_can_be_switched_off(clip: Path, predictor: ebapose.Predictor) -> None:
    raw = [poses.keypoints for _, poses in predictor.track(clip, smooth=False)]
    smooth = [poses.keypoints for _, poses in predictor.track(clip)]
    np.testing.assert_array_equal(raw[0], smooth[0])
    assert not np.array_equal(raw[-1], smooth[-1])


def test_names_that_are_taken(clip: Path, tmp_path: Path, predictor: ebapose.Predictor) -> None:
    taken = {str(tmp_path / "walk.v1").casefold()}
    options = VideoOptions(seconds=0.05)
    for _ in range(2):
        predict_video(predictor, clip, tmp_path, ("json",), options, draw=draw, taken=taken)
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["walk.v1_2.jsonl", "walk.v1_3.jsonl"]


def test_files_of_others_survive(clip: Path, tmp_path: Path, predictor: ebapose.Predictor) -> None:
    options = VideoOptions(seconds=0.05)
    mine = dict.fromkeys(("walk.v1.mp4", "copy_pose.mp4"), b"precious")
    copied = tmp_path / "copy.mp4"
    copied.write_bytes(clip.read_bytes())
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    for _ in range(2):  # the second run replaces the files of the first
        for source in (clip, copied):
            predict_video(predictor, source, tmp_path, ("overlay",), options, draw=draw)
    assert {name: (tmp_path / name).read_bytes() for name in mine} == mine
    made = sorted(path.name for path in tmp_path.glob("*.mp4") if path.name not in (*mine, "copy.mp4"))
    assert made == ["copy_pose_2.mp4", "walk.v1_2.mp4"]


@pytest.mark.parametrize("name", ["walk.v1_sheet.jpg", "walk.v1_summary.json", "walk.v1_plots/track_0001.png"])
def test_every_kind_of_file_of_others_survives(
    name: str, clip: Path, tmp_path: Path, predictor: ebapose.Predictor
) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"precious")
    for _ in range(2):
        predict_video(predictor, clip, tmp_path, ("sheet", "plots"), VideoOptions(seconds=0.05), draw=draw)
        assert mine.read_bytes() == b"precious"
        assert is_overlay(tmp_path / "walk.v1_2_sheet.jpg")
    assert not list(tmp_path.glob("walk.v1_3*"))


def test_a_run_that_cannot_start_leaves_the_tables_of_the_last(
    clip: Path, tmp_path: Path, predictor: ebapose.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = VideoOptions(seconds=0.05)
    predict_video(predictor, clip, tmp_path, ("json", "csv"), options, draw=draw)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("walk.v1.*")}

    def refuse(*_: object, **__: object) -> None:
        raise EbaposeError("no encoder")

    monkeypatch.setattr(video_module, "VideoWriter", refuse)
    with pytest.raises(EbaposeError, match="no encoder"):
        predict_video(predictor, clip, tmp_path, ("json", "csv", "parquet", "overlay"), options, draw=draw)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("walk.v1.*")} == before


@pytest.mark.parametrize("name", ["x" * 250 + ".mp4", "10:20.mp4", "caf\udce9.mp4"], ids=["long", "colon", "not UTF-8"])
def test_names_that_are_hard_to_write(
    name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip.read_bytes())
    formats = ["overlay", "json", "csv", "parquet", "sheet"]
    assert main(["predict", name, "--out", ".", "--seconds", "0.05", "--save", *formats]) == 0
    (summary,) = Path().glob("*_pose_summary.json")
    files = json.loads(summary.read_text(encoding="utf-8"))["files"]
    assert len(files) == 5
    assert not list(Path().glob("*partial*"))
    assert "frames" in capsys.readouterr().out


def test_given_boxes_are_of_pictures(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"file_name": clip.name, "bbox": [0, 0, 50, 100]}]))
    assert main(["predict", str(clip), "--boxes", str(boxes), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"ebapose: {clip}: boxes can be given for pictures only, not for videos\n"


def test_a_walk_that_nobody_holds_releases_its_source(clip: Path, predictor: ebapose.Predictor) -> None:
    walk = predictor.track(clip)
    next(walk)
    reader = walk.reader
    del walk
    with pytest.raises(StopIteration):
        next(reader)


def test_exactly_the_seconds_asked_for(clip: Path, tmp_path: Path, predictor: ebapose.Predictor) -> None:
    options = VideoOptions(seconds=0.2, fps=25, detect_every_s=0)
    summary = predict_video(predictor, clip, tmp_path, ("json",), options, draw=draw)
    assert (summary.frames, summary.detections) == (5, 5)


def test_sound_that_is_not_kept_is_named(
    clip: Path, tmp_path: Path, predictor: ebapose.Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    options = VideoOptions(seconds=0.1, fps=10)
    predict_video(predictor, clip, tmp_path, ("json",), options, draw=draw)
    assert "sound" not in caplog.text
    predict_video(predictor, clip, tmp_path, ("overlay",), options, draw=draw)
    assert f"{clip}: its sound is not kept (another rate of frames was asked for)" in caplog.text


def test_bad_and_good_side_by_side(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    nobody = write_clip(tmp_path / "nobody.mp4", 4, hw=(160, 160))
    out = tmp_path / "out"
    code = main(["predict", str(broken), str(nobody), "77", str(clip), "--out", str(out), "--seconds", "0.2"])
    errors = capsys.readouterr().err
    assert code == 1
    assert f"ebapose: {broken}: not a video that can be read" in errors
    assert f"ebapose: {nobody}: no person found" in errors
    assert "camera 77: there is no such camera" in errors
    assert 4 <= len(table(out / "walk.v1.jsonl")) <= 6
    assert len(table(out / "nobody.jsonl")) == 4
    assert not (out / "poses.json").exists()


def test_folder_as_a_clip_and_standard_input(
    clip: Path, tmp_path: Path, predictor: ebapose.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    with open_video(clip) as reader:
        for frame in list(reader)[:4]:
            cv2.imwrite(str(folder / f"{frame.index}.jpg"), frame.image[:, :, ::-1])
    (folder / "9.jpg").write_bytes(b"damaged")
    options = VideoOptions(fps=10)
    out = tmp_path / "out"
    summary = predict_sources(predictor, [str(folder)], out, ("json",), clips=True, video=options)
    assert summary.videos[0].frames == 4
    assert summary.failures == [f"{folder}: 1 damaged frame was left out"]
    (folder / "9.jpg").unlink()
    assert [row["time_s"] for row in table(out / "frames.jsonl")] == [0.0, 0.1, 0.2, 0.3]
    photos = predict_sources(predictor, [str(folder)], out, ("json",))
    assert (photos.images, photos.videos) == (4, [])
    with clip.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": file}))
        piped = predict_sources(predictor, ["-"], out, ("overlay",), clips=True)
    assert piped.videos[0].frames == FRAMES
    assert (out / "video.mp4").exists()


def test_originals_survive(clip: Path, tmp_path: Path, predictor: ebapose.Predictor) -> None:
    copy = tmp_path / "a.mp4"
    copy.write_bytes(clip.read_bytes())
    predict_video(predictor, copy, tmp_path, ("overlay",), VideoOptions(seconds=0.1), draw=draw)
    assert copy.read_bytes() == clip.read_bytes()
    assert (tmp_path / "a_pose.mp4").exists()


class Camera:
    """As many frames as wanted, 50 a second at most."""

    images: tuple[np.ndarray, ...] = ()
    given = 0

    def __init__(self, source: Any) -> None:
        self.index = 0

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, what: int) -> float:
        return 50.0

    def read(self) -> tuple[bool, np.ndarray]:
        import time

        time.sleep(0.02)
        self.index += 1
        Camera.given = self.index
        return True, self.images[self.index % len(self.images)]

    def release(self) -> None:
        pass


def test_camera_shows_its_latency(
    clip: Path, tmp_path: Path, predictor: ebapose.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_video(clip) as reader:
        Camera.images = tuple(np.ascontiguousarray(frame.image[:, :, ::-1]) for frame in reader)
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    original = predictor._detect

    def slow(frame: ebapose.Frame) -> ebapose.Boxes:
        import time

        time.sleep(0.08)
        enough = Camera.given + 4
        while Camera.given < enough:
            time.sleep(0.01)
        return original(frame)

    monkeypatch.setattr(predictor, "_detect", slow)
    options = VideoOptions(seconds=1.5, detect_every_s=0)
    summary = predict_video(predictor, 0, tmp_path, ("overlay", "json"), options, draw=draw)
    assert summary.live
    assert summary.dropped >= 3 * (summary.frames - 1)  # in each frame the detector misses at least three
    median, high = summary.latency_ms
    assert 80 <= median <= high
    assert "latency" in summary.line()
    saved = json.loads((tmp_path / "camera_0_summary.json").read_text())
    assert saved["latency_ms"]["median"] == pytest.approx(median, abs=0.1)
    rows = table(tmp_path / "camera_0.jsonl")
    # old frames are left out, not queued: time goes on with the wall clock
    assert np.diff([row["time_s"] for row in rows]).min(initial=1.0) > 0.08
    with open_video(tmp_path / "camera_0.mp4") as reader:
        corner = next(reader).image[-30:, :200].astype(int)
    assert corner.max() > 200  # the line with the latency


def test_window(clip: Path, tmp_path: Path, predictor: ebapose.Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    class Window:
        def __init__(self, title: str) -> None:
            shown.append(title)

        def show(self, image: np.ndarray) -> bool:
            shown.append(image.shape)
            return len(shown) < 4

        def close(self) -> None:
            shown.append("closed")

    monkeypatch.setattr(video_module, "Window", Window)
    summary = predict_video(predictor, clip, tmp_path, ("json",), VideoOptions(show=True), draw=draw)
    assert summary.frames == 3  # closing the window ends it
    assert shown[0] == f"ebapose: {clip}"
    assert shown[-1] == "closed"


def test_no_screen(clip: Path, tmp_path: Path, predictor: ebapose.Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform in ("win32", "darwin"):
        pytest.skip("there is always a screen")
    monkeypatch.delenv("DISPLAY", raising=False)
    lines: list[str] = []
    options = VideoOptions(show=True, seconds=0.1)
    summary = predict_video(predictor, clip, tmp_path, ("json",), options, draw=draw, on_failure=lines.append)
    assert summary.frames >= 1
    (line,) = lines
    assert line.startswith(f"{clip}: no window: ")


def test_wrong_usage(clip: Path, tmp_path: Path, predictor: ebapose.Predictor) -> None:
    with pytest.raises(UsageError, match="seconds between detections"):
        VideoOptions(detect_every_s=-1)
    with pytest.raises(InputError, match="no such file"):
        predict_video(predictor, tmp_path / "none.mp4", tmp_path, draw=draw)
    lines: list[str] = []
    options = VideoOptions(seconds=0.1)
    predict_video(predictor, clip, tmp_path, ("coco",), options, draw=draw, on_failure=lines.append)
    assert lines == [f"{clip}: COCO results are for pictures, not for videos"]


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    Camera.images = ()


def test_two_folders_of_one_name_keep_both_results(tmp_path: Path, predictor: ebapose.Predictor) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "frames").mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(tmp_path / parent / "frames" / f"{number}.png"), np.full((64, 64, 3), 90, np.uint8))
    folders = [str(tmp_path / parent / "frames") for parent in ("a", "b")]
    summary = predict_sources(predictor, folders, tmp_path / "out", ("json",), clips=True)
    assert [video.frames for video in summary.videos] == [3, 3]
    assert len(list((tmp_path / "out").glob("frames*.jsonl"))) == 2
