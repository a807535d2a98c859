"""What can be named as a source, in which order it is read, and that one bad input does not end the run."""

from __future__ import annotations

import io
import json
import logging
import os
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest

from ebapose.io.overlays import marked
from ebapose.io.sources import FailedInput, Source, list_sources, natural_key, read_frames
from ebapose.structures import Frame

EXAMPLES = Path(__file__).parents[2] / "examples"


def put(path: Path, value: int = 100) -> Path:
    """A small picture at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((6, 8, 3), value, np.uint8))
    return path


def listed(*sources: str | Path, **options: object) -> list[Source]:
    found = list(list_sources([str(s) for s in sources], **options))  # type: ignore[arg-type]
    assert all(isinstance(s, Source) for s in found), [str(s) for s in found]
    return found  # type: ignore[return-value]


def stems(*sources: str | Path, **options: object) -> list[str]:
    return [source.stem for source in listed(*sources, **options)]


def failure(*sources: str | Path, **options: object) -> str:
    (found,) = list_sources([str(s) for s in sources], **options)  # type: ignore[arg-type]
    assert isinstance(found, FailedInput)
    assert "\n" not in str(found)
    return str(found)


def test_folder_in_natural_order_with_sub_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("img10.jpg", "img2.PNG", "Img1.webp", "b/10/x.bmp", "b/9/x.tif", ".hidden.jpg", ".git/x.jpg"):
        put(tmp_path / name)
    (tmp_path / "README.md").write_text("no picture")
    (tmp_path / "LICENSE").write_text("no picture")
    (tmp_path / "notes.md").write_text("no picture")
    assert stems(tmp_path) == ["Img1", "img2", "img10", "b/9/x", "b/10/x"]
    assert caplog.messages == [f"{tmp_path}: 3 files skipped that are not pictures (.md, LICENSE)"]


def test_examples_are_pictures_only() -> None:
    frames = list(read_frames(EXAMPLES))
    assert [f.stem for f in frames if isinstance(f, Frame)] == ["balance", "park", "treadmill"]
    assert len(frames) == 3


def test_the_output_folder_is_not_read(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    put(tmp_path / "out" / "a.jpg")
    assert stems(tmp_path, exclude=tmp_path / "out") == ["a"]
    assert stems(tmp_path / "**" / "*.jpg", exclude=tmp_path / "out") == ["a"]
    assert stems(tmp_path / "out", exclude=tmp_path / "out") == ["a"]  # asked for by name
    for folder in (tmp_path, tmp_path.parent, "/"):  # and so is what a pattern names
        assert stems(tmp_path / "*.jpg", exclude=folder) == ["a"]
    assert stems(tmp_path / "out" / "*.jpg", exclude=tmp_path / "out") == ["a"]


def test_a_pattern_of_the_working_folder_may_be_written_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "p" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert stems("p/*.jpg", exclude=".") == stems("./p/*.jpg", exclude="p") == ["a"]


def test_what_an_earlier_run_has_drawn_is_no_picture_to_look_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "a.jpg")
    drawn = tmp_path / "a_pose.jpg"
    drawn.write_bytes(marked((tmp_path / "a.jpg").read_bytes()))
    for source in (tmp_path, tmp_path / "*.jpg"):
        assert stems(source) == ["a"]
        assert caplog.messages.pop() == f"{source}: 1 files skipped that an earlier run has drawn"
        caplog.clear()
    assert stems(drawn) == ["a_pose"]  # asked for by name


def test_videos_and_plots_of_an_earlier_run_are_none_to_look_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("clip.mp4", "clip_pose.mp4", "mine.mp4", "own.mp4", "odd.mp4"):
        (tmp_path / name).write_bytes(b"film")
    for name in ("clip_pose_plots/track_0001.png", "my_plots/a.png"):
        put(tmp_path / name)
    summary = {"format": "ebapose-video", "files": ["x/clip_pose.mp4", "x/clip_pose_plots"], "overlay_bytes": 4}
    (tmp_path / "clip_pose_summary.json").write_text(json.dumps(summary))
    (tmp_path / "mine_summary.json").write_text(json.dumps({**summary, "overlay_bytes": None}))
    (tmp_path / "own_summary.json").write_text(
        json.dumps({**summary, "overlay_bytes": 5})
    )  # the original, brought here
    (tmp_path / "odd_summary.json").write_text("[" * 100_000)
    assert stems(tmp_path / "*.mp4") == ["clip", "mine", "odd", "own"]
    assert caplog.messages.pop() == f"{tmp_path}/*.mp4: 1 files skipped that an earlier run has drawn"
    assert stems(tmp_path) == ["my_plots/a"]
    assert any(line == f"{tmp_path}: 2 files skipped that an earlier run has drawn" for line in caplog.messages)
    assert stems(tmp_path / "clip_pose.mp4") == ["clip_pose"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (failed,) = (item for item in read_frames([tmp_path]) if isinstance(item, FailedInput))
    assert "pipe.jpg" in str(failed)


def test_folders_that_links_lead_to_are_read_once(tmp_path: Path) -> None:
    put(tmp_path / "in/z/1.jpg")
    put(tmp_path / "elsewhere/2.jpg")
    (tmp_path / "in/a").symlink_to(tmp_path / "in/z")
    (tmp_path / "in/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/z/up").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere/c").symlink_to(tmp_path / "in/b")
    assert stems(tmp_path / "in") == ["z/1", "b/2"]


def test_videos_in_a_folder_are_to_be_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.MOV").touch()
    hint = f"2 videos skipped: name each, or a pattern such as {tmp_path}/*.mp4"
    assert failure(tmp_path) == f"{tmp_path}: no pictures in this folder ({hint})"
    put(tmp_path / "c.jpg")
    assert stems(tmp_path) == ["c"]
    assert caplog.messages == [f"{tmp_path}: {hint}"]


def test_a_path_that_is_too_long_costs_only_itself(tmp_path: Path) -> None:
    good = str(put(tmp_path / "good.jpg"))
    for name in ("a" * 300 + ".jpg", "a" * 300 + ".txt", "a" * 300 + "*.jpg", "a" * 300 + ".mp4"):
        for sources in ([name, good], [str(tmp_path / "list.txt")]):
            (tmp_path / "list.txt").write_text(f"{name}\n{good}\n")
            first, second = read_frames(sources)
            assert isinstance(first, FailedInput)
            assert isinstance(second, Frame)


def test_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("x")
    assert failure(tmp_path) == f"{tmp_path}: no pictures in this folder"


def test_pattern(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a/10.jpg", "a/9.jpg", "b/9.jpg", "b/note.jpg.bak"):
        if name.endswith("bak"):
            (tmp_path / name).write_text("x")
        else:
            put(tmp_path / name)
    assert stems(tmp_path / "*" / "9*") == ["a/9", "b/9"]
    assert caplog.messages == []
    assert stems(tmp_path / "**" / "*") == ["a/9", "a/10", "b/9"]
    assert len(caplog.messages) == 1
    assert failure(tmp_path / "*.png").endswith("*.png: no picture or video matches this pattern")


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    assert stems(put(tmp_path / "photo [1].jpg")) == ["photo [1]"]


def test_list_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "lists" / "near.jpg")
    put(tmp_path / "there" / "x y.jpg")
    listing = tmp_path / "lists" / "all.txt"
    listing.write_bytes(b"\xef\xbb\xbfthere/x y.jpg\r\n\r\nnear.jpg\nthere\nall.txt\n")
    monkeypatch.chdir(tmp_path)
    found = listed(listing)
    assert [s.stem for s in found] == ["x y", "near", "there/x y", "all"]
    assert found[0].path == Path("there/x y.jpg")  # relative to the working folder
    assert found[1].path == listing.parent / "near.jpg"  # or to the list
    results = list(read_frames(found))
    assert isinstance(results[3], FailedInput)  # a list within a list is not followed, but read as a picture
    assert "not a picture" in str(results[3])


def test_bad_lists(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n\n")
    binary.write_bytes(b"\xff\xfe\x00a")
    assert failure(empty) == f"{empty}: no paths in this list"
    assert "must be UTF-8 text" in failure(binary)
    assert "no such file" in str(next(iter(read_frames(str(tmp_path / "missing.txt")))))


def test_standard_input_is_read_as_it_comes(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jpg")

    def lines() -> object:
        yield f"{path}\n"
        raise AssertionError("read ahead")

    source = next(iter(list_sources(["-"], stdin=lines())))  # type: ignore[arg-type]
    assert isinstance(source, Source)
    assert source.path == path
    assert "no paths" in failure("-", stdin=io.StringIO(""))


def test_addresses_and_nonsense_are_refused() -> None:
    assert (
        failure("https://me:secret@example.org/a.jpg")
        == "https://example.org/a.jpg: is an address, not a file; download it first"
    )
    assert "not a path" in failure("")
    assert "not a path" in failure("a\0b")


def test_stems_are_unique(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a" / "x.jpg"), put(tmp_path / "b" / "x.jpg")
    other, upper = put(tmp_path / "a" / "x.png"), put(tmp_path / "c" / "X.jpg")
    assert stems(a, b) == ["x", "b/x"]
    assert stems(a, other) == ["x", "x_png"]
    assert stems(a, upper) == ["x", "c/X"]  # one file on some file systems
    assert stems(tmp_path / "a", tmp_path / "b") == ["x", "x_png", "b/x"]
    assert stems(tmp_path) == ["a/x", "a/x_png", "b/x", "c/X"]
    many = stems(*[a] * 40)
    assert len({s.casefold() for s in many}) == 40
    assert not any(s.startswith("/") or ".." in s for s in many)


def test_dots_in_names_and_parent_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "v1.2.final.jpg")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert stems("../v1.2.final.jpg", "..", "../*.jpg")[0] == "v1.2.final"
    assert all(".." not in s.split("/") for s in stems("../v1.2.final.jpg", "..", "../*.jpg"))


def test_one_bad_input_does_not_end_the_run(tmp_path: Path) -> None:
    put(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:-40])
    put(tmp_path / "4.jpg")
    results = list(read_frames([str(tmp_path), str(tmp_path / "none.jpg"), np.zeros((2, 2)), tmp_path / "4.jpg"]))
    kinds = [type(r) for r in results]
    assert kinds == [Frame, FailedInput, FailedInput, Frame, FailedInput, FailedInput, Frame]
    causes = [str(r) for r in results if isinstance(r, FailedInput)]
    for cause, words in zip(
        causes, ("2.jpg: the file is empty", "3.jpg: truncated", "none.jpg: no such", "array 2"), strict=True
    ):
        assert words in cause


def test_frames_know_where_they_come_from(tmp_path: Path) -> None:
    path = put(tmp_path / "sub" / "a.png")
    (frame,) = read_frames(tmp_path)
    assert isinstance(frame, Frame)
    assert (frame.name, frame.stem, frame.index, frame.time_s) == (str(path), "sub/a", 0, None)


def test_arrays_and_frames(tmp_path: Path) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    own = Frame(image, "mine", stem="mine")
    first, second, third = read_frames([image, own, image])
    assert isinstance(first, Frame)
    assert isinstance(third, Frame)
    assert second is own
    assert (first.name, first.stem, third.name, third.stem) == ("array 0", "array_000000", "array 2", "array_000002")
    assert [type(f) for f in read_frames(image)] == [Frame]


def test_video(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (32, 16))
    for value in (0, 120, 240):
        writer.write(np.full((16, 32, 3), (0, 0, value), np.uint8))
    writer.release()
    frames = [f for f in read_frames([path]) if isinstance(f, Frame)]
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.time_s for f in frames] == pytest.approx([0, 0.1, 0.2])
    assert [f.stem for f in frames] == ["clip/000000", "clip/000001", "clip/000002"]
    assert {f.name for f in frames} == {str(path)}
    np.testing.assert_allclose(frames[2].image.mean(axis=(0, 1)), (240, 0, 0), atol=6)


def test_bad_videos(tmp_path: Path) -> None:
    fake = tmp_path / "fake.mp4"
    fake.write_text("no video")
    (result,) = read_frames(fake)
    assert str(result).startswith(f"{fake}: not a video that can be read")
    (result,) = read_frames(tmp_path / "none.mp4")
    assert str(result) == f"{tmp_path / 'none.mp4'}: no such file"


def test_one_frame_is_alive_at_a_time(tmp_path: Path) -> None:
    for number in range(30):
        put(tmp_path / f"{number}.jpg")
    seen: list[weakref.ref[np.ndarray]] = []
    for frame in read_frames(tmp_path):
        assert isinstance(frame, Frame)
        seen.append(weakref.ref(frame.image))
        del frame
        assert sum(ref() is not None for ref in seen) <= 1
    assert len(seen) == 30


def test_listing_is_lazy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a.jpg")
    (tmp_path / "b.md").write_text("x")
    with caplog.at_level(logging.WARNING):
        next(iter(read_frames([tmp_path, "https://never.reached"])))
    assert caplog.messages == []


def test_natural_key() -> None:
    names = ["f10", "F2", "f1", "10", "9", "f2b", "", "f²"]
    assert sorted(names, key=natural_key) == ["", "9", "10", "f1", "F2", "f2b", "f10", "f²"]


def test_the_working_folder_comes_before_that_of_the_list(tmp_path, monkeypatch):
    """Where both have it, the working folder's file is meant, not that beside the list."""
    (tmp_path / "lists").mkdir()
    for folder in (tmp_path, tmp_path / "lists"):
        (folder / "both.jpg").write_bytes(b"x")
    (tmp_path / "lists" / "all.txt").write_text("both.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert [source.path for source in list_sources(tmp_path / "lists" / "all.txt")] == [Path("both.jpg")]
