"""The paper's tables and figures: what they say, and that they say where nothing was measured."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ebapose.benchmark.run
import ebapose.comparison as comparison
from ebapose.benchmark.run import NetworkTiming
from ebapose.errors import InputError, UsageError
from ebapose.evaluation.figures import FIGURE_5, FIGURE_6, covered, darkened, draw_conditions, plot_accuracy, turned
from ebapose.evaluation.paper import FINDINGS, TABLES
from ebapose.evaluation.tables import Latency, build_tables, read_report, tables_markdown, timed_models
from ebapose.skeleton import COCO17
from ebapose.structures import Boxes, Poses


def report(folder: Path, **changes: Any) -> Path:
    stats = {"AP": 0.5, "AP50": 0.75, "AP75": 0.25, "APM": None, "APL": 0.625, "AR": 0.5}
    metrics = {"data_set": "mine.json", "box_mode": "gt", "num_persons": 7, "coco": stats, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def rows_of(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for table in content["tables"] for row in table["rows"]}


def test_every_row_of_the_paper_with_differences() -> None:
    content = build_tables()
    assert [table["title"].split(":")[0] for table in content["tables"]] == [f"Table {i}" for i in (1, 2, 3, 4)]
    rows = rows_of(content)
    assert len(rows) == 8 + 2  # the paper's, and lite
    simcc = rows["simcc50_384x288"]
    assert simcc["parameters_m"]["difference"] == pytest.approx(43.290769 - 36.8)
    assert simcc["gmac"]["hrnet"]["difference"] == pytest.approx(20.23 - 20.4, abs=0.005)
    assert simcc["gmac"]["true"]["difference"] == pytest.approx(12.37 - 20.4, abs=0.005)
    assert rows["eba_prnetcc_lite18_384x288"]["parameters_m"]["difference"] is None
    assert all(row["latency"] is None and row["measured_accuracy"] == [] for row in rows.values())


def test_where_the_convention_is_unknown_no_difference_is_bold() -> None:
    content = build_tables()
    tfpose = rows_of(content)["tfpose50_384x288"]["gmac"]
    assert (tfpose["published"], tfpose["counted_as"]) == (20.4, None)
    line = next(line for line in tables_markdown(content).splitlines() if line.startswith("| TFPose R50<"))
    assert line.count("**") == 2  # that of the parameters


def test_the_papers_own_rows_are_truncated_figures_of_ours() -> None:
    for row in rows_of(build_tables()).values():
        if row["model"].startswith("eba_") and row["parameters_m"]["published"] is not None:
            assert math.floor(row["parameters_m"]["ours"]) == row["parameters_m"]["published"]
            assert math.floor(10 * row["gmac"]["paper"]["ours"]) / 10 == row["gmac"]["published"]


def test_the_copied_row_and_the_mixed_splits_are_in_the_data() -> None:
    published = {row.model: row for _, rows in TABLES for row in rows}
    assert published["eba_prnetcc18_384x288"].accuracy == published["eba_prnetcc34_256x256"].accuracy
    assert len({row.boxes for row in published.values() if row.boxes}) == 3
    text = tables_markdown(build_tables())
    for word in (
        "truncated",
        "transposed convolutions",
        "mixes splits",
        "copying error",
        "36,753,105",
        "lite18 loses no accuracy",
    ):
        assert word in text.split("## Findings")[1]
    assert all(1 <= note <= len(FINDINGS) for row in published.values() for note in row.notes)


def test_markdown_names_boxes_and_data_and_says_what_is_not_measured(tmp_path: Path) -> None:
    name = "eba_prnetcc34_384x288"
    measured = [
        read_report(f"{name}={report(tmp_path / 'a')}"),
        read_report(report(tmp_path / "other", box_mode="detector")),
    ]
    latencies = {name: Latency(12.34, (12.0, 13.0), "openvino f32")}
    content = build_tables(measured, latencies)
    json.dumps(content, allow_nan=False)
    text = tables_markdown(content, ["figure.png"], "median of 3 rounds")
    line = "| EBA-PRNetCC34 384x288 | ours | mine.json (7 persons), ground-truth boxes "
    assert line + "| 50.0 | 75.0 | 25.0 | - | 62.5 | 50.0 |" in text
    assert "| SimCC R50 384x288 | ours | not measured |" in text
    assert "mine.json (7 persons), detector boxes" in text.split("## Other models")[1]
    assert "| 12.3 |" in text
    assert "median of 3 rounds" in text
    assert "(**+6.491**)" in text
    assert "-0.000" not in text
    for line in text.splitlines():  # every table is rectangular
        if line.startswith("| ") and "---" not in line:
            assert line.count("|") in (10, 8 + 2)


def test_bundled_weights_go_by_the_name_of_their_model(tmp_path: Path) -> None:
    (row,) = build_tables([read_report(f"default={report(tmp_path / 'x')}")])["other_models"]
    assert row["model"].startswith("eba_prnetcc18_")
    assert row["parameters_m"]["ours"] is not None


def test_a_report_may_name_its_model_itself(tmp_path: Path) -> None:
    assert read_report(report(tmp_path / "x", model="simcc50_384x288") / "metrics.json").model == "simcc50_384x288"
    assert read_report(report(tmp_path / "run7")).model == "run7"
    assert read_report(report(tmp_path / "lr=0.1")).model == "lr=0.1"
    with contextlib.chdir(tmp_path / "run7"):
        assert read_report(".").model == read_report("metrics.json").model == "run7"


def test_reports_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no evaluation report"):
        read_report(tmp_path / "nothing")
    for content in ("[]", "{", '{"coco": {}}'):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(InputError, match=r"metrics\.json: not an evaluation report"):
            read_report(tmp_path)
    for box_mode, named in (("guess", "'guess'"), (["gt"], r"\['gt'\]")):
        with pytest.raises(InputError, match=f"box mode {named}"):
            read_report(report(tmp_path / "x", box_mode=box_mode))
    for name in ("=", "simcc50_384x288=", f"={report(tmp_path / 'x')}"):
        with pytest.raises(UsageError, match="write MODEL=PATH"):
            read_report(name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 71.5, -1])
def test_accuracies_are_shares(tmp_path: Path, value: float) -> None:
    stats = {"AP": value, "AP50": 0.75, "AP75": 0.25, "APM": None, "APL": 0.625, "AR": 0.5}
    with pytest.raises(InputError, match=f"AP is {value}, expected a share of 0 to 1"):
        read_report(report(tmp_path / "x", coco=stats))


def test_a_bar_in_a_name_stays_within_its_cell(tmp_path: Path) -> None:
    text = tables_markdown(build_tables([read_report(report(tmp_path / "x", data_set="a|b.json"))]))
    assert "| a\\|b.json (7 persons)" in text


def test_one_pass_and_flip_test_are_told_apart(tmp_path: Path) -> None:
    assert read_report(report(tmp_path / "x", flip_test=True)).conditions.endswith("boxes, flip test")
    assert read_report(report(tmp_path / "x", flip_test=False)).conditions.endswith("boxes, one pass")


@pytest.mark.parametrize("measured", [False, True])
def test_figure_5(tmp_path: Path, measured: bool) -> None:
    reports = [read_report(f"simcc50_384x288={report(tmp_path / 'a')}"), read_report(report(tmp_path / "unknown"))]
    path = plot_accuracy(build_tables(reports if measured else []), tmp_path / FIGURE_5)
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)
    blue = (np.abs(image - (0x2F, 0x6D, 0xB5)).max(axis=-1) < 8).sum()
    assert blue > 200 if measured else blue < 200  # only the legend's mark


def test_the_key_of_figure_5_is_not_cut_off(tmp_path: Path) -> None:
    long = "a_name_" * 12 + ".json"
    reports = [read_report(f"simcc50_384x288={report(tmp_path / f'r{i}', data_set=long)}") for i in range(6)]
    few = cv2.imread(str(plot_accuracy(build_tables(reports[:1]), tmp_path / "few.png")))
    many = cv2.imread(str(plot_accuracy(build_tables(reports), tmp_path / "many.png")))
    for image in (few, many):
        assert (image[:, [0, 1, -2, -1]] == 255).all()
    assert many.shape[0] > few.shape[0]  # room for the key is not taken from the axes


def test_changes_of_figure_6_carry_the_boxes_along() -> None:
    image = np.full((200, 300, 3), 200, np.uint8)
    boxes = Boxes.from_xyxy([[100, 50, 160, 150]])
    image[95:106, 125:136] = (255, 0, 0)  # the middle of the box
    changed, moved = turned(image, boxes, (0, 0, 300, 200))
    left, top, right, bottom = moved.xyxy[0]
    ys, xs = np.nonzero((changed[..., 0] > 200) & (changed[..., 1] < 60))
    assert xs.mean() == pytest.approx((left + right) / 2, abs=1.5)
    assert ys.mean() == pytest.approx((top + bottom) / 2, abs=1.5)
    hidden, same = covered(image, boxes)
    assert same is boxes
    assert (hidden[100:150, 100:130] == 96).all()
    assert (hidden != image).any(axis=-1).sum() == 50 * 30
    dark, _ = darkened(image, boxes)
    assert dark.mean() == pytest.approx(0.22 * image.mean(), rel=0.05)


def test_figure_6_gives_each_change_the_boxes_found_first(tmp_path: Path) -> None:
    given = []

    def predict(image: np.ndarray, boxes: Boxes | None) -> Poses:
        given.append(boxes)
        boxes = boxes or Boxes.from_xyxy([[20, 20, 60, 90]])
        keypoints = np.tile(boxes.xyxy[:, None, :2], (1, 17, 1)) + np.arange(17)[None, :, None]
        scores, sigmas = np.ones((1, 17), np.float32), np.ones((1, 17, 2), np.float32)
        return Poses(keypoints, scores, sigmas, boxes, COCO17, "fake", image.shape[:2])

    def nobody(image: np.ndarray, boxes: Boxes | None) -> Poses:
        return Poses.empty(COCO17, "fake", image.shape[:2])

    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.full((100, 120, 3), 128, np.uint8))
    sheet = cv2.imread(str(draw_conditions(predict, [picture, picture], tmp_path / FIGURE_6)))
    assert [boxes is None for boxes in given] == [True, False, False, False] * 2
    assert sheet.shape[1] > 4 * 300
    assert sheet.shape[0] > 2 * 300
    assert draw_conditions(nobody, [picture], tmp_path / "empty.jpg").stat().st_size > 0


def test_latency_is_that_of_every_system_of_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def time_registered(models: dict[str, Any], repeats: int, threads: int | None) -> tuple[dict[str, Any], str]:
        asked.extend([repeats, threads, [name for name, _ in models.values()]])
        return {s: NetworkTiming(s, "openvino", "f32", 1, 2.0, (1.0, 3.0), None) for s in models}, "how"

    monkeypatch.setattr(ebapose.benchmark.run, "time_registered", time_registered)
    found, about = comparison._latencies(5, 2)
    assert asked == [5, 2, list(timed_models())]
    assert found == dict.fromkeys(timed_models(), Latency(2.0, (1.0, 3.0), "openvino f32"))
    assert about == "how"


def test_the_command_writes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from ebapose.cli import main

    monkeypatch.chdir(tmp_path)
    assert (
        main(["tables", "--out", "out", "--no-latency", "--reports", f"simcc50_384x288={report(tmp_path / 'r')}"]) == 0
    )
    assert {p.name for p in Path("out").iterdir()} == {"tables.json", "tables.md", FIGURE_5}
    assert "note: figure 6 is not drawn" in capsys.readouterr().out
    rows = rows_of(json.loads(Path("out/tables.json").read_text()))
    assert rows["simcc50_384x288"]["measured_accuracy"][0]["AP"] == 50.0

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "a.jpg"), np.full((64, 64, 3), 90, np.uint8))
    assert main(["tables", "--out", "out", "--no-latency", "--pictures", "pictures"]) == 0
    assert Path("out", FIGURE_6).is_file()
    assert f"]({FIGURE_6})" in Path("out/tables.md").read_text()


def test_a_report_on_a_model_that_nobody_knows_is_noted(tmp_path: Path) -> None:
    reports = [f"simcc50={report(tmp_path / 'r')}", f"simcc50_384x288={tmp_path / 'r'}"]
    notes = comparison.write_comparison(tmp_path / "out", reports, latency=False).notes
    (note,) = (note for note in notes if "not a model of" in note)
    assert note.startswith("simcc50:")


def test_nothing_is_timed_for_pictures_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("timed")

    monkeypatch.setattr(comparison, "_latencies", never)
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.jpg"):
        comparison.write_comparison(tmp_path / "out", pictures=tmp_path)
    with pytest.raises(UsageError, match="unknown model 'nope'"):
        comparison.write_comparison(tmp_path / "other", pictures=tmp_path, model="nope")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reports", "nowhere"], "nowhere: no evaluation report"),
        (["--pictures", "nowhere"], "nowhere: no such folder"),
        (["--pictures", "."], ": no pictures in it"),
        (["--out", "file"], "file: is a file"),
    ],
)
def test_wrong_usage_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: list[str], message: str
) -> None:
    from ebapose.cli import main

    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    out = [] if "--out" in arguments else ["--out", "out"]
    assert main(["tables", "--no-latency", *out, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
