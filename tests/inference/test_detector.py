"""Detectors: the bundled one finds the people of the example pictures; given boxes; the whole image."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ebapose import zoo
from ebapose.card import card_path
from ebapose.errors import InputError, ModelFileError, UsageError
from ebapose.geometry.boxes import iou
from ebapose.inference.detector import TILE_LARGEST, GivenBoxes, NanoDet, WholeImage, tile_windows
from ebapose.structures import Boxes, Frame

# The people's extent as a person sees it, by hand: left, top, right, bottom in px.
PEOPLE = {
    "balance.jpg": [(118, 200, 368, 618)],
    "park.jpg": [(704, 298, 822, 504), (300, 33, 388, 246)],
    "treadmill.jpg": [(306, 195, 492, 495), (122, 208, 474, 634)],
}


def test_the_people_of_the_examples_are_found(nanodet: NanoDet, examples: list[Frame]) -> None:
    for frame in examples:
        people = np.array(PEOPLE[Path(frame.name).name], float)
        found = nanodet(frame)
        assert len(found) == len(people), frame.name
        assert (iou(people, found.xyxy).max(axis=1) > 0.7).all(), frame.name
        assert (np.diff(found.scores) <= 0).all()  # best first
        assert found.scores.min() >= nanodet.least_score


def test_bfloat16_finds_the_same_people(nanodet: NanoDet, examples: list[Frame]) -> None:
    exact = NanoDet(bfloat16=False)
    assert exact._runtime.precision == "f32"
    if nanodet._runtime.precision == "f32":
        pytest.skip("this CPU or runtime does not calculate in bfloat16")
    for frame in examples:
        expected, found = exact(frame), nanodet(frame)
        assert len(found) == len(expected)
        assert (iou(expected.xyxy, found.xyxy).max(axis=1) > 0.95).all()
        np.testing.assert_allclose(found.scores, expected.scores, atol=0.03)


def test_boxes_move_with_the_picture_size(nanodet: NanoDet, examples: list[Frame]) -> None:
    """Small pictures are enlarged, and boxes are px of the picture as it came."""
    frame = examples[1]
    half = Frame(np.ascontiguousarray(frame.image[::2, ::2]))
    expected = np.array(PEOPLE["park.jpg"], float) / 2
    found = nanodet(half)
    assert (iou(expected, found.xyxy).max(axis=1) > 0.6).all()


def test_boxes_lie_in_the_picture(nanodet: NanoDet, examples: list[Frame]) -> None:
    frame = examples[2]
    cut = Frame(np.ascontiguousarray(frame.image[250:560, 200:480]))  # persons reach beyond the border
    boxes = nanodet(cut).xyxy
    assert len(boxes)
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= np.array(cut.hw)[::-1]).all()


def test_threshold_and_limit(examples: list[Frame], nanodet: NanoDet) -> None:
    assert len(NanoDet(score_threshold=0.6)(examples[1])) == 1
    assert len(NanoDet(max_persons=1)(examples[1])) == 1
    assert len(NanoDet(score_threshold=0.05)(examples[1])) > len(nanodet(examples[1]))


def test_small_people_are_found_in_tiles(examples: list[Frame]) -> None:
    """A photograph in the middle of a much larger picture, where four tiles meet: boxes are px of the picture."""
    wide = np.full((1080, 1920, 3), 114, np.uint8)
    wide[405:675, 720:1200] = cv2.resize(examples[1].image, (480, 270), interpolation=cv2.INTER_AREA)
    sitting = np.array(PEOPLE["park.jpg"][:1], float) / 2 + (720, 405, 720, 405)
    assert len(NanoDet()(Frame(wide))) == 0
    for tiles in (2, 4):
        found = NanoDet(tiles=tiles)(Frame(wide))
        assert len(found) == 1
        assert iou(sitting, found.xyxy)[0, 0] > 0.7


def test_of_a_tile_only_who_is_small_and_whole_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, frame = NanoDet(tiles=2), Frame(np.zeros((400, 800, 3), np.uint8))
    found = np.array(
        [
            [0, 100, 60, 200],  # at the picture's left border
            [100, 0, 160, 100],  # at its upper one
            [340, 100, 395, 200],  # at the inner one, 5 px from it
            [340, 100, 390, 200],  # 10 px from it
            [100, 295, 160, 310],  # beyond the lower, inner one
            [100, 50, 300, 250],  # half as large as the tile
            [100, 50, 301, 250],
        ],
        float,
    )
    monkeypatch.setattr(detector, "_look", lambda part: (found, np.arange(7, dtype=np.float32)))
    xyxy, scores = detector._closer_look(frame, (0, 0, 400, 300))
    assert scores.tolist() == [0, 1, 3, 5]
    np.testing.assert_array_equal(xyxy, found[[0, 1, 3, 5]])
    xyxy, scores = detector._closer_look(frame, (400, 100, 800, 400))  # the picture's lower right
    assert scores.tolist() == [2, 3, 4, 5]
    np.testing.assert_array_equal(xyxy, found[[2, 3, 4, 5]] + (400, 100, 400, 100))


def test_large_people_are_found_once(nanodet: NanoDet, examples: list[Frame]) -> None:
    for frame in examples[:2]:
        expected, found = nanodet(frame), NanoDet(tiles=2)(frame)
        assert len(found) == len(expected)
        assert (iou(expected.xyxy, found.xyxy).max(axis=1) > 0.7).all()


@pytest.mark.parametrize("hw", [(480, 640), (1080, 1920), (7, 5), (1, 1), (1001, 33), (34, 9429)])
@pytest.mark.parametrize("tiles", [2, 3, 4])
def test_whoever_is_small_is_whole_in_a_tile(hw: tuple[int, int], tiles: int) -> None:
    windows = np.array(tile_windows(hw, tiles))
    assert len({tuple(window) for window in windows.tolist()}) == len(windows) <= tiles**2
    assert (windows >= 0).all()
    assert (windows[:, 2:] <= (hw[1], hw[0])).all()
    small = max(hw) / 8
    for axis, length in ((0, hw[1]), (1, hw[0])):
        side = min(small, length)
        starts = np.linspace(0, length - side, 50)
        inside = (windows[:, axis] <= starts[:, None]) & (starts[:, None] + side <= windows[:, axis + 2])
        assert inside.any(axis=1).all()
    longer = (windows[:, 2:] - windows[:, :2]).max(axis=1)
    assert (TILE_LARGEST * longer > small).all()  # and not too large for it


def test_a_person_is_found_wherever_tiles_meet(examples: list[Frame]) -> None:
    """The standing one of a photograph, 180 px high in a picture of 1920x1080, where two rows of tiles meet."""
    person = examples[1].image[28:252, 294:394]
    person = cv2.resize(person, (80, 180), interpolation=cv2.INTER_AREA)
    detector = NanoDet(tiles=3)
    for top in range(240, 400, 40):
        wide = np.full((1080, 1920, 3), 114, np.uint8)
        wide[top : top + 180, 900:980] = person
        assert len(detector(Frame(wide))) == 1, top


def test_a_person_at_the_picture_s_border_is_not_cut_off_by_it(examples: list[Frame]) -> None:
    person = cv2.resize(examples[1].image[28:252, 294:394], (80, 180), interpolation=cv2.INTER_AREA)
    wide = np.full((1080, 1920, 3), 114, np.uint8)
    wide[:180, :80] = person
    assert len(NanoDet()(Frame(wide))) == 0
    assert len(NanoDet(tiles=3)(Frame(wide))) == 1


def test_a_picture_that_is_just_not_too_narrow(nanodet: NanoDet) -> None:
    frame = Frame(np.zeros((12, 3325, 3), np.uint8))
    assert len(nanodet(frame)) == len(NanoDet(tiles=3)(frame)) == 0


@pytest.mark.parametrize("tiles", [0, 5, -1])
def test_too_many_tiles_are_refused(tiles: int) -> None:
    with pytest.raises(UsageError, match=rf"detector tiles {tiles}: must lie in 1\.\.4"):
        NanoDet(tiles=tiles)


def test_nobody_there(nanodet: NanoDet) -> None:
    assert len(nanodet(Frame(np.full((300, 400, 3), 128, np.uint8)))) == 0


@pytest.mark.parametrize("hw", [(1, 2000), (2000, 1)])
def test_a_picture_too_narrow_to_look_at(hw: tuple[int, int], nanodet: NanoDet) -> None:
    with pytest.raises(InputError, match=f"line.png: {hw[1]}x{hw[0]} is too narrow"):
        nanodet(Frame(np.zeros((*hw, 3), np.uint8), "line.png"))


def test_a_damaged_installation_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="person detector is missing"):
        NanoDet(path=tmp_path / "gone.onnx")
    path = tmp_path / "detector.onnx"
    path.write_bytes(zoo.DETECTOR.read_bytes() + b"!")
    (tmp_path / "detector.card.json").symlink_to(card_path(zoo.DETECTOR))
    with pytest.raises(ModelFileError, match="sha256 differs from its card"):
        NanoDet(path=path)


def test_the_whole_image() -> None:
    boxes = WholeImage()(Frame(np.zeros((30, 40, 3), np.uint8)))
    assert boxes.xyxy.tolist() == [[0, 0, 40, 30]]


def test_given_boxes_by_name_and_by_image_id() -> None:
    boxes = Boxes.from_xyxy([[0, 0, 5, 5], [1, 1, 9, 9]], [0.9, 0.2])
    image = np.zeros((30, 40, 3), np.uint8)
    detector = GivenBoxes({"b/photo.jpg": boxes, 17: boxes[:1]}, score_threshold=0.5)
    assert detector(Frame(image, "/a/b/photo.jpg")).xyxy.tolist() == [[0, 0, 5, 5]]
    assert len(GivenBoxes({"photo": boxes})(Frame(image, "/a/b/photo.jpg"))) == 2
    assert len(detector(Frame(image, "COCO_val2014_000000000017.jpg"))) == 1
    with pytest.raises(InputError, match=r"/a/other\.jpg: not among the pictures of the given boxes"):
        detector(Frame(image, "/a/other.jpg"))


def test_given_boxes_are_one_pictures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.zeros((30, 40, 3), np.uint8)
    boxes = Boxes.from_xyxy([[0, 0, 5, 5]])
    detector = GivenBoxes({"a/1.jpg": boxes, 17: boxes})
    for name in ("p/a/1.jpg", "./p/a/1.jpg", str(tmp_path / "p/a/1.jpg")):  # one picture
        assert len(detector(Frame(image, name))) == 1
    with pytest.raises(InputError, match=r"given boxes of .a/1\.jpg. were already taken for p/a/1\.jpg$"):
        detector(Frame(image, "p/b/1.jpg"))
    bare = GivenBoxes({"1.jpg": boxes})
    assert len(bare(Frame(image, "a/1.jpg"))) == len(bare(Frame(image, "1.jpg"))) == 1  # named exactly
    for name in ("h", "i"):
        Path(name).mkdir()
    Path("h/1.jpg").touch()
    os.link("h/1.jpg", "i/1.jpg")
    linked = GivenBoxes({"1.jpg": boxes})
    assert len(linked(Frame(image, "h/1.jpg"))) == len(linked(Frame(image, "i/1.jpg"))) == 1
    assert len(detector(Frame(image, "p/17.jpg"))) == 1
    with pytest.raises(InputError, match=r"given boxes of 17 were already taken for p/17\.jpg$"):
        detector(Frame(image, "q/17.jpg"))


def test_listed_boxes_that_are_none_are_named() -> None:
    frame = Frame(np.zeros((30, 40, 3), np.uint8), "/a/b/photo.jpg")
    detector = GivenBoxes({"photo.jpg": Boxes.from_xyxy([])}, unusable={"photo.jpg": ["entry 3 of x.json: why"]})
    assert detector.problems(frame) == ["/a/b/photo.jpg: entry 3 of x.json: why"]
    assert GivenBoxes({"photo.jpg": Boxes.from_xyxy([])}).problems(frame) == []


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_that_is_none_is_refused(score: float) -> None:
    with pytest.raises(UsageError, match=r"detector score .*: must lie in 0\.\.1"):
        NanoDet(score_threshold=score)


def test_a_score_at_the_threshold_is_kept():
    boxes = Boxes.from_xyxy([[0, 0, 5, 5], [1, 1, 9, 9]], [0.5, 0.49])
    frame = Frame(np.zeros((10, 10, 3), np.uint8), "a.jpg")
    assert GivenBoxes({"a.jpg": boxes}, 0.5)(frame).scores.tolist() == [0.5]


def test_large_pictures_are_averaged(nanodet: NanoDet):
    """Large pictures are averaged: bilinear sampling would see the dark columns alone."""
    image = np.zeros((1664, 1664, 3), np.uint8)
    image[:, ::4] = image[:, 3::4] = 255
    blob, factor = nanodet._preprocess(Frame(image))
    assert factor == 0.25
    grey = (127.5 - np.array(nanodet.mean)) / nanodet.std
    np.testing.assert_allclose(blob[0].mean(axis=(1, 2)), grey, atol=0.05)
