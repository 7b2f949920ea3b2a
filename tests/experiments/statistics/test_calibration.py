"""Calibration against statsmodels' values, scikit-learn, lifelines, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from scipy.special import expit
from sklearn.calibration import calibration_curve as sklearn_curve
from sklearn.metrics import brier_score_loss
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from datamodules.errors import DataError
from experiments.statistics.calibration import (
    brier,
    calibration_curve,
    calibration_intercept,
    calibration_slope,
    calibration_summary,
    observed_over_expected,
    scaled_brier,
    survival_calibration_curve,
    survival_calibration_error,
    survival_calibration_slope,
)
from tests.experiments.statistics.cohort import censored, resamples


def test_slope_and_intercept_are_statsmodels() -> None:
    """Logit, and GLM with an offset, of statsmodels 0.15.0 on the same seeded patients."""
    rng = np.random.default_rng(7)
    odds = np.round(rng.normal(size=120), 3)
    target = rng.random(120) < expit(0.4 + 0.6 * odds)
    assert calibration_slope(target, expit(odds))[:5] == pytest.approx(
        (0.8787283417, 0.3790721365, 1.3783845470, 120, 62), abs=1e-6
    )
    assert calibration_intercept(target, expit(odds))[:5] == pytest.approx(
        (0.22198684, -0.16344354, 0.60741721, 120, 62), abs=1e-6
    )


def test_what_is_calibrated_has_slope_1_and_intercept_0() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 1.5, 60_000)
    target = rng.random(60_000) < expit(odds)
    assert calibration_slope(target, expit(odds)).value == pytest.approx(1, abs=0.03)
    assert calibration_intercept(target, expit(odds)).value == pytest.approx(0, abs=0.03)
    assert calibration_slope(target, expit(2 * odds)).value == pytest.approx(0.5, abs=0.02)
    assert calibration_intercept(target, expit(odds - 1)).value == pytest.approx(1, abs=0.03)


def test_brier_is_scikit_learns_on_every_resample() -> None:
    rng = np.random.default_rng(1)
    target, probability = rng.integers(0, 2, 70), rng.random(70)
    indices, weights = resamples(70, 20)
    expected = [brier_score_loss(target[row], probability[row]) for row in indices]
    assert brier(target, probability)(weights) == pytest.approx(expected, abs=1e-12)
    known = np.full(70, target.mean())
    assert scaled_brier(target, known)(np.ones((1, 70)))[0] == pytest.approx(0, abs=1e-12)
    assert scaled_brier(target, target)(np.ones((1, 70)))[0] == 1


def test_curve_is_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    probability = rng.random(200)
    target = (rng.random(200) < probability).astype(int)
    curve = calibration_curve(target, probability, 10)
    observed, predicted = sklearn_curve(target, probability, n_bins=10, strategy="quantile")
    assert curve["observed"].to_numpy() == pytest.approx(observed)
    assert curve["predicted"].to_numpy() == pytest.approx(predicted)
    assert curve["n"].sum() == 200
    assert curve["events"].sum() == target.sum()
    assert curve["n"].eq(20).all()
    assert (curve["low"] < curve["observed"]).all()


def test_equal_predictions_stay_together() -> None:
    curve = calibration_curve(np.array([0, 1, 1, 0, 1]), np.array([0.2, 0.2, 0.2, 0.7, 0.7]), 4)
    assert curve["n"].tolist() == [3, 2]
    assert curve["observed"].tolist() == pytest.approx([2 / 3, 0.5])
    assert len(calibration_curve(np.array([0, 1]), np.array([0.5, 0.5]), 10)) == 1


def test_survival_curve_is_lifelines_in_every_group() -> None:
    time, event, risk = censored(0, 200, 60)
    survival = np.exp(-np.exp(risk - 2))
    curve = survival_calibration_curve(time, event, survival, 15.0, 4)
    assert curve["n"].sum() == 200
    lowest = survival >= np.sort(survival)[-int(curve["n"].iloc[0])]
    expected = KaplanMeierFitter().fit(time[lowest], event[lowest]).predict(15.0)
    assert curve["observed"].iloc[0] == pytest.approx(1 - expected)
    assert (curve["low"] <= curve["observed"]).all()
    assert curve["predicted"].is_monotonic_increasing


def test_undefined_with_n() -> None:
    one_class = calibration_summary(np.ones(5), np.full(5, 0.7), 50)
    assert np.isnan(one_class["calibration slope"].value)
    assert np.isnan(one_class["calibration intercept"].value)
    assert one_class["brier"].value == pytest.approx(0.09)
    assert (one_class["calibration slope"].n, one_class["calibration slope"].events) == (5, 5)
    target = np.array([0, 0, 1, 1])
    assert np.isnan(calibration_slope(target, np.full(4, 0.4)).value)
    assert calibration_intercept(target, np.full(4, 0.4)).value == pytest.approx(np.log(1.5))
    separated = calibration_slope(target, np.array([0.1, 0.2, 0.8, 0.9]))
    assert np.isnan(separated.value)
    assert np.isfinite(calibration_intercept(target, np.array([0.0, 0.2, 1.0, 0.9])).value)


def test_logits_are_refused() -> None:
    with pytest.raises(DataError, match="2 of 3 probabilities lie outside"):
        calibration_slope(np.array([0, 1, 1]), np.array([-2.0, 0.5, 3.0]))
    with pytest.raises(DataError, match="at least one of each"):
        calibration_curve(np.array([]), np.array([]))


def _predicted(strength: float, n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, events and predicted survival of 10 months, whose log hazards are spread `strength` times too far."""
    rng = np.random.default_rng(0)
    hazard = 0.05 * np.exp(rng.normal(0, 0.5, n))
    happened, censored_at = rng.exponential(1 / hazard), rng.uniform(5, 40, n)
    kept = np.exp(-10 * 0.05 * (hazard / 0.05) ** strength)
    return np.minimum(happened, censored_at), happened <= censored_at, kept


@pytest.mark.parametrize("strength", [1.0, 2.0, 0.5])
def test_survival_slope_is_that_of_scikit_survival(strength: float) -> None:
    time, event, kept = _predicted(strength)
    early = event & (time <= 10)
    slope = survival_calibration_slope(time, event, kept, 10.0)
    outcome = Surv.from_arrays(early, np.minimum(time, 10.0))
    fitted = CoxPHSurvivalAnalysis(ties="efron", tol=1e-12).fit(np.log(-np.log(kept))[:, None], outcome)
    assert slope.value == pytest.approx(fitted.coef_[0], rel=1e-5)
    assert slope.low < 1 / strength < slope.high
    assert (slope.n, slope.events) == (400, early.sum())
    order = np.random.default_rng(1).permutation(400)
    assert survival_calibration_slope(time[order], event[order], kept[order], 10.0).value == pytest.approx(slope.value)


def test_observed_over_expected_is_lifelines() -> None:
    time, event, kept = _predicted(1.0)
    fitted = KaplanMeierFitter().fit(time, event)
    ratio = observed_over_expected(time, event, kept, 10.0)
    assert ratio.value == pytest.approx((1 - fitted.predict(10.0)) / (1 - kept).mean())
    assert ratio.low < 1 < ratio.high
    halved = observed_over_expected(time, event, 1 - (1 - kept) / 2, 10.0)
    assert halved.value == pytest.approx(2 * ratio.value)
    assert halved.low > 1


def test_survival_calibration_that_is_not_defined() -> None:
    time, event, kept = _predicted(1.0, 40)
    assert np.isnan(survival_calibration_slope(time, event & False, kept, 10.0).value)
    assert np.isnan(survival_calibration_slope(time, event, np.full(40, 0.5), 10.0).value)
    first = np.arange(1.0, 41)
    apart = survival_calibration_slope(first, first < 21, np.where(first < 21, 0.1, 0.9), 60.0)
    assert np.isnan(apart.value)
    assert apart.events == 20
    assert np.isnan(observed_over_expected(time, event, np.ones(40), 10.0).value)
    assert np.isnan(observed_over_expected(time, event & False, kept, 1000.0).value)
    for function in (survival_calibration_slope, observed_over_expected):
        with pytest.raises(DataError, match=r"lie outside \[0, 1\]"):
            function(time, event, kept + 1, 10.0)
        with pytest.raises(DataError, match="must match"):
            function(time, event, kept[1:], 10.0)


def test_without_censoring_the_calibration_error_is_that_of_plain_groups() -> None:
    rng = np.random.default_rng(0)
    survival, time = rng.random(200), rng.exponential(40, 200)
    found = survival_calibration_error(time, np.ones(200, bool), survival, 36.0, groups=4)(np.ones((1, 200)))[0]
    edges = np.quantile(survival, [0.25, 0.5, 0.75], method="higher")
    number = np.searchsorted(edges, survival, side="right")
    each = [
        (number == part).mean() * abs((time[number == part] <= 36).mean() - (1 - survival[number == part]).mean())
        for part in range(4)
    ]
    assert found == pytest.approx(sum(each))


def test_a_group_of_whom_no_state_is_known_is_left_out_of_the_calibration_error() -> None:
    time = np.repeat([3.0, 20.0, 5.0], [10, 10, 20])
    survival = np.repeat([0.2, 0.9], 20)  # of those that may live long nobody is followed to the time
    found = survival_calibration_error(time, time == 3, survival, 10.0, groups=2)(np.ones((1, 40)))[0]
    assert found == pytest.approx(0.8 - 10 / (10 + 10 * 3))  # one in three is not censored by then
