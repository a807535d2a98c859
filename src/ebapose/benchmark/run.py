"""How fast is it here? The network in every installed runtime, side by side in one run, and the way of a whole picture.

Other programs make a machine's speed drift. So contenders take turns within each round, and the ratio of two of them is
the median of the rounds' ratios: it holds on a busy machine where milliseconds do not.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ebapose.atomic import write_text
from ebapose.benchmark.contenders import Contender, open_for_prediction, open_model, open_other, open_registered
from ebapose.benchmark.machine import describe_machine, describe_timing, is_installed
from ebapose.benchmark.report import plot_benchmark
from ebapose.card import ModelCard
from ebapose.data.synthetic import Scene, draw_people
from ebapose.errors import EbaposeError, UsageError
from ebapose.inference.detector import NanoDet, PersonDetector
from ebapose.inference.loading import load, resolve_model
from ebapose.inference.run import predict_sources
from ebapose.inference.runtime import VerifiedRuntime, available_cores, choose_runtime
from ebapose.io.pictures import encode_picture
from ebapose.models.registry import parse_name
from ebapose.structures import Boxes, Frame

PICTURE_HW = (480, 640)
MAX_BATCH = 1024  # crops per call that a user could want; far more would only fill the memory
PAUSE_S = 0.1  # between turns: idle threads (ONNX Runtime's for over 5 ms) go on spinning and would slow the next one
_FIRST_PICTURE = """
import pathlib, re, sys
from ebapose.cli import main
code = main(sys.argv[1:])
status = pathlib.Path("/proc/self/status")
if status.exists():  # on Linux ru_maxrss begins with what the parent process held
    print(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1])
else:
    try:
        import resource
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    except ImportError:
        print(0)
sys.exit(code)
"""


@dataclass(frozen=True)
class NetworkTiming:
    """One network in one runtime at one batch size.

    Attributes:
        system: name of the model, or of the compared file.
        runtime: "openvino", "onnxruntime" or "torch" (eager).
        precision: "f32", "bf16" or "int8".
        batch_size: crops per call.
        ms_per_crop: median over the rounds.
        quartiles_ms: of the rounds, ms per crop.
        speedup: median over the rounds of PyTorch eager's time over this one's; None without PyTorch.
        against_model: median over the rounds of the time of the benchmarked model, in float32 in the same runtime, over
            this one's; None where that was not timed.
    """

    system: str
    runtime: str
    precision: str
    batch_size: int
    ms_per_crop: float
    quartiles_ms: tuple[float, float]
    speedup: float | None
    against_model: float | None = None


@dataclass(frozen=True)
class PipelineTiming:
    """A whole picture, from file to files.

    Attributes:
        picture: what it shows.
        stage_ms: median over the pictures, ms per stage.
        total_ms: median ms per picture, all stages.
        around_share: part of the total that is neither network nor detector.
    """

    picture: str
    stage_ms: dict[str, float]
    total_ms: float
    around_share: float


@dataclass(frozen=True)
class BenchmarkResult:
    """All that was measured. `start_s`: seconds of fresh processes; `peak_rss_mib`: of the one that predicts.

    `accuracy`: what the model's card says of it, e.g. {"AP (val, one pass)": 71.2}.
    """

    model: str
    default_runtime: str
    machine: dict[str, Any]
    networks: list[NetworkTiming]
    pipeline: PipelineTiming
    start_s: dict[str, float]
    peak_rss_mib: float | None
    accuracy: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def run_benchmark(
    model: str | Path = "default",
    *,
    systems: Sequence[str] = (),
    batch_sizes: Sequence[int] = (1, 2, 4, 8),
    repeats: int = 20,
    threads: int | None = None,
    compare: Path | None = None,
    out: Path | None = None,
) -> BenchmarkResult:
    """Measure; see the module's text.

    Args:
        model: bundled model or model file.
        systems: registered model names, timed beside it with random weights.
        batch_sizes: crops per network call, at most 1024; each is measured once.
        repeats: timed rounds.
        threads: CPU threads, all available ones by default.
        compare: an ONNX file of any other network: one picture input, NCHW or NHWC, any batch and size.
        out: folder for `benchmark.json` and, with matplotlib, `benchmark.png`: accuracy against latency.

    Raises:
        UsageError: a number or name makes no sense. ModelFileError: a file cannot be used or fed.
        MissingDependencyError: `systems` without torch.
    """
    threads = _checked_threads(repeats, threads)
    if not batch_sizes or not all(1 <= size <= MAX_BATCH for size in batch_sizes):
        raise UsageError(f"benchmark: batch sizes from 1 to {MAX_BATCH} expected")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{out}: cannot be written ({error.strerror})") from None
    for name in systems:
        parse_name(name)
    path = resolve_model(model)
    notes: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ebapose-benchmark-")))
        path, card, contenders = open_model(path, threads, folder, notes)
        for name in systems:
            contenders += open_registered(name, threads, folder)
        if compare is not None:
            contenders += open_other(compare, threads, card.input.size_hw)
        networks = [t for size in dict.fromkeys(batch_sizes) for t in time_networks(contenders, size, repeats)]
        picture, scene = _picture(folder)
        pipeline = _time_pipeline(path, picture, scene, threads, repeats, folder)
        start_s, peak_rss_mib = _time_starts(path, picture, threads, folder)
    result = BenchmarkResult(
        model=card.name,
        default_runtime=choose_runtime(path, "auto"),
        machine={**describe_machine(), "threads": threads},
        networks=networks,
        pipeline=pipeline,
        start_s=start_s,
        peak_rss_mib=peak_rss_mib,
        accuracy=_known_accuracy(card),
        notes=notes,
    )
    if out is not None:
        try:
            write_text(out / "benchmark.json", json.dumps(result.to_dict(), indent=2) + "\n")
            if is_installed("matplotlib"):
                plot_benchmark(result, out / "benchmark.png")
        except OSError as error:
            raise EbaposeError(f"{out}: cannot be written ({error.strerror})") from None
    return result


def time_registered(
    models: Mapping[str, tuple[str, Mapping[str, Any]]], repeats: int = 20, threads: int | None = None
) -> tuple[dict[str, NetworkTiming], str]:
    """Time registered models, which take turns in one run, one crop per call; and say how it was measured.

    In float32 in the runtime that predicts, and in no other: each network lies in memory once. Weights are random:
    latency does not depend on their values.

    Args:
        models: by what they are to be called: registered name and options of `create_model`.
        repeats: timed rounds.
        threads: CPU threads, all available ones by default.

    Raises:
        UsageError: a number or name makes no sense. MissingDependencyError: without torch.
    """
    threads = _checked_threads(repeats, threads)
    with tempfile.TemporaryDirectory(prefix="ebapose-benchmark-") as folder:
        contenders = [
            open_for_prediction(system, name, options, threads, Path(folder, str(number)))
            for number, (system, (name, options)) in enumerate(models.items())
        ]
        timings = {timing.system: timing for timing in time_networks(contenders, 1, repeats)}
    machine = {**describe_machine(), "threads": threads}
    return timings, describe_timing(machine, contenders[0].runtime, repeats)


def _checked_threads(repeats: int, threads: int | None) -> int:
    """How many threads to use. Raises UsageError where that or the number of rounds makes no sense."""
    if repeats < 1:
        raise UsageError(f"benchmark: {repeats} repeats make no sense")
    if threads is not None and not 1 <= threads <= 1024:
        raise UsageError(f"benchmark: {threads} threads make no sense")
    return threads or available_cores()


def _known_accuracy(card: ModelCard) -> dict[str, float]:
    """The APs in per cent that a card reports in its `about`, as `{"measured": {"val, one pass": {"AP": 71.2, ...}}}`.

    One pass first, as that is what is timed. Else that of the training's own validation, `{"validation": {"ap": 0.7}}`.
    """
    measured = card.about.get("measured")
    found: dict[str, float] = {}
    for name, values in measured.items() if isinstance(measured, dict) else ():
        ap = values.get("AP") if isinstance(values, dict) else None
        if isinstance(ap, int | float):
            found[f"AP ({name})"] = float(ap)
    validation = card.about.get("validation")
    ap = validation.get("ap") if isinstance(validation, dict) else None
    if not found and isinstance(ap, int | float):
        found["AP (validation while training, flip test)"] = 100 * float(ap)
    return dict(sorted(found.items(), key=lambda item: "one pass" not in item[0]))


def time_networks(contenders: Sequence[Contender], batch_size: int, repeats: int) -> list[NetworkTiming]:
    """Time networks that take turns within each round; the first one is what `against_model` compares with.

    Args:
        contenders: networks, each in a runtime.
        batch_size: crops per call.
        repeats: timed rounds.
    """
    for contender in contenders:
        for _ in range(2):  # the first calls of a shape compile and allocate
            contender.run(batch_size)
    rounds: list[list[float]] = [[] for _ in contenders]
    for number in range(repeats):
        for turn in range(len(contenders)):
            index = (turn + number) % len(contenders)
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            contenders[index].run(batch_size)
            rounds[index].append((time.perf_counter() - start) / batch_size)
    system = contenders[0].system
    exact = {
        c.runtime: seconds
        for c, seconds in zip(contenders, rounds, strict=True)
        if c.system == system and c.precision == "f32"
    }
    eager = {c.system: seconds for c, seconds in zip(contenders, rounds, strict=True) if c.runtime == "torch"}
    timings = []
    for contender, seconds in zip(contenders, rounds, strict=True):
        low, middle, high = (float(q) for q in np.percentile(seconds, [25, 50, 75]) * 1000)
        speedup = _median_ratio(eager.get(contender.system), seconds)
        against_model = _median_ratio(exact.get(contender.runtime), seconds)
        timings.append(
            NetworkTiming(
                contender.system,
                contender.runtime,
                contender.precision,
                batch_size,
                middle,
                (low, high),
                speedup,
                against_model,
            )
        )
    return timings


def _median_ratio(reference: list[float] | None, seconds: list[float]) -> float | None:
    return statistics.median(a / b for a, b in zip(reference, seconds, strict=True)) if reference else None


def _picture(folder: Path) -> tuple[Path, Scene]:
    """A JPEG with two drawn people."""
    scene = draw_people(PICTURE_HW, seed=3, num_people=2)
    path = folder / "two_people.jpg"
    path.write_bytes(encode_picture(scene.image))
    return path, scene


class _TwoPersons:
    """The bundled detector at work, but always two persons found: drawn people are not what it was trained on."""

    def __init__(self, detector: PersonDetector, boxes: Boxes) -> None:
        self._detector, self._boxes = detector, boxes

    def __call__(self, frame: Frame) -> Boxes:
        self._detector(frame)
        return self._boxes


def _time_pipeline(path: Path, picture: Path, scene: Scene, threads: int, repeats: int, folder: Path) -> PipelineTiming:
    detector = _TwoPersons(NanoDet(threads=threads), Boxes.from_xyxy(scene.boxes_xyxy))
    predictor = load(path, detector=detector, threads=threads)
    warm_up = 2 + VerifiedRuntime.WORTH_IT // len(scene.boxes_xyxy)  # by then the runtime is chosen
    runs = []
    for number in range(repeats + warm_up):
        summary = predict_sources(predictor, [str(picture)], folder / "out", ("overlay", "json"))
        if number >= warm_up:
            runs.append(summary.milliseconds)
    stage_ms = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
    around = [1 - (run["network"] + run["detect"]) / sum(run.values()) for run in runs]
    return PipelineTiming(
        picture=f"{PICTURE_HW[1]}x{PICTURE_HW[0]} JPEG, {len(scene.boxes_xyxy)} persons, overlay and JSON written",
        stage_ms=stage_ms,
        total_ms=statistics.median(sum(run.values()) for run in runs),
        around_share=statistics.median(around),
    )


def _time_starts(
    path: Path, picture: Path, threads: int, folder: Path, repeats: int = 3
) -> tuple[dict[str, float], float | None]:
    """Seconds of fresh processes (median), and the peak memory in MiB of the one that predicts a picture."""
    predict = [
        "predict",
        str(picture),
        "--whole-image",
        "--out",
        str(folder / "first"),
        "--model",
        str(path),
        "--threads",
        str(threads),
        "--quiet",
    ]
    commands = {
        "python alone": ["-c", "pass"],
        "import ebapose": ["-c", "import ebapose"],
        "ebapose --help": ["-m", "ebapose", "--help"],
        "first picture": ["-c", _FIRST_PICTURE, *predict],
    }
    package = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    peak = 0
    for _ in range(repeats):
        for name, arguments in commands.items():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
            seconds[name].append(time.perf_counter() - start)
            if done.returncode:
                raise EbaposeError(
                    f"benchmark: {name} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}"
                )
            if name == "first picture":
                peak = max(peak, int(done.stdout.split()[-1]))
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return {name: statistics.median(values) for name, values in seconds.items()}, peak / unit or None
