"""From curves of a survival model to calibrated ones, and which change of them is worth it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from datamodules.errors import DataError
from experiments.doubt.calibrators import FOLDS, NONE, choose_method
from experiments.statistics.horizons import HORIZONS_MONTHS
from experiments.statistics.weighted_survival import FollowUp, censoring_survival, just_before

LEVEL, LINE = "level", "level and spread"
METHODS = (NONE, LEVEL, LINE)
"""From the fewest parameters to the most; the first that is as good as the best is taken."""
FEWEST_EVENTS = 10
_FLOOR = 1e-6
"""Cumulative hazards and probabilities nearer to 0 are moved this far away, since their logarithms are not finite."""
_STEEPEST = 4.0


def cumulative_hazard(survival: np.ndarray) -> np.ndarray:
    """-log of probabilities of survival, finite also of 0; NaN stays."""
    hazard: np.ndarray = -np.log(np.clip(survival, _FLOOR, 1.0))
    return hazard


@dataclass(frozen=True)
class SurvivalCalibrator:
    r"""Changes the cumulative hazard of a whole curve, so that it stays one.

    .. math:: S'(t) = \exp(-e^a \, H(t)^b), \quad H(t) = -\log S(t)

    Args:
        level: a; above 0 more events than were predicted.
        spread: b, above 0; below 1 predictions were too extreme.
        method: One of `METHODS`.
    """

    level: float = 0.0
    spread: float = 1.0
    method: str = NONE

    def __call__(self, survival: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of survival of predicted ones; NaN stays."""
        if self.method == NONE:
            return np.asarray(survival, dtype=np.float64)
        found: np.ndarray = np.exp(-np.exp(self.level) * cumulative_hazard(survival) ** self.spread)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"method": self.method, "level": self.level, "spread": self.spread}


def fit_survival_calibrator(hazard: np.ndarray, event: np.ndarray, method: str) -> SurvivalCalibrator:
    r"""Fit one method by the likelihood of censored patients.

    A patient's predicted cumulative hazard at the own time is a time by which the event comes at a rate of 1 where the
    model is calibrated (Cox and Snell, 1968; Crowson et al., Stat Methods Med Res 2016). Level and spread are scale
    and shape of a Weibull distribution of it:

    .. math:: \ell = \sum_i \delta_i (a + \log b + (b - 1) \log H_i) - e^a H_i^b

    Args:
        hazard: Predicted cumulative hazard of each patient at the own time, at least 0 [N].
        event: Whether the event was observed then [N].
        method: One of `METHODS`.

    Raises:
        DataError: if lengths differ, the method is not known, or there is no event.
    """
    hazard, event = np.asarray(hazard, dtype=np.float64), np.asarray(event, dtype=bool)
    if method not in METHODS:
        raise DataError(f"Calibration by {method!r} was asked for; expected one of {', '.join(METHODS)}.")
    if hazard.shape != event.shape or not np.isfinite(hazard).all() or (hazard < 0).any():
        raise DataError(f"Hazards {hazard.shape} and events {event.shape} must match, finite and not below 0.")
    if method == NONE:
        return SurvivalCalibrator()
    if not event.any():
        raise DataError("Curves of patients without an event were to be calibrated; expected at least one event.")
    if method == LEVEL:
        return SurvivalCalibrator(float(np.log(event.sum() / max(hazard.sum(), _FLOOR))), 1.0, LEVEL)
    logs, events = np.log(np.maximum(hazard, _FLOOR)), int(event.sum())

    def loss(exponent: np.ndarray) -> float:
        spread = float(np.exp(exponent[0]))
        # The best level of a spread has a closed form.
        level = np.log(events) - np.logaddexp.reduce(spread * logs)
        return -float(events * (level + np.log(spread)) + (spread - 1) * logs[event].sum())

    found = minimize(loss, np.zeros(1), method="L-BFGS-B", bounds=[(-_STEEPEST, _STEEPEST)])
    spread = float(np.exp(found.x[0]))
    return SurvivalCalibrator(float(np.log(events) - np.logaddexp.reduce(spread * logs)), spread, LINE)


def horizon_losses(
    time_months: np.ndarray, event: np.ndarray, survival: np.ndarray, horizons: Sequence[float] = HORIZONS_MONTHS
) -> np.ndarray:
    """Log loss of each patient at fixed times, censoring weighted away (inverse probability, Graf et al., 1999).

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        survival: Predicted probability of surviving each time [N, T]; times of which some are not known are left out.
        horizons: Times [T].

    Returns:
        float64 [N], the mean over the times that follow-up and curves reach; 0 throughout where there are none.
    """
    n, total, count = len(time_months), np.zeros(len(time_months)), 0
    at = np.append(just_before(time_months), horizons)
    free = np.maximum(censoring_survival(FollowUp(time_months, event), at, np.ones((1, n)))[0], _FLOOR)
    for number, horizon in enumerate(horizons):
        kept = np.clip(survival[:, number], _FLOOR, 1 - _FLOOR)
        outlived, died = time_months > horizon, event & (time_months <= horizon)
        if not np.isfinite(kept).all() or not outlived.any():
            continue
        total += np.where(died, -np.log1p(-kept) / free[:n], 0.0)
        total += np.where(outlived, -np.log(kept) / free[n + number], 0.0)
        count += 1
    return total / max(count, 1)


@dataclass(frozen=True)
class ChosenSurvival:
    """The calibrator that cross-validation chose.

    Args:
        calibrator: Fitted on all patients that were given.
        loss: Mean weighted log loss of left-out patients by method.
        n: Patients.
        events: Events among them.
    """

    calibrator: SurvivalCalibrator
    loss: Mapping[str, float]
    n: int
    events: int


def choose_survival_calibrator(
    time_months: np.ndarray, event: np.ndarray, hazard: np.ndarray, survival: np.ndarray, seed: int = 0
) -> ChosenSurvival:
    """The simplest method whose weighted log loss at 12, 36 and 60 months is within a standard error of the least.

    Repeated cross-validation, folds alike in events; as `choose_calibrator` of classes.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        hazard: As of `fit_survival_calibrator`.
        survival: Predicted probability of surviving `HORIZONS_MONTHS` [N, 3]; NaN where a curve ends before.
        seed: Seed of the folds.

    Returns:
        The calibrator; with fewer than `FEWEST_EVENTS` events curves stay as they are.
    """
    n, events = len(time_months), int(event.sum())
    if events < FEWEST_EVENTS or n - events < FOLDS:
        return ChosenSurvival(SurvivalCalibrator(), {}, n, events)
    method, loss = choose_method(
        METHODS,
        lambda rows, method: fit_survival_calibrator(hazard[rows], event[rows], method),
        survival,
        event,
        lambda found: horizon_losses(time_months, event, found),
        seed,
    )
    return ChosenSurvival(fit_survival_calibrator(hazard, event, method), loss, n, events)
