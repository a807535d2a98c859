"""Files in, files out: one bad input costs itself, and what was done before an interruption is kept."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from ebapose.card import ModelCard
from ebapose.errors import EbaposeError, UsageError
from ebapose.inference import predictor as predictor_module
from ebapose.inference import run
from ebapose.inference.detector import NanoDet, WholeImage
from ebapose.inference.predictor import Predictor
from ebapose.inference.run import predict_sources
from ebapose.inference.runtime import Runtime
from ebapose.io.readers import read_poses_json
from ebapose.io.sources import Source
from ebapose.structures import Frame


@pytest.fixture
def predictor(network: tuple[Runtime, ModelCard], nanodet: NanoDet) -> Predictor:
    return Predictor(network[1], network[0], nanodet)


@pytest.fixture(scope="module")
def pictures(examples: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`1.jpg` and `sub/3.jpg` show people, `2.jpg` is broken, `4.png` is empty of people."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "sub").mkdir()
    for name, frame in (("1.jpg", examples[0]), ("sub/3.jpg", examples[1])):
        (folder / name).write_bytes(Path(frame.name).read_bytes())
    (folder / "2.jpg").write_bytes(Path(examples[0].name).read_bytes()[:5000])
    cv2.imwrite(str(folder / "4.png"), np.full((200, 150, 3), 90, np.uint8))
    return folder


def test_results_failures_and_progress(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    started, seen, failed = [], [], []
    summary = predict_sources(
        predictor,
        [str(pictures)],
        tmp_path,
        on_start=started.append,
        on_image=seen.append,
        on_failure=failed.append,
    )
    assert (summary.images, summary.persons, started) == (3, 3, [4])
    assert sorted(Path(name).name for name in seen) == ["1.jpg", "2.jpg", "3.jpg", "4.png"]
    assert summary.failures == failed
    assert [line.split(": ")[0] for line in failed] == [str(pictures / "2.jpg"), str(pictures / "4.png")]
    assert "truncated JPEG" in failed[0]
    assert failed[1].endswith("no person found")
    assert {"read", "detect", "crop", "network", "decode", "draw", "write"} == set(summary.milliseconds)
    assert all(ms >= 0 for ms in summary.milliseconds.values())

    by_name = {Path(image.file).name: image.poses for image in read_poses_json(tmp_path / "poses.json")}
    assert {name: len(poses) for name, poses in by_name.items()} == {"1.jpg": 1, "3.jpg": 2, "4.png": 0}
    listed = json.loads((tmp_path / "poses.json").read_text())["failed"]
    assert [Path(entry["file"]).name for entry in listed] == ["2.jpg", "4.png"]
    assert [entry["error"] for entry in listed] == failed
    for name, size in (("1.jpg", (960, 544)), ("sub/3.jpg", (540, 960)), ("4.jpg", (200, 150))):
        assert cv2.imread(str(tmp_path / name)).shape[:2] == size
    assert not (tmp_path / "2.jpg").exists()


def test_an_interruption_keeps_what_was_done(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    predictor.batch_size = 1

    def interrupt(name: str) -> None:
        if name.endswith("1.jpg"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_sources(predictor, [str(pictures)], tmp_path, ("json",), on_image=interrupt)
    (image,) = read_poses_json(tmp_path / "poses.json")
    assert (Path(image.file).name, len(image.poses)) == ("1.jpg", 1)


def test_a_signal_keeps_what_was_done(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    predictor.batch_size = 1
    before = signal.getsignal(signal.SIGTERM)

    def terminate(name: str) -> None:
        if name.endswith("1.jpg"):
            os.kill(os.getpid(), signal.SIGTERM)

    threads = threading.active_count()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        predict_sources(predictor, [str(pictures)], tmp_path, ("json",), on_image=terminate)
    assert time.monotonic() - began < 1.9  # nobody waits for a thread that has nobody to give to
    assert threading.active_count() == threads
    assert [Path(image.file).name for image in read_poses_json(tmp_path / "poses.json")] == ["1.jpg"]
    assert signal.getsignal(signal.SIGTERM) == before


def made_frames(alive: list[int], count: int, error: Exception | None = None) -> Iterator[Frame]:
    """Pictures that add their number to `alive` while they exist."""
    for number in range(count):
        image = np.full((64, 64, 3), number, np.uint8)
        alive.append(number)
        weakref.finalize(image, alive.remove, number)
        yield Frame(image, name=f"{number}.png", stem=str(number))
        del image
    if error is not None:
        raise error


def test_only_a_few_pictures_are_held(
    network: tuple[Runtime, ModelCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    most = []
    monkeypatch.setattr(run, "list_sources", lambda *_, **__: [Source(Path("x.png"), "x")])
    monkeypatch.setattr(run, "read_frames", lambda *_, **__: made_frames(alive, 80))
    predictor = Predictor(network[1], network[0], WholeImage(), batch_size=4)
    summary = predict_sources(predictor, ["x"], tmp_path, ("csv",), on_image=lambda _: most.append(len(alive)))
    assert summary.images == 80
    # a batch, both queues, and one in the hands of each stage
    assert max(most) <= 4 + 2 * run.AHEAD + 4
    assert alive == []


def test_large_pictures_do_not_wait_for_a_full_batch_or_queue(
    network: tuple[Runtime, ModelCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    monkeypatch.setattr(predictor_module, "MOST_BYTES", 2 * 64 * 64 * 3)
    monkeypatch.setattr(run, "MOST_BYTES", 2 * 64 * 64 * 3)
    predictor = Predictor(network[1], network[0], WholeImage(), batch_size=16)
    most = [len(alive) for _ in predictor.stream(made_frames(alive, 20))]
    assert len(most) == 20
    assert max(most) <= 4

    monkeypatch.setattr(run, "list_sources", lambda *_, **__: [Source(Path("x.png"), "x")])
    monkeypatch.setattr(run, "read_frames", lambda *_, **__: made_frames(alive, 40))
    held: list[int] = []

    def slow(_: str) -> None:
        time.sleep(0.02)
        held.append(len(alive))

    assert predict_sources(predictor, ["x"], tmp_path, ("csv",), on_image=slow).images == 40
    # one in each queue, three in a batch that is over the limit, and two in the hands of each stage
    assert max(held) <= 2 + 3 + 6


def test_an_error_of_any_stage_ends_all_of_them(
    network: tuple[Runtime, ModelCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    threads = threading.active_count()
    monkeypatch.setattr(run, "list_sources", lambda *_, **__: [Source(Path("x.png"), "x")])
    monkeypatch.setattr(run, "read_frames", lambda *_, **__: made_frames(alive, 38, EbaposeError("the cable is out")))
    predictor = Predictor(network[1], network[0], WholeImage(), batch_size=4)
    with pytest.raises(EbaposeError, match="the cable is out"):
        predict_sources(predictor, ["x"], tmp_path / "read", ("json",))
    assert len(read_poses_json(tmp_path / "read" / "poses.json")) == 36  # what was not in an unfinished batch

    def full(*_: object) -> None:
        raise EbaposeError("the disk is full")

    monkeypatch.setattr(run.PoseWriter, "write", full)
    monkeypatch.setattr(run, "read_frames", lambda *_, **__: made_frames(alive, 1000))
    with pytest.raises(EbaposeError, match="the disk is full"):
        predict_sources(predictor, ["x"], tmp_path / "write", ("json",))
    assert threading.active_count() == threads


def test_the_output_folder_inside_of_the_input_is_not_read(
    predictor: Predictor, examples: list[Frame], tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(Path(examples[1].name).read_bytes())
    for _ in range(2):
        summary = predict_sources(predictor, [str(tmp_path)], tmp_path / "out", ("overlay",))
        assert (summary.images, summary.failures) == (1, [])


def test_wrong_annotations_are_wrong_usage(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.json: no such file"):
        predict_sources(predictor, [str(pictures)], tmp_path / "out", annotations=tmp_path / "gone.json")
    assert not (tmp_path / "out").exists()


def test_nothing_to_do(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(EbaposeError, match="nothing to do"):
        predict_sources(predictor, [], tmp_path)
