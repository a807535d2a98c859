from __future__ import annotations

import json

import numpy as np
import pytest

from ebapose.codecs import Decoded, apply_calibration
from ebapose.errors import InputError, UsageError
from ebapose.evaluation.calibration import reliability, right_keypoints, sigma_calibration
from ebapose.evaluation.calibration_fit import Judged, calibrate, fit_calibration, judge
from ebapose.evaluation.inputs import Results, read_annotations, read_results
from pose_sets import STANDING, annotation, dataset, result


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def logit(p):
    return np.log(p / (1 - p))


def test_the_fit_recovers_how_scores_and_sigmas_were_spoilt():
    rng = np.random.default_rng(2)
    scale, shift, factor = np.array([0.5, 2.0]), np.array([1.0, -0.7]), np.array([3.0, 0.4])
    raw = rng.uniform(0.02, 0.98, (20_000, 2))
    right = rng.random(raw.shape) < sigmoid(scale * logit(raw) + shift)
    sigmas = rng.uniform(1, 5, (20_000, 2, 2))
    errors = rng.normal(size=sigmas.shape) * sigmas * factor[:, None]
    fit = fit_calibration(raw, right, np.ones(raw.shape, bool), errors, sigmas, "made up")
    np.testing.assert_allclose(fit.score_scale, scale, atol=0.08)
    np.testing.assert_allclose(fit.score_shift, shift, atol=0.08)
    np.testing.assert_allclose(fit.sigma_scale, factor, rtol=0.03)
    assert fit.measured_on == "made up"
    decoded = Decoded(np.zeros((20_000, 2, 2), np.float32), raw.astype(np.float32), sigmas.astype(np.float32))
    better = apply_calibration(decoded, fit)
    assert reliability(better.scores, right).expected_calibration_error < 0.02
    assert sigma_calibration(errors, better.sigmas_px).within_1_sigma == pytest.approx(0.6827, abs=0.01)


def test_keypoints_with_few_samples_lean_on_the_others():
    rng = np.random.default_rng(3)
    raw = rng.uniform(0.05, 0.95, (4000, 3))
    right = rng.random(raw.shape) < sigmoid(logit(raw) - 1)
    labelled = np.ones(raw.shape, bool)
    labelled[3:, 1] = False  # three samples, all wrong
    right[:3, 1] = False
    labelled[:, 2] = False  # no sample at all
    fit = fit_calibration(raw, right, labelled)
    assert fit.score_scale[1] == pytest.approx(1, abs=0.2)
    assert fit.score_shift[1] == pytest.approx(-1, abs=0.3)
    assert (fit.score_scale[2], fit.score_shift[2]) == pytest.approx((fit.score_scale[0], fit.score_shift[0]), abs=0.01)
    assert fit.sigma_scale == ()


@pytest.mark.parametrize("right", [True, False])
def test_scores_that_are_always_right_or_always_wrong_stay_finite(right):
    raw = np.random.default_rng(4).random((500, 2))
    fit = fit_calibration(raw, np.full(raw.shape, right), np.ones(raw.shape, bool))
    after = sigmoid(np.array(fit.score_scale) * 0 + np.array(fit.score_shift))
    assert np.isfinite(fit.score_shift).all()
    assert (after > 0.9).all() if right else (after < 0.1).all()


def test_scores_that_mislead_get_slope_zero_not_a_negative_one():
    rng = np.random.default_rng(5)
    raw = rng.random((3000, 1))
    right = rng.random(raw.shape) < 1 - raw
    fit = fit_calibration(raw, right, np.ones(raw.shape, bool))
    assert fit.score_scale[0] == pytest.approx(0, abs=1e-6)
    assert fit.score_shift[0] == pytest.approx(logit(right.mean()), abs=0.05)


def test_a_person_who_counts_three_times_is_like_three_persons():
    rng = np.random.default_rng(7)
    raw, sigmas = rng.uniform(0.05, 0.95, (600, 2)), rng.uniform(1, 5, (600, 2, 2))
    right = rng.random(raw.shape) < sigmoid(2 * logit(raw) - 1)
    errors = rng.normal(size=sigmas.shape) * sigmas * np.where(np.arange(600) < 200, 3, 1)[:, None, None]
    counts = np.where(np.arange(600) < 200, 3, 1)
    labelled = np.ones(raw.shape, bool)
    weighted = fit_calibration(raw, right, labelled, errors, sigmas, weights=counts)
    repeated = fit_calibration(
        *(np.repeat(values, counts, axis=0) for values in (raw, right, labelled, errors, sigmas))
    )
    np.testing.assert_allclose(weighted.score_scale, repeated.score_scale, atol=1e-5)
    np.testing.assert_allclose(weighted.score_shift, repeated.score_shift, atol=1e-5)
    np.testing.assert_allclose(weighted.sigma_scale, repeated.sigma_scale, rtol=0.01)
    plain = fit_calibration(raw, right, labelled, errors, sigmas)
    assert (np.array(weighted.sigma_scale) > 1.1 * np.array(plain.sigma_scale)).all()


def test_sets_of_different_size_count_alike():
    def persons(number):
        return Judged(
            scores=np.full((number, 1), 0.5),
            right=np.ones((number, 1), bool),
            labelled=np.ones((number, 1), bool),
            errors_px=np.zeros((number, 1, 2)),
            sigmas_px=np.ones((number, 1, 2)),
            weights=np.ones(number),
        )

    both = Judged.balanced([persons(90), persons(10)])
    assert len(both) == 100
    assert both.weights[:90].sum() == pytest.approx(50)
    assert both.weights[90:].sum() == pytest.approx(50)


def test_nothing_to_calibrate_on():
    with pytest.raises(UsageError, match="no labelled keypoint"):
        fit_calibration(np.ones((2, 3)), np.ones((2, 3)), np.zeros((2, 3)))
    with pytest.raises(UsageError, match=r"must lie in 0\.\.1"):
        fit_calibration(np.full((2, 3), 1.2), np.ones((2, 3)), np.ones((2, 3)))


def test_calibrate_a_models_results():
    rng = np.random.default_rng(6)
    truth = read_annotations(dataset([annotation(i, i, STANDING) for i in range(1, 301)], range(1, 301)))
    spread = rng.choice([1.0, 6.0, 20.0], (300, 17, 1)) * np.ones(2)
    keypoints = truth.keypoints + rng.normal(size=spread.shape) * spread
    raw_scores = sigmoid(2 - np.log(spread[..., 0]))
    missing = np.arange(300) != 7  # one person without a pose
    raw = Results(truth.person_image_ids, keypoints, raw_scores, raw_scores.mean(axis=1), spread / 4)[missing]
    fit, gain = calibrate(judge(truth, raw, "gt"), "annotations: 299 persons")
    assert fit.measured_on == "annotations: 299 persons"
    np.testing.assert_allclose(fit.sigma_scale, 4, rtol=0.25)
    corrected = sigmoid(np.array(fit.score_scale) * logit(raw_scores) + np.array(fit.score_shift))
    right = right_keypoints(np.linalg.norm(keypoints - truth.keypoints, axis=-1), truth.areas, truth.skeleton.sigmas)
    before, after = reliability(raw_scores, right), reliability(corrected, right)
    assert after.expected_calibration_error < before.expected_calibration_error / 2
    assert after.brier_score < before.brier_score
    # the same on persons that the fit has not seen
    assert gain.score_error_before == pytest.approx(before.expected_calibration_error, abs=0.02)
    assert gain.score_error_after < gain.score_error_before / 2
    assert abs(gain.within_sigma_after - 0.683) < 0.05 < abs(gain.within_sigma_before - 0.683)


def test_calibrating_weights_changes_their_card_alone(tmp_path):
    torch = pytest.importorskip("torch")
    import cv2

    from ebapose.evaluation.run import calibrate_weights
    from ebapose.models.registry import create_model, default_card
    from ebapose.models.weights import load_weights, save_weights
    from ebapose.skeleton import COCO17

    torch.manual_seed(0)
    model = create_model("test_simcc_64x64")
    weights = tmp_path / "tiny.safetensors"
    save_weights(weights, model.state_dict(), default_card(model, "tiny", COCO17), "float16")
    before, _ = load_weights(weights)
    for number in range(1, 5):
        noise = np.random.default_rng(number).integers(0, 256, (300, 400, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), noise)
    people = [annotation(n, n, STANDING + 4 * n) for n in range(1, 5)]
    file = tmp_path / "people.json"
    file.write_text(json.dumps(dataset(people, range(1, 5))))

    gain = calibrate_weights(weights, [file], images_dir=tmp_path)
    after, card = load_weights(weights)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(card.calibration.sigma_scale) == 17
    assert card.calibration.measured_on.endswith(": 4 persons")
    assert 0 <= gain.score_error_after <= 1
    assert card.codec.position == "peak"
    calibrate_weights(weights, [file], images_dir=tmp_path, position="expected")
    read = load_weights(weights)[1]
    assert read.codec.position == "expected"
    assert read.calibration != card.calibration
    calibrate_weights(weights, [file], images_dir=tmp_path)
    assert load_weights(weights)[1] == read
    nameless = json.loads(file.read_text())
    del nameless["categories"][0]["keypoints"]
    nameless["categories"][0]["name"] = "gymnast"
    file.write_text(json.dumps(nameless))
    with pytest.raises(InputError, match="no keypoint names"):
        calibrate_weights(weights, [file], images_dir=tmp_path)
    gain = calibrate_weights(weights, [file], images_dir=tmp_path, skeleton="coco17")
    assert load_weights(weights)[1] == read
    assert gain.unreadable == ()
    with pytest.raises(UsageError, match="name at least one file of annotations"):
        calibrate_weights(weights, [])
    next(tmp_path.glob("*.jpg")).write_bytes(b"nothing")
    gain = calibrate_weights(weights, [file], images_dir=tmp_path, skeleton="coco17")
    assert len(gain.unreadable) == 1


def test_only_distributions_have_a_nearest_place(tmp_path):
    torch = pytest.importorskip("torch")
    from ebapose.evaluation.run import calibrate_weights
    from ebapose.models.registry import create_model, default_card
    from ebapose.models.weights import save_weights

    torch.manual_seed(0)
    model = create_model("simple_baseline18_64x64")
    weights = tmp_path / "maps.safetensors"
    save_weights(weights, model.state_dict(), default_card(model, "maps"))
    with pytest.raises(UsageError, match="no SimCC head"):
        calibrate_weights(weights, [tmp_path / "none.json"], position="expected")


def test_missed_persons_have_no_score():
    """Who was missed says nothing about the scores of keypoints: no score, not a score of 0."""
    truth = read_annotations(dataset([annotation(1, 1, STANDING), annotation(2, 1, STANDING + 900)]))
    judged = judge(truth, read_results([result(1, STANDING)], truth), "detector")
    assert np.isnan(judged.scores).tolist() == [[False] * 17, [True] * 17]


def test_sigma_prior_by_hand():
    """10 keypoints of their own against 50 of the prior: a sixth of the way, in logarithms."""
    errors = np.ones((110, 2, 2)) * np.array([1.0, 4.0])[:, None]
    labelled = np.ones((110, 2), bool)
    labelled[10:, 1] = False
    fit = fit_calibration(np.full((110, 2), 0.5), labelled, labelled, errors, np.ones_like(errors))
    assert fit.sigma_scale == pytest.approx((1.0, 4 ** (1 / 6)), abs=1e-5)


@pytest.mark.parametrize("score", [-0.1, 1.1])
def test_raw_scores_outside_0_to_1(score):
    with pytest.raises(UsageError, match="raw scores must lie in"):
        fit_calibration([[score], [0.5]], [[True], [False]], [[True], [True]])


def test_gain_is_measured_on_the_other_half():
    """What a fit is worth is measured on the other half: here the halves contradict each other."""
    rng = np.random.default_rng(0)
    odd = np.arange(2000) % 2 == 1
    errors = rng.normal(size=(2000, 1, 2)) * np.where(odd, 8.0, 1.0)[:, None, None]
    all_of_them = np.ones((2000, 1), bool)
    judged = Judged(np.full((2000, 1), 0.5), ~odd[:, None], all_of_them, errors, np.ones_like(errors), np.ones(2000))
    _, gain = calibrate(judged)
    assert gain.score_error_after > 0.9
    assert gain.within_sigma_after == pytest.approx((1.0 + 0.1) / 2, abs=0.02)
