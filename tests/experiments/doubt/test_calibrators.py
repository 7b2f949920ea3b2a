"""Calibration against scikit-learn, betacal and simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from datamodules.errors import DataError
from experiments.doubt.calibrators import (
    BETA,
    FOLDS,
    ISOTONIC,
    METHODS,
    NONE,
    SIGMOID,
    TEMPERATURE,
    Calibrator,
    choose_calibrator,
    fit_calibrator,
    log_loss,
)
from experiments.statistics.bootstrap import bootstrap
from experiments.statistics.calibration import (
    calibration_slope,
    expected_calibration_error,
    smooth_calibration,
)


def two(probability: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - probability, probability])


def overconfident(seed: int, count: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose logits are twice as large as they should be, with shifted levels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.2, (count, classes))
    chance = softmax(logits, axis=1)
    target = (rng.random(count)[:, None] > chance.cumsum(axis=1)).sum(axis=1)
    return softmax(2.5 * logits + np.linspace(0, 0.5, classes), axis=1), target


def test_temperature_is_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(400, 4))
    target = (features[:, 0] + rng.normal(0, 2, 400) > 0.3).astype(int) + (features[:, 1] > 1)
    model = LogisticRegression(C=1e6, max_iter=2000).fit(features[:60], target[:60])
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature", ensemble=False)
    theirs.fit(features[60:], target[60:])
    score = model.predict_proba(features)
    mine = fit_calibrator(score[60:], target[60:], TEMPERATURE)
    np.testing.assert_allclose(mine(score), theirs.predict_proba(features), atol=2e-4)


def test_beta_is_that_of_betacal() -> None:
    """betacal 1.1.0 with parameters abm on the same seeded patients; in the second case it drops a slope."""
    rng = np.random.default_rng(11)
    odds = np.round(rng.normal(size=300), 3)
    flat = rng.random(300) < expit(0.5 + 0.4 * odds)
    score = expit(2 * odds)
    steep = rng.random(300) < expit(-1.0 + 2.2 * np.log(score))
    asked = two(np.array([0.05, 0.3, 0.5, 0.9]))
    for target, expected in (
        (flat, [0.54219954, 0.62226797, 0.64945396, 0.70398548]),
        (steep, [0.00022195, 0.01589786, 0.05316634, 0.20903574]),
    ):
        found = fit_calibrator(two(score), target.astype(int), BETA)
        np.testing.assert_allclose(found(asked)[:, 1], expected, atol=2e-4)
    falling = fit_calibrator(two(score), (odds < 0).astype(int), BETA)
    assert min(falling.parameters[0]["a"], falling.parameters[0]["b"]) <= 0


def test_isotonic_is_scikit_learns_and_leaves_room_for_doubt() -> None:
    score, target = overconfident(5, 200)
    found = fit_calibrator(score, target, ISOTONIC)(score)[:, 1]
    theirs = IsotonicRegression(y_min=1 / 202, y_max=1 - 1 / 202, out_of_bounds="clip").fit_transform(
        score[:, 1], target
    )
    np.testing.assert_allclose(found, theirs, atol=1e-12)
    separated = fit_calibrator(two(np.array([0.1, 0.2, 0.8, 0.9])), np.array([0, 0, 1, 1]), ISOTONIC)
    assert 0.1 < separated(two(np.array([0.0])))[0, 1] < 0.9
    assert separated(two(np.array([1.0])))[0, 1] == pytest.approx(5 / 6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", [TEMPERATURE, SIGMOID, BETA, ISOTONIC])
def test_every_method_mends_scores_that_are_too_sure_on_fresh_patients(method: str, classes: int) -> None:
    score, target = overconfident(1, 1500, classes)
    fresh, truth = overconfident(2, 4000, classes)
    found = fit_calibrator(score, target, method)(fresh)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert log_loss(found, truth) < log_loss(fresh, truth) - 0.05
    if classes == 2:
        assert calibration_slope(truth, found[:, 1]).value == pytest.approx(1, abs=0.3)
        assert calibration_slope(truth, fresh[:, 1]).value < 0.55


def test_the_choice_mends_what_is_wrong_leaves_what_is_right_and_leaves_its_own_patients_out() -> None:
    score, target = overconfident(1, 300)
    chosen = choose_calibrator(score, target)
    assert set(chosen.loss) == set(METHODS)
    assert chosen.calibrator.method in (TEMPERATURE, SIGMOID)
    assert chosen.loss[chosen.calibrator.method] < chosen.loss[NONE] - 0.05
    fitted = log_loss(chosen.calibrator(score), target)
    assert fitted < chosen.loss[chosen.calibrator.method] < log_loss(score, target)
    right = softmax(np.log(score) / 2.5 - np.linspace(0, 0.2, 2), axis=1)
    assert choose_calibrator(right, target).calibrator.method == NONE


def test_too_few_patients_of_a_class_leave_scores_as_they_are() -> None:
    score, target = overconfident(1, 40)
    target[:] = 0
    target[: FOLDS - 1] = 1
    chosen = choose_calibrator(score, target)
    assert chosen.calibrator.method == NONE
    np.testing.assert_allclose(chosen.calibrator(score), score)


@pytest.mark.parametrize("method", METHODS)
def test_a_calibrator_survives_json_and_bad_input_is_refused(method: str) -> None:
    score, target = overconfident(4, 200, 3)
    found = fit_calibrator(score, target, method)
    again = Calibrator(**json.loads(json.dumps(found.to_dict())))
    np.testing.assert_array_equal(again(score), found(score))
    with pytest.raises(DataError, match="patients of every class"):
        fit_calibrator(score, np.zeros(200, dtype=int), method)
    with pytest.raises(DataError, match="expected finite ones"):
        found(np.full((2, 3), np.nan))


def test_expected_calibration_error_is_the_mean_distance_of_its_groups() -> None:
    probability = np.repeat([0.1, 0.4, 0.9], 10)
    target = np.concatenate([np.arange(10) < 3, np.arange(10) < 4, np.arange(10) < 7]).astype(int)
    statistic = expected_calibration_error(target, probability, groups=3)
    assert statistic(np.ones((1, 30)))[0] == pytest.approx((0.2 + 0.0 + 0.2) / 3)
    weights = np.zeros((1, 30))
    weights[0, :10] = 1
    assert statistic(weights)[0] == pytest.approx(0.2)
    estimate = bootstrap(statistic, 30, 500)[0]
    assert estimate.low < estimate.value < estimate.high


def test_the_smooth_curve_finds_the_truth_where_it_is_known() -> None:
    rng = np.random.default_rng(8)
    odds = rng.normal(0, 1.5, 6000)
    target = (rng.random(6000) < expit(0.5 * odds - 0.4)).astype(int)
    at = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    expected = expit(0.5 * np.log(at / (1 - at)) - 0.4)
    np.testing.assert_allclose(smooth_calibration(target, expit(odds), at), expected, atol=0.04)
    assert np.isnan(smooth_calibration(np.zeros(5), np.full(5, 0.5), at)).all()
