"""Video out: H.264 in MP4 that plays in a browser, with the time stamps of the frames and the sound of the original.

While it is written, the video is `NAME.partial.mp4`, in fragments: it plays at any moment, also after the process was
killed or the disk was full (all but the last second or two). `close` packs it, without encoding again, together with
the sound into `NAME.mp4`, its index at the front, and removes the partial file.

Without PyAV OpenCV writes the video: VP9 in MP4, without sound, at a constant rate, playable only when complete.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import cv2
import numpy as np

from ebapose.atomic import atomic_write
from ebapose.errors import EbaposeError
from ebapose.io.complaints import silent_opencv
from ebapose.io.video_av import for_ffmpeg, import_av
from ebapose.structures import UInt8Array

_CLOCK = 90_000  # ticks per s, the customary clock of video
_LONGEST_STEP = 20_000 * _CLOCK  # between two frames: MP4 holds it in 31 bits
_ENCODERS = {  # best first; builds of FFmpeg without GPL parts lack the first
    "libx264": {"preset": "veryfast", "crf": "21"},
    "libopenh264": {"b": "6M"},
    "mpeg4": {"qscale": "4"},
}
_FRAGMENTED = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "frag_duration": "500000",  # microseconds: a fragment is on disk before the next keyframe comes
    "flush_packets": "1",
}
_MP4_AUDIO = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"})  # what browsers' MP4 may hold unchanged
_BT709 = 1  # number of the colour space in FFmpeg, for its matrix, primaries and transfer
_logger = logging.getLogger(__name__)


def partial_path(path: Path) -> Path:
    """Where a file lies while it grows: `clip.mp4` -> `clip.partial.mp4`."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


class VideoWriter:
    """Writes RGB pictures to an MP4 file; a context manager that completes the file also after Ctrl-C.

    Args:
        path: ends in .mp4; its folder is made if it is missing.
        hw: height and width of the pictures in px. Odd sides are padded by one px, H.264 wants even ones. Later
            pictures of another size are scaled to this one.
        fps: mean rate, for players; each frame lies where its time stamp says.
        audio_from: a file whose sound is taken over.
        pixel_aspect: width of a pixel divided by its height.

    Raises:
        EbaposeError: the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        hw: tuple[int, int],
        fps: float,
        *,
        audio_from: Path | None = None,
        pixel_aspect: float = 1.0,
    ) -> None:
        self.path = Path(path)
        self.partial = partial_path(self.path)
        self.num_frames = 0
        self._hw = hw
        self._even_hw = (hw[0] + hw[0] % 2, hw[1] + hw[1] % 2)
        self._audio_from = audio_from
        self._first_tick, self._last_tick, self._skipped_ticks = 0, -1, 0
        self._frame_ticks = max(1, round(_CLOCK / fps))
        self._open = True
        self._av = import_av()
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._av is None:
                self._sink: _AvSink | _OpenCVSink = _OpenCVSink(self.partial, self._even_hw, fps)
            else:
                self._sink = _AvSink(self._av, self.partial, self._even_hw, fps, pixel_aspect)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of the system and of FFmpeg become one line that says what is left."""
        try:
            yield
        except _troubles(self._av) as error:
            reason = getattr(error, "strerror", None) or str(error)
            kept = f"; what was written until then plays: {self.partial}" if self._partial_plays() else ""
            raise EbaposeError(f"{self.path}: cannot be written ({reason}){kept}") from error

    def _partial_plays(self) -> bool:
        """Whether at least one frame of the partial file can be decoded."""
        if self._av is None or not self.partial.exists():
            return False
        with (
            contextlib.suppress(IndexError, *_troubles(self._av)),
            self._av.open(for_ffmpeg(self.partial)) as container,
        ):
            return next(container.decode(video=0), None) is not None
        return False

    def write(self, image: UInt8Array, time_s: float | None = None) -> None:
        """Add a picture.

        Args:
            image: RGB uint8 (H, W, 3).
            time_s: time stamp; without it one frame after the last.

        Raises:
            EbaposeError: the disk is full, say.
        """
        if image.shape[:2] != self._hw:
            image = np.asarray(cv2.resize(image, self._hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        if self._even_hw != self._hw:
            down, right = self._even_hw[0] - self._hw[0], self._even_hw[1] - self._hw[1]
            image = np.asarray(cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE), np.uint8)
        following = self._last_tick + self._frame_ticks
        tick = following if time_s is None else round(time_s * _CLOCK) - self._skipped_ticks
        if self.num_frames and tick > self._last_tick + _LONGEST_STEP:
            self._skipped_ticks += tick - following
            tick = following
        self._last_tick = max(tick, self._last_tick + 1, 0)
        if self.num_frames == 0:
            self._first_tick = self._last_tick
        with self._writing():
            self._sink.write(np.ascontiguousarray(image), self._last_tick)
        self.num_frames += 1

    def close(self) -> None:
        """Complete the file. Raises EbaposeError where that fails; the partial file then stays."""
        if not self._open:
            return
        self._open = False
        with self._writing():
            self._sink.close()
            if self.num_frames == 0:
                self.partial.unlink(missing_ok=True)
                return
            if self._av is None:
                self.partial.replace(self.path)
                return
            with atomic_write(self.path) as temporary:
                self._pack(temporary)
            self.partial.unlink()

    def _pack(self, target: Path) -> None:
        audio = self._audio_from
        try:
            _remux(self._av, self.partial, target, audio, self._first_tick / _CLOCK)
        except _troubles(self._av) as error:
            if audio is None or _is_disk_trouble(error):
                raise
            _logger.warning("%s: its sound cannot be taken over (%s)", audio, error)
            _remux(self._av, self.partial, target, None, self._first_tick / _CLOCK)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, EbaposeError):  # most likely our own: do not hide it behind a second one
            with contextlib.suppress(EbaposeError):
                self.close()
        else:
            self.close()


def _troubles(av: Any) -> tuple[type[Exception], ...]:
    """What writing may raise; not all of FFmpeg's errors are OSErrors."""
    return (OSError, ValueError) if av is None else (OSError, ValueError, av.error.FFmpegError)


def _is_disk_trouble(error: Exception) -> bool:
    import errno

    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)


class _AvSink:
    """H.264 by PyAV into fragmented MP4."""

    def __init__(self, av: Any, path: Path, hw: tuple[int, int], fps: float, pixel_aspect: float) -> None:
        self._av = av
        name = next((name for name in _ENCODERS if name in av.codecs_available), None)
        if name is None:
            raise ValueError("this build of PyAV has no video encoder for MP4")
        self._container = av.open(for_ffmpeg(path), "w", format="mp4", options=_FRAGMENTED)
        stream = self._container.add_stream(name, rate=Fraction(fps).limit_denominator(1001), options=_ENCODERS[name])
        stream.height, stream.width = hw
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _CLOCK)
        context.gop_size = max(1, round(2 * fps))  # players can only jump to keyframes
        context.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(255)
        # HD's colours: without the tags players guess from the size
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # 16..235
        self._stream = stream

    def write(self, image: UInt8Array, tick: int) -> None:
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=1)
        frame.pts, frame.time_base = tick, Fraction(1, _CLOCK)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class _OpenCVSink:
    """VP9 (else MPEG-4) by OpenCV at a constant rate: frames are repeated or left out to keep the time."""

    def __init__(self, path: Path, hw: tuple[int, int], fps: float) -> None:
        with silent_opencv():
            for code in ("vp09", "mp4v"):
                self._writer = cv2.VideoWriter(for_ffmpeg(path), cv2.VideoWriter.fourcc(*code), fps, hw[::-1])
                if self._writer.isOpened():
                    break
            else:
                raise ValueError('OpenCV cannot write video here: pip install "ebapose[video]"')
        self._fps, self._written = fps, 0
        _logger.warning(
            '%s: written with OpenCV (%s, no sound, constant rate); pip install "ebapose[video]" for H.264 with sound',
            path.name,
            "VP9" if code == "vp09" else "MPEG-4, which browsers do not play",
        )

    def write(self, image: UInt8Array, tick: int) -> None:
        due = round(tick / _CLOCK * self._fps) + 1
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for _ in range(min(due - self._written, round(10 * self._fps))):  # a gap of hours must not fill the disk
            self._writer.write(bgr)
        self._written = max(due, self._written)

    def close(self) -> None:
        self._writer.release()


def _remux(av: ModuleType | None, video: Path, target: Path, audio: Path | None, start_s: float) -> None:
    """Pack the encoded video, its first frame at `start_s`, and another file's sound as far as it reaches, into MP4."""
    assert av is not None
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(av.open(for_ffmpeg(video)))
        sound = (
            stack.enter_context(av.open(for_ffmpeg(audio), metadata_errors="replace")) if audio is not None else None
        )
        out = stack.enter_context(av.open(for_ffmpeg(target), "w", format="mp4", options={"movflags": "faststart"}))
        stream = source.streams.video[0]
        copied = out.add_stream_from_template(stream)
        # Encoders that reorder frames begin later than 0 in fragments, where no edit list takes it back
        delay = (stream.start_time or 0) - round(start_s / stream.time_base)
        end_s = start_s + float((source.duration or 0) / av.time_base)
        sounds = iter(()) if sound is None or not sound.streams.audio else _sound(av, sound, out, end_s)
        waiting = next(sounds, None)
        for packet in source.demux(stream):
            if packet.dts is None:
                continue
            packet.pts, packet.dts = packet.pts - delay, packet.dts - delay
            time_s = float(packet.dts * packet.time_base)
            while waiting is not None and waiting[0] <= time_s:
                out.mux(waiting[1])
                waiting = next(sounds, None)
            packet.stream = copied
            out.mux(packet)
        while waiting is not None:
            out.mux(waiting[1])
            waiting = next(sounds, None)


def _sound(av: ModuleType, source: Any, out: Any, end_s: float) -> Iterator[tuple[float, Any]]:
    """Packets of sound with their times in s, copied where MP4 can hold the codec, else encoded as AAC."""
    stream = source.streams.audio[0]
    if stream.codec_context is None:
        raise ValueError("its codec is unknown here")
    start_s = (source.start_time or 0) / av.time_base
    copy = stream.codec_context.codec.canonical_name in _MP4_AUDIO
    target = out.add_stream_from_template(stream) if copy else out.add_stream("aac", rate=stream.rate or 48_000)

    def packets() -> Iterator[tuple[float, Any]]:
        if copy:
            for packet in source.demux(stream):
                if packet.dts is None:
                    continue
                time_s = float(packet.dts * packet.time_base) - start_s
                if time_s > end_s:
                    return
                shift = round(start_s / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, target
                yield time_s, packet
            return
        resampler = av.AudioResampler(format="fltp", layout=stream.layout.name, rate=target.rate)
        for frame in source.decode(stream):
            if frame.time is not None and frame.time - start_s > end_s:
                break
            if frame.pts is not None:
                frame.pts -= round(start_s / frame.time_base)
            for resampled in resampler.resample(frame):
                for packet in target.encode(resampled):
                    yield float((packet.dts or 0) * packet.time_base), packet
        for packet in target.encode(None):
            yield float((packet.dts or 0) * packet.time_base), packet

    return packets()
