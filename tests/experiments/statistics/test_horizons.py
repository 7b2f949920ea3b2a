"""Dynamic AUC and Brier score against scikit-survival, and where that one fails."""

from __future__ import annotations

import numpy as np
import pytest
from sksurv.metrics import brier_score, cumulative_dynamic_auc, integrated_brier_score
from sksurv.nonparametric import CensoringDistributionEstimator, kaplan_meier_estimator
from sksurv.util import Surv

from datamodules.errors import DataError
from experiments.statistics.bootstrap import bootstrap
from experiments.statistics.horizons import (
    at_horizon,
    brier_at,
    dynamic_auc,
    integrated_brier,
    kaplan_meier_brier,
    known_by,
    mean_dynamic_auc,
    usable_times,
)
from experiments.statistics.weighted_survival import follow_up, product_limit
from tests.experiments.statistics.cohort import Patients, apart, censored, resamples

TIMES = np.array([4.0, 8.0, 12.0])


def _cohort(seed: int) -> tuple[Patients, np.ndarray]:
    """Patients who are followed long after the times, and the probabilities of surviving these."""
    time, event, risk = apart(censored(seed, 120))
    time[-5:], event[-5:] = time.max() + np.arange(1, 6), False
    survival = np.exp(-np.outer(np.exp(risk - 2), TIMES / 12))
    return Patients(time, event, risk), survival


def test_weighted_kaplan_meier_is_scikit_survivals() -> None:
    for seed in range(5):
        time, event, _ = censored(seed)
        indices, weights = resamples(len(time), 8, seed)
        at = np.arange(0.0, time.max() + 3, 0.5)
        events = product_limit(follow_up(time, event), at, weights)
        censoring = product_limit(follow_up(time, event), at, weights, of_censoring=True)
        for row, survival, uncensored in zip(indices, events, censoring, strict=True):
            seen, expected = kaplan_meier_estimator(event[row], time[row])
            place = np.searchsorted(seen, at, side="right")
            assert survival == pytest.approx(np.append(1.0, expected)[place], abs=1e-12)
            estimator = CensoringDistributionEstimator().fit(Surv.from_arrays(event[row], time[row]))
            known = at <= time[row].max()
            assert uncensored[known] == pytest.approx(estimator.predict_proba(at[known]), abs=1e-12)


def test_dynamic_auc_is_scikit_survivals_on_every_resample() -> None:
    (time, event, risk), _ = _cohort(0)
    indices, weights = resamples(len(time), 15)
    values = np.column_stack([dynamic_auc(time, event, risk, at)(weights) for at in TIMES])
    means = mean_dynamic_auc(time, event, risk, TIMES)(weights)
    for row, aucs, mean in zip(indices, values, means, strict=True):
        survival = Surv.from_arrays(event[row], time[row])
        expected, expected_mean = cumulative_dynamic_auc(survival, survival, risk[row], TIMES)
        assert aucs == pytest.approx(expected, abs=1e-12)
        assert mean == pytest.approx(expected_mean, abs=1e-12)


def test_brier_is_scikit_survivals_on_every_resample() -> None:
    (time, event, _), curves = _cohort(1)
    indices, weights = resamples(len(time), 15)
    values = np.column_stack([brier_at(time, event, curves[:, k], at)(weights) for k, at in enumerate(TIMES)])
    integrated = integrated_brier(time, event, curves, TIMES)(weights)
    for row, briers, mean in zip(indices, values, integrated, strict=True):
        survival = Surv.from_arrays(event[row], time[row])
        assert briers == pytest.approx(brier_score(survival, survival, curves[row], TIMES)[1], abs=1e-12)
        assert mean == pytest.approx(integrated_brier_score(survival, survival, curves[row], TIMES), abs=1e-12)


def test_censoring_of_training_patients_is_used() -> None:
    (time, event, risk), curves = _cohort(2)
    training = apart(censored(5, 300))
    reference = follow_up(np.append(training.time, 1000.0), np.append(training.event, False))
    trained = Surv.from_arrays(reference.event, reference.time_months)
    indices, weights = resamples(len(time), 10)
    aucs = dynamic_auc(time, event, risk, 8.0, reference)(weights)
    briers = brier_at(time, event, curves[:, 1], 8.0, reference)(weights)
    for row, auc, brier in zip(indices, aucs, briers, strict=True):
        survival = Surv.from_arrays(event[row], time[row])
        assert auc == pytest.approx(cumulative_dynamic_auc(trained, survival, risk[row], 8.0)[0][0], abs=1e-12)
        assert brier == pytest.approx(brier_score(trained, survival, curves[row, 1:2], 8.0)[1][0], abs=1e-12)


def test_later_follow_up_beyond_the_censoring_curve_does_no_harm() -> None:
    """An event at the time of the last censoring stops scikit-survival, although it lies after the horizon."""
    (time, event, risk), _ = _cohort(3)
    last = time.max()
    time, event, risk = np.append(time, last), np.append(event, True), np.append(risk, 1.0)
    survival = Surv.from_arrays(event, time)
    with pytest.raises(ValueError, match="zero"):
        cumulative_dynamic_auc(survival, survival, risk, 8.0)
    before = Surv.from_arrays(event & (time < last), time)
    expected = cumulative_dynamic_auc(before, before, risk, 8.0)[0][0]
    assert dynamic_auc(time, event, risk, 8.0)(np.ones((1, len(time))))[0] == pytest.approx(expected, abs=1e-12)


def test_estimates_carry_who_is_known() -> None:
    (time, event, risk), curves = _cohort(4)
    estimate = at_horizon(dynamic_auc(time, event, risk, 8.0), time, event, 8.0, replicates=300)
    assert (estimate.n, estimate.events) == known_by(time, event, 8.0)
    assert estimate.n == len(time) - int((~event & (time <= 8)).sum())
    assert estimate.low < estimate.value < estimate.high
    late = at_horizon(brier_at(time, event, curves[:, 0], 999.0), time, event, 999.0)
    assert np.isnan(late[:3]).all()
    assert late.events == int(event.sum())


def test_times_are_bounded_by_follow_up_and_censoring() -> None:
    time = np.array([2.0, 3.0, 5.0, 6.0, 9.0])
    event = np.array([True, False, True, False, True])
    group = follow_up(time, event)
    assert usable_times([1, 2, 5, 8.9, 9, 12], group).tolist() == [False, True, True, True, False, False]
    short = follow_up([1.0, 4.0], [True, False])
    assert usable_times([2, 3, 4, 5], group, short).tolist() == [True, True, False, False]
    assert not usable_times([2.0], follow_up(time, event & False)).any()


def test_a_model_that_knows_nothing_scores_as_kaplan_meier() -> None:
    (time, event, _), _ = _cohort(6)
    ones = np.ones((1, len(time)))
    known = product_limit(follow_up(time, event), np.array([8.0]), ones)[0, 0]
    expected = brier_at(time, event, np.full(len(time), known), 8.0)(ones)
    assert kaplan_meier_brier(time, event, 8.0)(ones) == pytest.approx(expected)
    worse = brier_at(time, event, np.full(len(time), known / 2), 8.0)(ones)
    assert worse[0] > expected[0]


def test_degenerate_and_bad_input() -> None:
    (time, event, risk), curves = _cohort(7)
    assert np.isnan(bootstrap(dynamic_auc(time, event & False, risk, 8.0), len(time), 50)[0].value)
    assert dynamic_auc(time, event, risk * 0, 8.0)(np.ones((1, len(time))))[0] == pytest.approx(0.5)
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        brier_at(time, event, risk + 5, 8.0)
    with pytest.raises(DataError, match="increasing times"):
        mean_dynamic_auc(time, event, risk, [8.0, 8.0])
    with pytest.raises(DataError, match="at least two times"):
        integrated_brier(time, event, curves[:, :1], [8.0])
    with pytest.raises(DataError, match="reference for censoring"):
        brier_at(time, event, curves[:, 0], 8.0, follow_up([1.0, 2.0], [True, True]))(np.ones((1, len(time))))


def test_a_time_before_the_first_event_of_a_resample_has_no_weight() -> None:
    time, event = np.array([2.0, 5.0, 6.0, 9.0, 9.0]), np.array([True, True, True, False, False])
    risk = np.array([0.0, 2.0, 0.5, 1.0, 0.1])
    without_first = np.array([[0.0, 1, 1, 1, 1]])
    found = mean_dynamic_auc(time, event, risk, [3.0, 7.0])(without_first)
    assert found == pytest.approx(dynamic_auc(time, event, risk, 7.0)(without_first))
    assert np.isnan(mean_dynamic_auc(time, event & False, risk, [3.0, 7.0])(without_first)).all()
