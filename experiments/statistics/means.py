"""Means of samples by what they belong to."""

from __future__ import annotations

import numpy as np


def owner_mean(values: np.ndarray, owner: np.ndarray, owners: int) -> np.ndarray:
    """Mean of the samples (phases, studies) of every owner, a patient or a kidney.

    Args:
        values: float [S, K].
        owner: int [S], owner of every sample.
        owners: Number of owners.

    Returns:
        float64 [owners, K]; NaN for an owner without a sample.
    """
    sums = np.zeros((owners, values.shape[1]))
    np.add.at(sums, owner, values)
    counts = np.bincount(owner, minlength=owners)[:, None]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
