"""Net benefit against its definition and what must hold of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter

from datamodules.errors import DataError
from experiments.statistics.bootstrap import patient_weights
from experiments.statistics.decision import decision_curve, survival_decision_curve


def _patients() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    probability = rng.random(150)
    return (rng.random(150) < probability).astype(int), probability


def test_net_benefit_is_counted_out() -> None:
    target, probability = _patients()
    curve = decision_curve(target, probability, [0.1, 0.25, 0.6], replicates=200, seed=3)
    replicate = np.repeat(np.arange(150), patient_weights(150, 200, 3)[17].astype(int))
    for row in curve.to_dict("records"):
        odds = row["threshold"] / (1 - row["threshold"])

        def benefit(patients: np.ndarray, threshold: float = row["threshold"], odds: float = odds) -> float:
            called, truth = probability[patients] >= threshold, target[patients] == 1
            return float(((called & truth).sum() - odds * (called & ~truth).sum()) / len(patients))

        assert row["net_benefit"] == pytest.approx(benefit(np.arange(150)))
        assert row["treat_all"] == pytest.approx(target.mean() - odds * (1 - target.mean()))
        assert row["low"] < row["net_benefit"] < row["high"]
        assert row["low"] - 0.2 < benefit(replicate) < row["high"] + 0.2
    assert curve["n"].eq(150).all()
    assert curve["events"].eq(target.sum()).all()


def test_intervals_are_those_of_the_loop() -> None:
    target, probability = _patients()
    row = decision_curve(target, probability, [0.3], replicates=100, seed=1).iloc[0]
    values, gains = [], []
    for weight in patient_weights(150, 100, 1):
        patients = np.repeat(np.arange(150), weight.astype(int))
        truth, called = target[patients] == 1, probability[patients] >= 0.3
        values.append(((called & truth).sum() - 3 / 7 * (called & ~truth).sum()) / 150)
        gains.append(values[-1] - max(truth.mean() - 3 / 7 * (1 - truth.mean()), 0))
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert (row["advantage_low"], row["advantage_high"]) == pytest.approx(tuple(np.percentile(gains, [2.5, 97.5])))


def test_limits() -> None:
    target, _ = _patients()
    perfect = decision_curve(target, target.astype(float), replicates=50)
    assert perfect["net_benefit"].to_numpy() == pytest.approx(target.mean())
    everyone = decision_curve(target, np.ones(150), replicates=50)
    assert everyone["net_benefit"].to_numpy() == pytest.approx(everyone["treat_all"].to_numpy())
    assert (everyone["advantage"] <= 1e-12).all()
    no_events = decision_curve(np.zeros(5), np.full(5, 0.01), [0.2], replicates=50).iloc[0]
    assert (no_events["net_benefit"], no_events["events"]) == (0, 0)


def test_bad_thresholds_are_refused() -> None:
    with pytest.raises(DataError, match=r"\[1\.0\]"):
        decision_curve(*_patients(), thresholds=[0.5, 1.0])
    with pytest.raises(DataError, match="0 patients"):
        decision_curve(np.array([]), np.array([]))


def _followed(censored: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Months, events and predicted survival of 40 months."""
    rng = np.random.default_rng(4)
    rate = rng.gamma(2.0, 0.5, 160)
    happened, left = rng.exponential(50 / rate), rng.uniform(10, 120, 160)
    time = np.minimum(happened, left) if censored else happened
    return np.ceil(time), (happened <= left) if censored else np.ones(160, dtype=bool), np.exp(-40 * rate / 50)


def _lifelines_benefit(
    time: np.ndarray, event: np.ndarray, acted: np.ndarray, threshold: float, patients: np.ndarray
) -> float:
    own = patients[acted[patients]]
    kept = KaplanMeierFitter().fit(time[own], event[own]).predict(40.0)
    return len(own) / len(patients) * float((1 - kept) - kept * threshold / (1 - threshold))


def test_net_benefit_under_censoring_is_that_by_lifelines() -> None:
    time, event, survival = _followed()
    everybody = np.arange(len(time))
    curve = survival_decision_curve(time, event, survival, 40.0, [0.2, 0.5, 0.7], replicates=60, seed=3)
    for row in curve.to_dict("records"):
        threshold, acted = row["threshold"], 1 - survival >= row["threshold"]
        assert row["net_benefit"] == pytest.approx(_lifelines_benefit(time, event, acted, threshold, everybody))
        treat_all = _lifelines_benefit(time, event, np.ones_like(acted), threshold, everybody)
        assert row["treat_all"] == pytest.approx(treat_all)
        assert row["advantage"] == pytest.approx(row["net_benefit"] - max(treat_all, 0))
        drawn = [np.repeat(everybody, weight.astype(int)) for weight in patient_weights(len(time), 60, 3)]
        values = [_lifelines_benefit(time, event, acted, threshold, patients) for patients in drawn]
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    known = (event & (time <= 40)) | (time > 40)
    assert curve["n"].eq(known.sum()).all()
    assert curve["events"].eq((event & (time <= 40)).sum()).all()


def test_without_censoring_it_is_the_curve_of_the_event_by_then() -> None:
    time, event, survival = _followed(censored=False)
    found = survival_decision_curve(time, event, survival, 40.0, replicates=50, seed=2)
    expected = decision_curve((time <= 40).astype(int), 1 - survival, replicates=50, seed=2)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-12, check_dtype=False)


def test_a_group_that_nobody_follows_to_the_time_has_no_benefit() -> None:
    time, event = np.array([10.0, 20.0, 30.0, 50.0, 60.0]), np.array([True, False, True, False, True])
    survival = np.array([0.1, 0.1, 0.6, 0.9, 0.9])
    curve = survival_decision_curve(time, event, survival, 40.0, [0.05, 0.3, 0.5, 0.95], replicates=20)
    defined = np.isfinite(curve["net_benefit"])
    # Of those at .9 one is censored at 20 months; with the third one, who dies at 30, nobody is left on the curve.
    assert defined.tolist() == [True, True, False, True]
    assert curve["net_benefit"].iloc[-1] == 0


def test_bad_survival_is_refused() -> None:
    time, event, survival = _followed()
    with pytest.raises(DataError, match="outside"):
        survival_decision_curve(time, event, survival + 1, 40.0)
    with pytest.raises(DataError, match="end of follow-up"):
        survival_decision_curve(time, event, survival, 500.0)
    with pytest.raises(DataError, match=r"\[1\.0\]"):
        survival_decision_curve(time, event, survival, 40.0, [1.0])
