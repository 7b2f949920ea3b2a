"""Bootstrap over patients, vectorised: every replicate is a row of weights, nothing is resorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from datamodules.errors import DataError
from experiments.statistics.discrimination import Difference, auroc_delong
from experiments.statistics.estimate import Estimate, binary_arrays
from experiments.statistics.strata import strata_key, strata_members

_AT_ONCE = 1 << 24  # weights that a statistic is given at a time; bounds its working memory to some 0.5 GB
_CACHED = 1 << 18  # weights of a block of replicates; what is worked on at a time stays in the processor's cache


@lru_cache(maxsize=1)
def patient_weights(
    patients: int, replicates: int = 2000, seed: int = 0, strata: tuple[int, ...] | None = None
) -> np.ndarray:
    """How often each patient is drawn in each replicate of the bootstrap.

    The last draw is kept, since every system and statistic of the same patients asks for it again.

    Args:
        patients: Number of patients, the unit of resampling.
        replicates: Number of replicates.
        seed: Seed.
        strata: Stratum of each patient, as of `strata_key`; patients are drawn within theirs. Left out, among all.

    Returns:
        float32 [replicates, patients], read-only; every row sums to `patients`, and so within every stratum.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((replicates, patients), dtype=np.float32)
    for members in strata_members(None if strata is None else np.array(strata), patients):
        drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=replicates)
        weights[:, members] = drawn
    weights.flags.writeable = False
    return weights


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
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, concordant / pairs, np.nan)


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
    step = max(1, _CACHED // max(1, len(score)))
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


def weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of values for many weightings of the same samples.

    Args:
        values: float [N] or [N, T].
        weights: float [R, N].

    Returns:
        float64 [R] or [R, T]; NaN where all weights are 0.
    """
    result = np.empty((len(weights), *values.shape[1:]))
    step = max(1, _CACHED // max(1, len(values)))
    for start in range(0, len(weights), step):
        part = weights[start : start + step].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            total = part.sum(axis=1)
            result[start : start + step] = ((part @ values).T / total).T
    return result


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


def percentile_interval(
    value: float, replicates: np.ndarray, n: int | None = None, events: int | None = None
) -> Estimate:
    """The estimate with the 2.5th and 97.5th percentile of its replicates; those that are not defined are left out.

    Where more than a tenth of the replicates are not defined the interval is not either.
    """
    defined = replicates[np.isfinite(replicates)]
    if not np.isfinite(value) or len(defined) < 0.9 * len(replicates):
        return Estimate(value, float("nan"), float("nan"), n, events)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n, events)


Statistic = Callable[[np.ndarray], np.ndarray]


def bootstrap(
    statistic: Statistic,
    patients: int,
    replicates: int = 2000,
    seed: int = 0,
    events: int | None = None,
    strata: np.ndarray | None = None,
) -> tuple[Estimate, np.ndarray]:
    """Estimate and replicates of a statistic of weighted patients.

    Two statistics of the same patients with the same seed and strata see the same replicates, so the difference of
    their replicates is the paired bootstrap of their difference.

    Args:
        statistic: Maps weights [R, patients] to [R], every row by itself.
        patients: Number of patients.
        replicates: Number of replicates.
        seed: Seed.
        events: Events or positives among the patients, carried with the estimate.
        strata: Stratum of each patient, within which patients are resampled; left out, among all.

    Raises:
        DataError: if there is nobody to resample, or not one stratum a patient.
    """
    if patients < 1:
        raise DataError("A bootstrap over no patients was asked for; expected at least one.")
    value = float(statistic(np.ones((1, patients), dtype=np.float32))[0])
    weights = patient_weights(patients, replicates, seed, strata_key(strata))
    step = max(1, _AT_ONCE // patients)
    values = np.concatenate([statistic(weights[start : start + step]) for start in range(0, replicates, step)])
    return percentile_interval(value, values, patients, events), values


def two_sided_p(differences: np.ndarray) -> float:
    """Bootstrap p value of a difference: twice the smaller share of replicates beyond 0, at least 1 / replicates."""
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return float("nan")
    smaller = min((defined <= 0).mean(), (defined >= 0).mean())
    return float(min(1.0, max(2 * smaller, 1 / len(defined))))


def paired_difference(
    first: Statistic,
    second: Statistic,
    patients: int,
    replicates: int = 2000,
    seed: int = 0,
    events: int | None = None,
) -> Difference:
    """Bootstrap of the difference of two statistics of the same patients, such as the C-indices of two systems.

    Args:
        first: Statistic of the first system.
        second: Statistic of the second, with its patients in the same order.
        patients: Number of patients.
        replicates: Number of replicates.
        seed: Seed.
        events: Events or positives among the patients, carried with the estimate.

    Returns:
        First minus second, with the percentile interval and the bootstrap's two-sided p value.
    """
    estimate, values = bootstrap(lambda weights: first(weights) - second(weights), patients, replicates, seed, events)
    return Difference(estimate, two_sided_p(values))


def relative_gain(
    first: Statistic,
    second: Statistic,
    patients: int,
    replicates: int = 2000,
    seed: int = 0,
    events: int | None = None,
) -> Estimate:
    """How much the first statistic exceeds the second, as a share of the second: (first - second) / second.

    Args and interval as of `paired_difference`.
    """

    def gain(weights: np.ndarray) -> np.ndarray:
        base = second(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(base > 0, first(weights) / base - 1, np.nan)

    return bootstrap(gain, patients, replicates, seed, events)[0]


def auroc_bootstrap(
    target: np.ndarray, score: np.ndarray, replicates: int = 2000, seed: int = 0, strata: np.ndarray | None = None
) -> Estimate:
    """AUC with its percentile interval, within strata where they are given; undefined when a class has no patient.

    Raises:
        DataError: if the arrays differ in length, or a score is not finite.
    """
    labels, score = binary_arrays(target, score)
    statistic = lambda weights: weighted_auroc(labels, score, weights, strata)  # noqa: E731
    return bootstrap(statistic, len(labels), replicates, seed, int(labels.sum()), strata)[0]


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
    statistic = lambda weights: macro_auroc(target, score, weights, strata)  # noqa: E731
    return bootstrap(statistic, len(target), replicates, seed, int(len(target) - counts.max()), strata)[0]


def seed_mean(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over seeds of a statistic, replicate by replicate: patients are resampled, seeds are averaged."""

    def mean(weights: np.ndarray) -> np.ndarray:
        return np.mean([statistic(weights) for statistic in statistics], axis=0)

    return mean
