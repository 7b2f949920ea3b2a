"""The smallest fraction that reaches the best baseline, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.errors import DataError
from experiments.statistics.data_efficiency import smallest_fraction

FRACTIONS = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]


def _constant(values: list[float], replicates: int = 100) -> np.ndarray:
    """Replicates that hardly vary."""
    return np.array(values)[:, None] + np.random.default_rng(0).uniform(0, 1e-6, (1, replicates))


def test_metrics_of_patients_who_are_all_alike_give_no_interval() -> None:
    curve, same = [0.5, 1.0], np.ones((1, 100))
    result = smallest_fraction([0.5, 1.0], np.array(curve), np.repeat(np.array(curve)[:, None], 100, axis=1), [1], same)
    assert result.value == 1.0
    assert np.isnan([result.low, result.high, result.reached]).all()
    assert "interval not defined" in result.sentence("aligned", ["size"])


def test_with_little_spread_the_interval_is_the_fraction() -> None:
    curve = [0.5, 0.6, 0.7, 0.75, 0.8, 0.81]
    result = smallest_fraction(
        FRACTIONS, np.array(curve), _constant(curve), np.array([0.7, 0.6]), _constant([0.7, 0.6])
    )
    assert result[:5] == (0.2, 0.2, 0.2, 1.0, 0)


def test_one_lucky_fraction_is_not_enough_unless_asked_for() -> None:
    curve = [0.5, 0.8, 0.6, 0.75, 0.8, 0.81]
    arguments = (FRACTIONS, np.array(curve), _constant(curve), np.array([0.7]), _constant([0.7]))
    assert smallest_fraction(*arguments).value == 0.4
    assert smallest_fraction(*arguments, sustained=False).value == 0.1


def test_replicates_are_counted_out_and_the_best_baseline_is_chosen_anew() -> None:
    rng = np.random.default_rng(0)
    curve = np.linspace(0.6, 0.75, 6)[:, None] + rng.normal(0, 0.02, (6, 400))
    bases = np.array([[0.68], [0.69]]) + rng.normal(0, 0.02, (2, 400))
    result = smallest_fraction(FRACTIONS, curve.mean(axis=1), curve, bases.mean(axis=1), bases, 90, 31)
    found = []
    for replicate in range(400):
        best = max(bases[:, replicate])
        enough = [f for k, f in enumerate(FRACTIONS) if all(curve[k:, replicate] >= best)]
        found.append(min(enough, default=np.inf))
    assert result.reached == pytest.approx(np.isfinite(found).mean())
    assert result.low == np.quantile(found, 0.025, method="inverted_cdf")
    assert result.high == np.quantile(found, 0.975, method="inverted_cdf")
    assert result.baseline == 1
    assert (result.n, result.events) == (90, 31)
    assert "n 90, events 31" in result.sentence("aligned", ["size", "radiomics"])


def test_not_reached_is_said() -> None:
    curve = [0.5] * 6
    result = smallest_fraction(FRACTIONS, np.array(curve), _constant(curve), np.array([0.7]), _constant([0.7]), 50, 9)
    assert np.isinf(result.value)
    assert result.reached == 0
    assert result.sentence("scratch", ["radiomics"]) == (
        "scratch does not reach radiomics at 100 % of the labels at any fraction (not reached in 95 % of replicates or "
        "more, of the shares that were tried; reached in 0 % of replicates; n 50, events 9)."
    )


def test_the_sentence_names_the_fraction() -> None:
    curve = [0.5, 0.6, 0.7, 0.75, 0.8, 0.81]
    result = smallest_fraction(FRACTIONS, np.array(curve), _constant(curve), np.array([0.6]), _constant([0.6]))
    assert result.sentence("aligned", ["size"]).startswith(
        "aligned reaches size at 100 % of the labels with 10 % of them (10 % in 95 % of replicates or more"
    )


def test_undefined_replicates_and_bad_input() -> None:
    curve = np.array([0.5, 0.7])
    replicates = _constant([0.5, 0.7], 10)
    replicates[0, :2] = np.nan
    result = smallest_fraction([0.5, 1], curve, replicates, np.array([0.6]), _constant([0.6], 10))
    assert result.value == 1
    assert np.isnan(result.low)
    with pytest.raises(DataError, match="do not fit 2 fractions"):
        smallest_fraction([0.5, 1], curve, replicates, np.array([0.6]), _constant([0.6], 9))
    with pytest.raises(DataError, match="do not increase"):
        smallest_fraction([1, 0.5], curve, replicates, np.array([0.6]), _constant([0.6], 10))
    with pytest.raises(DataError, match="not defined"):
        smallest_fraction([0.5, 1], curve * np.nan, replicates, np.array([0.6]), _constant([0.6], 10))
