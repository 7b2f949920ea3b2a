"""Net benefit against its definition and what must hold of it."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.errors import DataError
from experiments.statistics.bootstrap import patient_weights
from experiments.statistics.decision import decision_curve


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
