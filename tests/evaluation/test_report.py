from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from ebapose.errors import InputError, MissingDependencyError, UsageError
from ebapose.evaluation.report import evaluate_predictions
from ebapose.skeleton import COCO17
from pose_sets import STANDING, annotation, dataset, random_set, result


def everything(seed=0, sigma_px=2.0, persons=30):
    """One person per picture, errors of a known size, scores of every height."""
    rng = np.random.default_rng(seed)
    people, results = [], []
    for i in range(1, persons + 1):
        keypoints = STANDING + rng.uniform(0, 100, 2)
        people.append(annotation(i, i, keypoints))
        noisy = keypoints + rng.normal(size=(17, 2)) * sigma_px
        results.append(result(i, noisy, rng.random(), rng.random(17), keypoint_sigmas=[sigma_px] * 34))
    return dataset(people, range(1, persons + 1)), results


def test_a_folder_with_everything(tmp_path):
    truth, results = everything()
    (tmp_path / "val.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    report = evaluate_predictions(tmp_path / "val.json", tmp_path / "results.json", tmp_path / "out", "gt")
    names = {path.name for path in report.files}
    plots = {"precision_recall.png", "keypoints.png", "errors.png", "scores.png", "sigmas.png"}
    assert names == plots | {"metrics.json", "report.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all(cv2.imread(str(tmp_path / "out" / plot)) is not None for plot in plots)

    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics == report.metrics
    assert (metrics["data_set"], metrics["box_mode"], metrics["num_persons"]) == ("val.json", "gt", 30)
    assert metrics["coco"]["AP"] > 0.5
    assert metrics["coco"]["APL"] is None  # nobody is large
    assert metrics["pck"]["torso"]["PCK@0.2"] > 0.99
    assert metrics["sigmas"]["within_1_sigma"] == pytest.approx(0.683, abs=0.06)
    assert metrics["scores"]["count"] == 30 * 17
    assert metrics["scores"]["unlabelled"] == {"count": 0, "half_or_more": None}
    assert sum(metrics["errors"]["shares"].values()) == pytest.approx(1)
    assert metrics["poses"] == {"matched": 30, "background": 0, "ignored": 0, "persons_not_found": 0}

    text = (tmp_path / "out" / "report.md").read_text()
    assert "ground-truth boxes" in text
    assert f"| {100 * metrics['coco']['AP']:.1f} |" in text
    assert "30 persons" in text
    assert "left wrist" in text
    assert "without a label" not in text
    assert "![errors](errors.png)" in text
    assert "box mode gt" in report.summary()


def test_accuracy_by_the_form_of_the_box(tmp_path):
    """Two upright persons and one who lies; the latter's left half is far off."""
    lying = STANDING[:, ::-1]
    people = [annotation(i, i, points) for i, points in ((1, STANDING), (2, STANDING), (3, lying))]
    wrong = np.where(np.arange(17)[:, None] % 2 == 1, lying + 1000, lying)
    results = [result(1, STANDING), result(2, STANDING), result(3, wrong)]
    metrics = evaluate_predictions(dataset(people, (1, 2, 3)), results, tmp_path, "gt", with_plots=False).metrics
    shapes = metrics["box_shapes"]
    assert shapes["pck"] == "PCK@0.2 (torso)"
    assert [group["persons"] for group in shapes["groups"]] == [2, 0, 0, 1]
    assert [group["pck"] for group in shapes["groups"]] == [1, None, None, pytest.approx(9 / 17)]
    assert shapes["groups"][3]["mean_oks"] == pytest.approx(9 / 17)
    assert shapes["groups"][3]["below"] is None
    text = (tmp_path / "report.md").read_text()
    assert "| below 0.65 | 2 | 100.0 | 100.0 |" in text
    assert "| 1.2 or more | 1 | 52.9 | 52.9 |" in text


def test_the_box_mode_is_always_named(tmp_path):
    truth, results = everything(persons=2)
    report = evaluate_predictions(truth, results, tmp_path, with_plots=False)
    assert report.metrics["box_mode"] == "unknown"
    assert "Boxes: **NOT STATED" in (tmp_path / "report.md").read_text()


def test_scores_that_are_no_probabilities_are_not_judged(tmp_path):
    truth = dataset([annotation(1, 1, STANDING)])
    report = evaluate_predictions(truth, [result(1, STANDING, scores=3.5)], tmp_path)
    assert report.metrics["scores"] is None
    assert report.metrics["sigmas"] is None
    assert "no probabilities" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "scores.png").exists()


def test_sure_of_what_nobody_has_labelled(tmp_path):
    hidden = np.full(17, 2)
    hidden[[9, 10, 15, 16]] = 0
    scores = np.full(17, 0.9)
    scores[[10, 15, 16]] = 0.3
    truth = dataset([annotation(1, 1, STANDING, visibility=hidden)])
    report = evaluate_predictions(truth, [result(1, STANDING, scores=scores)], tmp_path, "gt", with_plots=False)
    assert report.metrics["scores"]["count"] == 13
    assert report.metrics["scores"]["unlabelled"] == {"count": 4, "half_or_more": 0.25}
    assert "without a label (in COCO: out of sight): 4, 25.0 % score 0.5" in (tmp_path / "report.md").read_text()


def test_no_results_at_all_is_a_report_too(tmp_path):
    report = evaluate_predictions(dataset([annotation(1, 1, STANDING)]), [], tmp_path, "detector")
    assert report.metrics["coco"]["AP"] == 0
    assert report.metrics["pck"]["torso"]["PCK@0.2"] == 0
    assert report.metrics["mean_oks"] is None
    assert report.metrics["poses"]["persons_not_found"] == 1
    assert "no poses at all" in report.summary()
    text = (tmp_path / "report.md").read_text()
    assert "**No poses at all" in text
    assert "- Scores: not judged (no pose is matched to a person)" in text


def test_hard_sets_are_finite_json(tmp_path):
    truth, results = random_set(2)
    report = evaluate_predictions(truth, results, tmp_path, "detector", with_plots=False)
    json.dumps(report.metrics, allow_nan=False)
    poses = report.metrics["poses"]
    assert poses["matched"] + poses["background"] + poses["ignored"] == len(results)


def test_a_skeleton_without_torso(tmp_path):
    category = {
        "id": 1,
        "name": "hand",
        "keypoints": ["wrist", "thumb", "finger"],
        "flip_pairs": [],
        "sigmas": [0.1] * 3,
    }
    points = np.array([[10, 10], [50, 40], [90, 20]], float)
    truth = dataset([annotation(1, 1, points)]) | {"categories": [category]}
    report = evaluate_predictions(truth, [result(1, points)], tmp_path, "gt")
    assert list(report.metrics["pck"]) == ["box"]
    assert report.metrics["pck"]["box"]["PCK@0.1"] == 1


def test_the_annotations_head_sizes_come_first(tmp_path):
    names = ["head_top", "upper_neck", "wrist"]
    category = {"id": 1, "name": "torso", "keypoints": names, "flip_pairs": [], "sigmas": [0.1] * 3}
    points = np.array([[10, 0], [10, 20], [90, 20]], float)
    people = [annotation(1, 1, points), annotation(2, 2, points)]
    wrong = [result(i, points + np.array([8, 0])) for i in (1, 2)]  # 0.4 of top to neck, 0.8 of the head size
    for head_size, persons, right, said in ((None, 2, 1, "top to neck"), (10.0, 1, 0, "head_size of the annotations")):
        if head_size is not None:
            people[0]["head_size"] = head_size
        truth = dataset(people, (1, 2)) | {"categories": [category]}
        head = evaluate_predictions(truth, wrong, tmp_path, "gt", with_plots=False).metrics["pck"]["head"]
        assert (head["persons"], head["PCK@0.5"]) == (persons, right)
        assert f"relative to the head: {said}" in (tmp_path / "report.md").read_text()


def test_worst_poses_are_drawn_worst_first(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in (1, 2, 3):
        cv2.imwrite(str(images / f"{i}.jpg"), np.full((300, 400, 3), 120, np.uint8))
    truth = dataset([annotation(i, i, STANDING + 50) for i in (1, 2, 3)], (1, 2, 3))
    results = [result(1, STANDING + 50), result(2, STANDING + 58)]
    folder = tmp_path / "out"
    report = evaluate_predictions(truth, results, folder, "gt", images_dir=images, worst=2, with_plots=False)
    drawn = [path for path in report.files if path.suffix == ".jpg"]
    assert drawn[0].name.split("_", 1)[1] == "not_found_annotation3.jpg"
    assert drawn[1].name.startswith("02_oks0.")
    assert drawn[1].name.endswith("annotation2.jpg")
    picture = cv2.imread(str(drawn[1]))
    assert picture.shape[0] == 384
    assert picture.std() > 1  # something is drawn on the grey picture
    assert f"(worst/{drawn[0].name})" in (folder / "report.md").read_text()
    (folder / "worst" / "100_oks0.50_annotation7.jpg").touch()  # of a report with more of them
    again = evaluate_predictions(truth, results, folder, "gt", images_dir=images, worst=1, with_plots=False)
    assert len(list((folder / "worst").iterdir())) == 1 == sum(p.suffix == ".jpg" for p in again.files)


def test_an_older_report_is_replaced_whole_or_not_at_all(tmp_path):
    truth, results = everything(persons=3)
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in (1, 2, 3):
        truth["images"][number - 1]["file_name"] = f"{number}.jpg"
        cv2.imwrite(str(images / f"{number}.jpg"), np.zeros((400, 400, 3), np.uint8))

    def files():
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    evaluate_predictions(truth, results, out, "gt", images_dir=images)
    first = files()
    assert sum(path.suffix == ".jpg" for path in first) == 3
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no such file"):
        evaluate_predictions(truth, results[:1], out, "gt", images_dir=tmp_path / "none")
    assert files() == first
    plain = [{key: value for key, value in entry.items() if key != "keypoint_sigmas"} for entry in results]
    report = evaluate_predictions(truth, plain, out, "gt")
    assert set(files()) == set(report.files)  # neither the older one's worst poses nor its plot of sigmas
    assert {path.name for path in first} - {path.name for path in report.files} >= {"sigmas.png"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scores.png").touch()  # no report's
    evaluate_predictions(truth, plain, tmp_path / "mine", "gt", with_plots=False)
    assert (tmp_path / "mine" / "scores.png").exists()


def test_photographs_that_are_not_there(tmp_path):
    truth, results = everything(persons=2)
    with pytest.raises(UsageError, match="gone: no such folder"):
        evaluate_predictions(truth, results, tmp_path / "out", images_dir=tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"1\.jpg|2\.jpg"):
        evaluate_predictions(truth, results, tmp_path / "out", images_dir=tmp_path / "empty", with_plots=False)


def test_requests_that_are_refused_before_anything_is_written(tmp_path):
    truth, results = everything(persons=2)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        evaluate_predictions(truth, results, file)
    with pytest.raises(UsageError, match="box mode 'boxes'"):
        evaluate_predictions(truth, results, tmp_path / "out", "boxes")
    with pytest.raises(UsageError, match="no person with labelled keypoints"):
        evaluate_predictions(dataset([]), [], tmp_path / "out")
    with pytest.raises(InputError, match="not a JSON file"):
        evaluate_predictions(file, results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_there_is_a_report_without_plots(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    truth, results = everything(persons=2)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        evaluate_predictions(truth, results, tmp_path)
    assert evaluate_predictions(truth, results, tmp_path, with_plots=False).metrics["num_persons"] == 2


def test_importing_is_cheap():
    code = "import sys, ebapose.evaluation.report; "
    code += "print({'torch', 'matplotlib', 'faster_coco_eval'} & set(sys.modules))"
    env = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "set()"


def test_coco17_is_used_for_other_tools_annotations(tmp_path):
    truth, results = everything(persons=1)
    report = evaluate_predictions(truth, results, tmp_path, skeleton=COCO17, with_plots=False)
    assert report.metrics["skeleton"] == "coco17"
