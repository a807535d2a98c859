from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coco_entries import CATEGORY, person, picture
from ebapose.data.coco import load_coco
from ebapose.data.dataset import CropDataset, _reduced_to_image, decode_reduced
from ebapose.data.transforms import PAPER, STRONG, AugmentConfig
from ebapose.errors import InputError
from ebapose.geometry.crop import transform_points

EVERYTHING = STRONG.model_copy(
    update={
        "paste_probability": 1.0,
        "background_probability": 0.5,
        "clothes_probability": 0.5,
        "stretch": 0.3,
        "dropout_probability": 1.0,
        "half_body_probability": 0.5,
        "truncation_probability": 0.5,
    }
)


def dataset(
    path: Path, augment: AugmentConfig | None = None, size_hw: tuple[int, int] = (64, 48), **more
) -> CropDataset:
    return CropDataset(load_coco(path).persons(), size_hw, augment=augment, **more)


def same(a: dict, b: dict) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in a)


def test_sample_shapes_and_types(write_coco: Callable[..., Path]) -> None:
    data = dataset(write_coco([person(1), person(2)]), EVERYTHING)
    sample = data[1]
    assert {key: (value.shape, str(value.dtype)) for key, value in sample.items() if key != "index"} == {
        "image": ((64, 48, 3), "uint8"),
        "keypoints": ((17, 2), "float32"),
        "visibility": ((17,), "uint8"),
        "weights": ((17,), "float32"),
        "absent": ((17,), "bool"),
        "matrix": ((2, 3), "float64"),
    }
    assert sample["index"] == 1
    with pytest.raises(IndexError):
        data[2]
    with pytest.raises(IndexError):
        data[-1]


def test_without_augmentation_the_box_is_in_the_middle(write_coco: Callable[..., Path]) -> None:
    data = dataset(write_coco([person(1)]))
    sample, record = data[0], data.records[0]
    x1, y1, x2, y2 = record.box_xyxy
    middle = transform_points([[(x1 + x2) / 2, (y1 + y2) / 2]], sample["matrix"])[0]
    np.testing.assert_allclose(middle, [23.5, 31.5])
    np.testing.assert_allclose(sample["keypoints"], transform_points(record.keypoints, sample["matrix"]), atol=1e-4)


def test_a_sample_depends_only_on_seed_epoch_and_index(write_coco: Callable[..., Path]) -> None:
    path = write_coco([person(i) for i in range(1, 9)])
    first = dataset(path, EVERYTHING, seed=3)
    straight = [first[2, i] for i in range(8)]
    other = dataset(path, EVERYTHING, seed=3)
    assert same(other[2, 5], straight[5])  # alone, as after a resume
    assert same(other[2, 1], straight[1])
    other.epoch = 2
    assert same(other[5], straight[5])
    assert not same(first[3, 5], straight[5])
    assert not same(dataset(path, EVERYTHING, seed=4)[2, 5], straight[5])


def test_epochs_that_are_shown_in_turn_do_not_make_the_pool_anew(
    write_coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `repeat` of a recipe does: its epoch 1 is the data set's epochs 8 to 15."""
    path = write_coco([person(i) for i in range(1, 9)])
    data, plain = (dataset(path, EVERYTHING, repeat=repeat) for repeat in (8, 1))
    real, made = data._crop, []
    monkeypatch.setattr(data, "_crop", lambda *arguments: made.append(arguments) or real(*arguments))
    for _ in range(2):
        for epoch in range(8, 16):
            for slot in range(16):
                found = [each._cutout(slot, epoch)[0] for each in (data, plain)]
                assert np.array_equal(*found)
        assert len(made) == 16 + 7  # each place once, and those that are exchanged on the way
    data._cutout(0, 40)
    assert {slot: len(held) for slot, held in data._pool.items()} == {n: 1 + (1 <= n < 8) for n in range(16)}
    assert all(len(held) == 1 for held in plain._pool.values())  # nothing is kept for nobody


def test_what_is_cut_off_counts_nothing(write_coco: Callable[..., Path]) -> None:
    data = dataset(
        write_coco([person(i) for i in range(1, 9)]), EVERYTHING.model_copy(update={"truncation_probability": 1.0})
    )
    samples = [data[i] for i in range(8)]
    assert any(sample["absent"].any() for sample in samples)
    for sample in samples:
        assert ((sample["weights"] > 0) == (sample["visibility"] > 0)).all()


def test_workers_can_be_made_by_pickling(write_coco: Callable[..., Path]) -> None:
    data = dataset(write_coco([person(1)]), EVERYTHING)
    assert same(pickle.loads(pickle.dumps(data))[0], data[0])


def dot_annotations(
    folder: Path, image_wh: tuple[int, int], keypoint: np.ndarray, box: list[float], suffix: str
) -> Path:
    """A black picture with one soft dot at the first keypoint; only that one is labelled."""
    width, height = image_wh
    y, x = np.mgrid[:height, :width]
    sigma = max(2.0, 0.015 * max(box[2:]))
    value = 250 * np.exp(-((x - keypoint[0]) ** 2 + (y - keypoint[1]) ** 2) / (2 * sigma**2))
    cv2.imwrite(str(folder / f"dot{suffix}"), np.repeat(value[..., None], 3, 2).round().astype(np.uint8))
    image = {"id": 1, "file_name": f"dot{suffix}", "width": width, "height": height}
    marked = person(bbox=box, keypoints=[*keypoint.tolist(), 2, *([0] * 48)])
    path = folder / "dot.json"
    path.write_text(json.dumps({"images": [image], "annotations": [marked], "categories": [CATEGORY]}))
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(60, 700),
    height=st.integers(60, 700),
    at=st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)),
    extent=st.floats(0.3, 1.0),
    suffix=st.sampled_from([".jpg", ".png"]),
    seed=st.integers(0, 1000),
)
def test_keypoints_follow_the_pixels(
    tmp_path: Path, width: int, height: int, at: tuple[float, float], extent: float, suffix: str, seed: int
) -> None:
    """The dot's centroid is at the keypoint: through decoding at reduced size, flip, rotation, scale and shift."""
    keypoint = np.array([at[0] * width, at[1] * height])
    side = extent * min(width, height)
    box = [width / 2 - side / 2, height / 2 - side / 2, side, side]
    path = dot_annotations(tmp_path, (width, height), keypoint, box, suffix)
    geometric = AugmentConfig(rotation_deg=180, scale=(0.8, 1.6), shift=0.1)
    sample = dataset(path, geometric, size_hw=(96, 64), seed=seed)[0]
    labelled = np.flatnonzero(sample["visibility"])
    assert labelled.tolist() == [0]  # the nose has no other side
    x, y = sample["keypoints"][0]
    if not (8 < x < 55 and 8 < y < 87):
        return  # the dot is cut off by the crop's edge
    values = sample["image"].astype(float).mean(axis=2)
    values[values < 12] = 0
    centroid = (values * np.arange(64)).sum() / values.sum(), (values * np.arange(96)[:, None]).sum() / values.sum()
    assert np.hypot(centroid[0] - x, centroid[1] - y) < 0.6


@pytest.mark.parametrize("size_wh", [(640, 480), (641, 483), (1023, 700)])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reduced_pictures_lie_on_the_full_ones(tmp_path: Path, size_wh: tuple[int, int], factor: int) -> None:
    keypoint = np.array([size_wh[0] * 0.41, size_wh[1] * 0.63])
    dot_annotations(tmp_path, size_wh, keypoint, [0, 0, 1500, 1500], ".jpg")
    image, found = decode_reduced(tmp_path / "dot.jpg", (size_wh[1], size_wh[0]), factor + 1)
    assert found == factor
    values = image.astype(float).mean(axis=2)
    values[values < 12] = 0
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    centroid = np.array([(values * columns).sum(), (values * rows).sum()]) / values.sum()
    np.testing.assert_allclose(centroid * factor + (factor - 1) / 2, keypoint, atol=0.25)


def test_crops_are_never_enlarged_from_a_reduced_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dot_annotations(tmp_path, (640, 480), np.array([300.0, 200.0]), [100, 100, 301, 301], ".jpg")
    asked = []

    def spy(path: Path, hw: tuple[int, int], at_most: int) -> object:
        asked.append(at_most)
        return decode_reduced(path, hw, at_most)

    monkeypatch.setattr("ebapose.data.dataset.decode_reduced", spy)
    # the box is 300 px high and wide after the reference's clipping, 375 px padded
    for side, expected in ((800, 0), (374, 1), (376, 0), (187, 2), (188, 1), (64, 5)):
        dataset(path, size_hw=(side, side))[0]
        assert asked.pop() == expected


def test_cached_pictures_change_nothing(write_coco: Callable[..., Path]) -> None:
    images = [picture(1), picture(2), picture(3, ".png")]
    path = write_coco([person(i, i) for i in (1, 2, 3)], images)
    size = (192, 144)  # large enough that no picture is decoded at reduced size
    plain = dataset(path, EVERYTHING, size)
    cached = dataset(path, EVERYTHING, size, cache_bytes=2 * 160 * 120 * 3)
    assert cached.preload() == 2  # the third does not fit
    for _ in range(2):
        for i in range(3):
            assert same(plain[i], cached[i])
    assert len(cached._cache) == 2
    assert dataset(path).preload() == 0


def test_unusable_pictures_are_named(write_coco: Callable[..., Path]) -> None:
    images = [picture(i) for i in range(1, 6)]
    path = write_coco([person(i, i) for i in range(1, 6)], images)
    folder = path.parent
    (folder / "1.jpg").unlink()
    (folder / "2.jpg").write_bytes(b"")
    (folder / "3.jpg").write_bytes((folder / "4.jpg").read_bytes()[:-100])
    cv2.imwrite(str(folder / "4.jpg"), np.zeros((50, 60, 3), np.uint8))
    data = dataset(path, PAPER)
    for i, reason in enumerate(["No such file", "empty", "truncated", "the picture is 60x50, annotated as 160x120"]):
        with pytest.raises(InputError, match=rf"{i + 1}\.jpg: .*{reason}"):
            data[i]
        error = data.try_sample(i)
        assert isinstance(error, InputError)
        assert isinstance(pickle.loads(pickle.dumps(error)), InputError)
    assert not isinstance(data.try_sample(4), InputError)


def test_a_broken_donor_does_not_spoil_a_sample(write_coco: Callable[..., Path]) -> None:
    path = write_coco([person(1, 1), person(2, 2)], [picture(1), picture(2)])
    (path.parent / "2.jpg").write_bytes(b"junk")
    data = dataset(path, EVERYTHING)
    for epoch in range(20):
        assert data[epoch, 0]["image"].shape == (64, 48, 3)


def test_large_pictures_are_not_kept(write_coco):
    """Pictures of more px than `cache_pixels` are not kept, whatever room there is."""
    records = load_coco(write_coco([person(1)])).persons()
    for most, kept in ((160 * 120, 1), (160 * 120 - 1, 0)):
        data = CropDataset(records, (64, 48), cache_bytes=2**30, cache_pixels=most)
        data[0]
        assert len(data._cache) == kept


def test_a_reduced_picture_lies_on_the_whole_one(tmp_path):
    """A crop from a JPEG decoded at an eighth lies where that of the whole picture lies: no half px is lost."""
    x, y = np.meshgrid(np.arange(1600), np.arange(1200))
    blob = 255 * np.exp(-((x - 803.0) ** 2 + (y - 607.0) ** 2) / (2 * 60.0**2))
    cv2.imwrite(str(tmp_path / "a.jpg"), np.repeat(blob[..., None], 3, axis=2).astype(np.uint8))
    small, factor = decode_reduced(tmp_path / "a.jpg", (1200, 1600), 8)
    assert factor == 8
    weights = small[..., 0].astype(float)
    v, u = np.mgrid[: small.shape[0], : small.shape[1]]
    place = [(u * weights).sum() / weights.sum(), (v * weights).sum() / weights.sum(), 1]
    np.testing.assert_allclose(_reduced_to_image(factor) @ place, [803, 607], atol=0.5)
