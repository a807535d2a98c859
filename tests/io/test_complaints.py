"""What decoders print is heard, and the process's standard error and OpenCV's log level are as before afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ebapose.io.complaints import listening, silent_opencv
from ebapose.io.pictures import decode_image, encode_picture


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)


def test_what_others_write_meanwhile_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    complaints: list[str] = []
    with listening(complaints):
        os.write(2, b"one\nCorrupt JPEG data: bad Huffman code\ntwo\n")
    assert complaints == ["Corrupt JPEG data: bad Huffman code"]
    assert capfd.readouterr().err == "one\ntwo\n"


_IN_THREADS = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from ebapose.io.complaints import _opencv_log
from ebapose.io.pictures import read_image
def state():
    return os.fstat(2).st_ino, os.fstat(2).st_dev, _opencv_log.getLogLevel()
before = state()
sys.setswitchinterval(1e-6)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(read_image, sys.argv[1:] * 8))
assert state() == before, f"{before} became {state()}"
"""


def test_threads_leave_the_process_as_it_was(tmp_path: Path) -> None:
    """In a process of its own: what the first threads make for all is made once in each."""
    files = [tmp_path / f"{i}{suffix}" for i in range(4) for suffix in (".jpg", ".png")]
    for file in files:
        file.write_bytes(encode_picture(noise(512), file.suffix))
    done = subprocess.run([sys.executable, "-c", _IN_THREADS, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
def test_a_forked_child_does_not_wait_for_threads_that_it_does_not_have() -> None:
    data = encode_picture(noise(32))
    with listening([]), silent_opencv():  # as another thread of the parent, which does not go on in the child
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(30)
                decode_image(data)
                os._exit(0)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
