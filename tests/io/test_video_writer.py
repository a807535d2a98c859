"""Writing video: what browsers play, times, sound, and files that play whatever interrupted them."""

from __future__ import annotations

import builtins
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebapose.errors import EbaposeError
from ebapose.io.video import open_video
from ebapose.io.video_writer import VideoWriter, partial_path
from io_video_files import FPS, HW, picture, shade, write_clip

av = pytest.importorskip("av")


def shades(path: Path) -> list[int]:
    with open_video(path) as reader:
        return [round(float(frame.image[-8:, :16].mean())) for frame in reader]


def write(path: Path, num: int = 10, hw: tuple[int, int] = HW, **options: Any) -> Path:
    with VideoWriter(path, hw, FPS, **options) as writer:
        for index in range(num):
            writer.write(picture(index, hw), index / FPS)
    return path


def test_plays_in_browsers(tmp_path: Path) -> None:
    path = write(tmp_path / "new" / "a.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == FPS
        assert stream.codec_context.colorspace == 1
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it is loaded
    np.testing.assert_allclose(shades(path), [shade(i) for i in range(10)], atol=4)
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_colours_survive(tmp_path: Path) -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :32], image[:, 32:64], image[:, 64:] = (220, 30, 30), (30, 200, 40), (30, 40, 210)
    with VideoWriter(tmp_path / "a.mp4", (64, 96), FPS) as writer:
        for _ in range(3):
            writer.write(image)
    with open_video(tmp_path / "a.mp4") as reader:
        found = next(reader).image
    for x in (16, 48, 80):
        np.testing.assert_allclose(found[32, x].astype(int), image[32, x], atol=12)


def test_times_of_a_variable_rate_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.01, 0.05, 0.3, 0.31, 0.9, 1.5]
    with VideoWriter(tmp_path / "a.mp4", HW, FPS) as writer:
        for index, time_s in enumerate(times):
            writer.write(picture(index), time_s)
    with open_video(tmp_path / "a.mp4") as reader:
        np.testing.assert_allclose([frame.time_s for frame in reader], times, atol=1e-3)


@pytest.mark.parametrize("begin_s", [0.0, 0.24])
def test_pictures_are_not_later_than_the_sound(tmp_path: Path, begin_s: float) -> None:
    original = write_clip(tmp_path / "in.mp4", 25, audio="aac")
    times = [begin_s + index / FPS for index in range(25)]
    with VideoWriter(tmp_path / "a.mp4", HW, FPS, audio_from=original) as writer:
        for index, time_s in enumerate(times):
            writer.write(picture(index), time_s)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.audio
        np.testing.assert_allclose([frame.time for frame in container.decode(video=0)], times, atol=1e-3)


def test_growing_file_plays_before_the_next_keyframe(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with VideoWriter(tmp_path / "a.mp4", HW, 30) as writer:
        for _ in range(90):
            writer.write(rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
        assert len(shades(writer.partial)) >= 15  # all but the encoder's delay and half a second


def test_odd_sizes_are_padded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 3, hw=(47, 63))
    with open_video(path) as reader:
        assert reader.info.hw == (48, 64)


@pytest.mark.parametrize(("suffix", "encoder", "kept"), [("mp4", "aac", "aac"), ("mkv", "pcm_s16le", "aac")])
def test_sound_is_taken_over(tmp_path: Path, suffix: str, encoder: str, kept: str) -> None:
    original = write_clip(tmp_path / f"in.{suffix}", 25, audio=encoder)
    path = write(tmp_path / "out.mp4", 25, audio_from=original)
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == kept
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(sound)])
        assert len(samples) / sound.rate == pytest.approx(1.0, abs=0.1)
        assert 0.14 < np.sqrt((samples[4000:40000] ** 2).mean()) < 0.3
    assert len(shades(path)) == 25


def test_sound_that_cannot_be_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in.mp4").write_text("no sound")
    assert len(shades(write(tmp_path / "out.mp4", 5, audio_from=tmp_path / "in.mp4"))) == 5
    assert "its sound cannot be taken over" in caplog.text


def test_no_frames_leave_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", 0)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EbaposeError, match=r"cannot be written") as caught:
        write(tmp_path / "file" / "a.mp4")
    assert "\n" not in str(caught.value)


def test_ctrl_c_completes_the_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / "a.mp4", HW, FPS) as writer:
            for index in range(7):
                writer.write(picture(index))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(shades(tmp_path / "a.mp4")) == 7


WRITE_FOREVER = """
    import os, resource, signal, sys
    sys.path[:0] = {path!r}
    import numpy as np
    from ebapose.io.video_writer import VideoWriter
    from ebapose.errors import EbaposeError
    rng = np.random.default_rng(0)
    if {limit}:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    try:
        with VideoWriter({target!r}, (120, 160), 25) as writer:
            for index in range(400):
                writer.write(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
                if not {limit} and index == 250:
                    os.kill(os.getpid(), signal.SIGKILL)
    except EbaposeError as error:
        print(error)
"""


def run_writer(target: Path, limit: int) -> subprocess.CompletedProcess[str]:
    code = WRITE_FOREVER.format(path=sys.path, target=str(target), limit=limit)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_full_disk_leaves_what_was_written(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    done = run_writer(target, 3_000_000)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{target}: cannot be written (File too large); what was written until then plays: ")
    kept = partial_path(target)
    assert line.endswith(str(kept))
    assert not target.exists()
    assert len(shades(kept)) >= 50  # the fragment that was being written is lost


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_full_disk_before_anything_plays(tmp_path: Path) -> None:
    done = run_writer(tmp_path / "a.mp4", 2_000)
    assert done.stdout == f"{tmp_path / 'a.mp4'}: cannot be written (File too large)\n"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_process_leaves_what_was_written(tmp_path: Path) -> None:
    done = run_writer(tmp_path / "a.mp4", 0)
    assert done.returncode == -9
    assert len(shades(tmp_path / "a.partial.mp4")) >= 100  # of 250: at most the encoder's delay and one fragment lost


def test_without_pyav_opencv_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = builtins.__import__

    def no_av(name: str, *args: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_av)
    path = write(tmp_path / "a.mp4", 10)
    assert 'pip install "ebapose[video]" for H.264 with sound' in caplog.text
    monkeypatch.undo()
    assert 9 <= len(shades(path)) <= 11


def test_a_wild_time_stamp_does_not_break_the_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", (32, 48), 10.0) as writer:
        for time_s in (0.0, 0.1, 1e6, 1e6 + 0.1):
            writer.write(np.zeros((32, 48, 3), np.uint8), time_s)
    with open_video(tmp_path / "a.mp4") as frames:
        assert len(list(frames)) == 4
