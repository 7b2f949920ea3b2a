"""Calibrated curves: level and spread against lifelines' Weibull fit, and changed only where that is worth it."""

from __future__ import annotations

import lifelines
import numpy as np
import pytest

from datamodules.errors import DataError
from experiments.doubt.calibrators import NONE, log_loss
from experiments.doubt.survival_calibrators import (
    LEVEL,
    LINE,
    SurvivalCalibrator,
    choose_survival_calibrator,
    fit_survival_calibrator,
    horizon_losses,
)
from experiments.statistics.horizons import HORIZONS_MONTHS


def drawn(seed: int, count: int, level: float = 0.0, spread: float = 1.0) -> tuple[np.ndarray, ...]:
    """Time, event, predicted hazard at the own time, and survival at the horizons, of a model that is so far off."""
    rng = np.random.default_rng(seed)
    rate = 0.012 * np.exp(rng.normal(0, 0.8, count))
    # H' = exp(level) H ** spread reaches a unit exponential at the event.
    time = (rng.exponential(size=count) / np.exp(level)) ** (1 / spread) / rate
    ends = rng.uniform(12, 140, count)
    seen, event = np.minimum(time, ends), time <= ends
    return seen, event, rate * seen, np.exp(-rate[:, None] * np.array(HORIZONS_MONTHS))


@pytest.mark.parametrize(("level", "spread"), [(0.0, 1.0), (0.7, 1.0), (-0.5, 0.6), (0.3, 1.5)])
def test_level_and_spread_are_those_of_a_weibull_fit_by_another_library(level: float, spread: float) -> None:
    _, event, hazard, _ = drawn(0, 400, level, spread)
    found = fit_survival_calibrator(hazard, event, LINE)
    fitted = lifelines.WeibullFitter().fit(hazard, event)
    assert found.spread == pytest.approx(fitted.rho_, rel=1e-3)
    assert found.level == pytest.approx(-fitted.rho_ * np.log(fitted.lambda_), abs=2e-3)
    assert found.spread == pytest.approx(spread, abs=0.15)
    one = fit_survival_calibrator(hazard, event, LEVEL)
    assert np.exp(one.level) * hazard.sum() == pytest.approx(event.sum())  # as many events as are expected


def test_calibrated_curves_stay_curves_and_missing_ends_stay_missing() -> None:
    curve = np.array([[1.0, 0.9, 0.6, 0.2, np.nan]])
    changed = SurvivalCalibrator(0.4, 0.7, LINE)(curve)[0]
    assert changed[0] > 0.99
    assert (np.diff(changed[:4]) < 0).all()
    assert np.isnan(changed[4])
    assert SurvivalCalibrator()(curve)[0, :4].tolist() == [1.0, 0.9, 0.6, 0.2]


def test_curves_are_changed_where_they_are_off_and_left_alone_where_they_are_not() -> None:
    kept, mended = [], []
    for seed in range(12):
        time, event, hazard, at = drawn(seed, 200)
        kept.append(choose_survival_calibrator(time, event, hazard, at, seed).calibrator.method == NONE)
        time, event, hazard, at = drawn(seed, 200, level=1.0)
        chosen = choose_survival_calibrator(time, event, hazard, at, seed)
        mended.append(chosen.calibrator.level > 0.5)
        assert chosen.loss[chosen.calibrator.method] < chosen.loss[NONE]
        assert (chosen.n, chosen.events) == (200, int(event.sum()))
    assert sum(kept) >= 8
    assert all(mended)


def test_few_events_leave_curves_as_they_are() -> None:
    time, event, hazard, at = drawn(0, 200, level=1.0)
    event = event & (np.cumsum(event) <= 9)
    assert choose_survival_calibrator(time, event, hazard, at).calibrator == SurvivalCalibrator()
    with pytest.raises(DataError, match="without an event"):
        fit_survival_calibrator(hazard, np.zeros(200, bool), LEVEL)
    with pytest.raises(DataError, match="must match"):
        fit_survival_calibrator(-hazard, event, LEVEL)


def test_without_censoring_the_loss_is_the_log_loss_at_each_time() -> None:
    rng = np.random.default_rng(3)
    time, survival = rng.exponential(40, 300), rng.uniform(0.05, 0.95, (300, 3))
    found = horizon_losses(time, np.ones(300, bool), survival).mean()
    each = [
        log_loss(np.column_stack([1 - survival[:, number], survival[:, number]]), (time > months).astype(int))
        for number, months in enumerate(HORIZONS_MONTHS)
    ]
    assert found == pytest.approx(np.mean(each))


def test_a_calibrated_model_has_the_least_expected_loss_under_censoring() -> None:
    time, event, _, at = drawn(4, 4000)
    losses = [horizon_losses(time, event, SurvivalCalibrator(level, 1.0, LEVEL)(at)).mean() for level in (-0.4, 0, 0.4)]
    assert np.argmin(losses) == 1
