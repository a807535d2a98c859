from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ebapose.atomic import GrowingText, atomic_write, write_text


def test_a_complete_file_takes_the_place(tmp_path):
    path = tmp_path / "poses.json"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        assert temporary.suffix == ".json"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("flush", [True, False])
def test_waits_for_the_disk_when_asked(tmp_path, monkeypatch, flush):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    with atomic_write(tmp_path / "a.jpg", flush=flush) as temporary:
        temporary.write_bytes(b"whole")
    assert (tmp_path / "a.jpg").read_bytes() == b"whole"
    assert len(flushed) == int(flush)


def test_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "µ\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "µ\n".encode()


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "poses.json"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_nothing_new(tmp_path):
    with pytest.raises(KeyError):
        write_half(tmp_path / "new.txt", KeyError)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_removes_its_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "poses.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "old"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old" * 1000)
    code = (
        "import sys, time\n"
        "from ebapose.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary, temporary.open('wb') as file:\n"
        "    file.write(b'half'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old" * 1000


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "a")
        with atomic_write(tmp_path / "b.txt") as temporary:  # a library that writes a file of its own
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")} == {0o666 & ~umask}


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as first, atomic_write(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer one ended last


def test_a_name_in_other_bytes_than_utf8_is_written_as_in_json(tmp_path):
    name = os.fsdecode(b"a\xff.jpg")
    write_text(tmp_path / "a.json", f'"ü {name}"')
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '"ü a\\udcff.jpg"'
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == f"ü {name}"


def test_the_longest_name_that_a_folder_takes(tmp_path):
    path = tmp_path / ("ü" * 125 + ".json")  # 255 bytes
    write_text(path, "x")
    assert list(tmp_path.iterdir()) == [path]
    with atomic_write(tmp_path / "short.json") as temporary:
        assert temporary.name.startswith(".short.")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder that takes no files is Linux's")
def test_an_error_names_the_file_that_was_asked_for():
    with pytest.raises(OSError, match=r"'/proc/x\.json'"):
        write_text("/proc/x.json", "x")


def test_a_folder_of_this_name_is_found_before_anything_is_written(tmp_path):
    (tmp_path / "poses.json").mkdir()
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / "poses.json"):
        pytest.fail("entered")


def test_a_growing_file_gives_up_records_for_its_end(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    file = GrowingText(path)
    for record in ("[1", ",2", ",3"):
        file.append(record)
    real, room = file._file, 6

    class Full:
        def write(self, data):
            left = room - real.tell()
            if left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real.write(data[:left])

        def __getattr__(self, name):
            return getattr(real, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            real.close()

    file._file = Full()
    with pytest.raises(OSError, match="No space"):
        file.append(",444")
    file.finish("  ]")
    assert path.read_text() == "[1  ]"
    file = GrowingText(path)
    file.append("[1")
    file._file, room, real = Full(), 1, file._file
    with pytest.raises(OSError, match="No space"):
        file.finish("]")
