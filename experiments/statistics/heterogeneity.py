"""Whether estimates of separate groups of patients differ by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from datamodules.errors import DataError


class Heterogeneity(NamedTuple):
    """Cochran's Q, its degrees of freedom, and p."""

    statistic: float
    degrees: int
    p: float


def cochran_q(values: Sequence[float] | np.ndarray, errors: Sequence[float] | np.ndarray) -> Heterogeneity:
    r"""Cochran's test that independent groups share one value (Biometrics 1954).

    .. math:: Q = \sum_k w_k (\theta_k - \bar\theta)^2, \quad \bar\theta = \sum_k \theta_k w_k / \sum_k w_k,
        \quad w_k = s_k^{-2}

    Args:
        values: Estimate of every group [K]; groups must not share patients.
        errors: Standard error of each [K].

    Returns:
        Over the groups whose value and error are finite and whose error is above 0; NaN with fewer than two of them.

    Raises:
        DataError: if the lengths differ.
    """
    estimate, error = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if estimate.shape != error.shape or estimate.ndim != 1:
        raise DataError(f"{estimate.shape} values and {error.shape} errors were found; expected one of each a group.")
    usable = np.isfinite(estimate) & np.isfinite(error) & (error > 0)
    estimate, weight = estimate[usable], error[usable] ** -2.0
    if len(estimate) < 2:
        return Heterogeneity(float("nan"), max(0, len(estimate) - 1), float("nan"))
    statistic = float((weight * np.square(estimate - np.average(estimate, weights=weight))).sum())
    return Heterogeneity(statistic, len(estimate) - 1, float(chi2.sf(statistic, len(estimate) - 1)))
