"""Accuracy of a survival prediction at and up to a time: dynamic AUC, Brier score, and their means over time.

Censoring is weighted away: who had the event by a time counts 1 / G(just before the event), who outlived it 1 /
G(time), G being the probability of not being censored. Only what happens up to a time is needed for it, so that long
follow-up of others, where G reaches 0, does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.errors import DataError
from experiments.statistics.auroc import weighted_auroc
from experiments.statistics.bootstrap import Statistic, bootstrap, ratio
from experiments.statistics.estimate import Estimate, predicted_survival_arrays, survival_arrays, undefined
from experiments.statistics.support import auroc_support, share_support
from experiments.statistics.weighted_survival import FollowUp, censoring_weights, just_before, product_limit

HORIZONS_MONTHS = (12.0, 36.0, 60.0)
"""Times that are reported."""


def usable_times(
    times_months: Sequence[float] | np.ndarray, group: FollowUp, reference: FollowUp | None = None
) -> np.ndarray:
    """Which times a dynamic AUC or Brier score is defined at.

    A time is usable from the first time seen to before the last one, where both an event has happened and somebody is
    followed longer, and where the probability of not being censored is above 0 in the group whose censoring is used.

    Args:
        times_months: Wanted times [T].
        group: The evaluated patients.
        reference: Patients whose censoring is used; left out, the evaluated.

    Returns:
        bool [T].
    """
    times = np.asarray(times_months, dtype=np.float64)
    if not len(group.time_months) or not group.event.any():
        return np.zeros(len(times), dtype=bool)
    source = reference or group
    usable = (times >= group.time_months[group.event].min()) & (times < group.time_months.max())
    survival = product_limit(source, times, np.ones((1, len(source.time_months))), of_censoring=True)[0]
    return usable & (survival > 0) & (times <= source.time_months.max())


def known_by(time_months: np.ndarray, event: np.ndarray, horizon_months: float) -> tuple[int, int]:
    """Patients whose state at a time is known, and those among them with the event by then."""
    cases = event & (time_months <= horizon_months)
    return int((cases | (time_months > horizon_months)).sum()), int(cases.sum())


def dynamic_auc(
    time_months: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    horizon_months: float,
    reference: FollowUp | None = None,
    strata: np.ndarray | None = None,
) -> Statistic:
    r"""Cumulative/dynamic AUC at a time as a statistic of weighted patients (Uno et al., JASA 2007).

    The chance that a patient with the event by the time has a higher risk than one who outlives it, ties counting half;
    as riskRegression's `Score`, and as scikit-survival's `cumulative_dynamic_auc` where no censoring falls on the time
    of an event.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        risk: Higher means earlier [N].
        horizon_months: The time.
        reference: Patients whose censoring is used; left out, the evaluated patients', anew in every replicate.
        strata: Stratum of each patient [N], such as the fold whose model scored it; only pairs within one are compared.

    Returns:
        Maps weights [R, N] to float64 [R]; NaN where nobody has the event by then or nobody outlives it.

    Raises:
        DataError: as of `survival_arrays`; if the reference was not followed up to the last event by the time.
    """
    time, event, risk = survival_arrays(time_months, event, risk)
    group = FollowUp(time, event)
    cases, controls = np.flatnonzero(event & (time <= horizon_months)), np.flatnonzero(time > horizon_months)
    used = np.concatenate([cases, controls])
    target = np.arange(len(used)) < len(cases)
    places = None if strata is None else np.asarray(strata)[used]

    def statistic(weights: np.ndarray) -> np.ndarray:
        if not len(cases) or not len(controls):
            return np.full(len(weights), np.nan)
        part = np.take(weights, used, axis=1).astype(np.float64)
        part[:, : len(cases)] *= censoring_weights(group, just_before(time[cases]), weights, reference)
        return weighted_auroc(target, risk[used], part, places)

    return Statistic(statistic, auroc_support(target, places))


def brier_at(
    time_months: np.ndarray,
    event: np.ndarray,
    survival: np.ndarray,
    horizon_months: float,
    reference: FollowUp | None = None,
) -> Statistic:
    r"""Brier score at a time as a statistic of weighted patients (Graf et al., Statistics in Medicine 1999).

    .. math:: \frac1n \sum_i [t_i \le t, \delta_i] \hat S_i(t)^2 / G(t_i-) + [t_i > t] (1 - \hat S_i(t))^2 / G(t)

    As riskRegression's `Score`, and as scikit-survival's `brier_score` where no censoring falls on the time of an
    event.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        survival: Predicted probability of surviving the time [N].
        horizon_months: The time.
        reference: Patients whose censoring is used; left out, the evaluated patients', anew in every replicate.

    Returns:
        Maps weights [R, N] to float64 [R]; NaN where nobody was followed to the time.

    Raises:
        DataError: as of `survival_arrays`; if the reference ends before the time, or survival is no probability.
    """
    time, event, survival = predicted_survival_arrays(time_months, event, survival)
    group = FollowUp(time, event)
    cases, controls = np.flatnonzero(event & (time <= horizon_months)), np.flatnonzero(time > horizon_months)

    def statistic(weights: np.ndarray) -> np.ndarray:
        if not len(controls):
            return np.full(len(weights), np.nan)
        at = np.append(just_before(time[cases]), horizon_months)
        inverse = censoring_weights(group, at, weights, reference)
        lost = np.take(weights, cases, axis=1) * inverse[:, :-1] @ np.square(survival[cases])
        kept = np.take(weights, controls, axis=1) @ np.square(1 - survival[controls]) * inverse[:, -1]
        return np.asarray(lost + kept) / weights.sum(axis=1, dtype=np.float64)

    return Statistic(statistic, share_support(len(cases) + len(controls)))


def mean_dynamic_auc(
    time_months: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    times_months: Sequence[float] | np.ndarray,
    reference: FollowUp | None = None,
    strata: np.ndarray | None = None,
) -> Statistic:
    """Mean of the dynamic AUC over times, weighted by the fall of survival (Lambert and Chevret, 2016).

    As the mean that scikit-survival's `cumulative_dynamic_auc` returns.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        risk: Higher means earlier, the same at all times [N] or for each [N, T].
        times_months: Increasing times [T].
        reference: As of `dynamic_auc`.
        strata: As of `dynamic_auc`.

    Raises:
        DataError: as of `dynamic_auc`; if the times do not increase.
    """
    times = _increasing(times_months)
    time, happened, _ = survival_arrays(time_months, event)
    risks = np.broadcast_to(np.reshape(risk, (len(time), -1)), (len(time), len(times)))
    parts = [dynamic_auc(time, happened, risks[:, number], at, reference, strata) for number, at in enumerate(times)]
    group = FollowUp(time, happened)

    def statistic(weights: np.ndarray) -> np.ndarray:
        survival = product_limit(group, times, weights)
        fall = -np.diff(np.concatenate([np.ones((len(survival), 1)), survival], axis=1), axis=1)
        values = np.column_stack([part(weights) for part in parts])
        # A time before the first event of a resample has no AUC and no weight.
        weighed = np.multiply(values, fall, out=np.zeros_like(values), where=fall > 0)
        return ratio(weighed.sum(axis=1), fall.sum(axis=1))

    # The AUC of the fewest cases or controls knows least.
    return Statistic(statistic, min((part.support for part in parts), key=lambda support: support.units))


def integrated_brier(
    time_months: np.ndarray,
    event: np.ndarray,
    survival: np.ndarray,
    times_months: Sequence[float] | np.ndarray,
    reference: FollowUp | None = None,
) -> Statistic:
    """Mean of the Brier score over times by the trapezoidal rule; as scikit-survival's `integrated_brier_score`.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        survival: Predicted probability of surviving each time [N, T].
        times_months: At least two increasing times [T].
        reference: As of `brier_at`.

    Raises:
        DataError: as of `brier_at`; if shapes do not match, or there are fewer than two increasing times.
    """
    times = _increasing(times_months)
    curves = np.asarray(survival, dtype=np.float64)
    if len(times) < 2 or curves.shape != (len(time_months), len(times)):
        raise DataError(
            f"Survival {curves.shape} of {len(time_months)} patients at {len(times)} times; expected a row for each "
            "patient and a column for each of at least two times."
        )
    parts = [brier_at(time_months, event, curves[:, number], at, reference) for number, at in enumerate(times)]

    def statistic(weights: np.ndarray) -> np.ndarray:
        values = np.column_stack([part(weights) for part in parts])
        return np.asarray(np.trapezoid(values, times, axis=1) / (times[-1] - times[0]))

    return Statistic(statistic, min((part.support for part in parts), key=lambda support: support.units))


def at_horizon(
    statistic: Statistic,
    time_months: np.ndarray,
    event: np.ndarray,
    horizon_months: float,
    reference: FollowUp | None = None,
    replicates: int = 2000,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> Estimate:
    """A dynamic AUC or Brier score with its percentile interval by patient.

    Args:
        statistic: Of these patients, at this or up to this time.
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        horizon_months: The time, or the last of them.
        reference: The one that the statistic was made with.
        replicates: Number of replicates.
        seed: Seed.
        strata: Stratum of each patient, within which patients are resampled; left out, among all.

    Returns:
        The estimate, with patients of known state and events by the time; undefined where `usable_times` says so.

    Raises:
        DataError: as of `survival_arrays`.
    """
    time, event, _ = survival_arrays(time_months, event)
    n, events = known_by(time, event, horizon_months)
    if not usable_times([horizon_months], FollowUp(time, event), reference)[0]:
        return undefined(n, events, "follow-up allows no estimate at the time")
    return bootstrap(statistic, len(time), replicates, seed, strata=strata)[0]._replace(n=n, events=events)


def kaplan_meier_brier(
    time_months: np.ndarray, event: np.ndarray, horizon_months: float, reference: FollowUp | None = None
) -> Statistic:
    """Brier score at a time of the Kaplan-Meier estimate itself, which knows no patient: what a model has to beat.

    Raises:
        DataError: as of `brier_at`.
    """
    time, event, _ = survival_arrays(time_months, event)
    known = product_limit(FollowUp(time, event), np.array([horizon_months]), np.ones((1, len(time))))[0, 0]
    return brier_at(time, event, np.full(len(time), known), horizon_months, reference)


def _increasing(times_months: Sequence[float] | np.ndarray) -> np.ndarray:
    times = np.asarray(times_months, dtype=np.float64)
    if not len(times) or (np.diff(times) <= 0).any():
        raise DataError(f"Times {times.tolist()[:5]} were found; expected increasing times.")
    return times
