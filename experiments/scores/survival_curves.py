"""Probabilities of survival at given times, out of the curves that predictions hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

_PREFIX = "survival_"


def curve_columns(predictions: pd.DataFrame) -> list[str]:
    """The columns `survival_<months>` of predictions, by rising time; none where a model predicts risks alone."""
    found = [str(name) for name in predictions if str(name).startswith(_PREFIX)]
    return sorted(found, key=lambda name: float(name.removeprefix(_PREFIX)))


def curve_months(predictions: pd.DataFrame) -> np.ndarray:
    """The times [T] of `curve_columns`."""
    return np.array([float(name.removeprefix(_PREFIX)) for name in curve_columns(predictions)])


def predicted_survival(rows: pd.DataFrame, at_months: Sequence[float] | np.ndarray) -> np.ndarray:
    """Predicted probability of surviving given times.

    Between the times that a patient's curve was predicted at, a straight line, as pycox has it (constant density,
    Kvamme and Borgan, Lifetime Data Analysis 2021); nothing beyond the last of them. Models of different folds have
    cut points of their own, so that each row holds those of its model and is missing at the others.

    Args:
        rows: Predictions of a survival task.
        at_months: Times [T].

    Returns:
        float64 [N, T] in [0, 1]; NaN where the curve of a patient ends before the time, or there is none.
    """
    at = np.asarray(at_months, dtype=np.float64)
    columns = curve_columns(rows)
    result = np.full((len(rows), len(at)), np.nan)
    if not columns:
        return result
    months = curve_months(rows)
    curves = rows[columns].to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(curves)
    for pattern in np.unique(known, axis=0):
        if not pattern.any():
            continue
        members = np.flatnonzero((known == pattern).all(axis=1))
        times, values = months[pattern], curves[np.ix_(members, pattern)]
        if times[0] > 0:  # everybody is alive at the origin
            times, values = np.append(0.0, times), np.column_stack([np.ones(len(members)), values])
        inside = at <= times[-1]
        lines = np.stack([np.interp(at[inside], times, curve) for curve in values])
        result[np.ix_(members, inside)] = np.clip(lines, 0.0, 1.0)
    return result
