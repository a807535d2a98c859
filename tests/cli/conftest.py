"""Fixtures for the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cli_runs import Finished
from ebapose.cli import main


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    def run(*arguments: Any) -> Finished:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # of the argument parser
            code = exit_.code
        return Finished(code, *capfd.readouterr())

    return run
