"""Cameras and streams: what breaks off and comes back, what comes too fast, addresses."""

from __future__ import annotations

import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ebapose.errors import InputError
from ebapose.io import video, video_source
from ebapose.io.video import open_video
from ebapose.io.video_source import ReadCounts, reconnecting
from io_video_files import HW, error_of, picture, read, shades, write_clip

av = pytest.importorskip("av")


def test_addresses_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(source: Any, name: str, *args: Any) -> Any:
        assert source == "http://user:s3@cret@host:80/mjpeg?token=abc"
        return video_source.VideoInfo(name, HW), iter(())

    monkeypatch.setattr(video, "_open_stream", opened)
    with open_video("http://user:s3@cret@host:80/mjpeg?token=abc") as reader:
        assert (reader.info.name, reader.stem) == ("http://host:80/mjpeg", "host_80_mjpeg")


@pytest.mark.parametrize("source", [63, "63", "/dev/video63"])
def test_no_camera(source: Any) -> None:
    assert error_of(source) == "camera 63: there is no such camera, or another program uses it"
    assert os.environ["OPENCV_FFMPEG_LOGLEVEL"] == "-8"  # or its lines come between ours


class FakeCamera:
    """25 frames at 100 frames/s, then it is unplugged."""

    def __init__(self, source: Any) -> None:
        self.index = 0

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def get(self, what: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.01)
        self.index += 1
        return (True, picture(self.index)) if self.index <= 25 else (False, None)

    def release(self) -> None:
        pass


def test_slow_consumer_drops_old_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    monkeypatch.setattr(video_source, "RECONNECT_PAUSES_S", ())
    seen, ages = [], []
    with open_video(0) as reader:
        assert reader.info.live
        for frame in reader:
            ages.append(time.monotonic() - reader.arrived_s)
            seen.append(shades([frame])[0])
            time.sleep(0.06)
    assert len(seen) < 15
    assert reader.counts.dropped == 25 - len(seen)
    assert seen == sorted(set(seen))
    assert np.median(ages) < 0.06  # the newest, not one from a queue


def test_reconnecting_backs_off_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    attempts = iter([InputError("x: refused"), InputError("x: refused"), None, *[InputError("x: gone")] * 9])
    frame = picture(0)

    def connect() -> Iterator[Any]:
        outcome = next(attempts)
        if outcome is not None:
            raise outcome
        return iter([(frame, 0.0), (frame, 0.04)])

    counts = ReadCounts()
    pauses = (0.01, 0.02, 0.04)
    start = time.monotonic()
    times = [t for _, t in reconnecting(connect, iter([(frame, 0.0), (frame, 0.04)]), "x", counts, pauses)]
    assert len(times) == 4
    assert np.all(np.diff(times) > 0)
    assert times[2] >= 0.07  # the wall clock went on
    assert counts.reconnects == 1
    assert time.monotonic() - start >= 2 * sum(pauses)
    assert "broke off (it ended), next try in 0.01 s" in caplog.text
    assert "does not come back (x: gone)" in caplog.text


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serves `tmp_path`; each request of /live.ts gets the file without a length, then the connection ends.

    /mjpeg is a camera that sends a picture every 0.1 s.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def do_GET(self) -> None:
            if self.path == "/mjpeg":
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                for index in range(8):
                    data = cv2.imencode(".jpg", picture(index))[1].tobytes()
                    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                    self.wfile.write(head + data + b"\r\n")
                    time.sleep(0.1)
                return None
            if self.path != "/live.ts":
                return super().do_GET()
            self.send_response(200)
            self.end_headers()
            self.wfile.write((tmp_path / "live.ts").read_bytes())
            return None

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_file_over_http(server: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 10)
    frames, reader = read(f"{server}/a.mp4")
    assert len(frames) == 10
    assert not reader.info.live
    assert f"{server}/none.mp4" in error_of(f"{server}/none.mp4")


def test_a_recording_without_a_duration_is_not_live(server: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", 10, options={"live": "1"})
    frames, reader = read(f"{server}/a.mkv")
    assert (len(frames), reader.info.live, reader.counts.dropped) == (10, False, 0)


def test_pictures_without_stamps_get_the_wall_clock(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_source, "RECONNECT_PAUSES_S", ())
    frames, reader = read(f"{server}/mjpeg")
    assert reader.info.live
    assert len(frames) + reader.counts.dropped == 8
    # 0.1 s apart, but for what was buffered while it was opened; made-up stamps are 1/25 s apart
    assert (frames[-1].time_s or 0) > 0.35


def test_stream_that_drops_comes_back(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "live.ts", 150)
    monkeypatch.setattr(video_source, "RECONNECT_PAUSES_S", (0.05, 0.1))
    with open_video(f"{server}/live.ts", live=True) as reader:
        frames = []
        for frame in reader:
            frames.append(frame)
            if reader.counts.reconnects >= 2:
                break
    assert reader.info.live
    assert reader.counts.reconnects >= 2
    assert np.all(np.diff([frame.time_s for frame in frames]) > 0)
