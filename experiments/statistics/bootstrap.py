"""Bootstrap over patients, vectorised: every replicate is a row of weights, nothing is resorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from datamodules.errors import DataError
from experiments.statistics.discrimination import Difference
from experiments.statistics.estimate import Estimate, undefined
from experiments.statistics.proportions import BOOTSTRAP
from experiments.statistics.strata import strata_key, strata_members
from experiments.statistics.support import Support, mean_support, no_interval

_AT_ONCE = 1 << 24  # weights that a statistic is given at a time; bounds its working memory to some 0.5 GB
CACHED = 1 << 18  # weights of a block of replicates; what is worked on at a time stays in the processor's cache


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


def ratio(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
    """Part by whole, NaN where the whole is not above 0; float64 of the common shape."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of values for many weightings of the same samples.

    Args:
        values: float [N] or [N, T].
        weights: float [R, N].

    Returns:
        float64 [R] or [R, T]; NaN where all weights are 0.
    """
    result = np.empty((len(weights), *values.shape[1:]))
    step = max(1, CACHED // max(1, len(values)))
    for start in range(0, len(weights), step):
        part = weights[start : start + step].astype(np.float64)
        result[start : start + step] = ratio((part @ values).T, part.sum(axis=1)).T
    return result


@dataclass(frozen=True)
class Statistic:
    """A statistic of weighted patients, and what is known of it where resampling cannot vary.

    Args:
        values: Maps weights [R, N] to [R], every row by itself.
        support: What it can be, and how many independent units it rests on.
    """

    values: Callable[[np.ndarray], np.ndarray]
    support: Support

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The values of weights [R, N]."""
        return self.values(weights)

    def minus(self, other: Statistic) -> Statistic:
        """The difference to another statistic of the same patients."""
        return Statistic(lambda weights: self(weights) - other(weights), self.support.minus(other.support))


def mean_of(
    values: np.ndarray, lowest: float = 0.0, highest: float = 1.0, owner: np.ndarray | None = None
) -> Statistic:
    """The mean of values as a statistic of weighted patients; NaN where nobody is drawn who has one.

    Args:
        values: float [N].
        lowest: Least possible value.
        highest: Greatest possible value; infinite where there is none.
        owner: int [N], number of each value's patient, where patients have several or none; left out, each has one.
    """
    if owner is None:
        return Statistic(lambda weights: weighted_means(values, weights), Support(lowest, highest, len(values)))
    known = Support(lowest, highest, len(np.unique(owner)))
    return Statistic(lambda weights: weighted_means(values, np.take(weights, owner, axis=1)), known)


def ratio_of(part: np.ndarray, whole: np.ndarray, highest: float = 1.0, owner: np.ndarray | None = None) -> Statistic:
    """A sum by another one, such as hits by tokens, as a statistic of weighted patients; NaN where `whole` sums to 0.

    Args:
        part: float [N], not below 0.
        whole: float [N], not below 0.
        highest: Greatest possible value; infinite where there is none.
        owner: int [N], as of `mean_of`.
    """
    owners = np.arange(len(part)) if owner is None else owner

    def value(weights: np.ndarray) -> np.ndarray:
        own = np.take(weights, owners, axis=1).astype(np.float64)
        return ratio(own @ part, own @ whole)

    return Statistic(value, Support(0.0, highest, len(np.unique(owners))))


_ENOUGH = 0.9
_NO_WIDTH = 1e-9  # rounding of sums


def percentile_interval(
    value: float, replicates: np.ndarray, support: Support, n: int | None = None, events: int | None = None
) -> Estimate:
    """The estimate with the 2.5th and 97.5th percentile of its replicates; those that are not defined are left out.

    Where more than a tenth of the replicates are not defined the interval is not either. Where they cannot vary the
    interval is that of the support.
    """
    if not np.isfinite(value):
        return undefined(n, events, "the value is not defined")._replace(value=value)
    defined = replicates[np.isfinite(replicates)]
    if len(defined) < _ENOUGH * len(replicates):
        low, high, method = no_interval(f"defined in {len(defined)} of {len(replicates)} replicates")
        return Estimate(value, low, high, n, events, method)
    low, high = (float(end) for end in np.percentile(defined, [2.5, 97.5]))
    if not varies(low, high):
        low, high, method = support.interval(value)
    else:
        low, high, method = support.widened(value, low, high, BOOTSTRAP)
    return Estimate(value, low, high, n, events, method)


def varies(low: float, high: float) -> bool:
    """Whether two ends differ by more than rounding."""
    return high - low > _NO_WIDTH * max(1.0, abs(low), abs(high))


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
        statistic: The statistic of these patients.
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
    return percentile_interval(value, values, statistic.support, patients, events), values


def percentile_difference(
    value: float, replicates: np.ndarray, support: Support, n: int | None = None, events: int | None = None
) -> Difference:
    """A paired difference with its percentile interval and two-sided p value.

    p is twice the smaller share of replicates beyond 0, at least 1 / replicates. Where these cannot vary it is that of
    a sign test over the units of the support, since no number of replicates makes up for few patients.

    Args:
        value: The difference.
        replicates: Its replicates.
        support: Support of the difference, as `Support.minus` gives it.
        n: Patients, carried with the estimate.
        events: Events or positives, carried with it.
    """
    estimate = percentile_interval(value, replicates, support, n, events)
    defined = replicates[np.isfinite(replicates)]
    if not len(defined):
        return Difference(estimate, float("nan"))
    smaller = min((defined <= 0).mean(), (defined >= 0).mean())
    least = 1 / len(defined) if varies(float(defined.min()), float(defined.max())) else 2 * 0.5**support.units
    return Difference(estimate, float(min(1.0, max(2 * smaller, least))))


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
        First minus second, as of `percentile_difference`.
    """
    both = first.minus(second)
    estimate, values = bootstrap(both, patients, replicates, seed, events)
    return percentile_difference(estimate.value, values, both.support, patients, events)


def seed_mean(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over seeds of a statistic, replicate by replicate: patients are resampled, seeds are averaged."""

    def mean(weights: np.ndarray) -> np.ndarray:
        return np.mean([statistic(weights) for statistic in statistics], axis=0)

    return Statistic(mean, mean_support([statistic.support for statistic in statistics]))
