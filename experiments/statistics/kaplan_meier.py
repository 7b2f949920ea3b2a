"""Kaplan-Meier curves with numbers at risk, and the test that compares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import median_survival_times

from datamodules.errors import DataError
from experiments.statistics.estimate import Estimate, survival_arrays, undefined


@dataclass(frozen=True)
class SurvivalCurve:
    """A Kaplan-Meier curve, a step at every time.

    Args:
        times_months: 0 and every time of an event or censoring [T].
        survival: Estimated survival up to and including each time [T].
        low: Lower end of the 95 % interval [T].
        high: Upper end [T].
        censored_months: Times of the censored patients.
        median: Median survival in months, infinite where the curve stays above one half.
    """

    times_months: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray
    censored_months: np.ndarray
    median: Estimate


def kaplan_meier(time_months: np.ndarray, event: np.ndarray) -> SurvivalCurve:
    """Kaplan-Meier estimate with Greenwood's variance on the log-log scale, by lifelines.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].

    Raises:
        DataError: as of `survival_arrays`, or if there is no patient.
    """
    time, event = _some(time_months, event)
    fitted = KaplanMeierFitter().fit(time, event)
    interval = fitted.confidence_interval_survival_function_.to_numpy()
    middle = median_survival_times(fitted.confidence_interval_survival_function_).to_numpy().ravel()
    median = Estimate(
        float(fitted.median_survival_time_), float(middle[0]), float(middle[1]), len(time), int(event.sum())
    )
    survival = fitted.survival_function_.iloc[:, 0]
    return SurvivalCurve(
        survival.index.to_numpy(dtype=float),
        survival.to_numpy(dtype=float),
        interval[:, 0],
        interval[:, 1],
        np.sort(time[~event]),
        median,
    )


def survival_at(time_months: np.ndarray, event: np.ndarray, horizon_months: float) -> Estimate:
    """Kaplan-Meier survival at a horizon with its log-log Greenwood interval.

    Returns:
        The estimate, with the events up to the horizon; undefined where nobody is followed so long and the curve has
        not reached 0.

    Raises:
        DataError: as of `kaplan_meier`.
    """
    time, event = _some(time_months, event)
    events = int((event & (time <= horizon_months)).sum())
    curve = kaplan_meier(time, event)
    if horizon_months > time.max() and curve.survival[-1] > 0:
        return undefined(len(time), events)
    place = int(np.searchsorted(curve.times_months, horizon_months, side="right")) - 1
    ends = (float(curve.low[place]), float(curve.high[place]))
    return Estimate(float(curve.survival[place]), *ends, len(time), events)


def numbers_at_risk(time_months: np.ndarray, at_months: np.ndarray) -> np.ndarray:
    """Patients neither with an event nor censored before each time.

    Args:
        time_months: Time to event or censoring [N].
        at_months: Times [T].

    Returns:
        int [T].
    """
    return (np.asarray(time_months)[None] >= np.asarray(at_months)[:, None]).sum(axis=1)


class LogRank(NamedTuple):
    """Result of a log-rank test: chi-squared statistic, its degrees of freedom, p, patients and events."""

    statistic: float
    degrees: int
    p: float
    n: int
    events: int


def log_rank(time_months: np.ndarray, event: np.ndarray, group: np.ndarray) -> LogRank:
    """Log-rank test of equal survival in two or more groups (Mantel 1966), by lifelines.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        group: Group of each patient [N].

    Returns:
        The test; statistic and p are NaN without events.

    Raises:
        DataError: as of `survival_arrays`, or if there are fewer than two groups.
    """
    time, event = _some(time_months, event)
    group = np.asarray(group)
    names = np.unique(group)
    if group.shape != time.shape or len(names) < 2:
        raise DataError(f"{len(names)} group of {len(time)} patients was found; a log-rank test compares two or more.")
    if not event.any():
        return LogRank(float("nan"), len(names) - 1, float("nan"), len(time), 0)
    result = multivariate_logrank_test(time, group, event)
    return LogRank(float(result.test_statistic), len(names) - 1, float(result.p_value), len(time), int(event.sum()))


def _some(time_months: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    time, event, _ = survival_arrays(time_months, event)
    if not len(time):
        raise DataError("Survival of no patients was asked for; expected at least one.")
    return time, event
