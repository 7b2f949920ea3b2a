"""The vectorised bootstrap against scikit-learn, replicate by replicate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from datamodules.errors import DataError
from experiments.statistics.auroc import (
    auroc_bootstrap,
    auroc_statistic,
    macro_auroc,
    macro_auroc_bootstrap,
    weighted_auroc,
)
from experiments.statistics.bootstrap import (
    Statistic,
    bootstrap,
    paired_difference,
    patient_weights,
    percentile_difference,
    percentile_interval,
    seed_mean,
    weighted_means,
)
from experiments.statistics.support import share_support


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.integers(4, 60), values=st.integers(2, 12))
def test_weighted_auc_is_scikit_learns(seed: int, samples: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, samples)
    target[:2] = [0, 1]
    score = rng.integers(0, values, samples) / values  # ties on purpose
    weights = np.concatenate([np.ones((1, samples)), rng.integers(0, 4, (5, samples))]).astype(np.float32)
    ours = weighted_auroc(target == 1, score, weights)
    for row, value in zip(weights, ours, strict=True):
        used = row > 0
        if len(set(target[used])) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(roc_auc_score(target[used], score[used], sample_weight=row[used]))


def test_macro_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 80)
    score = rng.dirichlet([1, 1, 1], 80)
    expected = roc_auc_score(target, score, multi_class="ovr", average="macro")
    assert macro_auroc(target, score, np.ones((1, 80)))[0] == pytest.approx(expected)


def test_weights_draw_every_patient_as_often_as_chance_says() -> None:
    weights = patient_weights(50, 4000, seed=1)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean() == pytest.approx(1.0)
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.03)
    assert np.array_equal(weights, patient_weights(50, 4000, seed=1))


def test_the_interval_covers_about_95_percent() -> None:
    covered = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        target = np.arange(120) % 2 == 1
        score = rng.normal(size=120) + target  # true AUC: Phi(1 / sqrt 2) = .7602
        estimate, _ = bootstrap(auroc_statistic(target, score), 120, 400, seed)
        covered += estimate.low <= 0.7602 <= estimate.high
    assert 106 <= covered <= 120


def test_paired_differences_share_replicates() -> None:
    rng = np.random.default_rng(0)
    target = np.arange(200) % 2 == 1
    shared = rng.normal(size=200) + target
    first, second = auroc_statistic(target, shared), auroc_statistic(target, shared + 0.3 * target)
    difference = bootstrap(second, 200)[1] - bootstrap(first, 200)[1]
    assert difference.std() < 0.3 * bootstrap(first, 200)[1].std()
    support = second.support.minus(first.support)
    assert percentile_difference(difference.mean(), difference, support).p == pytest.approx(1 / 2000)
    assert percentile_difference(0.0, np.zeros(2000), support).p == 1.0


def test_seeds_are_averaged_within_a_replicate() -> None:
    target = np.array([0, 1, 0, 1]) == 1
    scores = [np.array([0.1, 0.9, 0.2, 0.8]), np.array([0.9, 0.1, 0.8, 0.2])]
    statistic = seed_mean([auroc_statistic(target, score) for score in scores])
    assert statistic(np.ones((1, 4)))[0] == 0.5


def test_what_is_not_defined_has_no_interval() -> None:
    assert np.isnan(percentile_interval(0.7, np.array([np.nan, 0.7, 0.8]), share_support(3)).low)
    with pytest.raises(DataError, match="no patients"):
        bootstrap(Statistic(lambda weights: weights[:, 0], share_support(0)), 0)


def test_weights_that_are_not_counts() -> None:
    rng = np.random.default_rng(3)
    target, score = rng.integers(0, 2, 60), rng.integers(0, 9, 60) / 9
    weights = rng.exponential(size=(5, 60))
    expected = [roc_auc_score(target, score, sample_weight=row) for row in weights]
    assert weighted_auroc(target == 1, score, weights) == pytest.approx(expected, abs=1e-12)
    assert weighted_auroc(target == 1, score, weights.astype(np.float32)) == pytest.approx(expected, abs=1e-5)
    values = rng.normal(size=(60, 2))
    assert weighted_means(values, weights)[3] == pytest.approx(np.average(values, axis=0, weights=weights[3]))
    assert weighted_means(values[:, 0], weights).shape == (5,)


def test_the_last_draw_is_kept_and_cannot_be_changed() -> None:
    assert patient_weights(10, 20, 0) is patient_weights(10, 20, 0)
    with pytest.raises(ValueError, match="read-only"):
        patient_weights(10, 20, 0)[0, 0] = 5


def test_macro_auc_of_three_classes_with_interval() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 150)
    score = rng.dirichlet([1, 1, 1], 150) + 0.3 * np.eye(3)[target]
    score /= score.sum(axis=1, keepdims=True)
    estimate = macro_auroc_bootstrap(target, score, 100)
    assert estimate.value == pytest.approx(roc_auc_score(target, score, multi_class="ovr", average="macro"))
    replicates = [
        roc_auc_score(target[rows], score[rows], multi_class="ovr", average="macro")
        for rows in (np.repeat(np.arange(150), row.astype(int)) for row in patient_weights(150, 100))
    ]
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(replicates, [2.5, 97.5])))
    assert (estimate.n, estimate.events) == (150, 150 - np.bincount(target).max())
    assert np.isnan(macro_auroc_bootstrap(target % 2, score, 100).value)
    with pytest.raises(DataError, match="beyond the 3 classes"):
        macro_auroc_bootstrap(np.where(target == 0, -100, target), score)


def test_a_paired_difference() -> None:
    rng = np.random.default_rng(1)
    target = np.arange(200) % 2 == 1
    weak = rng.normal(size=200) + 0.5 * target
    strong = weak + target
    first, second = auroc_statistic(target, strong), auroc_statistic(target, weak)
    difference = paired_difference(first, second, 200, events=100)
    assert difference.estimate.value == pytest.approx(roc_auc_score(target, strong) - roc_auc_score(target, weak))
    assert 0 < difference.estimate.low < difference.estimate.value < difference.estimate.high
    assert difference.p == 1 / 2000
    assert (difference.estimate.n, difference.estimate.events) == (200, 100)
    assert auroc_bootstrap(target, strong).low == pytest.approx(bootstrap(first, 200)[0].low)
    assert np.isnan(auroc_bootstrap(np.ones(3), np.arange(3.0)).value)


def test_replicates_computed_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    target, score = rng.integers(0, 2, 30) == 1, rng.normal(size=30)
    statistic = auroc_statistic(target, score)
    whole = bootstrap(statistic, 30, 101)[1]
    monkeypatch.setattr("experiments.statistics.bootstrap._AT_ONCE", 30 * 7)
    monkeypatch.setattr("experiments.statistics.auroc.CACHED", 30 * 3)
    assert np.array_equal(whole, bootstrap(statistic, 30, 101)[1], equal_nan=True)
