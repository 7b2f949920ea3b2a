"""Corrections of p values for several comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p values that hold the family-wise error rate (Holm, Scandinavian Journal of Statistics 1979).

    Args:
        p: p values; those that are not defined stay so and are no comparison.

    Returns:
        float64, in the order given.
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted, tested = values.copy(), np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def benjamini_hochberg(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p values that hold the false discovery rate (Benjamini and Hochberg, JRSS B 1995), by scipy.

    Args:
        p: p values; those that are not defined stay so and are no comparison.

    Returns:
        float64, in the order given.
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted, tested = values.copy(), ~np.isnan(values)
    if tested.any():
        adjusted[tested] = false_discovery_control(values[tested], method="bh")
    return adjusted
