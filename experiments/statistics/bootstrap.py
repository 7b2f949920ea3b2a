"""Bootstrap over patients, vectorised: every replicate is a row of weights, nothing is resorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from datamodules.errors import DataError
from experiments.statistics.discrimination import Estimate

_AT_ONCE = 1 << 24  # values of a block of replicates; bounds the working memory to about 0.4 GB


def patient_weights(patients: int, replicates: int = 2000, seed: int = 0) -> np.ndarray:
    """How often each patient is drawn in each replicate of the bootstrap.

    Args:
        patients: Number of patients, the unit of resampling.
        replicates: Number of replicates.
        seed: Seed.

    Returns:
        float32 [replicates, patients]; every row sums to `patients`.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(patients, np.full(patients, 1 / patients), size=replicates).astype(np.float32)


def weighted_auroc(target: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve for many weightings of the same samples; ties count half.

    Args:
        target: bool [N], the positives.
        score: float [N].
        weights: float [R, N].

    Returns:
        float64 [R]; NaN where the weights leave only one class. With weights of one it is scikit-learn's
        `roc_auc_score`.
    """
    order = np.argsort(score, kind="stable")
    ordered, positive = score[order], target[order].astype(bool)
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    result = np.empty(len(weights))
    step = max(1, _AT_ONCE // max(1, len(score)))
    for start in range(0, len(weights), step):
        part = weights[start : start + step, order].astype(np.float64)
        # One column per distinct score: the weight of positives and negatives that share it.
        ups = np.add.reduceat(part * positive, first, axis=1)
        downs = np.add.reduceat(part * ~positive, first, axis=1)
        below = np.cumsum(downs, axis=1) - 0.5 * downs
        pairs = ups.sum(axis=1) * downs.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            result[start : start + step] = np.where(pairs > 0, (ups * below).sum(axis=1) / pairs, np.nan)
    return result


def macro_auroc(target: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over classes of the one-vs-rest AUC; for two classes the AUC of the second.

    Args:
        target: int [N], class indices.
        score: float [N, C], probabilities.
        weights: float [R, N].

    Returns:
        float64 [R].
    """
    if score.shape[1] == 2:
        return weighted_auroc(target == 1, score[:, 1], weights)
    values = [weighted_auroc(target == number, score[:, number], weights) for number in range(score.shape[1])]
    return np.mean(values, axis=0)


def percentile_interval(value: float, replicates: np.ndarray) -> Estimate:
    """The estimate with the 2.5th and 97.5th percentile of its replicates; those that are not defined are left out."""
    defined = replicates[np.isfinite(replicates)]
    if not np.isfinite(value) or len(defined) < 0.9 * len(replicates):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


Statistic = Callable[[np.ndarray], np.ndarray]


def bootstrap(
    statistic: Statistic, patients: int, replicates: int = 2000, seed: int = 0
) -> tuple[Estimate, np.ndarray]:
    """Estimate and replicates of a statistic of weighted patients.

    Two statistics of the same patients with the same seed see the same replicates, so the difference of their
    replicates is the paired bootstrap of their difference.

    Args:
        statistic: Maps weights [R, patients] to [R].
        patients: Number of patients.
        replicates: Number of replicates.
        seed: Seed.

    Raises:
        DataError: if there is nobody to resample.
    """
    if patients < 1:
        raise DataError("A bootstrap over no patients was asked for; expected at least one.")
    value = float(statistic(np.ones((1, patients), dtype=np.float32))[0])
    values = statistic(patient_weights(patients, replicates, seed))
    return percentile_interval(value, values), values


def two_sided_p(differences: np.ndarray) -> float:
    """Bootstrap p value of a difference: twice the smaller share of replicates beyond 0, at least 1 / replicates."""
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return float("nan")
    smaller = min((defined <= 0).mean(), (defined >= 0).mean())
    return float(min(1.0, max(2 * smaller, 1 / len(defined))))


def seed_mean(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over seeds of a statistic, replicate by replicate: patients are resampled, seeds are averaged."""

    def mean(weights: np.ndarray) -> np.ndarray:
        return np.mean([statistic(weights) for statistic in statistics], axis=0)

    return mean
