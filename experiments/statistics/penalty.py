"""The strength of a penalty by cross-validation, where one validation set is too small to tell strengths apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from datamodules.cohort.keyed_order import keyed_units

FOLDS = 5


def balanced_folds(names: Sequence[str], outcome: np.ndarray, seed: int, folds: int = FOLDS) -> np.ndarray | None:
    """A fold for every patient, the outcomes spread evenly over them.

    Args:
        names: Patients; a patient's place follows a keyed hash of its name within its outcome.
        outcome: Class, or whether there was an event [N].
        seed: Seed of the hash.
        folds: Folds wanted; fewer where an outcome has fewer patients.

    Returns:
        int64 [N], or None where an outcome has a single patient, so that no fold can be left out.
    """
    values, counts = np.unique(outcome, return_counts=True)
    folds = min(folds, int(counts.min()))
    if folds < 2 or len(values) < 2:
        return None
    units = keyed_units(names, seed, "folds of a penalty")
    fold = np.zeros(len(names), dtype=np.int64)
    for value in values:
        members = np.flatnonzero(outcome == value)
        fold[members[np.argsort(units[members], kind="stable")]] = np.arange(len(members)) % folds
    return fold


def cross_validated_loss(
    strengths: Sequence[float], fold: np.ndarray, left_out: Callable[[float, np.ndarray, np.ndarray], float]
) -> np.ndarray:
    """Total loss of every strength on patients that its model was not fitted on.

    Args:
        strengths: Strengths of the penalty.
        fold: Fold of every patient [N].
        left_out: Fits a strength on the first rows and gives its total loss on the second.

    Returns:
        float64 [strengths].
    """
    total = np.zeros(len(strengths))
    for number in np.unique(fold):
        fitted, tested = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        total += [left_out(strength, fitted, tested) for strength in strengths]
    return total


def least_loss(
    strengths: Sequence[float],
    fold: np.ndarray | None,
    left_out: Callable[[float, np.ndarray, np.ndarray], float],
    otherwise: float,
) -> float:
    """The strength of least `cross_validated_loss` over the folds; `otherwise` where no fold can be left out."""
    return otherwise if fold is None else strengths[int(np.argmin(cross_validated_loss(strengths, fold, left_out)))]


def weighted_log_loss(score: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """Total log loss of patients, each weighed by its class.

    Args:
        score: Scores of the classes [N, C], which sum to one.
        target: Class of each [N].
        weight: Weight of every class [C].
    """
    own = score[np.arange(len(target)), target]
    return float(-(weight[target] * np.log(np.maximum(own, 1e-12))).sum())
