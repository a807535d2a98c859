"""Hand-made samples in each original's format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from scipy.io import savemat

from ebapose.data.check import check_annotations
from ebapose.data.coco import load_coco
from ebapose.data.convert import crowdpose_to_coco, lsp_to_coco, mpii_to_coco
from ebapose.data.convert_yolo import yolo_to_coco
from ebapose.errors import InputError, UsageError
from ebapose.skeleton import COCO17, CROWDPOSE14, LSP14, MPII16


def write_pictures(folder: Path, *names: str, size_wh: tuple[int, int] = (160, 120)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((size_wh[1], size_wh[0], 3), 90, np.uint8))
    return folder


def random_points(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform([30, 20], [130, 100], (count, 2)).round(2)


@pytest.mark.parametrize("extended", [False, True])
def test_lsp(tmp_path: Path, extended: bool) -> None:
    points = np.stack([random_points(0, 14), random_points(1, 14)])
    flag = np.ones((2, 14)) if extended else np.zeros((2, 14))
    flag[0, 3] = 1 - flag[0, 3]  # not labelled in LSP-Extended, hidden in LSP
    people = np.concatenate([points, flag[..., None]], axis=2)
    savemat(tmp_path / "joints.mat", {"joints": people.transpose(1, 2, 0) if extended else people.transpose(2, 1, 0)})
    names = ("im00001.jpg", "im00002.jpg") if extended else ("im0001.jpg", "im0002.jpg")
    images = write_pictures(tmp_path / "images", *names)
    done = lsp_to_coco(tmp_path / "joints.mat", images, tmp_path / "out" / "lsp.json")
    assert (done.num_images, done.num_persons, done.skipped) == (2, 2, ())
    data = load_coco(done.path)
    assert data.skeleton == LSP14
    assert [r.image_path.name for r in data] == list(names)
    assert all(r.image_path.is_file() for r in data)
    assert data.visibility[0, 3] == (0 if extended else 1)
    assert (np.delete(data.visibility[0], 3) == 2).all()
    np.testing.assert_allclose(data.keypoints[1], points[1], atol=1e-3)
    low, high = points[1].min(axis=0), points[1].max(axis=0)
    box = np.concatenate([low - 0.1 * (high - low), high + 0.1 * (high - low)]).clip(0, [160, 120, 160, 120])
    np.testing.assert_allclose(data.boxes_xyxy[1], box, atol=2e-3)
    np.testing.assert_allclose(data.areas[1], 0.53 * np.prod(box[2:] - box[:2]), rtol=1e-4)
    assert not any(f.level == "error" for f in check_annotations(done.path).findings)


def mpii_release() -> dict[str, Any]:
    """As `RELEASE` of the released file: struct arrays, empty fields, visibility as text, absent joints."""

    def point(i: int, visible: Any) -> dict[str, Any]:
        return {"x": 30.0 + 5 * i, "y": 20.0 + 4 * i, "id": i, "is_visible": visible}

    whole = {
        "x1": 41.0,
        "y1": 11.0,
        "x2": 71.0,
        "y2": 51.0,
        "annopoints": {"point": np.array([point(i, [] if i in (8, 9) else i % 2) for i in range(16)], object)},
        "scale": 1.5,
        "objpos": {"x": 70.0, "y": 60.0},
    }
    partly = {"annopoints": {"point": np.array([point(12, "1"), point(13, "0")], object)}}
    nobody = {"annopoints": np.zeros((0, 0)), "scale": 1.0}
    pictures = [
        {"image": {"name": "a.jpg"}, "annorect": np.array([whole, partly, nobody], object)},
        {"image": {"name": "test.jpg"}, "annorect": whole},
        {"image": {"name": "b.jpg"}, "annorect": partly},
        {"image": {"name": "empty.jpg"}, "annorect": np.zeros((0, 0))},
        {"image": {"name": "missing.jpg"}, "annorect": whole},
    ]
    return {"annolist": np.array(pictures, object), "img_train": np.array([1, 0, 1, 1, 1], np.uint8)}


def test_mpii_release(tmp_path: Path) -> None:
    savemat(tmp_path / "mpii.mat", {"RELEASE": mpii_release()})
    images = write_pictures(tmp_path / "images", "a.jpg", "b.jpg", "test.jpg")
    done = mpii_to_coco(tmp_path / "mpii.mat", images, tmp_path / "mpii.json")
    assert (done.num_images, done.num_persons) == (2, 3)
    assert len(done.skipped) == 1
    assert "missing.jpg" in done.skipped[0]
    data = load_coco(done.path)
    assert data.skeleton == MPII16
    assert data.keypoints[0, 5].tolist() == [54, 39]  # counted from 0
    assert data.visibility[0].tolist() == [2 if i in (8, 9) or i % 2 else 1 for i in range(16)]
    assert data.visibility[1, 12:14].tolist() == [2, 1]
    assert data[1].num_keypoints == 2
    annotation = json.loads(done.path.read_text())["annotations"][0]
    assert annotation["head_size"] == pytest.approx(0.6 * 50)
    everything = mpii_to_coco(tmp_path / "mpii.mat", images, tmp_path / "all.json", split="all")
    assert everything.num_persons == 4


def test_an_mpii_release_that_does_not_fit_together(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", "a.jpg")
    whole = mpii_release()
    nameless = np.array([{"annorect": {"x1": 1.0}}] * 5, object)
    for change, message in (
        ({"img_train": np.ones(3)}, "annolist has 5 pictures, img_train is about 3"),
        ({"annolist": np.zeros(5)}, "annolist has 0 pictures, img_train is about 5"),
        ({"annolist": nameless}, "picture 0 of annolist has no image name"),
    ):
        savemat(tmp_path / "mpii.mat", {"RELEASE": whole | change})
        with pytest.raises(InputError, match=rf"mpii\.mat: {message}"):
            mpii_to_coco(tmp_path / "mpii.mat", images, tmp_path / "o.json")


def test_mpii_json(tmp_path: Path) -> None:
    joints = random_points(0, 16)
    joints[2], joints[3] = (-1, -1), (50, 60)
    entry = {
        "joints_vis": [0 if i in (2, 3) else 1 for i in range(16)],
        "joints": joints.tolist(),
        "image": "a.jpg",
        "scale": 3.0,
        "center": [80.0, 60.0],
    }
    (tmp_path / "train.json").write_text(json.dumps([entry]))
    images = write_pictures(tmp_path / "images", "a.jpg")
    data = load_coco(mpii_to_coco(tmp_path / "train.json", images, tmp_path / "mpii.json").path)
    np.testing.assert_allclose(data.keypoints[0, 0], joints[0] - 1, atol=1e-3)
    assert data.visibility[0, :5].tolist() == [2, 2, 0, 1, 2]
    (tmp_path / "train.json").write_text(json.dumps([entry | {"joints": [[1, 2]]}]))
    with pytest.raises(InputError, match="person 0"):
        mpii_to_coco(tmp_path / "train.json", images, tmp_path / "mpii.json")


def crowdpose(**changes: Any) -> dict[str, Any]:
    points = np.c_[random_points(0, 14), np.full(14, 2)]
    points[4] = 0
    person = {
        "id": 100000,
        "image_id": 100000,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": 13,
        "bbox": [20.0, 15.0, 110.0, 90.0],
        "keypoints": points.ravel().tolist(),
    }
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.keypoint_names), "skeleton": [[16, 14]]}
    image = {"id": 100000, "file_name": "100000.jpg", "width": 160, "height": 120, "crowdIndex": 0.3}
    return {"images": [image], "annotations": [person | changes], "categories": [category]}


def test_crowdpose(tmp_path: Path) -> None:
    (tmp_path / "crowdpose_val.json").write_text(json.dumps(crowdpose()))
    images = write_pictures(tmp_path / "images", "100000.jpg")
    done = crowdpose_to_coco(tmp_path / "crowdpose_val.json", images, tmp_path / "out.json")
    data = load_coco(done.path)
    assert data.skeleton == CROWDPOSE14
    assert data.skeleton.sigmas[:2] == (0.079, 0.079)
    assert data.image_ids.tolist() == [100000]
    assert data[0].num_keypoints == 13
    assert data.areas[0] == pytest.approx(0.53 * 110 * 90)
    assert len(data.persons()) == 1
    nan = float("nan")
    for change in ({"keypoints": [1, 2, 3]}, {"bbox": None}, {"bbox": [nan] * 4}, {"image_id": 5}, {"image_id": [1]}):
        (tmp_path / "crowdpose_val.json").write_text(json.dumps(crowdpose(**change)))
        with pytest.raises(InputError, match=r"crowdpose_val\.json: annotation 100000"):
            crowdpose_to_coco(tmp_path / "crowdpose_val.json", images, tmp_path / "out.json")
    assert load_coco(done.path).num_images == 1  # the older result is still whole
    (tmp_path / "crowdpose_val.json").write_text(json.dumps(crowdpose(bbox=[20, 15, -3, 9])))
    done = crowdpose_to_coco(tmp_path / "crowdpose_val.json", images, tmp_path / "out.json")
    assert done.num_persons == 0
    assert done.skipped == (f"{tmp_path}/crowdpose_val.json: annotation 100000: a box of -3 x 9 px",)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([{"id": [1]}], r"image 0: id is \[1\], expected a whole number"),
        ([{"id": 1}], "image 1: file_name is missing"),
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}], "several images have the same id 1"),
    ],
)
def test_crowdpose_pictures_that_cannot_be_told_apart(tmp_path: Path, pictures: list[Any], message: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(crowdpose() | {"images": pictures}))
    images = write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    with pytest.raises(InputError, match=rf"c\.json: {message}"):
        crowdpose_to_coco(tmp_path / "c.json", images, tmp_path / "out.json")


def write_yolo(folder: Path, dimensions: int = 3, **changes: Any) -> Path:
    write_pictures(folder, "images/train/a.jpg", "images/train/b.png", "images/val/c.jpg")
    points = random_points(3, 17) / (160, 120)
    rows = np.c_[points, np.full(17, 2)][:, :dimensions]
    rows[6] = 0
    line = " ".join(str(v) for v in [0, 0.5, 0.5, 0.25, 0.75, *rows.ravel().round(6)])
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text(f"{line}\n\n{line}\n")
    flip_idx = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    data = {
        "path": "../datasets/elsewhere",
        "train": "images/train",
        "val": ["images/val"],
        "kpt_shape": [17, dimensions],
        "flip_idx": flip_idx,
        "names": {0: "person"},
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(data | changes))
    return folder / "data.yaml"


@pytest.mark.parametrize("dimensions", [2, 3])
def test_yolo(tmp_path: Path, dimensions: int) -> None:
    path = write_yolo(tmp_path, dimensions)
    done = yolo_to_coco(path, tmp_path / "train.json")
    assert (done.num_images, done.num_persons) == (2, 2)
    data = load_coco(done.path)
    assert data.skeleton is COCO17
    assert data[0].image_path == tmp_path / "images" / "train" / "a.jpg"
    np.testing.assert_allclose(np.delete(data.keypoints[0], 6, 0), np.delete(random_points(3, 17), 6, 0), atol=1e-3)
    assert data.visibility[0].tolist() == [0 if i == 6 else 2 for i in range(17)]
    assert data.boxes_xyxy[0].tolist() == [60, 15, 100, 105]
    assert yolo_to_coco(path, tmp_path / "val.json", split="val").num_persons == 0
    (tmp_path / "list.txt").write_text("images/train/a.jpg\n")
    path.write_text(path.read_text().replace("train: images/train", "train: list.txt"))
    assert yolo_to_coco(path, tmp_path / "list.json").num_images == 1


def test_yolo_folders_may_hold_every_kind_of_picture(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    shutil.copy(tmp_path / "images/train/a.jpg", tmp_path / "images/train/c.jpe")
    shutil.copy(tmp_path / "labels/train/a.txt", tmp_path / "labels/train/c.txt")
    done = yolo_to_coco(path, tmp_path / "train.json")
    assert (done.num_images, done.num_persons) == (3, 4)


def test_yolo_leaves_other_classes_and_boxes_without_area_out(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, names=["dog", "person", "cat"])
    labels = tmp_path / "labels" / "train" / "a.txt"
    rest = labels.read_text().splitlines()[0][1:]
    empty = rest.replace(" 0.25 ", " -0.25 ", 1)
    labels.write_text("\n".join([f"1{rest}", f"0{rest}", f"2{rest}", f"2{rest}", f"1{empty}"]))
    done = yolo_to_coco(path, tmp_path / "o.json")
    assert done.num_persons == 1
    assert done.skipped == (
        "labels of other classes than the person's, 1: 2 of class 2, 1 of class 0",
        f"{labels}: line 5: a box of -40 x 90 px",
    )
    for names, persons in (({0: "hand"}, 1), (None, 1)):  # the only class; none named: class 0
        path = rewrite(path, names=names)
        assert yolo_to_coco(path, tmp_path / "o.json").num_persons == persons
    for names in (["dog", "cat"], 5):
        with pytest.raises(InputError, match="do not tell which class is a person"):
            yolo_to_coco(rewrite(path, names=names), tmp_path / "o.json")


def rewrite(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return path


def test_yolo_text_files(tmp_path: Path) -> None:
    path = rewrite(write_yolo(tmp_path), train="list.txt")
    write_pictures(tmp_path, "images/b c.jpg")
    (tmp_path / "list.txt").write_text("images/train/a.jpg\n\nimages/b c.jpg\n")
    assert yolo_to_coco(path, tmp_path / "o.json").num_images == 2
    for broken in (tmp_path / "labels" / "train" / "a.txt", tmp_path / "list.txt"):
        broken.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError, match=rf"{broken.name}: not a text file"):
            yolo_to_coco(path, tmp_path / "o.json")


def test_yolo_with_another_skeleton(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, kpt_shape=[14, 3], flip_idx=LSP14.flip_indices.tolist())
    (tmp_path / "labels" / "train" / "a.txt").write_text(" ".join(["0", *["0.5"] * 4, *["0.4", "0.4", "1"] * 14]))
    with pytest.raises(InputError, match="pass a skeleton"):
        yolo_to_coco(path, tmp_path / "o.json")
    data = load_coco(yolo_to_coco(path, tmp_path / "o.json", skeleton="lsp14").path)
    assert data.skeleton == LSP14
    assert (data.visibility == 1).all()
    with pytest.raises(InputError, match="disagree with skeleton coco17"):
        yolo_to_coco(path, tmp_path / "o.json", skeleton="coco17")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kpt_shape": None}, "kpt_shape"),
        ({"kpt_shape": [17, 4]}, "must be 2 or 3"),
        ({"flip_idx": None}, "flip_idx"),
        ({"train": None}, "no 'train'"),
        ({"train": "nowhere"}, "neither a folder"),
    ],
)
def test_yolo_complaints(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        yolo_to_coco(write_yolo(tmp_path, **change), tmp_path / "o.json")


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.5", "person 0.5", "0 " + "nan " * 55])
def test_a_bad_yolo_line_is_named(tmp_path: Path, line: str) -> None:
    path = write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text(line)
    with pytest.raises(InputError, match=r"a\.txt: line 1: expected 56 numbers"):
        yolo_to_coco(path, tmp_path / "o.json")


def test_sources_that_are_none(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", "im0001.jpg")
    (tmp_path / "junk.mat").write_bytes(b"MATLAB 5.0 junk" * 20)
    savemat(tmp_path / "other.mat", {"x": np.zeros(3)})
    savemat(tmp_path / "flat.mat", {"joints": np.zeros((3, 14))})
    savemat(tmp_path / "texts.mat", {"joints": np.full((3, 14, 1), "x", object)})
    with pytest.raises(UsageError, match=r"nosuch\.mat: no such file"):
        lsp_to_coco(tmp_path / "nosuch.mat", images, tmp_path / "o.json")
    for name in ("junk.mat", "other.mat", "flat.mat", "texts.mat"):
        with pytest.raises(InputError, match=name):
            lsp_to_coco(tmp_path / name, images, tmp_path / "o.json")
        if name not in ("flat.mat", "texts.mat"):
            with pytest.raises(InputError, match=name):
                mpii_to_coco(tmp_path / name, images, tmp_path / "o.json")
    savemat(tmp_path / "joints.mat", {"joints": np.ones((3, 14, 2))})
    with pytest.raises(InputError, match="none of its pictures"):
        lsp_to_coco(tmp_path / "joints.mat", tmp_path / "nowhere", tmp_path / "o.json")
    assert len(lsp_to_coco(tmp_path / "joints.mat", images, tmp_path / "o.json").skipped) == 1
    with pytest.raises(UsageError, match="must not replace"):
        lsp_to_coco(tmp_path / "joints.mat", images, tmp_path / "joints.mat")
