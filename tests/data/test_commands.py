from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tyro

from coco_entries import person
from ebapose.cli import data_group
from ebapose.data.coco import load_coco
from ebapose.data.show import contact_sheet, write_sheet
from ebapose.data.transforms import PAPER
from ebapose.draw import LEFT, RIGHT
from ebapose.errors import InputError, UsageError
from ebapose.io.pictures import read_image


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    assert data_group.synth(folder, images=6, seed=1, size_hw=(96, 80)) == 0
    return folder / "annotations.json"


@pytest.mark.parametrize("name", ["check", "show", "convert", "synth"])
def test_every_option_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        tyro.cli(getattr(data_group, name), args=["--help"])
    assert leaving.value.code == 0
    assert "--" in capsys.readouterr().out


def test_check(drawn: Path, write_coco: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert data_group.check(drawn) == 0
    assert "6 pictures" in capsys.readouterr().out
    assert data_group.check(write_coco([person(1, area=0)]), json=True) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["kind"] == "no area"


def test_show(drawn: Path, tmp_path: Path) -> None:
    assert data_group.show(drawn, tmp_path / "s.png", count=4, size_hw=(64, 48), augment="strong") == 0
    assert cv2.imread(str(tmp_path / "s.png")).shape == (2 * 64, 3 * 48, 3)  # as square as it gets
    for size_hw in ((0, 0), (-5, 10)):
        with pytest.raises(UsageError, match="height and width must be at least 1"):
            data_group.show(drawn, tmp_path / "s.png", size_hw=size_hw)
    with pytest.raises(UsageError, match=r"\.png or \.jpg"):
        data_group.show(drawn, tmp_path / "s.gif")
    with pytest.raises(UsageError, match=r"s\.jpg: 70000x2 px cannot be written as JPEG"):
        write_sheet(tmp_path / "s.jpg", np.zeros((2, 70_000, 3), np.uint8))
    assert not (tmp_path / "s.jpg").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 are Linux's")
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_show_where_the_folder_is_not_utf8(drawn: Path, tmp_path: Path, suffix: str) -> None:
    sheet = tmp_path / os.fsdecode(b"\xff") / f"s{suffix}"
    assert data_group.show(drawn, sheet, count=1, size_hw=(32, 32)) == 0
    assert read_image(sheet).hw == (32, 32)


def test_convert_names_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        {"image": f"{i}.jpg", "joints": [[40 + 3 * j, 60] for j in range(16)], "joints_vis": [1] * 16}
        for i in range(13)
    ]
    (tmp_path / "mpii.json").write_text(json.dumps(entries))
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.jpg"), np.zeros((120, 160, 3), np.uint8))
    assert data_group.convert("mpii", tmp_path / "mpii.json", tmp_path / "out.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("1 pictures, 1 persons")
    assert lines[-1] == "left out: 2 more"
    with pytest.raises(UsageError, match="no split"):
        data_group.convert("mpii", tmp_path / "mpii.json", tmp_path / "out.json", split="val")


def test_sheets_keep_left_and_right_colours_after_mirroring(drawn: Path) -> None:
    """Everybody faces the viewer, so orange (left) must be right of blue, mirrored or not."""
    records = load_coco(drawn).persons()
    records = records.select(records.visibility.all(axis=1))
    for flip in (0.0, 1.0):
        augment = PAPER.model_copy(update={"flip_probability": flip, "rotation_deg": 0.0})
        size = {"count": 4, "size_hw": (96, 96), "augment": augment}
        sheet, plain = contact_sheet(records, **size), contact_sheet(records, **size, drawn=False)
        changed = (sheet != plain).any(axis=2)
        for i in range(4):
            place = (slice(96 * (i // 2), 96 * (i // 2 + 1)), slice(96 * (i % 2), 96 * (i % 2 + 1)))
            tile, new = sheet[place].astype(int), changed[place]
            x = {
                name: np.nonzero(new & (np.abs(tile - colour).max(axis=2) < 40))[1]
                for name, colour in (("l", LEFT), ("r", RIGHT))
            }
            assert x["l"].mean() > x["r"].mean()


def test_sheets_mark_what_cannot_be_read(write_coco: Callable[..., Path], tmp_path: Path) -> None:
    path = write_coco([person(1)], pictures=False)
    records = load_coco(path, tmp_path / "nowhere").persons()
    sheet = contact_sheet(records, count=1, size_hw=(64, 96))
    assert (sheet == 96).mean() > 0.7
    with pytest.raises(InputError, match="no person"):
        contact_sheet(records.select([]))
    for count in (0, 1001):
        with pytest.raises(UsageError, match=f"a sheet of {count} crops: 1 to 1000 can be shown"):
            contact_sheet(records, count=count)
    few = contact_sheet(records, count=24, size_hw=(64, 96))
    np.testing.assert_array_equal(few, sheet)  # one person, once
    assert contact_sheet(records, count=4, size_hw=(64, 96), augment=PAPER).shape == (2 * 64, 2 * 96, 3)
    with pytest.raises(UsageError):
        write_sheet("x.bmp", sheet)
