"""Thresholds from validation patients, and what they reach, against scikit-learn and published intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from datamodules.errors import DataError
from experiments.statistics.operating_point import operating_point, wilson, youden_threshold


def _patients(seed: int, n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = np.r_[0, 1, rng.integers(0, 2, n - 2)]
    return target, rng.integers(0, 15, n) / 15 + target * 0.2


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_best_of_all_thresholds(seed: int) -> None:
    target, score = _patients(seed)

    def youden(threshold: float) -> float:
        called = score >= threshold
        return float(called[target == 1].mean() - called[target == 0].mean())

    best = max(youden(value) for value in score)
    chosen = youden_threshold(target, score)
    assert chosen in score
    assert youden(chosen) == pytest.approx(best)
    assert all(youden(value) < best - 1e-12 for value in score[score > chosen])


def test_shares_are_scikit_learns() -> None:
    target, score = _patients(1)
    threshold = youden_threshold(*_patients(2))
    point = operating_point(target, score, threshold)
    called = (score >= threshold).astype(int)
    counts = (point.true_negatives, point.false_positives, point.false_negatives, point.true_positives)
    assert counts == tuple(confusion_matrix(target, called).ravel())
    values = {name: estimate.value for name, estimate in point.estimates.items()}
    assert values["sensitivity"] == pytest.approx(recall_score(target, called))
    assert values["specificity"] == pytest.approx(recall_score(target, called, pos_label=0))
    assert values["ppv"] == pytest.approx(precision_score(target, called))
    assert values["npv"] == pytest.approx(precision_score(target, called, pos_label=0))
    assert values["accuracy"] == pytest.approx((target == called).mean())
    assert values["f1"] == pytest.approx(f1_score(target, called))
    for estimate in point.estimates.values():
        assert estimate.low < estimate.value < estimate.high
        assert (estimate.n, estimate.events) == (90, target.sum())


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes: int, trials: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 1998, table I, method 3."""
    estimate = wilson(successes, trials)
    assert estimate[:5] == pytest.approx((successes / trials, low, high, trials, successes), abs=5e-5)
    assert estimate.interval == "Wilson"


def test_shares_of_nobody_are_undefined() -> None:
    point = operating_point(np.array([1, 0, 0]), np.array([0.1, 0.2, 0.3]), 0.9)
    assert np.isnan(point.estimates["ppv"].value)
    assert (point.estimates["ppv"].n, point.estimates["ppv"].events) == (3, 1)
    assert point.estimates["sensitivity"].value == 0
    one_class = operating_point(np.zeros(4, dtype=int), np.arange(4.0), 2.0)
    assert np.isnan(one_class.estimates["sensitivity"].value)
    assert one_class.estimates["specificity"].value == 0.5


def test_a_threshold_needs_both_classes() -> None:
    with pytest.raises(DataError, match="0 of 4 validation patients are positive"):
        youden_threshold(np.zeros(4), np.arange(4.0))
    with pytest.raises(DataError, match="0 and 1 only"):
        operating_point(np.array([0, 2]), np.arange(2.0), 1.0)
