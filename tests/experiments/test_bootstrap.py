"""The vectorised bootstrap against scikit-learn, replicate by replicate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from datamodules.errors import DataError
from experiments.statistics.bootstrap import (
    bootstrap,
    macro_auroc,
    patient_weights,
    percentile_interval,
    seed_mean,
    two_sided_p,
    weighted_auroc,
)


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
        estimate, _ = bootstrap(lambda weights, t=target, s=score: weighted_auroc(t, s, weights), 120, 400, seed)
        covered += estimate.low <= 0.7602 <= estimate.high
    assert 106 <= covered <= 120


def test_paired_differences_share_replicates() -> None:
    rng = np.random.default_rng(0)
    target = np.arange(200) % 2 == 1
    shared = rng.normal(size=200) + target
    first = lambda weights: weighted_auroc(target, shared, weights)  # noqa: E731
    second = lambda weights: weighted_auroc(target, shared + 0.3 * target, weights)  # noqa: E731
    difference = bootstrap(second, 200)[1] - bootstrap(first, 200)[1]
    assert difference.std() < 0.3 * bootstrap(first, 200)[1].std()
    assert two_sided_p(difference) == pytest.approx(1 / 2000)
    same = bootstrap(first, 200)[1] - bootstrap(first, 200)[1]
    assert two_sided_p(same) == 1.0


def test_seeds_are_averaged_within_a_replicate() -> None:
    target = np.array([0, 1, 0, 1]) == 1
    scores = [np.array([0.1, 0.9, 0.2, 0.8]), np.array([0.9, 0.1, 0.8, 0.2])]
    statistic = seed_mean([lambda weights, s=score: weighted_auroc(target, s, weights) for score in scores])
    assert statistic(np.ones((1, 4)))[0] == 0.5


def test_what_is_not_defined_has_no_interval() -> None:
    assert np.isnan(percentile_interval(0.7, np.array([np.nan, 0.7, 0.8])).low)
    with pytest.raises(DataError, match="no patients"):
        bootstrap(lambda weights: weights[:, 0], 0)
