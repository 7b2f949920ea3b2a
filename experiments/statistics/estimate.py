"""An estimate with its interval and what it rests on, and the checks that every statistic makes of its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from experiments.statistics.support import no_interval


class Estimate(NamedTuple):
    """A value with the ends of its interval; NaN where it is not defined.

    Args:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
        n: Patients that it rests on; None where it belongs to no group of patients.
        events: Events among them, or positives of a classification; None where neither applies.
        interval: Method of the interval, such as `bootstrap`; where there is none `none: ` and the reason.
    """

    value: float
    low: float
    high: float
    n: int | None = None
    events: int | None = None
    interval: str = ""


def undefined(n: int | None = None, events: int | None = None, reason: str = "not defined") -> Estimate:
    """An estimate that cannot be computed, with what it would rest on, and why."""
    return Estimate(float("nan"), *no_interval(reason)[:2], n, events, no_interval(reason).method)


def estimates_table(estimates: Mapping[str, Estimate]) -> pd.DataFrame:
    """One row per estimate: columns statistic, value, low, high, n, events, interval."""
    return pd.DataFrame([{"statistic": name, **estimate._asdict()} for name, estimate in estimates.items()])


def binary_arrays(target: np.ndarray, score: np.ndarray, what: str = "score") -> tuple[np.ndarray, np.ndarray]:
    """Check the input of a statistic of two classes.

    Args:
        target: 0 or 1, or bool [N].
        score: One finite number per patient [N].
        what: What the number is called in errors.

    Returns:
        bool [N] and float64 [N].

    Raises:
        DataError: if the lengths differ, a target is neither 0 nor 1, or a score is not finite.
    """
    target, score = np.asarray(target), np.asarray(score, dtype=np.float64)
    if target.shape != score.shape or target.ndim != 1:
        raise DataError(f"Targets {target.shape} and {what}s {score.shape} must match; expected one of each a patient.")
    if not np.isin(target, (0, 1)).all():
        raise DataError(f"Targets {sorted(set(target.tolist()) - {0, 1})[:5]} were found; expected 0 and 1 only.")
    _finite(score, what)
    return target.astype(bool), score


def probabilities(target: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check targets and predicted probabilities as `binary_arrays` does, and that the latter lie in [0, 1].

    Raises:
        DataError: also if a probability lies outside [0, 1].
    """
    target, probability = binary_arrays(target, probability, "probability")
    outside = int(((probability < 0) | (probability > 1)).sum())
    if outside:
        raise DataError(
            f"{outside} of {len(probability)} probabilities lie outside [0, 1]; give probabilities, not logits."
        )
    return target, probability


def survival_arrays(
    time_months: np.ndarray, event: np.ndarray, risk: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the input of a survival statistic.

    Args:
        time_months: Time to the event or to censoring, 0 or later [N].
        event: Whether the event was observed, bool or 0 and 1 [N].
        risk: Higher means earlier [N]; left out, zeros.

    Returns:
        float64 [N], bool [N] and float64 [N].

    Raises:
        DataError: if lengths differ, a time is negative or not finite, an event neither 0 nor 1, a risk not finite.
    """
    time, event = np.asarray(time_months, dtype=np.float64), np.asarray(event)
    risk = np.zeros(len(time)) if risk is None else np.asarray(risk, dtype=np.float64)
    if not time.shape == event.shape == risk.shape or time.ndim != 1:
        raise DataError(
            f"Times {time.shape}, events {event.shape} and risks {risk.shape} must match; expected one each a patient."
        )
    bad = int((~np.isfinite(time) | (time < 0)).sum())
    if bad:
        raise DataError(f"{bad} of {len(time)} times are negative or not finite; expected months from the origin on.")
    if not np.isin(event, (0, 1)).all():
        raise DataError("Events other than 0 and 1 were found; leave out patients whose endpoint is not known.")
    _finite(risk, "risk")
    return time, event.astype(bool), risk


def predicted_survival_arrays(
    time_months: np.ndarray, event: np.ndarray, survival: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the input of a statistic of predicted probabilities of surviving a time.

    Args:
        time_months: As `survival_arrays`.
        event: As `survival_arrays`.
        survival: Predicted probability of surviving the time [N].

    Returns:
        float64 [N], bool [N] and float64 [N].

    Raises:
        DataError: as of `survival_arrays`; if survival is no probability.
    """
    time, happened, survival = survival_arrays(time_months, event, survival)
    if ((survival < 0) | (survival > 1)).any():
        raise DataError("Predicted survival outside [0, 1] was found; give probabilities of surviving the horizon.")
    return time, happened, survival


def _finite(values: np.ndarray, what: str) -> None:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise DataError(f"{bad} of {len(values)} {what} values are not finite; expected finite numbers.")
