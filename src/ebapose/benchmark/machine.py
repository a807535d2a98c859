"""Where a benchmark ran: the machine, and what is installed on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebapose.inference.runtime import available_cores

PACKAGES = ("ebapose", "numpy", "opencv-python-headless", "openvino", "onnxruntime", "torch")


def describe_machine() -> dict[str, Any]:
    """CPU, cores, system, and versions of what is installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package == "ebapose":  # a checkout that is not installed
                from ebapose import __version__

                versions[package] = __version__
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def describe_timing(machine: Mapping[str, Any], runtime: str, repeats: int) -> str:
    """Under which conditions networks with random weights were timed, as a phrase.

    Args:
        machine: from `describe_machine`, with `threads`.
        runtime: the one whose times are reported, in float32.
        repeats: timed rounds.
    """
    version = machine["versions"].get(runtime, "")
    text = (
        f"median of {repeats} rounds, one crop per call, all systems taking turns in one run, random weights, "
        f"{runtime} {version} in float32 on {count_threads(machine)} of {machine['cpu']}"
    )
    return f"{text}, load average {machine['load_average']:.1f}" if machine.get("load_average") else text


def count_threads(machine: Mapping[str, Any]) -> str:
    """ "2 threads", "1 thread": of `describe_machine` with `threads`."""
    return f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def is_installed(package: str) -> bool:
    """Whether it can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None
