"""Kaplan-Meier estimates of many weightings of the same patients, for the bootstrap of censored statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from datamodules.errors import DataError
from experiments.statistics.estimate import survival_arrays

_CACHED = 1 << 18  # weights that are worked on at a time


class FollowUp(NamedTuple):
    """Times and events of a group of patients, such as those that a model was trained on."""

    time_months: np.ndarray  # float [N]
    event: np.ndarray  # bool [N]


def follow_up(time_months: np.ndarray, event: np.ndarray) -> FollowUp:
    """The checked times and events of a group.

    Raises:
        DataError: as of `survival_arrays`.
    """
    return FollowUp(*survival_arrays(time_months, event)[:2])


class Ordering(NamedTuple):
    """Patients sorted by time, events before those censored at the same time."""

    patients: np.ndarray  # int [N], patients in this order
    events: np.ndarray  # int [E], positions of the events
    censored: np.ndarray  # int [E], position of the first patient censored at that time


def sort_by_time(group: FollowUp) -> Ordering:
    """Sort patients so that all who are at risk after a time, or after the events at it, are a suffix."""
    patients = np.lexsort((~group.event, group.time_months))
    time, event = group.time_months[patients], group.event[patients]
    events = np.flatnonzero(event)
    start, later = (np.searchsorted(time, time[events], side) for side in ("left", "right"))
    running = np.concatenate([[0], np.cumsum(event)])
    return Ordering(patients, events, start + running[later] - running[start])


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of replicates whose weights stay in the processor's cache while they are worked on."""
    step = max(1, _CACHED // max(1, columns))
    for begin in range(0, rows, step):
        yield slice(begin, begin + step)


def suffix_sums(ordered: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Sum of each row from every position to its end, with a last column of 0: [R, N] to [R, N + 1]."""
    sums = np.zeros((len(ordered), ordered.shape[1] + 1), dtype=kind)
    np.cumsum(ordered[:, ::-1], axis=1, out=sums[:, -2::-1])
    return sums


def product_limit(group: FollowUp, times: np.ndarray, weights: np.ndarray, of_censoring: bool = False) -> np.ndarray:
    r"""Kaplan-Meier estimate at given times, for many weightings of the same patients.

    .. math:: S(t) = \prod_{u \le t} (1 - d_u / Y_u)

    Of censoring, censored patients take the part of events, and events at the same time leave the risk set first, as
    in scikit-survival's `CensoringDistributionEstimator`.

    Args:
        group: The patients.
        times: Times [T].
        weights: Float [R, N].
        of_censoring: Estimate the distribution of censoring instead.

    Returns:
        float64 [R, T].
    """
    ordering = sort_by_time(group)
    time, event = group.time_months[ordering.patients], group.event[ordering.patients]
    grid = np.unique(time[event != of_censoring])
    grid = grid[grid <= np.max(times, initial=-np.inf)]  # later steps are not asked for
    if not len(grid):
        return np.ones((len(weights), len(times)))
    start, later = (np.searchsorted(time, grid, side) for side in ("left", "right"))
    running = np.concatenate([[0], np.cumsum(event)])
    censored = start + running[later] - running[start]
    # Who is left after the events or censorings at a time, and who was at risk just before.
    after, before = (later, censored) if of_censoring else (censored, start)
    place = np.searchsorted(grid, times, side="right")
    result = np.empty((len(weights), len(times)))
    for rows in row_blocks(len(weights), len(time)):
        suffix = suffix_sums(np.take(weights[rows], ordering.patients, axis=1), np.dtype(np.float64))
        at_risk = np.take(suffix, before, axis=1)
        curve = np.ones((len(suffix), len(grid) + 1))
        factors = np.divide(np.take(suffix, after, axis=1), at_risk, out=curve[:, 1:], where=at_risk > 0)
        np.cumprod(factors, axis=1, out=factors)
        result[rows] = np.take(curve, place, axis=1)
    return result


def just_before(times: np.ndarray) -> np.ndarray:
    """Times by which an event at the given ones has not happened.

    Who has the event at t was not censored before t; a censoring at the same time, which comes after the event, does
    not take part in its weight. So R's survival and riskRegression weigh by 1 / G(t-).
    """
    return np.nextafter(np.asarray(times, dtype=np.float64), -np.inf)


def censoring_survival(
    group: FollowUp, times: np.ndarray, weights: np.ndarray, reference: FollowUp | None = None
) -> np.ndarray:
    """Probability of not being censored up to and including given times, by Kaplan-Meier.

    Args:
        group: The evaluated patients.
        times: Times [T].
        weights: Of the evaluated patients, float [R, N].
        reference: Patients whose censoring stands for that of the evaluated, such as the training patients; it then
            stays the same in every replicate. Left out, it is estimated from the evaluated patients, anew in each.

    Returns:
        float64 [R, T], or [1, T] with a reference.

    Raises:
        DataError: if a time lies beyond the follow-up of the reference.
    """
    if reference is None:
        return product_limit(group, times, weights, of_censoring=True)
    last = float(reference.time_months.max())
    if np.max(times, initial=0.0) > last:
        raise DataError(
            f"Times up to {np.max(times):.1f} months are needed, but the reference for censoring was followed "
            f"for {last:.1f}; bound the times, or estimate censoring from the evaluated patients."
        )
    return product_limit(reference, np.asarray(times), np.ones((1, len(reference.time_months))), of_censoring=True)


def censoring_weights(
    group: FollowUp, times: np.ndarray, weights: np.ndarray, reference: FollowUp | None = None
) -> np.ndarray:
    """1 / `censoring_survival` of the same arguments, and 0 where that is 0, as scikit-survival has it."""
    survival = censoring_survival(group, times, weights, reference)
    return np.divide(1.0, survival, out=np.zeros_like(survival), where=survival > 0)


def known_weights(group: FollowUp, horizon_months: float, weights: np.ndarray) -> np.ndarray:
    """Weights of the patients whose state at a time is known, so that they stand for those censored before it as well.

    Args:
        group: The patients.
        horizon_months: The time.
        weights: Of the patients, float [R, N].

    Returns:
        float64 [R, N]: by 1 / G(t-) of who had the event at t, up to the time, by 1 / G(time) of who outlives it, and 0
        of the others.
    """
    time, event = group
    inverse = censoring_weights(group, np.append(just_before(time), horizon_months), weights)
    lost, kept = event & (time <= horizon_months), time > horizon_months
    known: np.ndarray = weights * (np.where(lost, inverse[:, :-1], 0.0) + np.where(kept, inverse[:, -1:], 0.0))
    return known
