"""Real encoded videos for the tests: small, made in a moment; and what is read of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebapose.errors import InputError
from ebapose.io.video import VideoReader, open_video
from ebapose.structures import Poses

HW = (48, 64)
FPS = 25


def shade(index: int) -> int:
    """Grey of the left half of frame `index`: tells frames apart after lossy coding."""
    return 30 + 7 * (index % 28)


def picture(index: int, hw: tuple[int, int] = HW) -> np.ndarray:
    """Grey that depends on the index, with a white top right corner (to see rotation)."""
    image = np.full((*hw, 3), shade(index), np.uint8)
    image[: hw[0] // 3, -hw[1] // 3 :] = 255
    return image


def write_clip(
    path: Path,
    num: int = 20,
    *,
    hw: tuple[int, int] = HW,
    fps: int = FPS,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times_s: Sequence[float] | None = None,
    rotation: int = 0,
    audio: str = "",
    gop: int = 5,
    options: dict[str, str] | None = None,
    images: Sequence[np.ndarray] | None = None,
    source_format: str = "rgb24",
) -> Path:
    """Encode a clip of `picture`s (or `images`); with `audio` (an encoder's name) a tone as long as the video."""
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *hw, pix_fmt
        stream.codec_context.gop_size = gop
        clock = Fraction(1, fps if times_s is None else 1000)
        stream.codec_context.time_base = clock
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "10"}
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream(audio, rate=48_000, layout="mono") if audio else None
        for index in range(num):
            image = picture(index, hw) if images is None else images[index]
            frame = av.VideoFrame.from_ndarray(image, format=source_format)
            time_s = index / fps if times_s is None else times_s[index]
            frame.pts, frame.time_base = round(time_s / clock), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            tone = (0.3 * np.sin(np.arange(48_000 * num // fps) * 440 * 2 * np.pi / 48_000)).astype(np.float32)
            resampler = av.AudioResampler(
                sound.format, "mono", 48_000, frame_size=sound.codec_context.frame_size or 1024
            )
            block = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = 48_000, 0, Fraction(1, 48_000)
            for piece in [*resampler.resample(block), *resampler.resample(None)]:
                container.mux(sound.encode(piece))
            container.mux(sound.encode(None))
    return path


def draw(image: np.ndarray, poses: Poses) -> np.ndarray:
    """A red corner: what `predict_video` is given to draw with."""
    drawn = image.copy()
    drawn[:20, :20] = (255, 0, 0)
    return drawn


def table(path: Path) -> list[dict[str, Any]]:
    """The records of a table in JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read(source: Any, **options: Any) -> tuple[list[Any], VideoReader]:
    with open_video(source, **options) as reader:
        return list(reader), reader


def shades(frames: list[Any]) -> list[int]:
    return [round(float(frame.image[-8:, : frame.hw[1] // 4].mean())) for frame in frames]


def error_of(source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
