from __future__ import annotations

import json

import numpy as np
import pytest

from ebapose.errors import InputError, UsageError
from ebapose.evaluation.inputs import NO_ANNOTATION, read_annotations, read_results
from pose_sets import STANDING, annotation, dataset, result

TRUTH = dataset([annotation(4, 1, STANDING), annotation(5, 2, STANDING)], (1, 2, 3))


def changed(**changes):
    return dataset([{k: v for k, v in {**annotation(4, 1, STANDING), **changes}.items() if v is not None}])


def test_annotations_from_a_file_and_from_a_dict(tmp_path):
    (tmp_path / "val.json").write_text(json.dumps(TRUTH))
    from_file, from_dict = read_annotations(tmp_path / "val.json"), read_annotations(TRUTH)
    assert (from_file.name, from_dict.name) == ("val.json", "annotations")
    np.testing.assert_array_equal(from_file.keypoints, from_dict.keypoints)
    assert from_file.ids.tolist() == [4, 5]
    assert from_file.image_ids.tolist() == [1, 2, 3]


def test_labelled_keypoints_are_counted_where_the_file_does_not_say():
    visibility = [0, 1, 2] + [0] * 14
    person = annotation(1, 1, STANDING, visibility)
    del person["num_keypoints"], person["iscrowd"]
    truth = read_annotations(dataset([person]))
    assert truth.num_keypoints.tolist() == [2]
    assert truth.counted.tolist() == [True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": [1.0] * 50}, "annotation 4: keypoints has 50 numbers, expected 51"),
        ({"keypoints": ["a"] * 51}, "annotation 4: keypoints must be numbers"),
        ({"area": None}, "annotation 4: area is missing"),
        ({"bbox": [1, 2, 3]}, "annotation 4: bbox has 3 numbers, expected 4"),
        ({"area": float("nan")}, "annotation 4: area must be finite"),
        ({"image_id": 77}, "annotation 4: image 77 is not listed"),
        ({"image_id": "1"}, "annotation 4: image_id is '1', expected a whole number"),
        ({"keypoints": [1, 1, 5] * 17}, "annotation 4: visibility must be 0, 1 or 2"),
        ({"keypoints": [[1, 1, 2]] * 17 + [[]]}, "annotation 4: keypoints must be"),
        ({"num_keypoints": "many"}, "annotation 4: num_keypoints is 'many', expected a whole number"),
        ({"iscrowd": "no"}, "annotation 4: iscrowd must be numbers"),
        ({"head_size": "large"}, "annotation 4: head_size must be numbers"),
    ],
)
def test_wrong_annotations_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        read_annotations(changed(**changes))


def test_files_that_are_not_annotations(tmp_path):
    path = tmp_path / "val.json"
    for text in ("{", "[1, 2]", "{}", '{"images": 3}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"val\.json"):
            read_annotations(path)
    with pytest.raises(UsageError, match=r"gone\.json: No such file"):
        read_annotations(tmp_path / "gone.json")


def test_ids_that_stand_twice_and_categories_without_a_number_are_refused():
    twice = [annotation(4, 1, STANDING), annotation(4, 1, STANDING)]
    with pytest.raises(InputError, match="several annotations have the same id 4"):
        read_annotations(dataset(twice))
    with pytest.raises(InputError, match="several images have the same id 7"):
        read_annotations(dataset(twice[:1], (1, 7, 7)))
    for wrong in ("person", [1], None):
        truth = changed()
        truth["categories"][0]["id"] = wrong
        with pytest.raises(InputError, match="category 'person': id is"):
            read_annotations(truth)


def test_an_empty_num_keypoints_is_counted():
    truth = changed()
    truth["annotations"][0]["num_keypoints"] = None
    assert read_annotations(truth).num_keypoints.tolist() == [17]


def test_head_sizes_and_skeletons_by_name():
    people = [annotation(1, 1, STANDING, head_size=12.5), annotation(2, 2, STANDING), annotation(3, 2, STANDING)]
    people[2]["head_size"] = 0
    truth = read_annotations(dataset(people, (1, 2)), "coco17")
    np.testing.assert_array_equal(truth.head_sizes, [12.5, np.nan, np.nan])
    assert read_annotations(TRUTH).head_sizes is None


def test_results_of_other_categories_alone_are_a_mistake():
    truth = read_annotations(TRUTH)
    others = [{**result(1, STANDING), "category_id": number} for number in (9, 3, 9)]
    with pytest.raises(InputError, match=r"no result of category 1 \(found: 9, 3\)"):
        read_results(others, truth)
    assert len(read_results([], truth)) == 0


def test_results_with_everything():
    truth = read_annotations(TRUTH)
    sigmas = np.arange(34.0)
    entries = [
        result(2, STANDING, 0.5, annotation_id=5, keypoint_sigmas=sigmas.tolist()),
        result(1, STANDING + 1, 0.7),
        {**result(1, STANDING), "category_id": 9},
    ]
    poses = read_results(entries, truth)
    assert len(poses) == 2  # another category's result is left out
    assert poses.annotation_ids.tolist() == [5, NO_ANNOTATION]
    np.testing.assert_array_equal(poses.sigmas_px[0], sigmas.reshape(17, 2))
    assert np.isnan(poses.sigmas_px[1]).all()
    assert poses[np.array([1])].scores.tolist() == [0.7]


def test_results_survive_a_round_trip():
    truth = read_annotations(TRUTH)
    entries = [result(2, STANDING, 0.5, annotation_id=5, keypoint_sigmas=[1.5] * 34), result(1, STANDING, 0.25)]
    assert read_results(entries, truth).to_json() == entries


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {**result(1, STANDING), "keypoints": [0.0] * 39},
            r"result 1: keypoints has 39 numbers, expected 51 \(17 keypoints\)",
        ),
        ({**result(1, STANDING), "keypoints": [float("nan")] * 51}, "result 1: keypoints must be finite"),
        ({**result(1, STANDING), "keypoints": None}, "result 1: keypoints is missing"),
        ({**result(1, STANDING), "score": None}, "result 1: score is missing"),
        (result(8, STANDING), "result 1: image 8 is not in annotations"),
        (result(1, STANDING, annotation_id=5), "result 1: annotation 5 is not on image 1"),
        (result(1, STANDING, keypoint_sigmas=[1.0]), "result 1: keypoint_sigmas has 1 numbers, expected 34"),
        (result(1, STANDING, keypoint_sigmas=[-1.0] * 34), "result 1: keypoint_sigmas must not be negative"),
        ({**result(1, STANDING), "keypoints": [[1, 2, 3]] * 17}, "result 1: keypoints must be a plain list of 51"),
        (7, "result 1: expected an object, found int"),
    ],
)
def test_wrong_results_are_named(entry, message):
    with pytest.raises(InputError, match=message):
        read_results([result(1, STANDING), entry], read_annotations(TRUTH))


def test_files_that_are_not_results(tmp_path):
    truth = read_annotations(TRUTH)
    path = tmp_path / "results.json"
    for text, message in (
        ("[1,", "not a JSON file"),
        (json.dumps(TRUTH), "expected a list, found an annotation file"),
        ("3", "expected a list, found int"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"results\.json: .*{message}"):
            read_results(path, truth)
