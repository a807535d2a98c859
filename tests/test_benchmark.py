"""The benchmark: everything takes turns in one run, ratios are medians of rounds, results are table, JSON and plot."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("openvino")

from ebapose import zoo
from ebapose.benchmark import run
from ebapose.benchmark.contenders import Contender
from ebapose.benchmark.machine import count_threads, describe_machine
from ebapose.benchmark.report import benchmark_table
from ebapose.benchmark.run import BenchmarkResult, run_benchmark, time_networks, time_registered
from ebapose.errors import ModelFileError, UsageError


@pytest.fixture(autouse=True)
def no_fresh_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_time_starts", lambda *args: ({"ebapose --help": 0.5}, 300.0))


def text_of(result: BenchmarkResult) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(benchmark_table(result))
    return capture.get()


def test_table_json_and_plot_with_another_model_beside(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run_benchmark(
        "default", batch_sizes=(1, 2, 2), repeats=2, threads=1, compare=zoo.DETECTOR, out=tmp_path / "new"
    )
    own = [t for t in result.networks if t.system == result.model]
    assert {t.batch_size for t in own} == {1, 2}
    assert {("openvino", "f32")} <= {(t.runtime, t.precision) for t in own}
    assert any(t.system == zoo.DETECTOR.name for t in result.networks)
    for t in result.networks:
        assert 0 < t.quartiles_ms[0] <= t.ms_per_crop <= t.quartiles_ms[1]
        assert t.against_model is not None or t.runtime == "torch"
    assert all(t.against_model == 1 for t in own if t.runtime == "openvino" and t.precision == "f32")
    written = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert written == json.loads(json.dumps(result.to_dict()))
    assert written["machine"]["threads"] == 1
    assert result.pipeline.total_ms >= sum(result.pipeline.stage_ms.values()) * 0.5
    plot = cv2.imread(str(tmp_path / "new" / "benchmark.png"))
    assert plot is not None
    assert plot.std() > 1
    text = text_of(result)
    for part in (result.model, zoo.DETECTOR.name, result.machine["cpu"], "300 MiB", "ebapose --help 0.50 s"):
        assert part in text


def test_ratios_are_medians_of_the_rounds() -> None:
    clock = iter(range(10**6))

    def busy(turns: int) -> None:
        for _ in range(turns * 2000):
            next(clock)

    slow = Contender("a", "torch", "f32", lambda count: busy(40 * count))
    exact = Contender("a", "openvino", "f32", lambda count: busy(20 * count))
    fast = Contender("a", "openvino", "bf16", lambda count: busy(5 * count))
    clock = iter(range(10**9))
    timings = time_networks([slow, exact, fast], batch_size=1, repeats=9)
    assert timings[0].speedup == 1
    assert timings[2].speedup is not None
    assert timings[2].against_model is not None
    assert timings[2].speedup > timings[2].against_model > 1.5
    assert timings[1].against_model == 1


def test_accuracy_comes_from_the_card() -> None:
    card = zoo.bundled_card(zoo.bundled_models()["default"])
    found = run._known_accuracy(card)
    assert len(found) == 4
    assert "val, ground-truth boxes, one pass" in next(iter(found))
    assert all(0 < value < 100 for value in found.values())
    odd = card.model_copy(update={"about": {"measured": {"val": {"AP": 71.5}, "note": "flip", "test": {"PCK": 3}}}})
    assert run._known_accuracy(odd) == {"AP (val)": 71.5}
    assert run._known_accuracy(card.model_copy(update={"about": {}})) == {}
    trained = card.model_copy(update={"about": {"validation": {"ap": 0.5, "pck": 0.7}}})
    assert run._known_accuracy(trained) == {"AP (validation while training, flip test)": 50.0}


def test_a_folder_that_cannot_be_made_is_refused_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: cannot be written"):
        run_benchmark(out=tmp_path / "file", repeats=10**6)


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert [count_threads({**machine, "threads": number}) for number in (1, 2)] == ["1 thread", "2 threads"]
    assert machine["versions"]["numpy"] == np.__version__


def test_variants_of_one_model_are_timed_in_the_runtime_that_predicts() -> None:
    name, small = "eba_prnetcc18_64x64", {"width": 8, "deconv_channels": 8}
    models = {"ours": (name, {**small, "reduction": 4}), "no attention": (name, {**small, "reduction": None})}
    timings, about = time_registered(models, repeats=3, threads=1)
    assert list(timings) == ["ours", "no attention"]
    assert {(t.runtime, t.precision, t.batch_size) for t in timings.values()} == {("openvino", "f32", 1)}
    assert all(0 < t.quartiles_ms[0] <= t.ms_per_crop <= t.quartiles_ms[1] for t in timings.values())
    assert about.startswith("median of 3 rounds, one crop per call, all systems taking turns in one run")
    with pytest.raises(UsageError, match="0 repeats make no sense"):
        time_registered(models, repeats=0)


def test_wrong_usage_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 repeats make no sense"):
        run_benchmark(repeats=0)
    for sizes in ((), (0,), (1, 1025)):
        with pytest.raises(UsageError, match="batch sizes from 1 to 1024 expected"):
            run_benchmark(batch_sizes=sizes)
    for threads in (0, 100_000):
        with pytest.raises(UsageError, match=f"{threads} threads make no sense"):
            run_benchmark(threads=threads)
    with pytest.raises(UsageError, match="did you mean"):
        run_benchmark(systems=["simcc51_256x192"])
    with pytest.raises(ModelFileError, match="no such file"):
        run_benchmark(compare=tmp_path / "none.onnx")
