"""Reading video with PyAV; `ebapose.io.video` chooses it where it is installed."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ebapose.errors import InputError
from ebapose.io.video_source import (
    DEFAULT_FPS,
    ReadCounts,
    TimedImage,
    VideoInfo,
    check_size,
    reconnecting,
    report_missing,
)
from ebapose.structures import UInt8Array

_logger = logging.getLogger(__name__)

# What FFmpeg does when a connection is slow or breaks; options that do not fit a protocol are ignored.
_ADDRESS_OPTIONS = {"rtsp_transport": "tcp", "reconnect": "1", "reconnect_delay_max": "8"}
_LIVE_OPTIONS = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}
_NO_STAMPS = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS: the stamps are made up from a rate that is made up, too
_TELL_DURATION = ("matroska", "flv", "asf", "mxf")  # formats whose header says how long they are; others are estimated
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
LONGEST_STEP_S = 20_000.0  # between two frames; more is a broken time stamp
JITTER_S = 1.0  # time stamps that go back farther belong to a clock that began anew
OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
LONGEST_DAMAGE_S = 10.0
_SAVE_IT = "; if it is an MP4, its index is at the end and this source cannot seek: save it as a file"
_LIVE_PROTOCOLS = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "udp://", "rtp://", "srt://")


def import_av() -> ModuleType | None:
    """PyAV, None where it is not installed."""
    try:
        import av
    except ImportError:
        return None
    av.logging.set_level(None)  # what matters is said in our own words
    return av


def for_ffmpeg(source: Any) -> Any:
    """A file's path such that FFmpeg takes none of it for a protocol: `10:20.mp4` is a name. What is no path stays."""
    return str(Path(source).absolute()) if isinstance(source, str | Path) else source


def open_with_av(
    av: ModuleType, source: Any, name: str, counts: ReadCounts, live: bool | None, *, is_address: bool
) -> tuple[VideoInfo, Iterator[TimedImage]]:
    """The video's description and its frames; see `ebapose.io.video.open_video`.

    Raises:
        InputError: it cannot be opened, holds no video, or not one frame can be decoded.
    """
    if live is None and is_address and source.startswith(_LIVE_PROTOCOLS):
        live = True
    stream_in = None if isinstance(source, str) else _Patient(source)
    try:
        container = _open_container(av, stream_in or source, name, is_address, bool(live))
    finally:
        if stream_in is not None:
            stream_in.check()
    if live is None:
        live = is_address and _is_endless(container)
    try:
        stream = _video_stream(av, container, name)
        frames = _frames(av, container, stream, name, counts, bool(live), stream_in)
        first = next(frames, None)
        if first is None:
            cause = _SAVE_IT if _may_not_seek(source, is_address) else ""
            raise InputError(f"{name}: no frame of this video can be decoded ({_codec(stream)}){cause}")
    except BaseException:
        container.close()
        raise
    turned = _quarter_turns(first) % 2 == 1
    aspect = stream.sample_aspect_ratio or Fraction(1)
    check_size(name, first.width, first.height)
    info = VideoInfo(
        name=name,
        hw=(first.width, first.height) if turned else (first.height, first.width),
        fps=_rate(stream),
        num_frames=0 if live else int(stream.frames or 0),
        live=live,
        pixel_aspect=float(1 / aspect if turned else aspect) if aspect > 0 else 1.0,
        has_audio=len(container.streams.audio) > 0,
        codec=_codec(stream),
    )
    images = _images(container, stream, first, frames, info, counts)
    if not (live and is_address):
        return info, images

    def connect() -> Iterator[TimedImage]:
        return open_with_av_once(av, source, name, counts)

    return info, reconnecting(connect, images, name, counts)


def open_with_av_once(av: ModuleType, source: str, name: str, counts: ReadCounts) -> Iterator[TimedImage]:
    """Connect to a live stream and give its frames until it breaks off. Raises InputError."""
    container = _open_container(av, source, name, is_address=True, live=True)
    try:
        stream = _video_stream(av, container, name)
        frames = _frames(av, container, stream, name, counts, live=True)
        first = next(frames, None)
        if first is None:
            raise InputError(f"{name}: it sends no frames")
    except BaseException:
        container.close()
        raise
    return _images(container, stream, first, frames, VideoInfo(name, (0, 0), _rate(stream), live=True), counts)


def _open_container(av: ModuleType, source: Any, name: str, is_address: bool, live: bool) -> Any:
    options = (_LIVE_OPTIONS if live else _ADDRESS_OPTIONS) if is_address else {}
    timeout = (OPEN_TIMEOUT_S, READ_TIMEOUT_S) if is_address else None
    try:
        return av.open(
            source if is_address else for_ffmpeg(source), options=options, timeout=timeout, metadata_errors="replace"
        )
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except PermissionError:
        raise InputError(f"{name}: no permission to read it") from None
    except av.error.InvalidDataError:
        cause = _SAVE_IT if _may_not_seek(source, is_address) else ", or cut off before its index"
        raise InputError(f"{name}: not a video that can be read{cause}") from None
    except EOFError:
        raise InputError(f"{name}: the file is empty or cut off") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be opened ({_reason(error)})") from None


def _is_endless(container: Any) -> bool:
    """Whether a source says neither how long nor how large it is. (Of a playlist the size is no size of the video.)"""
    has_size = container.size > 0 and not container.format.name.startswith(("hls", "dash"))
    return container.duration is None and not has_size


def _may_not_seek(source: Any, is_address: bool) -> bool:
    return is_address or not (isinstance(source, str) or source.seekable())


def _video_stream(av: ModuleType, container: Any, name: str) -> Any:
    # Cover pictures of sound files are video streams too, with one frame
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise InputError(f"{name}: there is no video in it")
    if streams[0].codec_context is None:
        raise InputError(f"{name}: its video codec is unknown here")
    check_size(name, streams[0].codec_context.width or 1, streams[0].codec_context.height or 1)
    return streams[0]


class _Patient:
    """A binary stream for FFmpeg, which lets no exception out of its reading: Ctrl-C while it waits would be lost.

    The exception is kept, and FFmpeg told that this is the end; `check` raises it.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._error: BaseException | None = None

    def read(self, size: int) -> bytes:
        """At most so many bytes, none at the end."""
        try:
            return b"" if self._error is not None else bytes(self._stream.read(size))
        except BaseException as error:
            self._error = error
            return b""

    def check(self) -> None:
        """Raise what reading raised."""
        if self._error is not None:
            raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _frames(
    av: ModuleType,
    container: Any,
    stream: Any,
    name: str,
    counts: ReadCounts,
    live: bool,
    stream_in: _Patient | None = None,
) -> Iterator[Any]:
    """Decoded frames; damaged packets and frames are counted, and what cannot be read any further ends it.

    FFmpeg marks the frames that it had to mend, but not those which are made from them. So after a damaged one all are
    left out up to the next that needs no other, for `LONGEST_DAMAGE_S` at most: some streams have no such frames.
    """
    stream.thread_type = "SLICE" if live else "AUTO"  # frame threads hold frames back
    decoder = _decoder(av, stream)
    packets = container.demux(stream)  # ends with an empty packet, which makes the decoder give what it still holds
    broken = ""
    damaged, damaged_s = False, 0.0
    while not broken:
        try:
            packet = next(packets, None)
            if stream_in is not None:
                stream_in.check()
            if packet is None:
                return
        except av.error.FFmpegError as error:  # a broken connection, a file that was cut off
            if stream_in is not None:
                stream_in.check()
            if not live:
                _logger.warning("%s: cannot be read to its end (%s)", name, _reason(error))
            packet, broken = None, _reason(error)  # the decoder may still hold frames
        try:
            decoded = decoder.decode(packet)
        except av.error.FFmpegError:
            counts.corrupt += 1
            damaged, damaged_s = True, 0.0
            continue
        if packet is not None and packet.is_corrupt:
            damaged, damaged_s = True, 0.0
        for frame in decoded:
            # libvpx does not mark its frames, but gives each with its packet
            whole = frame.key_frame or (decoder.name.startswith("libvpx") and getattr(packet, "is_keyframe", False))
            if frame.is_corrupt:
                damaged, damaged_s = True, 0.0
            elif whole or damaged_s > LONGEST_DAMAGE_S:
                damaged = False
            if damaged:
                counts.corrupt += 1
                damaged_s += 1 / _rate(stream)
            else:
                yield frame
    if live:
        raise InputError(f"{name}: {broken}")


def _decoder(av: ModuleType, stream: Any) -> Any:
    """The stream's own decoder, or the one that sees the transparency of WebM, which FFmpeg's own ones do not."""
    name = _ALPHA_DECODERS.get(stream.codec_context.name) if stream.metadata.get("alpha_mode") == "1" else None
    if name is None or name not in av.codecs_available:
        return stream.codec_context
    return av.CodecContext.create(name, "r")


def _images(
    container: Any, stream: Any, first: Any, frames: Iterator[Any], info: VideoInfo, counts: ReadCounts
) -> Iterator[TimedImage]:
    """Upright RGB pictures with growing time stamps in s; closes the container at the end."""
    start = first.time if info.live else (container.start_time or 0) / 1_000_000
    last, shift = -1 / info.fps, 0.0
    number = 0
    # Live and without stamps of its own: only the wall clock knows
    clock_start = time.monotonic() if info.live and container.format.flags & _NO_STAMPS else None
    promised_s = _promised_s(container, stream, info)
    length_s = 0.0 if info.live else (container.duration or 0) / 1_000_000
    end_s = 0.0
    try:
        frame: Any = first
        while frame is not None:
            stamp = frame.time
            if stamp is not None:
                end_s = stamp + (float(frame.duration * frame.time_base) or 1 / info.fps)
            if clock_start is not None:
                stamp = time.monotonic() - clock_start + float(start or 0)
            next_s = last + 1 / info.fps
            time_s = next_s if stamp is None else float(stamp) - float(start or 0) + shift
            if number and not last - JITTER_S < time_s <= last + LONGEST_STEP_S:  # some streams begin again from 0
                time_s, shift = next_s, shift + next_s - time_s
            elif time_s <= last:
                time_s = next_s
            last = time_s
            yield _to_rgb(frame), max(0.0, time_s)
            number += 1
            frame = next(frames, None)
    finally:
        container.close()
    promised = info.num_frames or round(promised_s * info.fps)
    missing = promised - number if info.num_frames else round((promised_s - end_s) * info.fps)
    if info.num_frames and length_s:  # frames that were cut away are still counted, but nobody should see them
        missing = min(missing, round((length_s - (end_s - (start or 0.0))) * info.fps))
    report_missing(info, missing - counts.corrupt, promised, counts)


def _promised_s(container: Any, stream: Any, info: VideoInfo) -> float:
    """When the pictures end, in the stream's own time, as far as the file's header says; 0 where it does not."""
    if info.live or not container.format.name.startswith(_TELL_DURATION):
        return 0.0
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)\0*", stream.metadata.get("DURATION", ""))
    if match:
        return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
    # with sound the container's duration may be that of the sound, which may go on for as long as it likes
    return 0.0 if info.has_audio else (container.duration or 0) / 1_000_000


def _to_rgb(frame: Any) -> UInt8Array:
    """RGB uint8 (H, W, 3), upright, alpha composited on white."""
    if any(component.is_alpha for component in frame.format.components):
        rgba = frame.to_ndarray(format="rgba")
        alpha = rgba[:, :, 3:].astype(np.uint16)
        image = ((rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    else:
        image = frame.to_ndarray(format="rgb24")
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _quarter_turns(frame: Any) -> int:
    """How often the picture must be turned counter-clockwise by 90 deg to be upright."""
    return round(frame.rotation / 90) % 4


def _rate(stream: Any) -> float:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate and 0 < rate <= 1000 else DEFAULT_FPS


def _codec(stream: Any) -> str:
    return str(stream.codec_context.codec.name) if stream.codec_context is not None else "unknown codec"


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
