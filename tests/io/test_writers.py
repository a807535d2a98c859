"""Outputs: what they hold, and that memory stays bounded."""

from __future__ import annotations

import csv
import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebapose.errors import InputError, MissingDependencyError, UsageError
from ebapose.io import parquet as parquet_rows
from ebapose.io import writers
from ebapose.io.readers import read_image_ids, read_poses_json
from ebapose.io.writers import COLUMNS, FORMATS, PoseWriter
from ebapose.skeleton import COCO17
from ebapose.structures import Boxes, Frame, Poses
from io_outputs import ALL, leftovers, load, rows_of, validate
from poses_factory import make_frame, make_poses


def assert_same(found: Poses, expected: Poses) -> None:
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=6e-4, rtol=1e-6)
    np.testing.assert_allclose(found.sigmas_px, expected.sigmas_px, atol=6e-4, rtol=1e-6)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(found.boxes.xyxy, expected.boxes.xyxy, atol=6e-4, rtol=1e-6)
    np.testing.assert_allclose(found.boxes.scores, expected.boxes.scores, atol=1e-6)
    assert found.skeleton == expected.skeleton
    assert (found.model, found.image_hw) == (expected.model, expected.image_hw)
    np.testing.assert_equal(found.track_ids, expected.track_ids)


def test_poses_json_follows_its_schema_and_reads_back(tmp_path: Path) -> None:
    written = [
        (make_frame("a/1.jpg"), make_poses(2)),
        (make_frame("a/2.jpg"), make_poses(0)),
        (make_frame("clip.mp4", index=3, time_s=0.1), make_poses(1, sigmas=False, track_ids=True)),
    ]
    with PoseWriter(tmp_path, ["json"]) as writer:
        for frame, poses in written:
            writer.write(frame, poses)
        writer.write_failure("bad.jpg", InputError("bad.jpg: empty"))
    data = load(tmp_path, "json")
    validate(data)
    assert data["failed"] == [{"file": "bad.jpg", "error": "bad.jpg: empty"}]
    assert data["images"][2]["persons"][0]["keypoints"][0][3:] == [None, None]  # NaN is not JSON
    read = read_poses_json(tmp_path / "poses.json")
    assert [(r.file, r.index, r.time_s) for r in read] == [
        ("a/1.jpg", 0, None),
        ("a/2.jpg", 0, None),
        ("clip.mp4", 3, 0.1),
    ]
    for entry, (_, poses) in zip(read, written, strict=True):
        assert_same(entry.poses, poses)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e3, 1e5]), st.data())
def test_json_round_trip_of_anything(
    tmp_path_factory: pytest.TempPathFactory, num: int, seed: int, scale: float, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    sigmas = rng.uniform(0, scale, (num, 17, 2))
    sigmas[rng.uniform(size=sigmas.shape) < 0.2] = np.nan
    poses = Poses(
        rng.normal(size=(num, 17, 2)) * scale,
        rng.integers(0, 5, (num, 17)) / 4,
        sigmas,
        Boxes.from_xyxy(np.sort(rng.normal(size=(num, 2, 2)) * scale, axis=1).reshape(num, 4), rng.uniform(size=num)),
        COCO17,
        data.draw(st.text(st.characters(codec="utf-8"))),
        (data.draw(st.integers(1, 9999)), 7),
        rng.integers(0, 2**53, num) if num else None,
    )
    name = data.draw(st.text(st.characters(codec="utf-8"), min_size=1))
    folder = tmp_path_factory.mktemp("out")
    with PoseWriter(folder, ["json"]) as writer:
        writer.write(make_frame(name), poses)
    validate(load(folder, "json"))
    (entry,) = read_poses_json(folder / "poses.json")
    assert entry.file == name
    assert_same(entry.poses, poses)


def test_coco_results(tmp_path: Path) -> None:
    poses = make_poses(2)
    with PoseWriter(tmp_path, ["coco"]) as writer:
        writer.write(make_frame("val/COCO_val2014_000000397133.jpg"), poses)
        writer.write(make_frame("000000000042.jpg"), make_poses(0))
        writer.write(make_frame("7.png"), make_poses(1))
    results = load(tmp_path, "coco")
    assert [r["image_id"] for r in results] == [397133, 397133, 7]
    assert {r["category_id"] for r in results} == {1}
    first = results[0]
    keypoints = np.array(first["keypoints"]).reshape(17, 3)
    np.testing.assert_allclose(keypoints[:, :2], poses.keypoints[0], atol=6e-4)
    np.testing.assert_allclose(keypoints[:, 2], poses.scores[0], atol=1e-6)
    np.testing.assert_allclose(first["bbox"], poses.boxes.xywh[0], atol=2e-3)
    assert first["score"] == pytest.approx(poses.pose_scores[0], abs=1e-6)


def test_coco_results_are_what_pycocotools_reads(tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    with PoseWriter(tmp_path, ["coco"]) as writer:
        writer.write(make_frame("12.jpg"), make_poses(2))
    coco = coco_module.COCO()
    coco.dataset = {"images": [{"id": 12}], "annotations": [], "categories": [{"id": 1}], "info": {}}
    coco.createIndex()
    assert len(coco.loadRes(str(tmp_path / "coco_results.json")).anns) == 2


def test_coco_ids_must_exist_and_be_unique(tmp_path: Path) -> None:
    with PoseWriter(tmp_path, ["coco", "json", "csv"]) as writer:
        writer.write(make_frame("a/0012.jpg"), make_poses(1))
        with pytest.raises(InputError, match=r"photo\.jpg: .* no digits"):
            writer.write(make_frame("photo.jpg"), make_poses(1))
        with pytest.raises(InputError, match=r"b/12\.jpg: COCO image id 12 was already used for a/0012\.jpg"):
            writer.write(make_frame("b/12.jpg"), make_poses(1))
        with pytest.raises(InputError, match="not for video frames"):
            writer.write(make_frame("clip2.mp4", time_s=0.0), make_poses(1))
    assert len(load(tmp_path, "coco")) == 1
    assert len(load(tmp_path, "json")["images"]) == 4  # the other outputs have them nevertheless
    assert len(rows_of(tmp_path)) == 4 * 17


def test_coco_ids_from_annotations(tmp_path: Path) -> None:
    annotations = tmp_path / "ann.json"
    annotations.write_text(json.dumps({"images": [{"file_name": "s/photo.jpg", "id": 5}], "annotations": []}))
    with PoseWriter(tmp_path, ["coco"], image_id=read_image_ids(annotations)) as writer:
        writer.write(make_frame("/data/s/photo.jpg"), make_poses(1))
        with pytest.raises(InputError, match=r"other\.jpg: no such file_name in .*ann\.json"):
            writer.write(make_frame("other.jpg"), make_poses(1))
    assert [(r["image_id"], r["category_id"]) for r in load(tmp_path, "coco")] == [(5, 1)]
    annotations.write_text(
        json.dumps({"images": [{"file_name": "a.jpg", "id": 5}], "annotations": [], "categories": [{"id": 3}]})
    )
    with PoseWriter(tmp_path, ["coco"], image_id=read_image_ids(annotations)) as writer:
        writer.write(make_frame("a.jpg"), make_poses(1))
    assert [r["category_id"] for r in load(tmp_path, "coco")] == [3]


def test_any_name_is_one_cell_of_csv(tmp_path: Path) -> None:
    with PoseWriter(tmp_path, ["csv"]) as writer:
        writer.write(make_frame("a\rb.jpg"), make_poses(1))
    with (tmp_path / "poses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a\rb.jpg"] * 17
    assert float(rows[0]["score"]) == pytest.approx(float(make_poses(1).scores[0, 0]), abs=1e-6)


def test_csv_and_parquet_hold_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet_rows, "_ROWS_PER_GROUP", 20)
    with PoseWriter(tmp_path, ["csv", "parquet"]) as writer:
        writer.write(make_frame('comma, "quote"\nüñ.jpg'), make_poses(2, track_ids=True))
        writer.write(make_frame("empty.jpg"), make_poses(0))
        writer.write(make_frame("clip.mp4", index=9, time_s=0.3), make_poses(1, sigmas=False, seed=3))
    rows = rows_of(tmp_path)
    table = parquet.read_table(tmp_path / "poses.parquet")
    assert tuple(rows[0]) == tuple(table.column_names) == COLUMNS
    assert len(rows) == table.num_rows == 3 * 17
    assert rows[0]["file"] == 'comma, "quote"\nüñ.jpg'
    assert [rows[0]["track_id"], rows[17]["track_id"], rows[-1]["track_id"]] == ["7", "8", ""]
    assert [rows[0]["keypoint"], rows[16]["keypoint"], rows[17]["person"]] == ["nose", "right_ankle", "1"]
    assert (rows[-1]["frame"], rows[-1]["sigma_x"]) == ("9", "")
    for row, record in zip(rows, table.to_pylist(), strict=True):
        assert {k: "" if v is None else str(v) for k, v in record.items()} == row


def test_nothing_written_is_still_valid(tmp_path: Path) -> None:
    PoseWriter(tmp_path, ALL).close()
    data = load(tmp_path, "json")
    validate(data)
    assert data["images"] == load(tmp_path, "coco") == rows_of(tmp_path) == []
    assert read_poses_json(tmp_path / "poses.json") == []


def test_wrong_requests_touch_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PoseWriter(tmp_path, ["json"]) as writer:
        writer.write(make_frame("1.jpg"), make_poses(1))
    before = (tmp_path / "poses.json").read_bytes()
    with pytest.raises(UsageError, match="unknown output format 'xml'"):
        PoseWriter(tmp_path, ["json", "xml"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="overlay"):
        PoseWriter(tmp_path, ["json", "overlay"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"Parquet output needs pyarrow.*ebapose\[tables\]"):
        PoseWriter(tmp_path, ["json", "parquet"])
    assert (tmp_path / "poses.json").read_bytes() == before
    assert leftovers(tmp_path) == []
    with pytest.raises(UsageError, match="cannot be written"):
        PoseWriter(tmp_path / "poses.json" / "sub", ["json"])


def test_closed_files_take_nothing_more(tmp_path: Path) -> None:
    with PoseWriter(tmp_path, ["json"]) as writer:
        pass
    with pytest.raises(ValueError, match="its files are closed"):
        writer.write(make_frame("1.jpg"), make_poses(1))


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    with PoseWriter(tmp_path, ALL) as writer:
        writer.write(make_frame("caf\udce9 1.jpg"), make_poses(1))
    assert load(tmp_path, "json")["images"][0]["file"] == "caf\\udce9 1.jpg"
    assert rows_of(tmp_path)[0]["file"] == "caf\\udce9 1.jpg"


def test_memory_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "_ROWS_PER_GROUP", 500)
    frame, poses = make_frame("x.jpg"), make_poses(2)
    with PoseWriter(tmp_path, ["json", "csv", "parquet"]) as writer:
        for _ in range(30):
            writer.write(frame, poses)
        tracemalloc.start()
        try:
            for _ in range(300):
                writer.write(frame, poses)
            size, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size < 400_000
    assert peak < 2_000_000
    assert (tmp_path / "poses.json").stat().st_size > 450_000


def test_every_format_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in FORMATS)
    assert all(f"`{column}`" in text or column in text for column in COLUMNS)


@pytest.mark.parametrize("name", ["json", "csv"])
def test_infinity_is_no_number(tmp_path: Path, name: writers.Format) -> None:
    """An infinite standard deviation is none: neither JSON nor a table has infinity."""
    poses = make_poses(1)
    poses = replace(poses, sigmas_px=np.where(np.arange(17)[:, None] == 0, np.inf, poses.sigmas_px))
    with PoseWriter(tmp_path, [name]) as writer:
        writer.write(Frame(np.zeros((48, 64, 3), np.uint8), "a.jpg"), poses)
    text = next(tmp_path.iterdir()).read_text()
    assert "inf" not in text.lower()
