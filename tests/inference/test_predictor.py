"""The corridor: what must not change the poses, what bad boxes cost, and how much a stream holds."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ebapose
from ebapose.card import CodecSpec, ModelCard
from ebapose.errors import InputError, ModelFileError, UsageError
from ebapose.geometry.crop import crop_scale, image_to_crop, image_to_crop_matrix
from ebapose.geometry.persons import Doubt
from ebapose.inference.detector import GivenBoxes, NanoDet, WholeImage
from ebapose.inference.loading import bundled_detector, resolve_model
from ebapose.inference.predictor import Predictor
from ebapose.inference.runtime import Runtime
from ebapose.skeleton import COCO17
from ebapose.structures import Boxes, Frame, Poses

Network = tuple[Runtime, ModelCard]


@pytest.fixture
def predictor(network: Network, nanodet: NanoDet) -> Predictor:
    runtime, card = network
    return Predictor(card, runtime, nanodet)


@pytest.fixture(scope="module")
def boxes(examples: list[Frame], nanodet: NanoDet) -> list[Boxes]:
    return [nanodet(frame) for frame in examples]


def mirrored(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def mirrored_boxes(xyxy: np.ndarray, width: int) -> np.ndarray:
    return np.stack([width - 1 - xyxy[:, 2], xyxy[:, 1], width - 1 - xyxy[:, 0], xyxy[:, 3]], axis=1)


def mirrored_keypoints(poses: Poses) -> np.ndarray:
    keypoints = poses.keypoints[:, poses.skeleton.flip_indices].copy()
    keypoints[..., 0] = poses.image_hw[1] - 1 - keypoints[..., 0]
    return keypoints


@pytest.mark.parametrize("batch_size", [1, 3])
def test_poses_do_not_depend_on_the_batch_size(
    batch_size: int, network: Network, nanodet: NanoDet, examples: list[Frame], boxes: list[Boxes]
) -> None:
    runtime, card = network
    expected = Predictor(card, runtime, nanodet, batch_size=16)(examples, boxes)
    found = Predictor(card, runtime, nanodet, batch_size=batch_size)(examples, boxes)
    assert sum(len(poses) for poses in expected) == 5
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=0.01)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
        np.testing.assert_allclose(a.sigmas_px, b.sigmas_px, atol=0.01)


def test_each_box_gets_the_pose_that_it_gets_alone(
    predictor: Predictor, examples: list[Frame], boxes: list[Boxes]
) -> None:
    together = predictor(examples, boxes)
    for frame, given, poses in zip(examples, boxes, together, strict=True):
        np.testing.assert_array_equal(poses.boxes.xyxy, given.xyxy)
        for n in range(len(given)):
            np.testing.assert_allclose(predictor(frame, given[[n]]).keypoints[0], poses.keypoints[n], atol=0.01)


def test_given_boxes_and_the_detector_lead_to_the_same_poses(
    predictor: Predictor, examples: list[Frame], boxes: list[Boxes]
) -> None:
    found, given = predictor(examples[1]), predictor(examples[1], boxes[1].xyxy)
    np.testing.assert_allclose(found.keypoints, given.keypoints, atol=0.01)
    np.testing.assert_allclose(found.boxes.scores, boxes[1].scores)
    np.testing.assert_array_equal(given.boxes.scores, 1)


def test_a_mirrored_photograph_gives_the_mirrored_poses_with_flip_test(
    network: Network, nanodet: NanoDet, examples: list[Frame], boxes: list[Boxes]
) -> None:
    runtime, card = network
    predictor = Predictor(card, runtime, nanodet, flip_test=True)
    inner, beside = [], []
    for frame, given in zip(examples, boxes, strict=True):
        plain = predictor(frame, given)
        back = mirrored_keypoints(predictor(mirrored(frame.image), mirrored_boxes(given.xyxy, frame.hw[1])))
        matrices = image_to_crop_matrix(given.xyxy, card.input.size_hw, card.input.padding)
        scale = crop_scale(matrices)[:, None]
        apart = np.linalg.norm(plain.keypoints - back, axis=-1) * scale
        x, reach = image_to_crop(plain.keypoints, matrices)[..., 0], 3 * plain.sigmas_px[..., 0] * scale
        at_border = (x < reach) | (x > card.input.size_hw[1] - 1 - reach)
        inner.extend(apart[(plain.scores >= 0.5) & ~at_border])
        beside.extend(apart[(plain.scores >= 0.5) & at_border])
    assert len(inner) > 20
    assert beside
    # crop px; the warp may round a pixel by one grey level to the other side
    assert np.median(inner) < 0.005
    assert np.max(inner) < 0.05
    # the outermost bin, half a px wide, is shown by one of the two crops only, and is filled in for the other
    assert np.max(beside) < 0.5


def test_poses_move_with_the_picture(predictor: Predictor, examples: list[Frame], boxes: list[Boxes]) -> None:
    frame, given = examples[1], boxes[1]
    canvas = np.zeros((frame.hw[0] + 64, frame.hw[1] + 32, 3), np.uint8)
    canvas[64:, 32:] = frame.image
    moved = predictor(canvas, given.xyxy + np.array([32, 64, 32, 64], np.float32))
    confident = moved.scores >= 0.5
    assert confident.sum() > 10
    apart = moved.keypoints - np.array([32, 64], np.float32) - predictor(frame, given).keypoints
    assert np.abs(apart[confident]).max() < 0.5


@pytest.mark.parametrize(
    ("box", "cause"),
    [
        ((2000, 10, 2100, 60), r"box \(2000, 10, 2100, 60\) lies outside the picture \(960x540\)"),
        ((-50, -50, 0, 0), "lies outside the picture"),
        ((10, 10, 10, 60), "has no area"),
        ((10, 60, 90, 60), "has no area"),
        ((10, 10, 1e30, 1e30), "is absurdly large"),
        ((90, 10, 20, 60), "right < left"),
        ((np.nan, 0, 5, 5), "must be finite"),
    ],
)
def test_a_box_that_holds_nothing_is_named(
    box: tuple[float, ...], cause: str, predictor: Predictor, examples: list[Frame]
) -> None:
    with pytest.raises(InputError, match=cause) as caught:
        predictor(examples[1], [box])
    assert "\n" not in str(caught.value)


def test_a_stream_drops_bad_boxes_and_keeps_the_good_ones(
    predictor: Predictor, examples: list[Frame], boxes: list[Boxes]
) -> None:
    good = boxes[1].xyxy
    mixed = Boxes.from_xyxy([good[0], [-9, -9, -1, -1], good[1], [5, 5, 5, 9]])
    (prediction,) = predictor.stream([examples[1]], [mixed])
    assert prediction.used.tolist() == [True, False, True, False]
    assert [problem.split(") ")[1] for problem in prediction.problems] == [
        "lies outside the picture (960x540)",
        "has no area",
    ]
    assert all(examples[1].name in problem for problem in prediction.problems)
    np.testing.assert_allclose(prediction.poses.keypoints, predictor(examples[1], good).keypoints, atol=0.01)


def test_no_person_is_an_empty_result(predictor: Predictor) -> None:
    for poses in (predictor(np.full((300, 200, 3), 120, np.uint8)), predictor(np.zeros((50, 60, 3), np.uint8), [])):
        assert len(poses) == 0
        assert poses.keypoints.shape == (0, 17, 2)


def test_one_picture_one_result_several_pictures_a_list(predictor: Predictor, examples: list[Frame]) -> None:
    image = examples[1].image
    assert isinstance(predictor(image), Poses)
    assert [len(poses) for poses in predictor([image, examples[0]])] == [2, 1]
    assert [len(poses) for poses in predictor(np.stack([image, image]))] == [2, 2]
    assert predictor([]) == []


def test_whatever_numpy_makes_an_array_of_is_a_picture(predictor: Predictor, examples: list[Frame]) -> None:
    class Picture:  # as PIL's
        def __init__(self, image: np.ndarray) -> None:
            self.image, self.__array_interface__ = image, image.__array_interface__

    image = examples[1].image
    for found in (predictor(Picture(image)), predictor([Picture(image)])[0]):  # type: ignore[call-overload]
        np.testing.assert_array_equal(found.keypoints, predictor(image).keypoints)


@pytest.mark.parametrize(("thing", "kind"), [("a.jpg", "str"), (Path("a.jpg"), "PosixPath|WindowsPath"), (None, "No")])
def test_what_is_no_array_is_refused(thing: object, kind: str, predictor: Predictor) -> None:
    with pytest.raises(InputError, match=rf"expected an RGB uint8 array \(H, W, 3\), .* got a ({kind})"):
        predictor(thing)  # type: ignore[call-overload]


@pytest.mark.parametrize("picture", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3))])
def test_what_is_no_picture_is_refused(picture: np.ndarray, predictor: Predictor) -> None:
    with pytest.raises(InputError, match=r"expected an RGB uint8 array \(H, W, 3\)"):
        predictor(picture)


def test_the_numbers_of_pictures_and_boxes_must_agree(predictor: Predictor, examples: list[Frame]) -> None:
    with pytest.raises(InputError, match="1 sets of boxes for 2 pictures"):
        predictor(examples[:2], [[[0, 0, 9, 9]]])
    with pytest.raises(InputError, match=r"park\.jpg: there are fewer sets of boxes than pictures"):
        list(predictor.stream(examples[:2], [Boxes.from_xyxy([[0, 0, 90, 90]])]))


def test_times_are_counted(predictor: Predictor, examples: list[Frame]) -> None:
    predictor(examples)
    assert (predictor.times.images, predictor.times.persons) == (3, 5)
    assert all(ms > 0 for ms in predictor.times.milliseconds().values())


class Uniform:
    """A network that knows nothing: every bin alike."""

    name, precision = "openvino", "f32"

    def __init__(self, card: ModelCard) -> None:
        height, width = card.input.size_hw
        self.bins = int(width * card.codec.split_ratio), int(height * card.codec.split_ratio)
        self.batches: list[int] = []

    def __call__(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        self.batches.append(len(batch))
        return tuple(np.zeros((len(batch), 17, bins), np.float32) for bins in self.bins)


@pytest.mark.parametrize("persons", [[0], [1], [0, 1, 0, 0, 2], [5, 0, 0, 0, 0, 0, 0], [3]])
def test_a_stream_holds_at_most_a_batch_of_frames(persons: list[int], network: Network) -> None:
    card, batch_size, num_frames = network[1], 4, 60
    runtime = Uniform(card)
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0

    class Someone:
        def __call__(self, frame: Frame) -> Boxes:
            return Boxes.from_xyxy(np.tile([[2.0, 2, 20, 30]], (persons[frame.index % len(persons)], 1)))

    class Counted(Frame):
        __hash__ = object.__hash__

    def endless() -> Iterator[Frame]:
        nonlocal most
        for index in range(num_frames):
            frame = Counted(np.zeros((32, 24, 3), np.uint8), f"frame {index}", index)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame
            del frame

    order = []
    for prediction in Predictor(card, runtime, Someone(), batch_size=batch_size).stream(endless()):
        assert len(prediction.poses) == persons[prediction.frame.index % len(persons)]
        order.append(prediction.frame.index)
        del prediction
    assert order == list(range(num_frames))
    assert most <= batch_size + 2  # the batch, the frame that arrives, and the one that was handed out
    assert max(runtime.batches, default=0) <= batch_size


def test_persons_of_several_frames_share_a_batch(network: Network) -> None:
    runtime = Uniform(network[1])
    frames = [Frame(np.zeros((32, 24, 3), np.uint8), index=i) for i in range(8)]
    list(Predictor(network[1], runtime, WholeImage(), batch_size=4).stream(frames))
    assert runtime.batches == [4, 4]


def test_load_by_alias_by_name_and_by_file() -> None:
    by_alias = resolve_model("default")
    assert by_alias.is_file()
    assert resolve_model(ebapose.load(by_alias, detector="whole-image").card.name) == by_alias


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"model": "defualt"}, "unknown model 'defualt', did you mean 'default'"),
        ({"model": "eba_prnetc34_384x288"}, "did you mean 'eba_prnetcc34_384x288'"),
        ({"model": "eba_prnetcc34_384x288"}, "has no bundled weights"),
        ({"detector": "yolo"}, "unknown detector 'yolo'"),
        ({"runtime": "tensorrt"}, "unknown runtime 'tensorrt'"),
        ({"batch_size": 0}, "batch size 0"),
        ({"threads": 0}, "threads 0: must be at least 1"),
    ],
)
def test_load_says_what_is_wrong(options: dict[str, object], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        ebapose.load(**{"detector": "whole-image", **options})  # type: ignore[arg-type]


def test_load_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.onnx: no such model file"):
        ebapose.load(tmp_path / "gone.onnx")


def test_load_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match="models: is a folder, not a model file"):
        ebapose.load("models")


def test_listed_entries_that_are_no_boxes_are_named(network, examples):
    """Listed entries that are no boxes are named with their picture, beside the poses of the good ones."""
    runtime, card = network
    frame = Frame(examples[0].image, "a.jpg")
    given = GivenBoxes({"a.jpg": Boxes.from_xyxy([[118, 200, 368, 618]])}, unusable={"a.jpg": ["entry 3: no box"]})
    (prediction,) = Predictor(card, runtime, given).stream([frame])
    assert len(prediction.poses) == 1
    assert prediction.problems == ("a.jpg: entry 3: no box",)


class Listed:
    """A detector that knows its boxes, and how far its scores can be trusted."""

    def __init__(self, boxes: Boxes, doubt: Doubt | None = None) -> None:
        self.boxes = boxes
        if doubt is not None:
            self.doubt = doubt

    def __call__(self, frame: Frame) -> Boxes:
        return self.boxes


@pytest.fixture
def listed(examples: list[Frame], nanodet: NanoDet) -> Boxes:
    """Of park.jpg: its two persons, the first once more a little further, nobody, and the second in doubt."""
    xyxy = nanodet(examples[1]).xyxy
    assert len(xyxy) == 2
    height, width = examples[1].hw
    corner = [width - 60, height - 120, width, height]
    return Boxes.from_xyxy([xyxy[0], xyxy[0] + 4, corner, xyxy[1]], [0.9, 0.5, 0.34, 0.3])


def test_the_predictor_judges_the_boxes_of_a_detector_that_is_not_sure(
    network: Network, examples: list[Frame], listed: Boxes
) -> None:
    runtime, card = network
    frame = examples[1]
    trusting, judging = (Predictor(card, runtime, Listed(listed, doubt)) for doubt in (None, Doubt(0.35, 0.5)))
    (trusted,), (judged,) = trusting.stream([frame]), judging.stream([frame])
    assert trusted.used.all()
    assert judged.used.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(judged.poses.boxes.xyxy, listed.xyxy[[0, 3]])
    np.testing.assert_allclose(judged.poses.keypoints, trusted.poses.keypoints[[0, 3]], atol=0.01)
    (given,) = judging.stream([frame], [listed])
    assert given.used.all()  # whoever gives boxes wants a pose for each


class Centre:
    """A network that regresses every keypoint to the middle of the crop, and is certain of nothing."""

    name, precision = "openvino", "f32"

    def __call__(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.full((len(batch), 17, 2), 0.5, np.float32),)


def test_a_model_that_states_no_probabilities_decides_nothing(
    network: Network, examples: list[Frame], listed: Boxes
) -> None:
    """Its scores are 1 everywhere: every pose would convince."""
    card = network[1].model_copy(update={"codec": CodecSpec(type="coordinate")})
    predictor = Predictor(card, Centre(), Listed(listed, Doubt(0.35, 0.6)))
    (prediction,) = predictor.stream([examples[1]])
    np.testing.assert_array_equal(prediction.poses.boxes.xyxy, listed.xyxy[[0]])  # copies are still left out


def test_which_boxes_are_judged(network: Network, tmp_path: Path) -> None:
    assert ebapose.load().doubt == bundled_detector().doubt == Doubt(sure=0.35, certain=0.5)
    assert bundled_detector().least_score == 0.2
    exact = bundled_detector(0.3)
    assert (exact.doubt, exact.least_score) == (None, 0.3)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "001.png")
    for detector, score in ((bundled_detector(), 0.35), (exact, 0.0)):
        with Predictor(network[1], network[0], detector).track(tmp_path) as video:
            assert video._tracker.options.sure_score == score


def test_people_who_lie_are_found_by_their_poses(examples: list[Frame], nanodet: NanoDet) -> None:
    lying = np.ascontiguousarray(np.rot90(examples[1].image))
    assert len(nanodet(Frame(lying))) == 0
    poses = ebapose.load()(lying)
    assert len(poses) == 2
    assert ((poses.boxes.scores >= 0.2) & (poses.boxes.scores < 0.35)).all()
    assert (poses.scores.mean(axis=1) >= 0.5).all()
    upright = ebapose.load()(examples[1])
    trunk = [
        COCO17.keypoint_names.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("shoulder", "hip")
    ]
    found, right = poses.keypoints[:, trunk].mean(axis=1), upright.keypoints[:, trunk].mean(axis=1)
    turned = np.stack([examples[1].hw[1] - 1 - found[:, 1], found[:, 0]], axis=-1)
    heights = upright.boxes.xyxy[:, 3] - upright.boxes.xyxy[:, 1]
    near = np.linalg.norm(turned[:, None] - right, axis=-1) < 0.15 * heights
    assert near.sum(axis=0).tolist() == near.sum(axis=1).tolist() == [1, 1]
