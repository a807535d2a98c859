"""The command line: what `predict` writes, exit codes, and one line for each kind of bad input."""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from ebapose import zoo
from ebapose.card import card_path
from ebapose.cli import VERBS, main
from ebapose.config import list_keys
from ebapose.draw import DRAWN_SCORE
from ebapose.training.config import TrainConfig

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL = zoo.bundled_models()["default"]
PERSONS = {"balance.jpg": 1, "park.jpg": 2, "treadmill.jpg": 2}


class Finished:
    """What a command left behind: its exit code, standard output, and the lines on standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.lines = code, out, err.splitlines()

    def line_about(self, name: Any) -> str:
        """The one line that names a file."""
        (line,) = [line for line in self.lines if str(name) in line]
        return line


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    def run(*arguments: Any) -> Finished:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # of the argument parser
            code = exit_.code
        return Finished(code, *capfd.readouterr())

    return run


def picture(path: Path) -> Path:
    """A picture of nobody."""
    cv2.imwrite(str(path), np.full((120, 90, 3), 110, np.uint8))
    return path


def bomb(path: Path) -> None:
    """A PNG of a few bytes that claims 10,000 million px."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b""))


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example pictures under names with a COCO image id."""
    folder = tmp_path_factory.mktemp("numbered")
    for number, name in enumerate(PERSONS, 1):
        (folder / f"{number:06d}.jpg").write_bytes((EXAMPLES / name).read_bytes())
    return folder


def test_predict_writes_all_formats(run: Callable[..., Finished], numbered: Path, tmp_path: Path) -> None:
    done = run("predict", numbered, "--out", tmp_path, "--save", "overlay", "json", "coco", "csv", "parquet")
    assert (done.code, done.lines) == (0, [])
    assert re.match(r"3 images, 5 persons in \d+\.\d s -> ", done.out)
    assert f"model: {zoo.bundled_card(MODEL).name} (openvino, " in done.out

    poses = json.loads((tmp_path / "poses.json").read_text(encoding="utf-8"))
    schema = json.loads(resources.files("ebapose.io").joinpath("poses.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(poses, schema)
    assert [len(image["persons"]) for image in poses["images"]] == list(PERSONS.values())
    assert poses["failed"] == []
    for image in poses["images"]:
        for person in image["persons"]:
            points = np.array(person["keypoints"], float)
            left, top, right, bottom = person["box_xyxy"]
            near = (points[:, 0] > left - 60) & (points[:, 0] < right + 60)
            assert (near & (points[:, 1] > top - 60) & (points[:, 1] < bottom + 60)).all()
            assert points.shape == (17, 5)

    results = json.loads((tmp_path / "coco_results.json").read_text())
    assert [result["image_id"] for result in results] == [1, 2, 2, 3, 3]
    flat = [person for image in poses["images"] for person in image["persons"]]
    for result, person in zip(results, flat, strict=True):
        assert result["keypoints"] == [value for keypoint in person["keypoints"] for value in keypoint[:3]]

    with (tmp_path / "poses.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 17
    assert float(rows[0]["x"]) == pytest.approx(flat[0]["keypoints"][0][0])
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(tmp_path / "poses.parquet").to_pydict()
    assert table["x"] == [float(row["x"]) for row in rows]
    assert table["keypoint"][:2] == ["nose", "left_eye"]

    for number, name in enumerate(PERSONS, 1):
        drawn = cv2.imread(str(tmp_path / f"{number:06d}.jpg")).astype(int)
        original = cv2.imread(str(EXAMPLES / name)).astype(int)
        assert drawn.shape == original.shape
        changed = (np.abs(drawn - original).max(axis=2) > 40).mean()
        assert 0.001 < changed < 0.2, name


def test_quiet_prints_nothing(run: Callable[..., Finished], tmp_path: Path) -> None:
    done = run("predict", EXAMPLES / "park.jpg", "--out", tmp_path, "--save", "json", "--quiet")
    assert (done.code, done.out, done.lines) == (0, "", [])


def test_names_without_a_number_are_no_coco_results(run: Callable[..., Finished], tmp_path: Path) -> None:
    done = run("predict", EXAMPLES / "park.jpg", "--out", tmp_path, "--save", "coco", "json")
    assert done.code == 1
    assert "COCO results need an image id" in done.line_about("park.jpg")
    assert len(json.loads((tmp_path / "poses.json").read_text())["images"]) == 1


def test_each_bad_picture_gets_one_line_and_the_rest_goes_on(
    run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (EXAMPLES / "park.jpg").read_bytes()
    (tmp_path / "a_good.jpg").write_bytes(good)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.jpg").write_text("Dear diary")
    bomb(tmp_path / "bomb.png")
    picture(tmp_path / "nobody.png")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "z_good.jpg").write_bytes(good)
    scandir = os.scandir

    def locked(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)  # permissions do not stop an administrator
    causes = {
        "empty.jpg": "the file is empty",
        "truncated.jpg": "truncated JPEG file",
        "text.jpg": "not a picture that can be read",
        "bomb.png": "100000x100000 px is too large",
        "missing.jpg": "no such file",
        "nobody.png": "no person found",
        "hollow": "no pictures in this folder",
        "locked": "the folder cannot be read (Permission denied)",
        "http://example.org/a.jpg": "is an address, not a file",
    }
    sources = [name if "://" in name else tmp_path / name for name in ("a_good.jpg", *causes, "z_good.jpg")]
    done = run("predict", *sources, "--out", tmp_path / "out", "--save", "json")
    assert done.code == 1
    assert len(done.lines) == len(causes)
    for name, cause in causes.items():
        assert cause in done.line_about(name), name
        assert done.line_about(name).startswith("ebapose: ")
    assert done.out.startswith(f"3 images, 4 persons, {len(causes)} problems in ")
    poses = json.loads((tmp_path / "out/poses.json").read_text())
    assert [Path(image["file"]).name for image in poses["images"] if image["persons"]] == ["a_good.jpg", "z_good.jpg"]
    assert len(poses["failed"]) == len(causes)


def test_an_unreadable_folder_within_a_folder_counts(
    run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in/locked").mkdir(parents=True)
    (tmp_path / "in/good.jpg").write_bytes((EXAMPLES / "park.jpg").read_bytes())
    scandir = os.scandir

    def locked(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    done = run("predict", tmp_path / "in", "--out", tmp_path / "out", "--save", "json")
    assert done.code == 1
    assert done.lines == [f"ebapose: {tmp_path / 'in/locked'}: the folder cannot be read (Permission denied)"]
    assert done.out.startswith("1 image, 2 persons, 1 problem ")


def test_bad_boxes_are_named_and_good_ones_are_used(run: Callable[..., Finished], tmp_path: Path) -> None:
    boxes = [
        {"file_name": "park.jpg", "bbox": [705, 296, 120, 211], "score": 0.9},
        {"file_name": "park.jpg", "bbox": [5000, 10, 40, 80], "score": 0.9},
        {"file_name": "park.jpg", "bbox": [40, 10, 0, 80], "score": 0.9},
        {"file_name": "park.jpg", "bbox": [40, 10, -5, 80], "score": 0.9},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    pictures = EXAMPLES / "park.jpg", EXAMPLES / "balance.jpg"
    done = run("predict", *pictures, "--boxes", tmp_path / "boxes.json", "--out", tmp_path / "out", "--save", "json")
    assert done.code == 1
    assert "lies outside the picture (960x540)" in done.line_about("park.jpg: box (5000, 10, 5040, 90)")
    assert "has no area" in done.line_about("park.jpg: box (40, 10, 40, 90)")
    assert "not among the pictures of the given boxes" in done.line_about("balance.jpg")
    assert "bbox (40, 10, -5, 80) has a negative size" in done.line_about("park.jpg: entry 3 of ")
    assert len(done.lines) == 4
    poses = json.loads((tmp_path / "out/poses.json").read_text())
    assert len(poses["failed"]) == 4
    (person,) = poses["images"][0]["persons"]
    assert person["box_xyxy"] == [705, 296, 825, 507]
    assert person["box_score"] == 0.9


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--save", "--quiet"), "--save: name at least one"),
        (("--boxes", "b.json", "--whole-image"), "--boxes and --whole-image exclude each other"),
        (("--detector-score", "nan"), "detector score nan: must lie in 0..1"),
        (("--detector-tiles", "5"), "detector tiles 5: must lie in 1..4"),
        (("--detector-tiles", "2", "--whole-image"), "--detector-tiles: with --whole-image there is no detector"),
        (("--detector-tiles", "2", "--boxes", "b.json"), "--detector-tiles: with --boxes there is no detector"),
        (("--min-score", "nan"), "the lowest score of drawn keypoints must lie in 0..1, not nan"),
        (("--min-score", "7"), "the lowest score of drawn keypoints must lie in 0..1, not 7"),
        (("--fps", "0"), "frames per second: 0 is not possible"),
        (("--save", "plots", "sheet"), "plots, sheet: written for videos, not for pictures"),
    ],
)
def test_requests_that_make_no_sense(
    run: Callable[..., Finished], options: tuple[str, ...], cause: str, tmp_path: Path
) -> None:
    done = run("predict", picture(tmp_path / "a.png"), "--out", tmp_path / "out", *options)
    assert (done.code, len(done.lines)) == (2, 1)
    assert cause in done.lines[0]
    assert not (tmp_path / "out").exists()


def test_a_line_break_in_a_name_does_not_make_two_lines(run: Callable[..., Finished], tmp_path: Path) -> None:
    done = run("predict", tmp_path / "new\nline.jpg", "--out", tmp_path / "out")
    assert done.lines == [f"ebapose: {tmp_path}/new\\nline.jpg: no such file"]


def test_sources_are_said_to_be_required(run: Callable[..., Finished]) -> None:
    done = run("predict", "--help")
    assert "(default: )" not in done.out
    assert "(required)" in done.out


def test_the_command_line_draws_what_python_draws() -> None:
    assert inspect.signature(VERBS["predict"]).parameters["min_score"].default == DRAWN_SCORE


def test_whole_image_needs_no_detector(run: Callable[..., Finished], tmp_path: Path) -> None:
    done = run("predict", picture(tmp_path / "a.png"), "--whole-image", "--out", tmp_path / "out", "--save", "json")
    assert done.code == 0
    (image,) = json.loads((tmp_path / "out/poses.json").read_text())["images"]
    assert image["persons"][0]["box_xyxy"] == [0, 0, 90, 120]


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
def test_runtimes_of_the_command_line_agree(run: Callable[..., Finished], runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    options = "--runtime", runtime, "--out", tmp_path, "--save", "json", "--threads", 2
    done = run("predict", EXAMPLES / "park.jpg", *options)
    assert done.code == 0
    assert f"({runtime}, " in done.out
    (image,) = json.loads((tmp_path / "poses.json").read_text())["images"]
    expected = [(705, 296, 825, 507), (278, 26, 394, 250)]
    np.testing.assert_allclose([person["box_xyxy"] for person in image["persons"]], expected, atol=3)


def write_model(folder: Path, kind: str) -> Path:
    """Files that are no models, each in its own way."""
    path = folder / f"{kind}.onnx"
    if kind == "text":
        path.write_text("weights? none\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "detector":
        path.symlink_to(zoo.DETECTOR)
    elif kind == "replaced":
        path.symlink_to(MODEL)
        card = json.loads(card_path(MODEL).read_text(encoding="utf-8"))
        card_path(path).write_text(json.dumps({**card, "sha256": "0" * 64}))
    elif kind == "badcard":
        path.symlink_to(MODEL)
        card_path(path).write_text("{")
    return path


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("missing", "no such model file"),
        ("folder", "is a folder, not a model file"),
        ("text", "not an ONNX file, or damaged"),
        ("detector", "no model card beside it or inside it"),
        ("replaced", "sha256 differs from its card replaced.card.json: damaged or replaced"),
        ("badcard", "the model card is not JSON"),
    ],
)
def test_a_model_file_that_cannot_be_used(kind: str, cause: str, run: Callable[..., Finished], tmp_path: Path) -> None:
    path = write_model(tmp_path, kind)
    done = run("predict", EXAMPLES, "--model", path, "--whole-image", "--out", tmp_path / "out")
    assert done.code == 2
    (line,) = done.lines  # the runtimes keep quiet
    assert line.startswith(f"ebapose: {path.with_suffix('')}")
    assert cause in line
    assert not (tmp_path / "out").exists()


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
    recipes = Path(__file__).parents[1] / "recipes"
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
