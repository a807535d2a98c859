"""All verbs: help, wrong usage, packages that are missing; `train --keys` and `models`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli_runs import Finished
from ebapose.cli import VERBS
from ebapose.config import list_keys
from ebapose.training.config import TrainConfig

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["predict"], "name at least one picture"),
        (["predict", "x.jpg", "--model", "defualt"], "unknown model 'defualt', did you mean 'default'?"),
        (["predict", "x.jpg", "--model", "eba_prnetcc43_384x288"], "did you mean 'eba_prnetcc34_384x288'?"),
        (["predict", "x.jpg", "--boxes", "gone.json"], "gone.json: no such file"),
        (["predict", "x.jpg", "--save", "coco", "--annotations", "gone.json"], "gone.json: no such file"),
        (["predict", "x.jpg", "--batch-size", "0"], "batch size 0: must be at least 1"),
        (["predict", "x.jpg", "--threads", "0"], "threads 0: must be at least 1"),
        (["predict", "x.jpg", "--out", "/proc/nowhere"], "/proc/nowhere: cannot be written"),
        (["evaluate", "--annotations", "a.json", "--out", "o"], "give either a model or"),
        (["data"], "name what to do: check, show, convert or synth"),
        (["weights"], "name what to do: import"),
        (["export", "eba_prnetcc81_64x64", "--out", "o"], "did you mean 'eba_prnetcc18_64x64'?"),
    ],
)
def test_wrong_usage_in_one_line(
    arguments: list[str], cause: str, run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.code == 2
    (line,) = done.lines
    assert line.startswith("ebapose: ")
    assert cause in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_system_that_fails_is_named_in_one_line(
    run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ebapose.models.overview as overview

    def failing(error: Exception) -> Callable[..., Any]:
        def describe(**_: Any) -> Any:
            raise error

        return describe

    for error, line in (
        (NotADirectoryError(20, "Not a directory", "r.yaml/sub"), "ebapose: r.yaml/sub: Not a directory"),
        (OSError(28, "No space left on device"), "ebapose: No space left on device"),
    ):
        monkeypatch.setattr(overview, "describe_models", failing(error))
        done = run("models")
        assert (done.code, done.lines) == (1, [line])
    monkeypatch.setattr(overview, "describe_models", failing(OSError("a mistake of ours")))
    with pytest.raises(OSError, match="a mistake of ours"):
        run("models")


@pytest.mark.parametrize(
    "arguments", [[], ["pedict", "x.jpg"], ["predict", "x.jpg", "--sve", "json"], ["predict", "x.jpg", "--save", "gif"]]
)
def test_wrong_words_are_explained(arguments: list[str], run: Callable[..., Finished]) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert any("help" in line for line in done.lines)


def test_an_interruption_has_its_own_code(run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ebapose.inference.run.predict_sources", interrupted)
    done = run("predict", EXAMPLES, "--whole-image")
    assert (done.code, done.lines) == (130, ["ebapose: interrupted; what was finished is written"])


def test_a_thread_that_is_still_at_work_does_not_see_the_end_of_the_interpreter() -> None:
    """Coming back from a batch then would abort the process."""
    code = (
        "import atexit, threading, time, ebapose.cli as cli\n"
        "atexit.register(print, 'torn down')\n"
        "cli.main = lambda: print('interrupted') or 130\n"
        "if {busy}: threading.Thread(target=time.sleep, args=(60,), name='ebapose-ahead', daemon=True).start()\n"
        "cli.command()"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    for busy, out in ((True, "interrupted\n"), (False, "interrupted\ntorn down\n")):
        words = [sys.executable, "-c", code.format(busy=busy)]
        done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=50)
        assert (done.returncode, done.stdout, done.stderr) == (130, out, "")


def test_version(run: Callable[..., Finished]) -> None:
    assert re.fullmatch(r"ebapose \d+\.\d+\.\d+\n", run("--version").out)


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["models", "--json"]])
def test_help_and_listing_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, ebapose.cli as cli\n"
        "try: code = cli.main(sys.argv[1:])\n"
        "except SystemExit as e: code = e.code\n"
        "heavy = {'torch', 'openvino', 'onnxruntime', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert code == 0 and not heavy, (code, heavy)"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout or "SOURCE" in done.stdout or "num_parameters" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "recipes/smoke.yaml", "--out", "run"], "train"),
        (["export", "default", "--out", "exported"], "export"),
        (["weights", "average", "a", "b", "--out", "c"], "torch"),
        (["evaluate", "default", "--annotations", "gone.json", "--out", "report"], "train"),
    ],
)
def test_a_package_that_is_missing_is_named_in_one_line(arguments: list[str], extra: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(name, *_):\n"
        "        if name in {'torch', 'safetensors', 'accelerate'}: raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Without)\n"
        "sys.modules['faster_coco_eval'] = None\n"
        "import ebapose.cli as cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    recipes = Path(__file__).parents[2] / "recipes"
    words = [word.replace("recipes", str(recipes)) for word in arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ebapose: ")
    assert line.endswith(f'which is not installed: pip install "ebapose[{extra}]"')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", [*VERBS])
def test_every_verb_has_help(verb: str, run: Callable[..., Finished]) -> None:
    done = run(verb, "--help")
    assert done.code == 0
    assert f"ebapose {verb}" in done.out


def test_train_explains_every_key_of_a_recipe(run: Callable[..., Finished]) -> None:
    done = run("train", "--keys")
    assert done.code == 0
    rows = {line.split()[0]: line.split() for line in done.out.splitlines() if line.strip()}
    assert {"optim.lr", "data.train.repeat", "augment.photometric.hue_deg", "teacher.maps"} <= set(rows)
    assert rows["run.batch_size"][1:3] == ["32", "Samples"]
    assert rows["optim.lr"][1:3] == ["(needed)", "Peak"]
    assert all(key.meaning for key in list_keys(TrainConfig))


def test_models_lists_the_figures_of_the_paper(run: Callable[..., Finished]) -> None:
    done = run("models", "--json")
    assert done.code == 0
    rows = json.loads(done.out)
    found = {
        row["name"]: (round(row["num_parameters"] / 1000), f"{row['gmac']['paper']:.3f}")
        for row in rows
        if not row["options"]
    }
    expected = {
        "eba_prnetcc34_384x288": (29_606, "8.170"),
        "eba_prnetcc34_slp_384x288": (35_013, "8.262"),
        "eba_prnetcc18_384x288": (19_393, "4.093"),
        "eba_prnetcc34_256x256": (28_082, "4.843"),
        "eba_prnetcc18_256x256": (17_869, "2.427"),
    }
    assert {name: found[name] for name in expected} == expected
    assert rows[0]["bundled"][0] == "default"


def test_models_as_a_table(run: Callable[..., Finished]) -> None:
    table = run("models").out
    assert re.search(r"eba_prnetcc34_384x288 +│ +384x288 +│ +29\.606 M │ +10\.662 │ +8\.170 ", table)
    assert "test_" not in table
    assert "test_simcc_64x64" in run("models", "--test").out
