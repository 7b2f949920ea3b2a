"""Area under the ROC curve with its interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score


class Estimate(NamedTuple):
    """A value with the ends of its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))


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


def auroc_delong(target: np.ndarray, score: np.ndarray, level: float = 0.95) -> Estimate:
    """AUC with DeLong's normal interval, cut at 0 and 1 as pROC does.

    Args:
        target: 0 or 1, one per patient [N].
        score: Higher means positive [N].
        level: Confidence level.

    Returns:
        The estimate; undefined when a class has no patient. With one patient in a class the variance cannot be
        estimated and the interval is undefined.

    Raises:
        ValueError: if the arrays differ in length, or a score is not finite.
    """
    target, score = np.asarray(target), np.asarray(score, dtype=float)
    if target.shape != score.shape or not np.isfinite(score).all():
        raise ValueError(f"target {target.shape} and score {score.shape} must match, and scores must be finite")
    positives, negatives = int((target == 1).sum()), int((target == 0).sum())
    if positives == 0 or negatives == 0:
        return UNDEFINED
    value = float(roc_auc_score(target, score))
    if min(positives, negatives) < 2:
        return Estimate(value, float("nan"), float("nan"))
    above, below = delong_components(target, score)
    spread = norm.ppf(0.5 + level / 2) * np.sqrt(above.var(ddof=1) / positives + below.var(ddof=1) / negatives)
    return Estimate(value, max(0.0, value - float(spread)), min(1.0, value + float(spread)))
