"""The command line: verbs only. Each parses its arguments, calls one function of the package and prints.

Options and help come from the verbs' signatures and docstrings. Everything heavy is imported inside the verbs, so that
`ebapose --help` is quick.

Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, an unusable model file or a missing package, 130
interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

import tyro

from ebapose.cli.terminal import print_error
from ebapose.cli.training import train, train_with_overrides
from ebapose.cli.verbs import benchmark, evaluate, export, models, predict, tables
from ebapose.errors import EbaposeError, MissingDependencyError, ModelFileError, UsageError


def data() -> int:
    """Check, show, convert or make training data: see `ebapose data --help`."""
    raise UsageError("data: name what to do: check, show, convert or synth")


def weights() -> int:
    """Import published checkpoints, calibrate or average trained ones: see `ebapose weights --help`."""
    raise UsageError("weights: name what to do: import, calibrate or average")


def _group(name: str) -> dict[str, Callable[..., int]] | None:
    """The verbs of a group of verbs."""
    if name == "data":
        from ebapose.cli.data_group import check, convert, show, synth

        return {"check": check, "show": show, "convert": convert, "synth": synth}
    if name == "weights":
        from ebapose.cli.weights_group import average_weights, calibrate_weights, import_weights

        return {"import": import_weights, "calibrate": calibrate_weights, "average": average_weights}
    return None


VERBS: dict[str, Callable[..., int]] = {
    "predict": predict,
    "models": models,
    "evaluate": evaluate,
    "train": train,
    "export": export,
    "benchmark": benchmark,
    "tables": tables,
    "data": data,
    "weights": weights,
}


_OWN_EXTRA = {"train", "export"}  # verbs with an extra of their name, which has all that they need


def command() -> NoReturn:
    """The `ebapose` command: `main`, and the end of the process.

    A thread of an interrupted run may still be in the middle of a batch. It must not come back while the interpreter is
    torn down, which ends in an abort; what the run has written is complete by now.
    """
    code = main()
    if any(thread.name.startswith("ebapose-") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `ebapose` command with these arguments (default: the process's); returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may not be in the terminal's encoding
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if arguments in (["--version"], ["-V"]):
        from ebapose import __version__

        print(f"ebapose {__version__}")
        return 0
    try:
        if arguments[:1] == ["train"]:
            return train_with_overrides(arguments[1:])
        group = _group(arguments[0]) if len(arguments) > 1 else None
        if group is not None:
            return tyro.extras.subcommand_cli_from_dict(group, prog=f"ebapose {arguments[0]}", args=arguments[1:])
        return tyro.extras.subcommand_cli_from_dict(
            VERBS, prog="ebapose", description="2D human pose estimation: a photo in, poses out.", args=arguments
        )
    except (UsageError, ModelFileError, MissingDependencyError) as error:
        print_error(str(error))
        return 2
    except EbaposeError as error:
        print_error(str(error))
        return 1
    except ModuleNotFoundError as error:
        verb = arguments[0]
        words = " ".join(arguments[:2]) if _group(verb) else verb
        missing = MissingDependencyError.explaining(error, f"ebapose {words}", verb if verb in _OWN_EXTRA else "")
        if missing is None:
            raise
        print_error(str(missing))
        return 2
    except KeyboardInterrupt:
        print_error("interrupted; what was finished is written")
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        print_error(f"{place}{error.strerror}")
        return 1
