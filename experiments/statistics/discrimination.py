"""Area under the ROC curve: intervals, curves, and the difference of two systems."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score, roc_curve

from datamodules.errors import DataError
from experiments.statistics.estimate import Estimate, binary_arrays, undefined
from experiments.statistics.proportions import LEVEL
from experiments.statistics.strata import strata_members
from experiments.statistics.support import DELONG, auroc_support, no_interval


class Difference(NamedTuple):
    """A paired difference of two systems on the same patients.

    Args:
        estimate: First minus second, with its interval.
        p: Two-sided p value of no difference; NaN where it is not defined.
    """

    estimate: Estimate
    p: float


def delong_components(target: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural components of the AUC (DeLong et al., Biometrics 1988), by midranks (Sun and Xu, 2014).

    Args:
        target: 0 or 1 [N].
        score: Higher means positive [N].

    Returns:
        For each positive the share of negatives below it, and for each negative the share of positives above it; the
        mean of either is the AUC, ties counting half.
    """
    positive, negative = score[target == 1], score[target == 0]
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[: len(positive)] - rankdata(positive)) / len(negative)
    below = 1.0 - (ranks[len(positive) :] - rankdata(negative)) / len(positive)
    return above, below


def auroc_delong(target: np.ndarray, score: np.ndarray) -> Estimate:
    """AUC with DeLong's normal interval; where that reaches 0 or 1, or has no width, with Newcombe's.

    Elsewhere it is that of pROC, which cuts at 0 and 1 and warns of an AUC of 1.

    Args:
        target: 0 or 1, one per patient [N].
        score: Higher means positive [N].

    Returns:
        The estimate; undefined when a class has no patient. With one patient in a class the variance cannot be
        estimated and the interval is undefined.

    Raises:
        DataError: if the arrays differ in length, or a score is not finite.
    """
    target, score = binary_arrays(target, score)
    n, positives = len(target), int(target.sum())
    if positives in (0, n):
        return undefined(n, positives, "one class only")
    value = float(roc_auc_score(target, score))
    if min(positives, n - positives) < 2:
        low, high, method = no_interval("one patient of a class")
        return Estimate(value, low, high, n, positives, method)
    above, below = delong_components(target, score)
    error = float(np.sqrt(above.var(ddof=1) / positives + below.var(ddof=1) / (n - positives)))
    support, spread = auroc_support(target), float(norm.ppf(0.5 + LEVEL / 2)) * error
    if error > 0:
        low, high, method = support.widened(value, value - spread, value + spread, DELONG)
    else:
        low, high, method = support.interval(value)
    return Estimate(value, low, high, n, positives, method)


def mean_roc(target: np.ndarray, score: np.ndarray, strata: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """ROC curve; of several strata the vertical mean of theirs, weighted by pairs (Fawcett, 2006, section 8.2).

    The area under it is `weighted_auroc` of the same strata. A stratum without patients of both classes has no curve
    and no pairs.

    Args:
        target: 0 or 1, or bool [N].
        score: Higher means positive [N].
        strata: Stratum of each patient [N], such as the fold whose model scored it.

    Returns:
        1 - specificity and sensitivity [T], both rising from 0 to 1.

    Raises:
        DataError: as of `binary_arrays`; if no stratum has both classes.
    """
    target, score = binary_arrays(target, score)
    curves, pairs = [], []
    for members in strata_members(strata, len(target)):
        ups = int(target[members].sum())
        if 0 < ups < len(members):
            curves.append(roc_curve(target[members], score[members], drop_intermediate=False)[:2])
            pairs.append(ups * (len(members) - ups))
    if not curves:
        raise DataError(f"No ROC curve of {len(target)} patients: no stratum has both classes; expected one at least.")
    grid = np.unique(np.concatenate([rate for rate, _ in curves]))
    # Curves rise in steps: each point of the grid has what is reached before and after its step.
    ends = np.array([_ends_at(grid, *curve) for curve in curves])
    mean = np.average(ends, axis=0, weights=pairs)
    return np.repeat(grid, 2), mean.T.ravel()


def _ends_at(grid: np.ndarray, rate: np.ndarray, sensitivity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity of one curve before and after its step at each point of a grid that holds all of its rates."""
    known, first = np.unique(rate, return_index=True)
    last = np.append(first[1:], len(rate)) - 1
    low, high = sensitivity[first], sensitivity[last]
    left = np.searchsorted(known, grid, side="right") - 1
    right = np.minimum(left + 1, len(known) - 1)
    width = np.where(right > left, known[right] - known[left], 1.0)
    between = high[left] + (grid - known[left]) / width * (low[right] - high[left])
    on = known[left] == grid
    return np.where(on, low[left], between), np.where(on, high[left], between)
