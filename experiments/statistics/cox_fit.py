"""The maximum of a Cox model's likelihood, checked after the fit: the one fit of every Cox model of the suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import qr
from scipy.optimize import brentq
from scipy.stats import chi2

from datamodules.errors import DataError
from experiments.statistics.partial_likelihood import (
    FirthLikelihood,
    Maximum,
    PartialLikelihood,
    ascend,
    ascend_quasi,
    newton_step,
)
from experiments.statistics.separation import separating_direction

_FARTHEST_ERROR = 100.0
"""Standard error, per standard deviation of a covariate, beyond which it is asked whether there is a maximum.

Towards infinity the information vanishes: where the likelihood has settled standard errors are 10,000 and more.
"""
_FLAT = 1e-12
_FINE = 1e-20  # Newton decrement at the limit of rounding


class NoMaximumError(DataError):
    """A partial likelihood without a maximum: a covariate separates the events from the other patients."""

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class NotConvergedError(DataError):
    """A fit that did not reach the maximum although there is one."""


class CoxFit(NamedTuple):
    """A fitted Cox model.

    Args:
        coefficient: Log hazard ratios per unit of each covariate [P].
        covariance: Inverse of the observed information, with the penalty [P, P].
        log_likelihood: At the coefficients, with the penalty.
        null_log_likelihood: With all coefficients 0.
        likelihood: What was maximised, by standardised covariates.
        scale: Standard deviation of each covariate [P].
    """

    coefficient: np.ndarray
    covariance: np.ndarray
    log_likelihood: float
    null_log_likelihood: float
    likelihood: PartialLikelihood
    scale: np.ndarray

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error of each coefficient [P]."""
        return np.sqrt(np.diag(self.covariance))

    def predict(self, design: np.ndarray) -> np.ndarray:
        """Log-risk of patients [N], up to a constant."""
        return np.asarray(np.asarray(design, dtype=np.float64) @ self.coefficient)


class FirthFit(NamedTuple):
    """A Cox model fitted by Firth's penalised likelihood.

    Args:
        coefficient: Log hazard ratios per unit of each covariate [P].
        covariance: Inverse of the observed information without the penalty [P, P].
        low: Lower ends of the 95 % profile-likelihood intervals of the coefficients [P].
        high: Upper ends [P].
        p: Of the penalised likelihood-ratio test of each coefficient [P].
        log_likelihood: Penalised, at the coefficients.
        null_log_likelihood: Penalised, with all coefficients 0.
    """

    coefficient: np.ndarray
    covariance: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    log_likelihood: float
    null_log_likelihood: float


def fit_cox(
    design: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    penalty: float = 0.0,
    names: Sequence[str] | None = None,
) -> CoxFit:
    r"""Maximise Cox's partial likelihood (Cox, J R Stat Soc B 1972) with Efron's ties by damped Newton steps.

    .. math:: \ell(\beta) - \tfrac\alpha2 \lVert\beta\rVert^2

    Args:
        design: Covariates [N, P].
        time: Time to event or censoring [N].
        event: Whether the event was observed [N].
        penalty: Ridge penalty alpha; 0 for the plain model.
        names: Names of the covariates, for errors.

    Returns:
        The fit. At it the gradient is 0 to rounding, the information is positive definite, and the likelihood is not
        below that of the null model.

    Raises:
        DataError: if there is no event, a covariate is not finite, the same for all patients or all at risk, or follows
            from others; with a penalty only the first two.
        NoMaximumError: if the likelihood rises for ever along some combination of covariates.
        NotConvergedError: if it has a maximum that was not reached.
    """
    standard, scale, called = _standardised(design, time, event, penalty, names)
    event = np.asarray(event).astype(bool)
    likelihood = PartialLikelihood(standard, time, event, penalty / np.square(scale))
    null = likelihood.terms(np.zeros(len(scale)))
    if not penalty:
        _check_information(null.information, called)
    found = ascend(likelihood, np.zeros(len(scale)))
    if not penalty and not (found.settled and _largest_error(found) < _FARTHEST_ERROR):
        refuse_separation(standard, time, event, called)
        # It has a maximum, however far away: on until steps are at the limit of rounding.
        found = ascend(likelihood, found.point, settled=_FINE)
    _verify(found, null.value, len(time))
    inverse = np.linalg.inv(found.terms.information) / np.outer(scale, scale)
    return CoxFit(found.point / scale, inverse, found.terms.value, null.value, likelihood, scale)


def fit_firth(
    design: np.ndarray, time: np.ndarray, event: np.ndarray, names: Sequence[str] | None = None, level: float = 0.95
) -> FirthFit:
    """Maximise Firth's penalised partial likelihood, which has a maximum where covariates separate the events too.

    Intervals and p values are of the profile of the penalised likelihood (Heinze and Schemper, Biometrics 2001), since
    Wald's are too short on the side to which the likelihood is flat.

    Args:
        design: Covariates [N, P].
        time: Time to event or censoring [N].
        event: Whether the event was observed [N].
        names: Names of the covariates, for errors.
        level: Confidence level.

    Raises:
        DataError: as of `fit_cox`.
        NotConvergedError: if the maximum or the end of an interval was not reached.
    """
    standard, scale, called = _standardised(design, time, event, 0.0, names)
    plain = PartialLikelihood(standard, time, np.asarray(event).astype(bool))
    origin = np.zeros(len(scale))
    _check_information(plain.terms(origin).information, called)
    likelihood = FirthLikelihood(plain)
    null = likelihood.value(origin)
    best = ascend_quasi(likelihood, origin)
    _verify(best, null, len(time))
    low, high, p = (np.empty(len(scale)) for _ in range(3))
    for place in range(len(scale)):
        without = _profile(likelihood, best.point, place, 0.0)[0]
        p[place] = chi2.sf(max(0.0, 2 * (best.terms.value - without)), 1)
        low[place], high[place] = (_end(likelihood, best, place, side, level) for side in (-1, 1))
    covariance = np.linalg.inv(best.terms.information) / np.outer(scale, scale)
    return FirthFit(best.point / scale, covariance, low / scale, high / scale, p, best.terms.value, null)


def refuse_separation(standard: np.ndarray, time: np.ndarray, event: np.ndarray, names: Sequence[str]) -> None:
    """Refuse standardised covariates along which the likelihood has no maximum.

    Raises:
        NoMaximumError: with the covariates that separate, alone where one does.
    """
    direction = separating_direction(standard, time, event)
    if direction is None:
        return
    together = np.flatnonzero(np.abs(direction) > 1e-6)
    alone = [int(place) for place in together if separating_direction(standard[:, [place]], time, event) is not None]
    called = [names[place] for place in alone or together.tolist()]
    raise NoMaximumError(_separated(called, [standard[:, place] for place in alone], event), called)


def _separated(called: Sequence[str], alone: Sequence[np.ndarray], event: np.ndarray) -> str:
    events = int(event.sum())
    if len(alone) == 1 and len(np.unique(alone[0])) == 2:
        for upper in (True, False):
            members = (alone[0] == alone[0].max()) == upper
            if not event[members].any():
                which = "with" if upper else "without"
                return (
                    f"No event among the {int(members.sum())} patients {which} {called[0]}, {events} among the others: "
                    "its hazard ratio is not finite; merge levels, leave it out, or use Firth's likelihood."
                )
    verb = "separates" if len(called) == 1 else "together separate"
    return (
        f"The Cox likelihood has no maximum: {', '.join(called)} {verb} the {events} events from the other patients; "
        "merge levels, leave covariates out, or use Firth's likelihood."
    )


def _standardised(
    design: np.ndarray, time: np.ndarray, event: np.ndarray, penalty: float, names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """Covariates about 0 and of unit spread, that spread, and their names; refused where no model can be fitted."""
    design = np.asarray(design, dtype=np.float64)
    names = [f"column {number}" for number in range(design.shape[1])] if names is None else names
    if not np.any(event):
        raise DataError(f"None of {len(time)} patients had an event; a Cox regression needs some.")
    if not np.isfinite(design).all():
        bad = [name for name, column in zip(names, design.T, strict=True) if not np.isfinite(column).all()]
        raise DataError(f"Covariate {', '.join(bad)} holds missing or infinite values; expected finite numbers.")
    centred = design - design.mean(axis=0)
    scale = centred.std(axis=0)
    if penalty:
        return centred / np.where(scale > 0, scale, 1.0), np.where(scale > 0, scale, 1.0), names
    for name, column in zip(names, design.T, strict=True):
        if np.ptp(column) == 0:
            raise DataError(f"Covariate {name} is the same for all {len(column)} patients; leave it out.")
    standard = centred / scale
    triangle, pivots = qr(standard, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    kept = int((diagonal > 1e-8 * diagonal[0]).sum())
    if kept < design.shape[1]:
        _refuse_redundant([names[place] for place in pivots[kept:]], f"in {len(design)} patients")
    return standard, scale, names


def _check_information(information: np.ndarray, names: Sequence[str]) -> None:
    """Refuse covariates that do not vary, or not apart from others, among the patients at risk at an event."""
    values, vectors = np.linalg.eigh(information)
    if values[0] > _FLAT * max(1.0, values[-1]):
        return
    _refuse_redundant([names[int(np.abs(vectors[:, 0]).argmax())]], "among the patients at risk at an event")


def _refuse_redundant(names: Sequence[str], where: str) -> None:
    raise DataError(
        f"Covariate {', '.join(names)} follows from the others {where}, so that their hazard ratios cannot be told "
        "apart; leave one of them out."
    )


def _largest_error(found: Maximum) -> float:
    """Largest standard error; infinite where the information is not positive definite."""
    values, vectors = np.linalg.eigh(found.terms.information)
    return float(np.sqrt((np.square(vectors) / values).sum(axis=1).max())) if values[0] > 0 else np.inf


def _verify(found: Maximum, null: float, n: int) -> None:
    """Refuse what is no maximum: a gradient left, a likelihood below the null model's, information not positive."""
    step = newton_step(found.terms, np.ones(len(found.point), dtype=bool))
    left = np.inf if step is None else float(found.terms.gradient @ step)
    if found.settled and left <= 1e-10 and found.terms.value >= null - 1e-9 * (1 + abs(null)):
        return
    raise NotConvergedError(
        f"The Cox model of {n} patients did not converge: log-likelihood {found.terms.value:.4f} (null model "
        f"{null:.4f}), {left:.2g} still to gain; expected a maximum. Leave out covariates or rescale extreme values."
    )


def _profile(likelihood: FirthLikelihood, start: np.ndarray, place: int, fixed: float) -> tuple[float, np.ndarray]:
    """The likelihood with one coefficient fixed and the others at their best, and these [P]."""
    point, free = start.copy(), np.arange(len(start)) != place
    point[place] = fixed
    if not np.isfinite(likelihood.value(point)):
        return -np.inf, start
    if not free.any():
        return likelihood.value(point), point
    found = ascend_quasi(likelihood, point, free)
    if not found.settled:
        raise NotConvergedError("A profile of Firth's likelihood did not converge; leave out covariates.")
    return found.terms.value, found.point


def _end(likelihood: FirthLikelihood, best: Maximum, place: int, side: int, level: float) -> float:
    """Where the profile has fallen by half the quantile of chi-squared."""
    floor = best.terms.value - chi2.ppf(level, 1) / 2
    error = float(np.sqrt(np.linalg.inv(best.terms.information)[place, place]))
    others = best.point

    def above(value: float) -> float:
        nonlocal others  # from where the last search ended, which is near
        height, others = _profile(likelihood, others, place, value)
        return max(height - floor, -100.0)  # finite, for the search

    near = float(best.point[place])
    far = near + side * error
    for _ in range(60):
        inside = others
        if above(far) < 0:
            others = inside  # beyond the end they may have run to where the likelihood is no number
            if above(near) < 0:
                break
            return float(brentq(above, near, far, xtol=1e-12 * max(1.0, abs(far)), rtol=1e-14))
        near, far = far, far + 1.5 * (far - near)
    raise NotConvergedError("The end of a profile of Firth's likelihood was not found; leave out covariates.")
