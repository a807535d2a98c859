"""Reading video: time stamps, rotation, pixel formats, damage, a line for everything that is wrong."""

from __future__ import annotations

import builtins
import io
import itertools
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ebapose.io import video_av
from ebapose.io.overlays import marked
from ebapose.io.video import is_video_source, open_video
from ebapose.io.video_source import ReadCounts
from io_video_files import FPS, HW, error_of, picture, read, shade, shades, write_clip

av = pytest.importorskip("av")


def test_frames_in_order_with_their_times(tmp_path: Path) -> None:
    frames, reader = read(write_clip(tmp_path / "a.mp4", audio="aac"))
    assert [frame.index for frame in frames] == list(range(20))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(20) / FPS, atol=0.03)  # aac's lead-in
    np.testing.assert_allclose(np.diff([frame.time_s for frame in frames]), 1 / FPS, atol=1e-3)
    np.testing.assert_allclose(shades(frames), [shade(i) for i in range(20)], atol=3)
    info = reader.info
    assert (info.hw, info.fps, info.num_frames, info.live, info.has_audio) == (HW, FPS, 20, False, True)
    assert frames[3].stem == "a/000003"
    assert reader.counts == ReadCounts()


def test_variable_frame_rate_keeps_the_real_times(tmp_path: Path) -> None:
    times = [0.0, 0.01, 0.05, 0.3, 0.31, 0.9, 1.5]
    frames, _ = read(write_clip(tmp_path / "vfr.mkv", 7, times_s=times))
    np.testing.assert_allclose([frame.time_s for frame in frames], times, atol=2e-3)


@pytest.mark.parametrize(
    ("rotation", "corner"), [(90, np.s_[:16, :16]), (180, np.s_[-16:, :16]), (-90, np.s_[-16:, -16:])]
)
def test_rotation_is_applied(tmp_path: Path, rotation: int, corner: Any) -> None:
    frames, reader = read(write_clip(tmp_path / "r.mp4", 3, rotation=rotation))
    expected = HW if rotation == 180 else HW[::-1]
    assert reader.info.hw == frames[0].hw == expected
    bright = frames[0].image > 200
    assert bright[corner].mean() > 0.8  # the corner that was top right
    assert bright.mean() < 0.2


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.mp4", "libx264", "yuv420p10le"), ("a.mkv", "libx264", "yuv444p"), ("a.mp4", "libx265", "yuv420p10le")],
)
def test_ten_bit_and_other_pixel_formats(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    frames, _ = read(write_clip(tmp_path / name, 6, codec=codec, pix_fmt=pix_fmt))
    assert frames[0].image.dtype == np.uint8
    np.testing.assert_allclose(shades(frames), [shade(i) for i in range(6)], atol=4)


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((*HW, 4), np.uint8)
    rgba[:, :32] = (200, 0, 0, 255)
    rgba[:, 48:] = (0, 0, 0, 128)
    frames, _ = read(
        write_clip(tmp_path / "a.mov", 2, codec="png", pix_fmt="rgba", images=[rgba, rgba], source_format="rgba")
    )
    assert frames[0].image[0, 0].tolist() == [200, 0, 0]
    assert frames[0].image[0, 40].tolist() == [255, 255, 255]
    assert frames[0].image[0, 60].tolist() == [127, 127, 127]


def test_transparency_of_webm(tmp_path: Path) -> None:
    rgba = np.zeros((*HW, 4), np.uint8)
    rgba[:, :32, 3] = 255
    path = write_clip(
        tmp_path / "a.webm", 4, codec="libvpx-vp9", pix_fmt="yuva420p", images=[rgba] * 4, source_format="rgba"
    )
    frames, _ = read(path)
    assert len(frames) == 4
    assert frames[0].image[24, 8].max() < 20
    assert frames[0].image[24, 56].min() > 235


def test_odd_sizes(tmp_path: Path) -> None:
    frames, reader = read(write_clip(tmp_path / "odd.avi", 3, hw=(47, 63), codec="ffv1", pix_fmt="bgr0"))
    assert reader.info.hw == frames[0].hw == (47, 63)


def write_mjpeg_with_holes(path: Path, num: int, holes: tuple[int, ...]) -> Path:
    """A clip of which some frames' bytes are zero."""
    data = bytearray(write_clip(path, num, codec="mjpeg", pix_fmt="yuvj420p").read_bytes())
    starts = [i for i in range(len(data) - 3) if data[i : i + 3] == b"\xff\xd8\xff"]
    ends = [*starts[1:], data.rindex(b"\xff\xd9") + 2]
    for hole in holes:
        data[starts[hole] : ends[hole]] = bytes(ends[hole] - starts[hole])
    path.write_bytes(data)
    return path


def test_damaged_frames_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_mjpeg_with_holes(tmp_path / "a.mov", 30, (10, 20))
    frames, reader = read(path)
    assert reader.counts.corrupt == 2
    assert reader.counts.missing == 0
    right = [shade(i) for i in range(30) if i not in (10, 20)]
    np.testing.assert_allclose(shades(frames), right, atol=4)
    assert frames[10].time_s == pytest.approx(11 / FPS, abs=1e-3)  # the gap stays a gap


def test_damage_in_h264(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 60, gop=10, options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    middle = start + (len(data) - start) // 2
    data[middle : middle + 400] = bytes(np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8))
    path.write_bytes(data)
    frames, reader = read(path)
    assert reader.counts.corrupt > 0
    assert 40 <= len(frames) < 60
    np.testing.assert_allclose(shades(frames[:20]), [shade(i) for i in range(20)], atol=3)
    np.testing.assert_allclose(shades(frames[-10:]), [shade(i) for i in range(50, 60)], atol=3)


def test_what_is_made_from_damaged_frames_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg mends a frame and goes on from it; only the first is marked."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (96, 400, 3), dtype=np.uint8), (0, 0), 3)
    images = [np.ascontiguousarray(texture[:, 3 * i : 3 * i + 128]) for i in range(60)]
    path = write_clip(tmp_path / "a.mkv", 60, hw=(96, 128), gop=20, images=images)
    clean = [frame.image.astype(int) for frame in read(path)[0]]
    data = bytearray(path.read_bytes())
    for start in (len(data) * 4 // 10, len(data) * 45 // 100):
        data[start : start + 60] = bytes(60)
    path.write_bytes(data)

    def damaged() -> tuple[int, int]:
        frames, reader = read(path)
        assert len(frames) + reader.counts.corrupt >= 58
        return len(frames), sum(
            bool(np.abs(frame.image - clean[round((frame.time_s or 0) * FPS)]).mean() > 1) for frame in frames
        )

    given, bad = damaged()
    assert bad == 0
    assert given >= 38  # whole again from the next keyframe on
    monkeypatch.setattr(video_av, "LONGEST_DAMAGE_S", -1.0)
    assert damaged()[1] > 3


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_cut_off_where_the_number_of_frames_is_unknown(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == "webm" else "libx264"
    path = write_clip(tmp_path / f"a.{suffix}", 60, codec=codec, audio="" if suffix == "webm" else "aac")
    _, whole = read(path)
    assert (whole.info.num_frames, whole.counts.missing) == (0, 0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames, reader = read(path)
    assert abs(reader.counts.missing + reader.counts.corrupt + len(frames) - 60) <= 2
    assert reader.counts.missing > 10


def test_file_that_was_cut_off(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 60, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames, reader = read(path)
    assert 10 < len(frames) < 50
    assert reader.counts.missing + reader.counts.corrupt + len(frames) == 60
    assert reader.counts.missing > 0


def test_a_trimmed_file_is_not_cut_off(tmp_path: Path) -> None:
    """What was cut away at the start, without encoding again, is still in the file, hidden by an edit list."""
    write_clip(tmp_path / "a.mp4", 60)
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(tmp_path / "b.mp4"), "w") as out:
        stream = source.streams.video[0]
        copied = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                shift = round(20 / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copied
                out.mux(packet)
    frames, reader = read(tmp_path / "b.mp4")
    assert (len(frames), reader.info.num_frames) == (40, 60)
    assert (reader.counts.missing, reader.counts.corrupt) == (0, 0)


def test_a_name_that_looks_like_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", 3).rename("2024-05-01T10:20:30.mp4")
    frames, reader = read("2024-05-01T10:20:30.mp4")
    assert len(frames) == 3
    assert reader.info.name == "2024-05-01T10:20:30.mp4"


def test_bad_files(tmp_path: Path) -> None:
    index_at_end = write_clip(tmp_path / "late.mp4", 30)
    index_at_end.write_bytes(index_at_end.read_bytes()[:1500])
    assert "cut off before its index" in error_of(index_at_end)
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert "empty.mp4: " in error_of(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    assert "not a video that can be read" in error_of(tmp_path / "text.mp4")
    assert error_of(tmp_path / "none.mp4") == f"{tmp_path / 'none.mp4'}: no such file"
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 48_000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    assert "there is no video in it" in error_of(tmp_path / "sound.mp4")


def test_no_frames(tmp_path: Path) -> None:
    path = write_mjpeg_with_holes(tmp_path / "a.mov", 3, (0, 1, 2))
    assert "no frame of this video can be decoded" in error_of(path)
    _, reader = read(write_mjpeg_with_holes(tmp_path / "b.mov", 30, (0, 1, 2, 3)))
    assert (reader.counts.corrupt, reader.counts.missing) == (4, 0)


def test_unknown_codec(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 5)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz9").replace(b"avcC", b"zzzC"))
    line = error_of(path)
    assert line.startswith(f"{path}: ")
    assert "codec" in line


def test_folder_of_frames(tmp_path: Path) -> None:
    for index in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"frame{index}.png"), picture(index))
    (tmp_path / "frame3.png").write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("no picture")
    drawn = cv2.imencode(".jpg", picture(1))[1].tobytes()
    (tmp_path / "frame1.jpg").write_bytes(marked(drawn))  # by an earlier run
    (tmp_path / "._frame1.png").write_bytes(b"what macOS writes beside it")
    frames, reader = read(tmp_path, fps=10)
    assert shades(frames) == [shade(1), shade(2), shade(10)]
    assert [frame.time_s for frame in frames] == pytest.approx([0.0, 0.1, 0.3])  # the broken one keeps its time
    assert reader.counts.corrupt == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    assert error_of(empty) == f"{empty}: no pictures in this folder"
    assert "0 frames per s is not possible" in error_of(tmp_path, fps=0)


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_clip(tmp_path / "a.mkv", 6).read_bytes()

    class Stdin:
        buffer = io.BytesIO(data)

    monkeypatch.setattr(sys, "stdin", Stdin())
    frames, reader = read("pipe:0")
    assert len(frames) == 6
    assert reader.info.name == "standard input"
    assert reader.stem == "video"


def test_index_at_the_end_of_what_cannot_seek(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    noise = np.random.default_rng(0).integers(0, 256, (10, 240, 320, 3), dtype=np.uint8)  # more than a buffer holds
    data = write_clip(tmp_path / "a.mp4", 10, hw=(240, 320), images=list(noise)).read_bytes()
    assert "its index is at the end and this source cannot seek: save it as a file" in error_of(Pipe(data))


def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [
        s for s in ("0", "12", "/dev/video0", "pipe:0", "rtsp://host/x", "http://h/a.mp4") if not is_video_source(s)
    ] == []
    assert [s for s in ("a.mp4", "-", "photos", "123", "c:\\x.mp4") if is_video_source(s)] == []
    (tmp_path / "0").mkdir()
    assert not is_video_source("0")


def test_without_pyav_opencv_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_clip(tmp_path / "a.mp4", 8)
    cut = write_clip(tmp_path / "cut.mkv", 60)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    original = builtins.__import__

    def no_av(name: str, *args: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_av)
    with caplog.at_level(logging.WARNING):
        frames, reader = read(path)
    assert len(frames) == 8
    assert reader.info.fps == pytest.approx(FPS)
    np.testing.assert_allclose(shades(frames), [shade(i) for i in range(8)], atol=4)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(8) / FPS, atol=1e-3)
    assert 'pip install "ebapose[video]" adds exact time stamps, sound' in caplog.text
    frames, reader = read(cut)
    assert abs(len(frames) + reader.counts.missing - 60) <= 2
    (tmp_path / "text.mp4").write_text("no video")
    assert error_of(tmp_path / "text.mp4").endswith("not a video that can be read")
    assert 'needs PyAV: pip install "ebapose[video]"' in error_of(io.BytesIO(b""))


def test_reading_is_lazy_and_closes(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 20)
    with open_video(path) as reader:
        assert len(list(itertools.islice(reader, 3))) == 3
    assert list(reader) == []
    shutil.rmtree(tmp_path)


def test_a_clock_that_begins_anew_goes_on(tmp_path: Path) -> None:
    for name, fps in (("a.ts", 30), ("b.ts", 5)):
        write_clip(tmp_path / name, 20 if fps == 5 else 60, fps=fps)
    both = tmp_path / "ab.ts"
    both.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    times = np.array([frame.time_s for frame in read(both)[0]])
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(np.diff(times[-15:]), 0.2, atol=1e-3)
    assert times[-1] == pytest.approx(2 + 19 / 5, abs=0.15)


def test_an_interruption_while_a_stream_is_waited_for(tmp_path: Path) -> None:
    class Waiting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > len(self.getvalue()) // 2:
                raise KeyboardInterrupt
            return super().read(size)

        def seekable(self) -> bool:
            return False

    data = write_clip(tmp_path / "a.mkv", 200).read_bytes()
    with pytest.raises(KeyboardInterrupt), open_video(Waiting(data)) as frames:
        list(frames)
