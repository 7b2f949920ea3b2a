"""AUC and DeLong against scikit-learn, the definition, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from experiments.statistics.discrimination import auroc_delong, delong_components, delong_test


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(4, 60), levels=st.integers(2, 20))
def test_components_average_to_the_auc_under_ties(seed: int, count: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    target = np.r_[0, 0, 1, 1, rng.integers(0, 2, count)]
    score = rng.integers(0, levels, len(target)).astype(float)
    above, below = delong_components(target, score)
    expected = roc_auc_score(target, score)
    assert above.mean() == pytest.approx(expected)
    assert below.mean() == pytest.approx(expected)
    assert auroc_delong(target, score).value == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_variance_equals_the_definition(seed: int) -> None:
    """DeLong et al. 1988, equations 3 to 5, written out as the double sum."""
    rng = np.random.default_rng(seed)
    positive, negative = rng.integers(0, 8, 15).astype(float), rng.integers(0, 6, 11).astype(float)
    kernel = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = kernel.mean(axis=1).var(ddof=1) / 15 + kernel.mean(axis=0).var(ddof=1) / 11
    target, score = np.r_[np.ones(15), np.zeros(11)], np.r_[positive, negative]
    estimate = auroc_delong(target, score)
    low, high = estimate.value - 1.959964 * variance**0.5, estimate.value + 1.959964 * variance**0.5
    if low > 0 and high < 1:
        assert estimate[1:3] == pytest.approx((low, high), abs=1e-6)
        assert estimate.interval == "DeLong"
    else:
        assert estimate.low <= max(0, low) + 1e-6
        assert estimate.high >= min(1, high) - 1e-6
        assert estimate.interval == "DeLong, Newcombe"


def test_interval_covers_the_truth_in_simulation() -> None:
    rng = np.random.default_rng(0)
    truth, covered = 0.7602, 0  # Phi(1 / sqrt 2) of two normals one standard deviation apart
    for _ in range(600):
        score = np.r_[rng.normal(1, 1, 40), rng.normal(0, 1, 80)]
        estimate = auroc_delong(np.r_[np.ones(40), np.zeros(80)], score)
        covered += estimate.low <= truth <= estimate.high
    assert 0.92 <= covered / 600 <= 0.98


def test_undefined_is_said_and_not_invented() -> None:
    nothing = auroc_delong(np.ones(5), np.arange(5.0))
    assert np.isnan(nothing[:3]).all()
    assert (nothing.n, nothing.events) == (5, 5)
    single = auroc_delong(np.array([1, 0, 0]), np.array([2.0, 1.0, 0.0]))
    assert single.value == 1.0
    assert np.isnan(single.low)
    with pytest.raises(ValueError, match="must match"):
        auroc_delong(np.ones(3), np.arange(4.0))
    with pytest.raises(ValueError, match="finite"):
        auroc_delong(np.array([0, 1]), np.array([0.0, np.nan]))


def test_scale_of_the_score_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    target, score = rng.integers(0, 2, 200), rng.normal(size=200)
    assert auroc_delong(target, score)[:5] == pytest.approx(auroc_delong(target, np.exp(3 * score))[:5])
    flipped = auroc_delong(1 - target, -score)
    assert flipped[:3] == pytest.approx(auroc_delong(target, score)[:3])


def _pairs(score: np.ndarray, target: np.ndarray) -> np.ndarray:
    positive, negative = score[target == 1], score[target == 0]
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_paired_test_equals_the_definition(seed: int) -> None:
    """DeLong et al. 1988: the covariance matrices of the structural components, with the contrast (1, -1)."""
    rng = np.random.default_rng(seed)
    target = np.r_[np.ones(13, int), np.zeros(19, int)]
    first, second = rng.integers(0, 9, (2, 32)) + 2.0 * target
    kernels = [_pairs(score, target) for score in (first, second)]
    by_positive = np.cov([kernel.mean(axis=1) for kernel in kernels])
    by_negative = np.cov([kernel.mean(axis=0) for kernel in kernels])
    contrast = np.array([1, -1])
    error = np.sqrt(contrast @ (by_positive / 13 + by_negative / 19) @ contrast)
    value = kernels[0].mean() - kernels[1].mean()
    result = delong_test(target, first, second)
    assert result.estimate.value == pytest.approx(value, abs=1e-12)
    assert result.estimate.high - result.estimate.value == pytest.approx(1.959964 * error, abs=1e-6)
    assert result.p == pytest.approx(2 * norm.sf(abs(value) / error))
    assert (result.estimate.n, result.estimate.events) == (32, 13)
    swapped = delong_test(target, second, first)
    assert (swapped.p, swapped.estimate.low) == pytest.approx((result.p, -result.estimate.high))


def test_paired_test_keeps_its_level_and_finds_a_difference() -> None:
    rng = np.random.default_rng(0)
    target = np.r_[np.ones(40, int), np.zeros(60, int)]
    found, real = 0, 0
    for _ in range(300):
        shared = rng.normal(size=100) + target
        first, second, worse = (shared + rng.normal(0, 0.7, 100) for _ in range(3))
        found += delong_test(target, first, second).p < 0.05
        real += delong_test(target, first, worse + 2.5 * rng.normal(size=100)).p < 0.05
    assert 0.02 <= found / 300 <= 0.09
    assert real / 300 > 0.4


def test_paired_test_of_the_same_order_and_of_too_few() -> None:
    rng = np.random.default_rng(2)
    target, score = np.arange(50) % 2, rng.normal(size=50)
    same = delong_test(target, score, np.exp(score))
    assert same.estimate.value == 0
    assert same.p == 1
    few = delong_test(np.array([1, 0, 0]), np.arange(3.0), np.arange(3.0))
    assert np.isnan(few.p)
    assert (few.estimate.n, few.estimate.events) == (3, 1)
