from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from coco_entries import CATEGORY, person, picture
from ebapose.data.check import check_annotations
from ebapose.data.coco import load_coco
from ebapose.data.findings import KINDS, CheckReport
from ebapose.errors import InputError, UsageError
from ebapose.evaluation.inputs import read_annotations
from ebapose.skeleton import COCO17, Skeleton

NAMES = COCO17.keypoint_names


def counts(report: CheckReport) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


def text(report: CheckReport) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def test_a_good_file_has_no_findings(write_coco: Callable[..., Path]) -> None:
    report = check_annotations(write_coco([person(1), person(2)]))
    assert report.ok
    assert report.findings == ()
    assert report.skeleton == "coco17"
    assert report.num_persons == 2
    assert report.labelled["nose"] == 2
    assert "nothing wrong found" in text(report)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("annotation entry", {"bbox": [1, 2, 3]}),
        ("annotation entry", {"area": None}),
        ("annotation entry", {"area": "big"}),
        ("annotation entry", {"keypoints": [1, 2, 3]}),
        ("annotation entry", {"keypoints": [float("nan")] * 51}),
        ("annotation entry", {"keypoint_weights": [-1.0] * 17}),
        ("annotation entry", {"keypoint_weights": [1.0, 2.0]}),
        ("annotation entry", {"iscrowd": "no"}),
        ("annotation entry", {"category_id": None}),
        ("annotation entry", {"image_id": None}),
        ("unlisted category", {"category_id": 7}),
        ("orphan annotation", {"image_id": 77}),
        ("duplicate annotation id", {"id": 1}),
        ("visibility", {"keypoints": [30, 30, 3] * 17}),
        ("empty box", {"bbox": [1, 2, 0, 5]}),
        ("box outside", {"bbox": [200, 20, 30, 30]}),
        ("box beyond", {"bbox": [20, 20, 200, 90]}),
        ("no area", {"area": 0}),
        ("area larger than box", {"area": 90 * 90 * 2}),
        ("keypoint outside", {"keypoints": [-20, 30, 2] + [30, 30, 2] * 16}),
        ("keypoint far from box", {"keypoints": [159, 30, 2] + [30, 30, 2] * 16, "bbox": [10, 10, 40, 40], "area": 99}),
        ("num_keypoints", {"num_keypoints": 3}),
    ],
)
def test_each_problem_is_found_and_named(write_coco: Callable[..., Path], kind: str, change: dict[str, Any]) -> None:
    report = check_annotations(write_coco([person(1), person(4, **change)]))
    assert kind in counts(report)
    finding = next(f for f in report.findings if f.kind == kind)
    assert finding.level == KINDS[kind][0]
    assert "4" in finding.examples[0] or kind == "duplicate annotation id"
    assert report.ok == (finding.level == "warning")
    assert kind in text(report)
    assert json.loads(json.dumps(report.to_dict()))["ok"] == report.ok


@pytest.mark.parametrize("people", [[], [person(1, iscrowd=1)], [person(1, keypoints=[0] * 51)]])
def test_a_file_without_anybody_to_learn_from_is_wrong(write_coco: Callable[..., Path], people: list[Any]) -> None:
    report = check_annotations(write_coco(people))
    assert counts(report)["nobody"] == 1
    assert not report.ok


def test_a_category_whose_id_is_no_number(write_coco: Callable[..., Path]) -> None:
    report = check_annotations(write_coco([person(1)], category=CATEGORY | {"id": "person"}))
    assert counts(report) == {"category": 1, "unlisted category": 1}
    assert report.findings[0].examples == ("category 'person': id is 'person', expected a whole number",)


def test_pictures(write_coco: Callable[..., Path]) -> None:
    images = [picture(i) for i in range(1, 6)]
    images += [picture(1) | {"file_name": "twice.jpg"}, {"id": 9}, picture(8) | {"width": 0}]
    path = write_coco([person(1)], images, pictures=False)
    for i in range(1, 5):
        cv2.imwrite(str(path.parent / f"{i}.jpg"), np.zeros((120, 160, 3), np.uint8))
    (path.parent / "2.jpg").write_bytes(b"nothing")
    (path.parent / "3.jpg").write_bytes((path.parent / "1.jpg").read_bytes()[:200])
    cv2.imwrite(str(path.parent / "4.jpg"), np.zeros((160, 120, 3), np.uint8))
    report = check_annotations(path, path.parent)
    assert counts(report) == {
        "image entry": 2,
        "duplicate image id": 1,
        "missing picture": 1,
        "unreadable picture": 2,
        "picture size": 1,
    }
    sizes = next(f for f in report.findings if f.kind == "picture size")
    assert sizes.examples == ("4.jpg is 120x160, annotated as 160x120",)
    assert "unreadable picture" not in counts(check_annotations(path, path.parent, read_pictures=False))


def test_examples_are_few_and_counts_complete(write_coco: Callable[..., Path]) -> None:
    report = check_annotations(write_coco([person(i, area=0) for i in range(1, 40)]), max_examples=2)
    finding = next(f for f in report.findings if f.kind == "no area")
    assert finding.count == 39
    assert len(finding.examples) == 2


def test_duplicate_persons_and_never_labelled(write_coco: Callable[..., Path]) -> None:
    same = person(1)["keypoints"]
    same[:3] = [0, 0, 0]
    people = [person(i, keypoints=same, num_keypoints=16) for i in (1, 2)]
    report = check_annotations(write_coco(people))
    assert counts(report) == {"duplicate person": 1, "never labelled": 1}
    assert report.ok
    assert report.labelled["nose"] == 0


def test_a_skeleton_without_flip_pairs_is_an_error_but_the_rest_is_checked(write_coco: Callable[..., Path]) -> None:
    own = {"id": 1, "name": "x", "keypoints": ["a_left", "a_right"]}
    report = check_annotations(write_coco([person(3, keypoints=[1, 1, 2, 3, 3, 9], num_keypoints=2)], category=own))
    assert counts(report) == {"skeleton": 1, "visibility": 1}
    assert "lacks flip_pairs and sigmas" in report.findings[0].examples[0]
    assert report.skeleton is None


def standing(annotation_id: int, swap: list[tuple[str, str]]) -> dict[str, Any]:
    """Somebody who faces the camera: the body's left is on the right of the picture."""
    rng = np.random.default_rng(annotation_id)
    x, y = np.full(17, 80.0), np.linspace(10, 110, 17)
    for a, b in COCO17.flip_pairs:
        half = rng.uniform(8, 20)
        x[a], x[b], y[b] = 80 + half, 80 - half, y[a]
    for a, b in swap:
        i, j = NAMES.index(a), NAMES.index(b)
        x[[i, j]] = x[[j, i]]
    points = np.c_[x + rng.uniform(-1, 1, 17), y, np.full(17, 2)]
    return person(annotation_id, keypoints=points.ravel().tolist(), bbox=[40, 5, 80, 112])


def test_swapped_sides_are_suspected(write_coco: Callable[..., Path]) -> None:
    pairs = [(NAMES[a], NAMES[b]) for a, b in COCO17.flip_pairs]
    good = check_annotations(write_coco([standing(i, []) for i in range(1, 21)]))
    assert counts(good) == {}
    knees = check_annotations(write_coco([standing(i, [("left_knee", "right_knee")]) for i in range(1, 21)]))
    (finding,) = knees.findings
    assert finding.kind == "left and right"
    assert finding.examples == ("left_knee / right_knee: on the same side as the other pairs in 0 of 20 persons",)
    everything = check_annotations(write_coco([standing(i, pairs) for i in range(1, 21)]))
    (finding,) = everything.findings
    assert "20 of 20 faces" in finding.examples[0]
    few = check_annotations(write_coco([standing(i, pairs) for i in range(1, 6)]))
    assert counts(few) == {}


def test_pairs_may_name_the_right_one_first(write_coco: Callable[..., Path]) -> None:
    turned = [list(pair)[:: 1 if i % 2 else -1] for i, pair in enumerate(COCO17.flip_pairs)]
    path = write_coco([standing(i, []) for i in range(1, 21)], category=CATEGORY | {"flip_pairs": turned})
    report = check_annotations(path)
    assert counts(report) == {}
    assert report.skeleton == "coco17"


def test_a_skeleton_has_the_keypoints_in_the_order_of_the_file(write_coco: Callable[..., Path]) -> None:
    path = write_coco([person(1)])
    other = [*NAMES[::-1]]
    pairs = tuple((16 - a, 16 - b) for a, b in COCO17.flip_pairs)
    turned = replace(COCO17, name="turned", keypoint_names=tuple(other), edges=(), flip_pairs=pairs)
    few = Skeleton("few", ("a", "b"), (), (), (0.1, 0.1))
    for skeleton, cause in (
        (turned, "in another order: keypoint 0 is nose, not right_ankle"),
        (few, "the category has 17 keypoints, skeleton few 2"),
    ):
        report = check_annotations(path, skeleton=skeleton)
        assert counts(report) == {"skeleton": 1}
        assert cause in report.findings[0].examples[0]
        for read in (load_coco, read_annotations):
            with pytest.raises(InputError, match=cause):
                read(path, skeleton=skeleton)


def test_what_is_no_coco_file_gives_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in ("", "[1]", '{"images": 3}', "\x00\x01", '{"images": [], "annotations": []}', '{"a": NaN'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"a\.json") as caught:
            check_annotations(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="nosuch"):
        check_annotations(tmp_path / "nosuch.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), pictures=st.booleans())
def test_odd_values_never_end_it(tmp_path: Path, data: st.DataObject, pictures: bool) -> None:
    content: dict[str, Any] = {"images": [picture()], "annotations": [person()], "categories": [dict(CATEGORY)]}
    for _ in range(data.draw(st.integers(1, 3))):
        entry = content[data.draw(st.sampled_from(sorted(content)))][0]
        entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(json_values)
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content))
    report = check_annotations(path, tmp_path, read_pictures=pictures)
    json.dumps(report.to_dict(), allow_nan=False)
    assert text(report)
