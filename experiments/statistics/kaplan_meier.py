"""Kaplan-Meier curves with numbers at risk, and the test that compares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from lifelines.statistics import multivariate_logrank_test
from scipy.stats import beta, norm

from datamodules.errors import DataError
from experiments.statistics.estimate import Estimate, survival_arrays, undefined
from experiments.statistics.proportions import CLOPPER_PEARSON
from experiments.statistics.support import BETA_PRODUCT, GREENWOOD, MedianSupport

_ROUNDING = 1e-9  # of a product of fractions


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
    """Kaplan-Meier estimate with Greenwood's variance on the log-log scale, as R's `survfit`.

    Where the estimate is 1 or 0, and Greenwood's variance 0 or unknown, the interval is the exact one of the beta
    product (Fay, Brittain and Proschan, Biostatistics 2013). The median and its interval are where the curve and its
    log-log limits reach one half; where one is at one half for a while, the middle of that.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].

    Raises:
        DataError: as of `survival_arrays`, or if there is no patient.
    """
    time, event = _some(time_months, event)
    times = np.unique(np.append(0.0, time))
    earlier = np.searchsorted(np.sort(time), times)
    happened = np.bincount(np.searchsorted(times, time[event]), minlength=len(times))
    counts = _Counts(len(time) - earlier, happened)
    survival = np.cumprod(1 - counts.events / np.maximum(counts.at_risk, 1))
    log_log = _log_log(survival, counts)
    value, early, late = (_reaches_half(times, curve) for curve in (survival, *log_log))
    method = GREENWOOD
    if np.isfinite(value) and (early == late or not early <= value <= late):
        # All fall at one time, where the log-log limits say nothing, and order statistics when they are enough.
        early, late, method = MedianSupport(0.0, np.inf, int(event.sum()), tuple(np.sort(time[event]))).interval(value)
    median = Estimate(value, early, late, len(time), int(event.sum()), method)
    low, high = _exact_ends(survival, log_log, counts)
    return SurvivalCurve(times, survival, low, high, np.sort(time[~event]), median)


class _Counts(NamedTuple):
    """Patients at risk and with the event at each time [T]."""

    at_risk: np.ndarray
    events: np.ndarray


def _log_log(survival: np.ndarray, counts: _Counts) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the log-log interval [T]; NaN where the curve is 0, and 1 where it is 1."""
    inside = (survival > 0) & (survival < 1)
    left = np.maximum(counts.at_risk - counts.events, 1)  # where nobody is left the curve is 0
    greenwood = np.cumsum(counts.events / (np.maximum(counts.at_risk, 1) * left))[inside]
    log = np.log(survival[inside])
    spread = norm.ppf(0.975) * np.sqrt(greenwood) / np.abs(log)
    low, high = (np.where(survival == 1, 1.0, np.nan) for _ in range(2))
    low[inside], high[inside] = np.exp(log * np.exp(spread)), np.exp(log * np.exp(-spread))
    return low, high


def _exact_ends(
    survival: np.ndarray, log_log: tuple[np.ndarray, np.ndarray], counts: _Counts
) -> tuple[np.ndarray, np.ndarray]:
    low, high = (end.copy() for end in log_log)
    ones, zeros = survival == 1, survival == 0
    low[ones] = _never(counts.at_risk[ones])
    if zeros.any():
        died = counts.events > 0
        at_risk, left = counts.at_risk[died], (counts.at_risk - counts.events)[died]
        # The beta of the same mean and variance as the product of a beta (left + 1, events) for each time.
        mean = float(np.prod((left + 1) / (at_risk + 1)))
        second = float(np.prod((left + 1) * (left + 2) / ((at_risk + 1) * (at_risk + 2))))
        size = (mean - second) / (second - mean**2)
        low[zeros], high[zeros] = 0.0, beta.ppf(0.975, mean * size, (1 - mean) * size)
    return low, high


def _never(at_risk: np.ndarray) -> np.ndarray:
    """Lower end of the exact interval of a survival of 1, of patients followed so far [T]."""
    return np.where(at_risk > 0, 0.025 ** (1 / np.maximum(at_risk, 1)), 0.0)


def _reaches_half(times: np.ndarray, curve: np.ndarray) -> float:
    """First time at which a falling curve is one half or less; infinite where it stays above."""
    below = np.flatnonzero(curve <= 0.5 + _ROUNDING)
    if not len(below):
        return float("inf")
    first = below[0]
    under = np.flatnonzero(curve < 0.5 - _ROUNDING)
    if curve[first] >= 0.5 - _ROUNDING and len(under):
        return float((times[first] + times[under[0]]) / 2)
    return float(times[first])


def survival_at(time_months: np.ndarray, event: np.ndarray, horizon_months: float) -> Estimate:
    """Kaplan-Meier survival at a horizon with its interval, as of `kaplan_meier`.

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
        return undefined(len(time), events, "nobody is followed so long")
    place = int(np.searchsorted(curve.times_months, horizon_months, side="right")) - 1
    value, low, high = float(curve.survival[place]), float(curve.low[place]), float(curve.high[place])
    if not events:
        low = float(_never(np.array(np.sum(time >= horizon_months))))
    method = {1.0: CLOPPER_PEARSON, 0.0: BETA_PRODUCT}.get(value, GREENWOOD)
    return Estimate(value, low, high, len(time), events, method)


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
