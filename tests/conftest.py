"""Fixtures for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import hypothesis
import pytest

# What a shell starts in the background ignores Ctrl-C, and so would the processes whose Ctrl-C is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples everywhere, and no deadline: a busy machine is no failure.
hypothesis.settings.register_profile("ebapose", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("ebapose")

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and models beside the checkout; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    return SHARED
