"""Every way a walk through a video can end early: its files are complete, or named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ebapose
from ebapose.atomic import GrowingText
from ebapose.errors import EbaposeError
from ebapose.inference import video as video_module
from ebapose.inference.video import VideoOptions, predict_video
from ebapose.io import video_table
from ebapose.io.video import open_video
from io_video_files import draw, table, write_clip

av = pytest.importorskip("av")

FRAMES = 12  # of `clip`


class Interrupting:
    """Draws, and presses Ctrl-C (or fails) at the fifth frame."""

    def __init__(self, error: BaseException) -> None:
        self.calls, self.error = 0, error

    def __call__(self, image: np.ndarray, poses: ebapose.Poses) -> np.ndarray:
        self.calls += 1
        if self.calls == 5:
            raise self.error
        return draw(image, poses)


def test_ctrl_c_finalises(clip: Path, tmp_path: Path, predictor: ebapose.Predictor) -> None:
    formats = ("overlay", "json", "csv", "sheet")
    summary = predict_video(predictor, clip, tmp_path, formats, draw=Interrupting(KeyboardInterrupt()))
    assert summary.interrupted
    assert summary.frames == 4
    with open_video(tmp_path / "walk.v1.mp4") as reader:
        assert len(list(reader)) == 4
    assert len(table(tmp_path / "walk.v1.jsonl")) == 4
    assert json.loads((tmp_path / "walk.v1_summary.json").read_text())["interrupted"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_finalise_and_a_second_one_is_ignored(
    clip: Path, tmp_path: Path, predictor: ebapose.Predictor, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    original = video_module.VideoWriter.close

    def close(writer: Any) -> None:
        if writer.num_frames == 4:
            os.kill(os.getpid(), number)  # while the files are being completed
        original(writer)

    def press(image: np.ndarray, poses: ebapose.Poses) -> np.ndarray:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), number)
        return draw(image, poses)

    calls: list[int] = []
    monkeypatch.setattr(video_module.VideoWriter, "close", close)
    summary = predict_video(predictor, clip, tmp_path, draw=press)
    assert summary.interrupted
    assert summary.frames == 4
    with open_video(tmp_path / "walk.v1.mp4") as reader:
        assert len(list(reader)) == 4
    assert len(table(tmp_path / "walk.v1.jsonl")) == 4
    assert signal.getsignal(number) == before


def test_in_another_thread_signals_stay_as_they_are(clip: Path, tmp_path: Path, predictor: ebapose.Predictor) -> None:
    def work() -> None:
        found.append(predict_video(predictor, clip, tmp_path, ("json",), VideoOptions(seconds=0.1), draw=draw))

    found: list[Any] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].frames >= 2


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_in_the_terminal(clip: Path, tmp_path: Path) -> None:
    """A real process and a real signal, in the middle of an endless clip."""
    frames = tmp_path / "long.mkv"
    write_clip(frames, 1500, hw=(160, 160))
    command = [sys.executable, "-c", "from ebapose.cli import main; raise SystemExit(main())"]
    command += ["predict", str(frames), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = tmp_path / "out" / "long.partial.jsonl"
    deadline = 60.0
    import time

    start = time.monotonic()
    while time.monotonic() - start < deadline and not (lines.exists() and lines.stat().st_size > 1000):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted; what was finished is written" in errors
    count = len(table(tmp_path / "out" / "long.jsonl"))
    assert 5 < count < 1500
    with open_video(tmp_path / "out" / "long.mp4") as reader:
        assert abs(len(list(reader)) - count) <= 1


def test_disk_that_fills_up_under_the_table(
    clip: Path, tmp_path: Path, predictor: ebapose.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(GrowingText):
        def _write(self, text: str) -> int:
            if text and self._ends[-1] > 3000:
                self._file.write(text[:100].encode())  # half a record still fits
                raise OSError(28, "No space left on device")
            return super()._write(text)

    monkeypatch.setattr(video_table, "GrowingText", Full)
    with pytest.raises(EbaposeError, match=r"walk.v1.jsonl: cannot be written \(No space left on device\); it holds"):
        predict_video(predictor, clip, tmp_path, ("overlay", "json"), draw=draw)
    rows = table(tmp_path / "walk.v1.jsonl")
    assert 1 <= len(rows) < FRAMES
    with open_video(tmp_path / "walk.v1.mp4") as reader:
        assert len(list(reader)) == len(rows)


def test_every_file_that_cannot_be_completed_is_named(
    clip: Path, tmp_path: Path, predictor: ebapose.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ebapose.tracking import pictures

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video_table._Csv, "close", full)
    monkeypatch.setattr(pictures, "atomic_write", full)
    original = pictures.TrackPlots._plot

    def plot(plots: Any, identity: int, target: Path) -> Path:
        target.parent.mkdir(exist_ok=True)
        return original(plots, identity, target)

    monkeypatch.setattr(pictures.TrackPlots, "_plot", plot)
    lines: list[str] = []
    with pytest.raises(EbaposeError, match=r"walk.v1.csv: cannot be written"):
        predict_video(predictor, clip, tmp_path, ("csv", "plots", "sheet"), draw=draw, on_failure=lines.append)
    assert [line.split(": ")[0] for line in lines] == [
        str(tmp_path / "walk.v1_sheet.jpg"),
        str(tmp_path / "walk.v1_plots"),
    ]
    assert not (tmp_path / "walk.v1_plots").exists()


def test_other_errors_complete_the_files_too(clip: Path, tmp_path: Path, predictor: ebapose.Predictor) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        predict_video(predictor, clip, tmp_path, draw=Interrupting(RuntimeError("boom")))
    assert len(table(tmp_path / "walk.v1.jsonl")) == 4
