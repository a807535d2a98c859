"""What a benchmark measured, as a table for a terminal and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ebapose.atomic import atomic_write
from ebapose.benchmark.machine import count_threads

if TYPE_CHECKING:
    from rich.console import Group

    from ebapose.benchmark.run import BenchmarkResult


def benchmark_table(result: BenchmarkResult) -> Group:
    """The result for a terminal."""
    from rich.console import Group
    from rich.table import Table

    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    head = f"{machine['cpu']}, {machine['threads']} of {machine['cores']} threads, {machine['system']}\n"
    head += f"Python {machine['python']}, {versions}"

    networks = Table(title="Network", title_justify="left")
    for header in ("model", "runtime", "batch"):
        networks.add_column(header)
    for header in ("ms per crop", "quartiles", "against PyTorch eager", "against the model in f32"):
        networks.add_column(header, justify="right")
    for t in result.networks:
        runtime = f"{t.runtime} {t.precision}" + (" eager" if t.runtime == "torch" else "")
        networks.add_row(
            t.system,
            runtime,
            str(t.batch_size),
            f"{t.ms_per_crop:.2f}",
            f"{t.quartiles_ms[0]:.2f} - {t.quartiles_ms[1]:.2f}",
            _ratio(t.speedup),
            _ratio(t.against_model),
        )

    pipeline = Table(title=f"Picture to files: {result.pipeline.picture}", title_justify="left")
    for stage in (*result.pipeline.stage_ms, "total"):
        pipeline.add_column(stage, justify="right")
    values = [*result.pipeline.stage_ms.values(), result.pipeline.total_ms]
    pipeline.add_row(*(f"{ms:.2f} ms" for ms in values))

    starts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in result.start_s.items())
    tail = [f"neither network nor detector: {100 * result.pipeline.around_share:.0f} %", f"fresh processes: {starts}"]
    if result.peak_rss_mib is not None:
        tail.append(f"peak memory of predicting one picture: {result.peak_rss_mib:.0f} MiB")
    best = {
        t.batch_size: t.speedup
        for t in result.networks
        if t.system == result.model and t.runtime == result.default_runtime
    }
    ratios = ", ".join(f"{ratio:.2f}x at batch {size}" for size, ratio in best.items() if ratio is not None)
    tail.append(
        f"default runtime: {result.default_runtime}" + (f", {ratios} of PyTorch eager's speed" if ratios else "")
    )
    return Group(head, networks, pipeline, *tail, *result.notes)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def plot_benchmark(result: BenchmarkResult, path: Path) -> None:
    """Accuracy against latency, one point per network, runtime and precision at the smallest batch size.

    Only the model's own card says how accurate it is; what has no known accuracy stands on the axis, hollow. Raises
    OSError where the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    batch_size = min(t.batch_size for t in result.networks)
    name, accuracy = next(iter(result.accuracy.items()), ("AP", None))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, t in enumerate(t for t in result.networks if t.batch_size == batch_size):
        known = accuracy if t.system == result.model else None
        errors = [[max(t.ms_per_crop - t.quartiles_ms[0], 0.0)], [max(t.quartiles_ms[1] - t.ms_per_crop, 0.0)]]
        axes.errorbar(
            t.ms_per_crop,
            0.0 if known is None else known,
            xerr=errors,
            fmt="o",
            color=f"C{number % 10}",
            fillstyle="none" if known is None else "full",
            label=f"{t.system}, {t.runtime} {t.precision}"
            + (" (accuracy unknown)" if known is None and accuracy is not None else ""),
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=min(-1.0, -0.05 * (accuracy or 0.0)))
    if accuracy is None:
        axes.set_yticks([])
    axes.set_xlabel(f"ms per crop, batch {batch_size}, {count_threads(result.machine)} (median and quartiles)")
    axes.set_ylabel(name if accuracy is not None else "accuracy unknown")
    axes.legend(fontsize="x-small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
