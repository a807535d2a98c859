"""A tiny network of random weights over a few grey pictures: what `evaluate` takes, refuses and writes."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest

from ebapose import zoo
from ebapose.cli import main
from ebapose.errors import InputError, MissingDependencyError, UsageError
from ebapose.evaluation.run import evaluate, model_of_card
from ebapose.evaluation.tables import read_report
from ebapose.geometry.oks import select_poses
from ebapose.models.registry import model_name
from ebapose.skeleton import COCO17
from pose_sets import STANDING, annotation, dataset, result

PERSONS = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch = pytest.importorskip("torch")
    from ebapose.models.registry import create_model, default_card
    from ebapose.models.weights import save_weights

    torch.manual_seed(0)
    model = create_model("test_simcc_64x64")
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, model.state_dict(), default_card(model, "tiny", COCO17), "float16")
    return path


@pytest.fixture
def people(tmp_path):
    """Annotations of category 5, one person per picture."""
    ids = range(1, PERSONS + 1)
    for number in ids:
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.full((300, 400, 3), 40 * number, np.uint8))
    content = dataset([annotation(n, n, STANDING + 4 * n, category_id=5) for n in ids], ids)
    content["categories"][0]["id"] = 5
    path = tmp_path / "people.json"
    path.write_text(json.dumps(content))
    return path


def run(weights, people, out, **more):
    options = {"images_dir": people.parent, "runtime": "torch", "flip_test": False, "worst": 1, "with_plots": False}
    return evaluate(weights, people, out, **{**options, **more})


def test_what_a_model_wrote_can_be_judged_again(weights, people, tmp_path):
    first = run(weights, people, tmp_path / "first")
    assert {entry["category_id"] for entry in json.loads((tmp_path / "first/coco_results.json").read_text())} == {5}
    again = evaluate(
        None,
        people,
        tmp_path / "again",
        predictions=tmp_path / "first/coco_results.json",
        boxes="gt",
        with_plots=False,
    )
    assert {path.suffix for path in again.files} == {".json", ".md"}
    assert again.metrics["coco"] == first.metrics["coco"]
    assert again.metrics["pck"]["torso"]["PCK@0.2"] == pytest.approx(first.metrics["pck"]["torso"]["PCK@0.2"])


def test_the_report_says_which_model_it_is_about(weights, people, tmp_path):
    run(weights, people, tmp_path / "tiny")
    measured = read_report(tmp_path / "tiny")
    assert (measured.model, measured.flip_test) == ("test_simcc_64x64", False)
    assert "- Model: test_simcc_64x64, one pass\n" in (tmp_path / "tiny/report.md").read_text()

    card = zoo.bundled_card(zoo.bundled_models()["default"])
    assert model_of_card(card) == card.name  # another split ratio than the paper's: not the paper's network
    assert model_of_card(card.model_copy(update={"options": {}})) == model_name(card.architecture, card.input.size_hw)
    assert model_of_card(card.model_copy(update={"name": "mine"})) == "mine"
    other = card.model_copy(update={"options": {"split_ratio": 3.0, "activation": "relu"}})
    assert model_of_card(other) == "eba_prnetcc18_256x192 (activation=relu, split_ratio=3.0)"


def test_pictures_that_cannot_be_read_cost_only_their_persons(weights, people, tmp_path, caplog):
    (tmp_path / "2.jpg").write_bytes(b"nothing")
    (tmp_path / "3.jpg").unlink()
    report = run(weights, people, tmp_path / "out")
    assert report.metrics["num_poses"] == PERSONS - 2
    assert report.metrics["poses"]["persons_not_found"] == 2
    assert len(report.metrics["unreadable_pictures"]) == len(caplog.messages) == 2
    text = (tmp_path / "out/report.md").read_text()
    for name, line in zip(("2.jpg", "3.jpg"), caplog.messages, strict=True):
        assert name in line
        assert f"count as not found: {line}" in text
    assert "2 pictures could not be read" in report.summary()
    for number in range(1, PERSONS + 1):
        (tmp_path / f"{number}.jpg").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"people\.json: none of its pictures can be read \(.*1\.jpg: no such file\)"):
        run(weights, people, tmp_path / "out")


def test_boxes_are_gt_or_a_file(weights, people, tmp_path):
    results = [{**result(1, STANDING), "category_id": 5}]
    for boxes in ("GT", tmp_path / "gone.json"):
        with pytest.raises(UsageError, match=r"boxes .*(GT|gone\.json): neither gt nor a file"):
            evaluate(None, people, tmp_path / "out", predictions=results, boxes=boxes)
        with pytest.raises(UsageError, match="neither gt nor a file"):
            run(weights, people, tmp_path / "out", boxes=boxes)
    assert not (tmp_path / "out").exists()


def test_what_keeps_a_report_from_being_written_is_said_before_anything_is_predicted(
    weights, people, tmp_path, monkeypatch
):
    monkeypatch.setattr("ebapose.evaluation.run._predict", None)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="file: is a file, not a folder"):
        run(weights, people, file)
    with pytest.raises(NotADirectoryError):
        run(weights, people, file / "out")
    with pytest.raises(UsageError, match="ground-truth boxes have no scores"):
        run(weights, people, tmp_path / "out", detector_score=0.5)
    content = json.loads(people.read_text())
    content["annotations"][0]["head_size"] = "large"
    people.write_text(json.dumps(content))
    with pytest.raises(InputError, match="head_size"):
        run(weights, people, tmp_path / "out")
    for package in ("faster_coco_eval", "matplotlib"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            with pytest.raises(MissingDependencyError, match=package.replace("_", "-")):
                run(weights, people, tmp_path / "out", with_plots=True)
    assert not (tmp_path / "out").exists()


def test_a_skeleton_can_be_given_and_nothing_else_is_dropped(weights, people, tmp_path):
    content = json.loads(people.read_text())
    content["categories"][0]["keypoints"] = [f"k{i}" for i in range(17)]
    people.write_text(json.dumps(content))
    results = [{**result(1, STANDING + 4), "category_id": 5}]
    with pytest.raises(InputError, match="pass a skeleton"):
        evaluate(None, people, tmp_path / "out", predictions=results)
    report = evaluate(None, people, tmp_path / "out", predictions=results, skeleton="coco17", with_plots=False)
    assert report.metrics["skeleton"] == "coco17"
    assert run(weights, people, tmp_path / "out", skeleton="coco17").metrics["num_poses"] == PERSONS
    with pytest.raises(UsageError, match="judged as they are, without flip_test, foo"):
        evaluate(None, people, tmp_path / "out", predictions=results, flip_test=True, foo=1)


def test_one_of_several_categories_can_be_chosen(weights, people, tmp_path, capsys):
    content = json.loads(people.read_text())
    dog = {"id": 9, "name": "dog", "keypoints": ["nose", "tail"], "flip_pairs": [], "sigmas": [0.1, 0.1]}
    content["categories"].append(dog)
    points = np.array([(50.0, 60.0), (90.0, 100.0)])
    content["annotations"].append(annotation(99, 1, points, category_id=9))
    people.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"several categories \(person, dog\): choose one by its name"):
        run(weights, people, tmp_path / "out")
    assert run(weights, people, tmp_path / "out", category="person").metrics["num_poses"] == PERSONS
    results = [{**result(1, STANDING + 4), "category_id": 5}, {**result(1, points), "category_id": 9}]
    report = evaluate(None, people, tmp_path / "dog", predictions=results, category="dog", with_plots=False)
    assert (report.metrics["num_poses"], report.metrics["coco"]["AP"]) == (1, 1)
    arguments = ["--annotations", str(people), "--category", "person"]
    judge = ["evaluate", str(weights), *arguments, "--runtime", "torch", "--worst", "0", "--out", str(tmp_path / "out")]
    assert main([*judge, "--images", str(tmp_path)]) == 0
    own = tmp_path / "own.safetensors"
    own.write_bytes(weights.read_bytes())
    assert main(["weights", "calibrate", str(own), *arguments, "--images", str(tmp_path)]) == 0
    assert "expected calibration error" in capsys.readouterr().out
    exported = tmp_path / "own.onnx"
    exported.touch()
    assert main(["weights", "calibrate", str(exported), *arguments]) == 2
    assert "own.onnx: only .safetensors weights can be calibrated" in capsys.readouterr().err
    assert main([*judge[:2], *arguments, "--out", str(tmp_path / "none"), "--worst", "-1"]) == 2
    assert "-1 of the worst poses cannot be drawn" in capsys.readouterr().err


def test_poses_are_suppressed_by_the_area_of_their_own_crop(weights, people, tmp_path, monkeypatch):
    boxes = [(1, (-50, -50, 20, 20)), (2, (50, 50, 20, 80)), (2, (52, 50, 100, 30))]
    found = [{"image_id": i, "category_id": 5, "bbox": box, "score": 0.9} for i, box in boxes]
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    areas = []

    def spy(image_ids, keypoints, scores, area, *more):
        areas.append(area)
        return select_poses(image_ids, keypoints, scores, area, *more)

    monkeypatch.setattr("ebapose.evaluation.run.select_poses", spy)
    run(weights, people, tmp_path / "out", boxes=tmp_path / "boxes.json")
    # the network sees 64x64; nothing is predicted for the box beside its picture
    np.testing.assert_allclose(areas, [[(1.25 * 80) ** 2, (1.25 * 100) ** 2]])


def test_the_command(weights, people, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps([{**result(1, STANDING + 4), "category_id": 5}]))
    judge = ["evaluate", "--annotations", str(people), "--predictions", str(tmp_path / "results.json")]
    assert main([*judge, "--out", str(tmp_path / "out"), "--skeleton", "coco17"]) == 0
    assert main([*judge, "--out", str(tmp_path / "out"), "--no-flip-test"]) == 2
    assert "without flip_test" in capsys.readouterr().err
    (tmp_path / "2.jpg").unlink()
    arguments = ["--annotations", str(people), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(weights), *arguments, "--runtime", "torch", "--worst", "0"]) == 1  # a picture failed
    assert "1 pictures could not be read" in capsys.readouterr().out
