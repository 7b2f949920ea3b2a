"""How far groups of patients differ in a characteristic: standardised mean differences, and the customary tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency, kruskal


def smd(first: np.ndarray, second: np.ndarray) -> float:
    r"""Standardised mean difference of a number, without sign (Austin, Statistics in Medicine 2009).

    .. math:: |m_1 - m_2| / \sqrt{(s_1^2 + s_2^2) / 2}

    Args:
        first: Known values of the first group; bool counts as 0 and 1.
        second: Of the second.

    Returns:
        NaN where a group has fewer than two values; infinite where both are constant and differ.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if min(len(one), len(two)) < 2:
        return float("nan")
    gap, spread = abs(one.mean() - two.mean()), np.sqrt((one.var(ddof=1) + two.var(ddof=1)) / 2)
    return 0.0 if gap == 0 else (float(gap / spread) if spread > 0 else float("inf"))


def categorical_smd(first: Sequence[str], second: Sequence[str]) -> float:
    r"""Standardised difference of a category (Yang and Dalton, SAS Global Forum 2012, paper 335).

    .. math:: \sqrt{(p_1 - p_2)' S^{-1} (p_1 - p_2)}, \quad S = (\Sigma_1 + \Sigma_2) / 2

    with the shares of all levels but the first and their multinomial covariances.

    Returns:
        NaN where a group has no value; infinite where levels tell the groups apart without fail.
    """
    levels = sorted({*first, *second})
    if not len(first) or not len(second):
        return float("nan")
    shares = [pd.Series(list(group)).value_counts(normalize=True).reindex(levels, fill_value=0.0).to_numpy()[1:]
              for group in (first, second)]  # fmt: skip
    gap = shares[0] - shares[1]
    if not len(gap) or not gap.any():
        return 0.0
    covariance = sum(np.diag(share) - np.outer(share, share) for share in shares) / 2
    inverse = np.linalg.pinv(covariance, hermitian=True)
    if not np.allclose(covariance @ inverse @ gap, gap):
        return float("inf")
    return float(np.sqrt(gap @ inverse @ gap))


def largest_smd(groups: Sequence[np.ndarray] | Sequence[Sequence[str]], categorical: bool) -> float:
    """The largest standardised difference of any two groups; NaN where there is no pair with values."""
    measure = categorical_smd if categorical else smd
    found = [measure(one, two) for one, two in combinations(groups, 2)]  # type: ignore[arg-type]
    known = [value for value in found if not np.isnan(value)]
    return max(known, default=float("nan"))


def numeric_p(groups: Sequence[np.ndarray]) -> float:
    """p of the Kruskal-Wallis test that a number is distributed alike in all groups, by scipy.

    Returns:
        NaN with fewer than two groups that have values, or where all values are equal.
    """
    present = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    if len(present) < 2 or len(np.unique(np.concatenate(present))) < 2:
        return float("nan")
    return float(kruskal(*present).pvalue)


def categorical_p(groups: Sequence[Sequence[str]]) -> float:
    """p of Pearson's chi-squared test that a category is distributed alike in all groups, by scipy, not corrected.

    Returns:
        NaN with fewer than two groups that have values, or with one level.
    """
    present = [list(group) for group in groups if len(group)]
    levels = sorted({value for group in present for value in group})
    if len(present) < 2 or len(levels) < 2:
        return float("nan")
    counts = [[group.count(level) for level in levels] for group in present]
    return float(chi2_contingency(np.array(counts), correction=False).pvalue)
