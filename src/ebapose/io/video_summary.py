"""What became of a video, as one line and as the JSON file beside its other outputs, which tells whose they are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebapose.atomic import write_text
from ebapose.card import ModelCard
from ebapose.io.video_source import VideoInfo
from ebapose.io.writers import plain_text

SUMMARY, PLOTS = "_summary.json", "_plots"
_FORMAT = "ebapose-video"


@dataclass
class VideoSummary:
    """What became of one video.

    Attributes:
        name: path, address (without user, password and query) or "camera 0".
        frames: written; persons: poses in them; identities: different persons.
        detections: frames that the detector looked at.
        corrupt, missing, dropped, reconnects: see `ebapose.io.video_source.ReadCounts`.
        latency_ms: median and 95th percentile from a frame's arrival to its drawn poses, of the newest 1000 frames.
        milliseconds: per frame and stage.
        seconds: wall time.
        interrupted: Ctrl-C, SIGTERM or SIGHUP ended it.
        files: what was written.
    """

    name: str
    live: bool = False
    frames: int = 0
    persons: int = 0
    identities: int = 0
    detections: int = 0
    corrupt: int = 0
    missing: int = 0
    dropped: int = 0
    reconnects: int = 0
    latency_ms: tuple[float, float] = (0.0, 0.0)
    milliseconds: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False
    files: list[Path] = field(default_factory=list)

    def line(self) -> str:
        """One line for a person."""
        persons = f"{self.identities} person{'' if self.identities == 1 else 's'}"
        parts = [f"{self.frames} frames", persons, f"detector ran in {self.detections}"]
        lost = {"corrupt left out": self.corrupt, "missing": self.missing, "dropped": self.dropped}
        parts += [f"{count} {what}" for what, count in lost.items() if count]
        if self.reconnects:
            parts.append(f"connected again {self.reconnects} times")
        if self.live:
            parts.append(f"latency {self.latency_ms[0]:.0f} ms (95 %: {self.latency_ms[1]:.0f})")
        rate = self.frames / self.seconds if self.seconds else 0.0
        ending = ", interrupted" if self.interrupted else ""
        return f"{self.name}: {', '.join(parts)}; {rate:.1f} frames/s{ending}"

    def write(self, path: Path, card: ModelCard, info: VideoInfo) -> None:
        """`STEM_summary.json`, which is added to `files`.

        Raises:
            OSError: it cannot be written.
        """
        from ebapose import __version__

        median, high = self.latency_ms
        data: dict[str, Any] = {
            "format": _FORMAT,
            "version": 1,
            "generator": f"ebapose {__version__}",
            "file": plain_text(self.name),
            "model": card.name,
            "skeleton": card.skeleton.to_dict(),
            "keypoint_fields": ["x", "y", "score", "sigma_x", "sigma_y"],
            "width": info.hw[1],
            "height": info.hw[0],
            "fps": round(info.fps, 6),
            "frames": self.frames,
            "persons": self.identities,
            "detections": self.detections,
            "corrupt_frames": self.corrupt,
            "missing_frames": self.missing,
            "dropped_frames": self.dropped,
            "reconnects": self.reconnects,
            "latency_ms": {"median": round(median, 1), "percentile_95": round(high, 1)} if self.live else None,
            "ms_per_frame": {name: round(ms, 2) for name, ms in self.milliseconds.items()},
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "overlay_bytes": next((_size(path) for path in self.files if path.suffix == ".mp4"), None),
            "files": [plain_text(str(path)) for path in self.files],
        }
        write_text(path, json.dumps(data, ensure_ascii=False, indent=2) + "\n")
        self.files.append(path)


def is_summary(path: Path) -> bool:
    """Whether it is a summary that an earlier run wrote."""
    return _read(path) is not None


def is_output(path: Path) -> bool:
    """Whether an earlier run wrote this overlay video, or plot, by the summary beside it.

    An overlay may have the original's name: what is not of its size is somebody's own.
    """
    if path.suffix.lower() == ".png":
        folder = path.parent
        summary = _read(folder.with_name(folder.name.removesuffix(PLOTS) + SUMMARY))
        files = summary.get("files") if summary is not None and folder.name.endswith(PLOTS) else None
        return isinstance(files, list) and any(Path(str(file)).name == plain_text(folder.name) for file in files)
    summary = _read(path.with_name(path.stem + SUMMARY))
    return summary is not None and summary.get("overlay_bytes") == _size(path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return summary if isinstance(summary, dict) and summary.get("format") == _FORMAT else None
