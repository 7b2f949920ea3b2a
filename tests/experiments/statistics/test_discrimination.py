"""AUC and DeLong against scikit-learn, the definition, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from experiments.statistics.discrimination import auroc_delong, delong_components


@pytest.mark.slow
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
