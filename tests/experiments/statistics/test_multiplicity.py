"""Corrections of p values against published examples."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.statistics.multiplicity import benjamini_hochberg, holm

THROMBOLYSIS = [
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344),
    *(0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0),
]
"""The 15 p values of Benjamini and Hochberg, JRSS B 1995, section 4."""


def test_published_rejections() -> None:
    """There, the family-wise procedure rejects three hypotheses at .05, the false discovery rate four."""
    assert (holm(THROMBOLYSIS) <= 0.05).sum() == 3
    assert (benjamini_hochberg(THROMBOLYSIS) <= 0.05).sum() == 4


def test_adjusted_values_are_statsmodels() -> None:
    """multipletests of statsmodels 0.15.0, methods holm and fdr_bh."""
    expected = [0.0015, 0.0056, 0.0247, 0.114, 0.2211, 0.278, 0.278, 0.278, 0.3213, *[1.0] * 6]
    assert holm(THROMBOLYSIS) == pytest.approx(expected)
    expected = [0.0015, 0.003, 0.0095, 0.03562, 0.0603, 0.06386, 0.06386, 0.0645, 0.0765, 0.486]
    assert benjamini_hochberg(THROMBOLYSIS)[:10] == pytest.approx(expected, abs=5e-6)


def test_order_is_kept_and_undefined_values_are_no_comparison() -> None:
    order = np.random.default_rng(0).permutation(15)
    shuffled = np.array(THROMBOLYSIS)[order]
    assert holm(shuffled) == pytest.approx(holm(THROMBOLYSIS)[order])
    assert holm([0.03, np.nan, 0.01]) == pytest.approx([0.03, np.nan, 0.02], nan_ok=True)
    assert benjamini_hochberg([0.03, np.nan, 0.01]) == pytest.approx([0.03, np.nan, 0.02], nan_ok=True)
    assert holm([]).shape == (0,)
    assert np.isnan(benjamini_hochberg([np.nan])).all()
