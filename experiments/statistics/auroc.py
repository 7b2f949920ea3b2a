"""Area under the ROC curve for many weightings of the same patients, and its bootstrap."""

from __future__ import annotations

import numpy as np

from datamodules.errors import DataError
from experiments.statistics.bootstrap import CACHED, Statistic, bootstrap, ratio
from experiments.statistics.discrimination import auroc_delong
from experiments.statistics.estimate import Estimate, binary_arrays
from experiments.statistics.strata import strata_members
from experiments.statistics.support import auroc_support, mean_support


def weighted_auroc(
    target: np.ndarray, score: np.ndarray, weights: np.ndarray, strata: np.ndarray | None = None
) -> np.ndarray:
    """Area under the ROC curve for many weightings of the same samples; ties count half.

    The weight of negatives below every positive comes from one running sum over the sorted negatives. Whole numbers,
    as the bootstrap draws them, are summed exactly in float32; other weights are summed in the precision given.

    Args:
        target: bool [N], the positives.
        score: float [N].
        weights: float [R, N].
        strata: Stratum of each patient [N], such as the fold whose model scored it; only pairs within one are compared.

    Returns:
        float64 [R]; NaN where the weights leave only one class. With weights of one it is scikit-learn's
        `roc_auc_score`, or its mean over strata, each weighted by its pairs.
    """
    concordant, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for members in strata_members(strata, len(score)):
        _add_pairs(target[members].astype(bool), score[members], members, weights, concordant, pairs)
    return ratio(concordant, pairs)


def _add_pairs(
    target: np.ndarray,
    score: np.ndarray,
    members: np.ndarray,
    weights: np.ndarray,
    concordant: np.ndarray,
    pairs: np.ndarray,
) -> None:
    """Add the weight of concordant pairs, and of all pairs of a positive and a negative, of some of the patients."""
    order = np.argsort(score, kind="stable")
    positive = target[order]
    ups, downs = order[positive], order[~positive]
    below, upto = (np.searchsorted(score[downs], score[ups], side) for side in ("left", "right"))
    tied = bool((below != upto).any())
    ups, downs = members[ups], members[downs]
    step = max(1, CACHED // max(1, len(score)))
    for start in range(0, len(weights), step):
        part, rows = weights[start : start + step], slice(start, start + step)
        sums = np.zeros((len(part), len(downs) + 1), dtype=np.result_type(part.dtype, np.float32))
        np.cumsum(np.take(part, downs, axis=1), axis=1, out=sums[:, 1:])
        passed = np.take(sums, below, axis=1)
        if tied:
            passed = (passed + np.take(sums, upto, axis=1)) / 2
        weight = np.take(part, ups, axis=1)
        pairs[rows] += weight.sum(axis=1, dtype=np.float64) * sums[:, -1]
        concordant[rows] += (weight * passed).sum(axis=1, dtype=np.float64)


def macro_auroc(
    target: np.ndarray, score: np.ndarray, weights: np.ndarray, strata: np.ndarray | None = None
) -> np.ndarray:
    """Mean over classes of the one-vs-rest AUC; for two classes the AUC of the second.

    Args:
        target: int [N], class indices.
        score: float [N, C], probabilities.
        weights: float [R, N].
        strata: As of `weighted_auroc`.

    Returns:
        float64 [R].
    """
    if score.shape[1] == 2:
        return weighted_auroc(target == 1, score[:, 1], weights, strata)
    values = [weighted_auroc(target == number, score[:, number], weights, strata) for number in range(score.shape[1])]
    return np.mean(values, axis=0)


def auroc_statistic(target: np.ndarray, score: np.ndarray, strata: np.ndarray | None = None) -> Statistic:
    """`weighted_auroc` as a statistic."""
    return Statistic(lambda weights: weighted_auroc(target, score, weights, strata), auroc_support(target == 1, strata))


def macro_auroc_statistic(
    target: np.ndarray, score: np.ndarray, strata: np.ndarray | None = None, owner: np.ndarray | None = None
) -> Statistic:
    """`macro_auroc` as a statistic of weighted patients.

    Args:
        target: int [N], class indices.
        score: float [N, C], probabilities.
        strata: As of `weighted_auroc`.
        owner: int [N], number of each row's patient, where patients have several rows.
    """
    classes = range(1, 2) if score.shape[1] == 2 else range(score.shape[1])
    support = mean_support([auroc_support(target == number, strata, owner) for number in classes])
    if owner is None:
        return Statistic(lambda weights: macro_auroc(target, score, weights, strata), support)
    return Statistic(lambda weights: macro_auroc(target, score, np.take(weights, owner, axis=1), strata), support)


def auroc_bootstrap(
    target: np.ndarray, score: np.ndarray, replicates: int = 2000, seed: int = 0, strata: np.ndarray | None = None
) -> Estimate:
    """AUC with its percentile interval, within strata where they are given; undefined when a class has no patient.

    Raises:
        DataError: if the arrays differ in length, or a score is not finite.
    """
    labels, score = binary_arrays(target, score)
    return bootstrap(auroc_statistic(labels, score, strata), len(labels), replicates, seed, int(labels.sum()), strata)[
        0
    ]


def auroc_of(target: np.ndarray, score: np.ndarray, strata: np.ndarray | None = None) -> Estimate:
    """AUC with DeLong's interval; within strata, where they are given, with that of a bootstrap within them.

    Raises:
        DataError: as of `auroc_bootstrap`.
    """
    return auroc_delong(target, score) if strata is None else auroc_bootstrap(target, score, strata=strata)


def macro_auroc_bootstrap(
    target: np.ndarray, score: np.ndarray, replicates: int = 2000, seed: int = 0, strata: np.ndarray | None = None
) -> Estimate:
    """Mean over classes of the one-vs-rest AUC, as scikit-learn's `multi_class="ovr"`, with its percentile interval.

    Args:
        target: int [N], class indices.
        score: float [N, C], a probability per class.
        replicates: Number of replicates.
        seed: Seed.
        strata: As of `weighted_auroc` and `bootstrap`.

    Returns:
        The estimate; undefined when a class has no patient. `events` counts the patients outside the largest class.

    Raises:
        DataError: if the shapes do not match, or a score is not finite.
    """
    target, score = np.asarray(target), np.asarray(score, dtype=np.float64)
    if score.ndim != 2 or target.shape != score.shape[:1] or not np.isfinite(score).all():
        raise DataError(
            f"Targets {target.shape} and scores {score.shape} must match [N] and [N, C], with finite scores."
        )
    if not np.isin(target, np.arange(score.shape[1])).all():
        raise DataError(f"Targets beyond the {score.shape[1]} classes that have scores; leave out missing ones.")
    counts = np.bincount(target.astype(int), minlength=score.shape[1])
    statistic, minority = macro_auroc_statistic(target, score, strata), int(len(target) - counts.max())
    return bootstrap(statistic, len(target), replicates, seed, minority, strata)[0]
