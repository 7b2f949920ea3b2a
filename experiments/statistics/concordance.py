"""C-indices of Harrell and Uno, vectorised over the replicates of a bootstrap.

The pairs that a statistic compares are fixed; a replicate only weights them by how often both patients were drawn. With
patients sorted by time, all that an event is compared with is a suffix, so the weight of comparable pairs comes from
running sums, and that of concordant pairs from one matrix product per block of events. Copies of a patient that a
replicate draws twice are never compared with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.statistics.bootstrap import Statistic, bootstrap, ratio
from experiments.statistics.estimate import Estimate, survival_arrays, undefined
from experiments.statistics.strata import strata_members
from experiments.statistics.support import Support, share_support
from experiments.statistics.weighted_survival import (
    FollowUp,
    Ordering,
    censoring_survival,
    just_before,
    row_blocks,
    sort_by_time,
    suffix_sums,
)

TIE_TOLERANCE = 1e-8
"""Risks that differ by no more are tied, as in scikit-survival."""

_EVENTS_AT_ONCE, _ROWS_AT_ONCE = 128, 2048  # of one matrix product

Scores = Callable[[np.ndarray, slice], np.ndarray]
EventWeights = Callable[[np.ndarray], np.ndarray]


Pairs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps weights [R, N] to the weight of concordant pairs and of comparable pairs, each [R]."""


def _share(parts: Sequence[Pairs], support: Support) -> Statistic:
    """The statistic: weight of concordant pairs over weight of comparable pairs, of all parts together."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        weights = np.asarray(weights)
        found = [part(weights) for part in parts]
        concordant, pairs = (np.sum([part[place] for part in found], axis=0) for place in (0, 1))
        return ratio(concordant, pairs)

    return Statistic(statistic, support)


def disjoint_pairs(time_months: np.ndarray, event: np.ndarray, strata: np.ndarray | None = None) -> int:
    """The largest number of pairs that Harrell's C-index compares and that share no patient.

    As many patients of one cohort are as good as independent pairs: a C-index of 1 of them is n of n.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        strata: As of `harrell`.
    """
    pairs = 0
    for members in strata_members(strata, len(time_months)):
        time, happened = time_months[members], event[members]
        order = np.lexsort((~happened, time))  # an event comes before a censoring at its time
        place = np.unique(np.stack([time, ~happened]), axis=1, return_inverse=True)[1].reshape(-1)[order]
        events = np.flatnonzero(happened[order])
        # The first events, each with one of the last of all others: if more pairs can be had, they can be had so.
        for count in range(min(len(events), len(order) // 2), 0, -1):
            others = np.delete(np.arange(len(order)), events[:count])[-count:]
            if (place[events[:count]] < place[others]).all():
                pairs += count
                break
    return pairs


def _concordance(order: Ordering, scores: Scores, event_weights: EventWeights | None) -> Pairs:
    """Weight of concordant and of comparable pairs of the patients in an ordering.

    Args:
        order: The patients, sorted; those who are not in it, as of another stratum, are compared with nobody.
        scores: Maps positions of events [B] and a slice of positions to the concordance of every pair [B, M]: 1, 0.5
            or 0.
        event_weights: Maps weights [R, N] to a further weight of every event [R, E] or [1, E].
    """

    def counted(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ordered = np.take(weights, order.patients, axis=1).astype(np.result_type(weights.dtype, np.float32), copy=False)
        own = np.take(ordered, order.events, axis=1)
        if event_weights is not None:
            own = own.astype(np.float64)
        pairs = np.empty(len(ordered))
        for rows in row_blocks(*ordered.shape):
            if event_weights is not None:
                own[rows] *= event_weights(weights[rows])
            pairs[rows] = (own[rows] * comparable(ordered[rows])).sum(axis=1, dtype=np.float64)
        concordant = np.zeros(len(ordered))
        for begin in range(0, len(order.events), _EVENTS_AT_ONCE):
            block = slice(begin, begin + _EVENTS_AT_ONCE)
            columns = slice(int(order.censored[block].min()), ordered.shape[1])
            matrix = scores(order.events[block], columns)
            matrix[np.arange(columns.start, columns.stop) < order.censored[block, None]] = 0
            matrix = np.ascontiguousarray(matrix.T, dtype=ordered.dtype)
            for start in range(0, len(ordered), _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                below = ordered[rows, columns] @ matrix
                concordant[rows] += (own[rows, block] * below).sum(axis=1, dtype=np.float64)
        return concordant, pairs

    def comparable(ordered: np.ndarray) -> np.ndarray:
        return np.take(suffix_sums(ordered, ordered.dtype), order.censored, axis=1)

    return counted


def _orderings(time: np.ndarray, event: np.ndarray, strata: np.ndarray | None) -> list[Ordering]:
    """The patients of every stratum, sorted, by their place among all."""
    found = []
    for members in strata_members(strata, len(time)):
        order = sort_by_time(FollowUp(time[members], event[members]))
        found.append(order._replace(patients=members[order.patients]))
    return found


def _risk_scores(risk: np.ndarray) -> Scores:
    def scores(events: np.ndarray, columns: slice) -> np.ndarray:
        lower = risk[columns] - risk[events, None]
        return np.where(np.abs(lower) <= TIE_TOLERANCE, 0.5, lower < 0)

    return scores


def harrell(
    time_months: np.ndarray, event: np.ndarray, risk: np.ndarray, strata: np.ndarray | None = None
) -> Statistic:
    """Harrell's C-index as a statistic of weighted patients (Harrell et al., Statistics in Medicine 1996).

    A pair is compared when the earlier time is an event; an event comes before a censoring at the same time, two events
    at the same time are not compared, and tied risks count half, as in scikit-survival's `concordance_index_censored`.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        risk: Higher means earlier [N].
        strata: Stratum of each patient [N], such as the fold whose model scored it; only pairs within one are compared.

    Returns:
        Maps weights [R, N] to float64 [R]; NaN where no pair can be compared.

    Raises:
        DataError: as of `survival_arrays`.
    """
    time, event, risk = survival_arrays(time_months, event, risk)
    orders = _orderings(time, event, strata)
    parts = [_concordance(order, _risk_scores(risk[order.patients]), None) for order in orders]
    return _share(parts, share_support(disjoint_pairs(time, event, strata)))


def uno(
    time_months: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    tau_months: float | None = None,
    reference: FollowUp | None = None,
    strata: np.ndarray | None = None,
) -> Statistic:
    r"""Uno's C-index as a statistic of weighted patients (Uno et al., Statistics in Medicine 2011).

    Every event before tau weighs :math:`1 / G(t-)^2`, G being the probability of not being censored, so that the
    estimate does not depend on how long patients were followed. As R's `concordance(timewt = "n/G2")`, and as
    scikit-survival's `concordance_index_ipcw` where no censoring falls on the time of an event.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        risk: Higher means earlier [N].
        tau_months: Events at this time or later are not compared with later patients; left out, all are.
        reference: Patients whose censoring is used; left out, the evaluated patients' of all strata together, anew in
            every replicate.
        strata: As of `harrell`.

    Returns:
        Maps weights [R, N] to float64 [R]; NaN where no pair can be compared, or where G is 0 at an event.

    Raises:
        DataError: as of `survival_arrays`; if an event before tau lies beyond the follow-up of the reference.
    """
    time, event, risk = survival_arrays(time_months, event, risk)
    group, tau = FollowUp(time, event), np.inf if tau_months is None else tau_months
    early = event & (time < tau)
    if early.any():  # refused now rather than at the first replicate
        censoring_survival(group, just_before(time[early]), np.ones((1, len(time))), reference)

    def pairs(order: Ordering) -> Pairs:
        return _concordance(order, _risk_scores(risk[order.patients]), _inverse_square(order, group, tau, reference))

    parts = [pairs(order) for order in _orderings(time, event, strata)]
    return _share(parts, share_support(disjoint_pairs(time, early, strata)))


def _inverse_square(order: Ordering, group: FollowUp, tau: float, reference: FollowUp | None) -> EventWeights:
    """1 / G(t-)^2 of every event of an ordering before tau, 0 of later ones."""
    patients = order.patients[order.events]
    event_times = group.time_months[patients]
    used = event_times < tau

    def event_weights(weights: np.ndarray) -> np.ndarray:
        result = np.zeros((len(weights) if reference is None else 1, len(used)))
        if used.any():
            survival = censoring_survival(group, just_before(event_times[used]), weights, reference)
            drawn = np.take(weights, patients[used], axis=1) > 0
            inverse = ratio(1.0, np.square(survival))
            # An event that was not drawn has no pairs, whatever the censoring at its time.
            result[:, used] = np.where(drawn, inverse, 0.0) if reference is None else inverse
        return result

    return event_weights


def c_index(
    statistic: Statistic,
    event: np.ndarray,
    replicates: int = 2000,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> Estimate:
    """A C-index with its percentile interval by patient.

    Args:
        statistic: `harrell` or `uno` of the patients.
        event: Whether the event was observed [N].
        replicates: Number of replicates.
        seed: Seed.
        strata: Stratum of each patient, within which patients are resampled; left out, among all.

    Returns:
        The estimate with n and events; undefined without events or comparable pairs.
    """
    events = int(np.asarray(event).sum())
    if not events:
        return undefined(len(event), 0, "no event")
    return bootstrap(statistic, len(event), replicates, seed, events, strata)[0]
