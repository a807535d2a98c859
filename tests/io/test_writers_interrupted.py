"""Outputs are whole after any interruption: an error, a kill, a full disk."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ebapose.errors import EbaposeError, InputError, UsageError
from ebapose.io import parquet as parquet_rows
from ebapose.io import writers
from ebapose.io.writers import FILE_NAMES, PoseWriter
from io_outputs import ALL, draw, leftovers, load, rows_of, validate
from poses_factory import make_frame, make_poses


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interruption_keeps_what_was_written(tmp_path: Path, error: type[BaseException]) -> None:
    def work() -> None:
        with PoseWriter(tmp_path, ALL) as writer:
            for number in range(5):
                if number == 3:
                    raise error
                writer.write(make_frame(f"{number}.jpg"), make_poses(1))

    with pytest.raises(error):
        work()
    validate(load(tmp_path, "json"))
    assert [i["file"] for i in load(tmp_path, "json")["images"]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [r["image_id"] for r in load(tmp_path, "coco")] == [0, 1, 2]
    assert len(rows_of(tmp_path)) == 3 * 17
    assert pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "poses.parquet").num_rows == 3 * 17
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("format_name", ["json", "coco", "csv"])
def test_interruption_within_a_record(tmp_path: Path, format_name: writers.Format) -> None:
    """Ctrl-C may strike when half of a record is on its way to the disk."""
    writer = PoseWriter(tmp_path, [format_name])
    writer.write(make_frame("1.jpg"), make_poses(1))
    text_file = writer._opened[0].output._file  # type: ignore[attr-defined]
    real = text_file._file

    class HalfWay(io.BytesIO):
        def write(self, data: Any) -> int:
            real.write(data[: len(data) // 2])
            raise KeyboardInterrupt

    text_file._file = HalfWay()
    with pytest.raises(KeyboardInterrupt):
        writer.write(make_frame("2.jpg"), make_poses(1))
    text_file._file = real
    writer.close()
    if format_name == "csv":
        assert len(rows_of(tmp_path)) == 17
    else:
        data = load(tmp_path, format_name)
        assert len(data["images"] if format_name == "json" else data) == 1


def test_a_killed_process_leaves_the_older_files_whole(tmp_path: Path) -> None:
    with PoseWriter(tmp_path, ALL) as writer:
        writer.write(make_frame("1.jpg"), make_poses(1))
    before = {name: (tmp_path / name).read_bytes() for name in FILE_NAMES.values()}
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from poses_factory import make_frame, make_poses
from ebapose.io.writers import PoseWriter
writer = PoseWriter({str(tmp_path)!r}, {ALL!r})
for number in range(200):
    writer.write(make_frame(f"{{number}}.jpg"), make_poses(2))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert {name: (tmp_path / name).read_bytes() for name in FILE_NAMES.values()} == before


def test_what_cannot_be_written_is_found_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poses.json").mkdir()
    with pytest.raises(UsageError, match=r"poses\.json: cannot be written \(Is a directory\)"):
        PoseWriter(tmp_path, ["overlay", "json"], draw=draw)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(writers.tempfile, "TemporaryFile", refuse)  # a mode of 555 does not stop root
    with pytest.raises(UsageError, match=r"cannot be written \(Permission denied\)"):
        PoseWriter(tmp_path, ["overlay"], draw=draw)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    writer = PoseWriter(tmp_path, ["json", "csv"])
    monkeypatch.setattr(writers._PosesJson, "write", full)
    with pytest.raises(EbaposeError, match="No space left on device"):
        writer.write(make_frame("1.jpg"), make_poses(1))
    monkeypatch.setattr(writers._PosesJson, "close", full)
    with pytest.raises(EbaposeError, match="No space left on device"):
        writer.close()
    assert not (tmp_path / "poses.json").exists()  # it could not be completed
    assert (tmp_path / "poses.csv").exists()
    assert leftovers(tmp_path) == []
    writer.close()  # again does nothing


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on the size of files")
def test_a_disk_that_is_really_full_keeps_the_pictures_before(tmp_path: Path) -> None:
    import resource

    writer = PoseWriter(tmp_path, ["json", "coco", "csv"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        for number in range(1000):
            written.append(number)
            writer.write(make_frame(f"{number}.jpg"), make_poses(1))

    written: list[int] = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(EbaposeError, match="File too large"):
            fill()
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    data = load(tmp_path, "json")
    validate(data)
    for num in (len(data["images"]), len(load(tmp_path, "coco")), len(rows_of(tmp_path)) / 17):
        assert len(written) - 2 <= num <= len(written)
    assert leftovers(tmp_path) == []
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    writer = PoseWriter(tmp_path, ["json", "coco", "csv"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, before[1]))
    try:
        with pytest.raises(EbaposeError, match="File too large"):
            fill()
        with contextlib.suppress(EbaposeError):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on the size of files")
def test_a_disk_that_is_really_full_leaves_a_parquet_file_that_can_be_read(tmp_path: Path) -> None:
    import resource

    parquet = pytest.importorskip("pyarrow.parquet")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = PoseWriter(tmp_path, ["parquet"])
    for number in range(100):
        writer.write(make_frame(f"{number}.jpg"), make_poses(1, seed=number))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(EbaposeError, match="File too large"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    files = parquet.read_table(tmp_path / "poses.parquet")["file"].to_pylist()
    assert len(files) > 17 * 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:  # no room for anything new: the older ones stay
        writer = PoseWriter(tmp_path, ["parquet"])
        writer.write(make_frame("x.jpg"), make_poses(1))
        with pytest.raises(EbaposeError, match="File too large"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert parquet.read_table(tmp_path / "poses.parquet")["file"].to_pylist() == files
    assert files == [f"{row // 17}.jpg" for row in range(len(files))]
    assert leftovers(tmp_path) == []


def test_an_interrupted_row_group_is_never_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet_rows.ParquetRows(tmp_path / "t.parquet", {"n": "int64"})
    rows.append([(1,)])

    def and_interrupt(table: Any) -> None:
        real(table)
        raise KeyboardInterrupt

    real = rows._writer.write_table
    monkeypatch.setattr(rows._writer, "write_table", and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        rows._flush(1)
    monkeypatch.undo()
    rows.append([(2,)])
    assert rows.finish() is None
    assert parquet.read_table(tmp_path / "t.parquet")["n"].to_pylist() == [1, 2]


def test_a_run_over_nothing_leaves_the_files_of_an_earlier_one(tmp_path: Path) -> None:
    for number in range(3):
        with PoseWriter(tmp_path, ALL) as writer:
            if number == 1:
                writer.write(make_frame("1.jpg"), make_poses(1))
            else:
                writer.write_failure("2.jpg", InputError("2.jpg: no such file"))
        assert len(rows_of(tmp_path)) == (17 if number else 0)
        assert len(load(tmp_path, "coco")) == len(load(tmp_path, "json")["images"]) == min(number, 1)
    assert leftovers(tmp_path) == []
