"""`ebapose predict`: what it writes, exit codes, and one line for each kind of bad input."""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from cli_runs import Finished
from ebapose import zoo
from ebapose.card import card_path
from ebapose.cli import VERBS
from ebapose.draw import DRAWN_SCORE

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = zoo.bundled_models()["default"]
PERSONS = {"balance.jpg": 1, "park.jpg": 2, "treadmill.jpg": 2}


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
