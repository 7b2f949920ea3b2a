"""Kaplan-Meier against scikit-survival, and published curves and tests."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines.datasets import load_leukemia
from sksurv.nonparametric import kaplan_meier_estimator

from datamodules.errors import DataError
from experiments.statistics.kaplan_meier import kaplan_meier, log_rank, numbers_at_risk, survival_at
from tests.experiments.statistics.cohort import censored


def _leukemia() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Remission of 42 patients, 6-MP against placebo (Freireich et al., Blood 1963)."""
    table = load_leukemia()
    return table["t"].to_numpy(float), table["status"].to_numpy() == 1, table["Rx"].to_numpy()


def test_curve_is_scikit_survivals_with_log_log_interval() -> None:
    for seed in range(4):
        time, event, _ = censored(seed)
        curve = kaplan_meier(time, event)
        seen, survival, interval = kaplan_meier_estimator(event, time, conf_type="log-log")
        place = np.searchsorted(curve.times_months, seen)
        assert curve.survival[place] == pytest.approx(survival)
        inside = (survival > 0) & (survival < 1)
        assert curve.low[place][inside] == pytest.approx(interval[0][inside])
        assert curve.high[place][inside] == pytest.approx(interval[1][inside])
        assert len(curve.censored_months) == (~event).sum()


def test_published_remission_of_leukemia() -> None:
    """Kleinbaum and Klein, Survival Analysis, 3rd edition, table 2.2 and page 69: 6-MP and the log-rank test."""
    time, event, control = _leukemia()
    treated, placebo = control == 0, control == 1
    for month, expected in {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482}.items():
        assert survival_at(time[treated], event[treated], month).value == pytest.approx(expected, abs=5e-5)
    assert numbers_at_risk(time[treated], np.array([6, 7, 10, 13, 16, 22, 23])).tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert kaplan_meier(time[placebo], event[placebo]).median.value == 8
    assert kaplan_meier(time[treated], event[treated]).median.value == 23
    test = log_rank(time, event, control)
    assert test.statistic == pytest.approx(16.79, abs=0.005)
    assert (test.degrees, test.n, test.events) == (1, 42, 30)
    assert test.p < 1e-4


def test_log_rank_does_not_depend_on_names_or_order() -> None:
    time, event, risk = censored(1)
    group = np.where(risk > 1.5, "high", np.where(risk > 0.7, "middle", "low"))
    first = log_rank(time, event, group)
    order = np.random.default_rng(0).permutation(len(time))
    renamed = np.select([group == "high", group == "low"], [7, 3], 5)
    assert log_rank(time[order], event[order], renamed[order]) == pytest.approx(first)
    assert first.degrees == 2


def test_survival_at_a_horizon_carries_the_events_by_then() -> None:
    time, event, _ = censored(2)
    estimate = survival_at(time, event, 6.0)
    assert estimate.low < estimate.value < estimate.high
    assert (estimate.n, estimate.events) == (80, int((event & (time <= 6)).sum()))
    assert survival_at(time, event, 0.0).n == 80


def test_not_followed_no_events_nobody() -> None:
    time, event = np.array([1.0, 2.0, 3.0]), np.array([True, False, False])
    late = survival_at(time, event, 5.0)
    assert np.isnan(late.value)
    assert (late.n, late.events) == (3, 1)
    assert survival_at(time, np.array([True, True, True]), 5.0).value == 0
    none = kaplan_meier(time, event & False)
    assert (none.survival == 1).all()
    assert np.isinf(none.median.value)
    assert none.median.events == 0
    test = log_rank(time, event & False, np.array([0, 1, 1]))
    assert np.isnan(test.p)
    assert (test.n, test.events) == (3, 0)
    with pytest.raises(DataError, match="compares two or more"):
        log_rank(time, event, np.zeros(3))
    with pytest.raises(DataError, match="no patients"):
        kaplan_meier(np.array([]), np.array([]))


def test_median_is_where_the_curve_reaches_one_half() -> None:
    """R's survfit: the middle of a step at one half; the last product of fractions is one half but for rounding."""
    ones = np.ones(4, dtype=bool)
    assert kaplan_meier(np.arange(1.0, 5.0), ones).median[:3] == (2.5, 1.0, np.inf)
    assert kaplan_meier(np.arange(1.0, 5.0), np.array([1, 1, 0, 0])).median[:3] == (2.0, 1.0, np.inf)
    assert kaplan_meier(np.arange(1.0, 7.0), np.array([1, 1, 1, 0, 0, 0])).median[:3] == (3.0, 1.0, np.inf)


def test_an_interval_of_a_survival_of_1_or_0_has_a_width() -> None:
    """Without censoring it is Clopper and Pearson's of none and of all."""
    time, nobody = np.full(30, 10.0), np.zeros(30, dtype=bool)
    kept = survival_at(time, nobody, 8.0)
    assert kept[:3] == pytest.approx((1.0, 0.025 ** (1 / 30), 1.0))
    half = survival_at(np.repeat([5.0, 10.0], 15), nobody, 8.0)  # 15 were followed so far
    assert half.low == pytest.approx(0.025 ** (1 / 15))
    lost = survival_at(np.arange(1.0, 31.0), ~nobody, 60.0)
    assert lost[:3] == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 30)))
    curve = kaplan_meier(np.arange(1.0, 31.0), ~nobody)
    assert (curve.high - curve.low > 0.05).all()
