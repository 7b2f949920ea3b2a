"""Cox's partial likelihood with Efron's ties, plain, with a ridge penalty or with Firth's, and its maximum."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

SETTLED = 1e-12
"""Newton decrement, a change of log-likelihood, below which one more full step is exact to rounding."""

_SETTLED_QUASI = 1e-18  # of steps whose errors shrink faster than linearly but not as squares
_ROUNDED = 1e-10  # what counts as reached where the information is so near singular that rounding allows no better
_STEPS, _HALVINGS = 200, 40
_FARTHEST = 500.0  # of two linear predictors, beyond which exponentials lose the smaller
_CHUNK = 1 << 22  # probabilities that are held at a time


class LikelihoodTerms(NamedTuple):
    """A log-likelihood at a point, its gradient [P] and its information [P, P]."""

    value: float
    gradient: np.ndarray
    information: np.ndarray


class LogLikelihood(Protocol):
    """What can be maximised: a log-likelihood and its derivatives at coefficients [P]."""

    def value(self, point: np.ndarray) -> float:
        """The log-likelihood; -inf where it is not finite."""

    def terms(self, point: np.ndarray) -> LikelihoodTerms:
        """Value, gradient and information."""


class RiskSets:
    r"""Who is at risk at each event, with Efron's treatment of ties (Efron, JASA 1977).

    Of d events at the same time, the l-th, l = 0 ... d - 1, has the denominator

    .. math:: \sum_{j: t_j \ge t} w_j - \frac l d \sum_{j: t_j = t, \delta_j = 1} w_j

    Arrays that go in and come out are in the order of the patients.

    Args:
        time: Time to event or censoring [N].
        event: bool [N].
    """

    def __init__(self, time: np.ndarray, event: np.ndarray) -> None:
        self.order = np.lexsort((~event, time))
        ordered = time[self.order]
        self.event = event
        self.events = np.flatnonzero(event[self.order])  # positions in the order [E]
        times, self.tie, counts = np.unique(ordered[self.events], return_inverse=True, return_counts=True)
        self.first = np.searchsorted(ordered, times)  # position of the first patient at risk [K]
        self.tie_start = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int)  # first event of a time [K]
        self.fraction = (np.arange(len(self.events)) - self.tie_start[self.tie]) / counts[self.tie]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of ordered values [N] or [N, P] over the risk set of each event, less Efron's part: [E] or [E, P]."""
        suffix = np.cumsum(values[::-1], axis=0)[::-1]
        tied = np.add.reduceat(values[self.events], self.tie_start, axis=0)
        fraction = self.fraction if values.ndim == 1 else self.fraction[:, None]
        return np.asarray(suffix[self.first][self.tie] - fraction * tied[self.tie])

    def exposure(self, rate: np.ndarray) -> np.ndarray:
        """Sum of the rates [E] of the events that each patient is at risk at, Efron's part taken off, ordered [N]."""
        jumps = np.zeros(len(self.order))
        jumps[self.first] = np.add.reduceat(rate, self.tie_start)
        total = np.cumsum(jumps)
        total[self.events] -= np.add.reduceat(self.fraction * rate, self.tie_start)[self.tie]
        return total

    def residuals(self, log_risk: np.ndarray) -> np.ndarray:
        """Martingale residuals: the gradient of the log-likelihood by each patient's log-risk [N]."""
        weight = np.exp(log_risk - log_risk.max())[self.order]
        residual = np.empty(len(self.order))
        residual[self.order] = self.event[self.order] - weight * self.exposure(1 / self.sums(weight))
        return residual


class PartialLikelihood:
    """The log partial likelihood of a Cox model, less half a ridge penalty times the squares of its departures.

    Args:
        design: Covariates, about centred and of about unit spread [N, P].
        time: Time to event or censoring [N].
        event: bool with some events [N].
        penalty: Of each coefficient [P]; 0 for none.
        centre: Coefficients [P] that departures are from.
    """

    def __init__(
        self,
        design: np.ndarray,
        time: np.ndarray,
        event: np.ndarray,
        penalty: np.ndarray | float = 0.0,
        centre: np.ndarray | float = 0.0,
    ) -> None:
        self.sets = RiskSets(time, event)
        self.design = design[self.sets.order]
        self.observed = self.design[self.sets.events].sum(axis=0)
        self.penalty = np.broadcast_to(np.asarray(penalty, dtype=np.float64), design.shape[1:])
        self.centre = np.broadcast_to(np.asarray(centre, dtype=np.float64), design.shape[1:])

    def _weights(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Relative risks in order [N], denominator of each event [E], and the log-likelihood."""
        predictor = self.design @ point
        if not np.isfinite(predictor).all() or np.ptp(predictor) > _FARTHEST:
            return predictor, predictor, -np.inf
        top = predictor.max()
        weight = np.exp(predictor - top)
        denominator = self.sets.sums(weight)
        value = predictor[self.sets.events].sum() - np.log(denominator).sum() - len(denominator) * top
        return weight, denominator, float(value - self.penalty @ np.square(point - self.centre) / 2)

    def value(self, point: np.ndarray) -> float:
        """The log-likelihood at coefficients [P]."""
        return self._weights(point)[2]

    def terms(self, point: np.ndarray) -> LikelihoodTerms:
        """Value, gradient and observed information at coefficients [P] of a finite value."""
        weight, denominator, value = self._weights(point)
        means = self.sets.sums(self.design * weight[:, None]) / denominator[:, None]
        share = weight * self.sets.exposure(1 / denominator)
        information = self.design.T @ (self.design * share[:, None]) - means.T @ means
        information[np.diag_indices_from(information)] += self.penalty
        return LikelihoodTerms(
            value, self.observed - means.sum(axis=0) - self.penalty * (point - self.centre), information
        )

    def variances(self, point: np.ndarray, multiplier: np.ndarray) -> np.ndarray:
        """Sum over events of a multiplier [E] times the variance of the covariates in the risk set [P, P]."""
        weight, denominator, _ = self._weights(point)
        means = self.sets.sums(self.design * weight[:, None]) / denominator[:, None]
        share = weight * self.sets.exposure(multiplier / denominator)
        return np.asarray(self.design.T @ (self.design * share[:, None]) - (means * multiplier[:, None]).T @ means)

    def schoenfeld(self, point: np.ndarray) -> np.ndarray:
        """Covariates of each event less their mean in its risk set, in order of time [E, P]."""
        weight, denominator, _ = self._weights(point)
        return np.asarray(
            self.design[self.sets.events] - self.sets.sums(self.design * weight[:, None]) / denominator[:, None]
        )


class FirthLikelihood:
    r"""Firth's penalised partial likelihood (Heinze and Schemper, Biometrics 2001), which always has a maximum.

    .. math:: \ell(\beta) + \tfrac12 \log |I(\beta)|

    Its gradient adds half the trace of :math:`I^{-1} \partial I / \partial\beta_r`, the third central moments of the
    covariates in the risk sets.

    Args:
        plain: The likelihood without a penalty.
    """

    def __init__(self, plain: PartialLikelihood) -> None:
        self.plain = plain

    def value(self, point: np.ndarray) -> float:
        """The penalised log-likelihood at coefficients [P]; -inf where the information is singular."""
        if not np.isfinite(self.plain.value(point)):
            return -np.inf
        terms = self.plain.terms(point)
        sign, determinant = np.linalg.slogdet(terms.information)
        return terms.value + determinant / 2 if sign > 0 else -np.inf

    def terms(self, point: np.ndarray) -> LikelihoodTerms:
        """Value, gradient, and the information of the plain likelihood."""
        terms = self.plain.terms(point)
        sign, determinant = np.linalg.slogdet(terms.information)
        if sign <= 0:
            return terms._replace(value=-np.inf)
        slope = self._skewness(point, np.linalg.inv(terms.information))
        return LikelihoodTerms(terms.value + determinant / 2, terms.gradient + slope / 2, terms.information)

    def _skewness(self, point: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        sets, design = self.plain.sets, self.plain.design
        weight, denominator, _ = self.plain._weights(point)
        ends = np.append(sets.tie_start[1:], len(sets.events))
        result = np.zeros(design.shape[1])
        step = max(1, _CHUNK // len(design))
        for begin in range(0, len(sets.events), step):
            rows = slice(begin, begin + step)
            tie = sets.tie[rows]
            positions = np.arange(len(design))
            chance = np.where(positions >= sets.first[tie][:, None], weight, 0.0)
            tied_from, tied_to = sets.events[sets.tie_start[tie]], sets.events[ends[tie] - 1]
            tied = (positions >= tied_from[:, None]) & (positions <= tied_to[:, None])
            chance *= np.where(tied, 1 - sets.fraction[rows, None], 1.0) / denominator[rows, None]
            means = chance @ design
            turned = design @ inverse
            square = (turned * design).sum(axis=1) - 2 * means @ turned.T
            square = chance * (square + (means @ inverse * means).sum(axis=1)[:, None])
            result += (square @ design).sum(axis=0) - square.sum(axis=1) @ means
        return result


class Maximum(NamedTuple):
    """Where the ascent ended: the point [P], terms there, the last step [P], and whether the likelihood had settled."""

    point: np.ndarray
    terms: LikelihoodTerms
    step: np.ndarray
    settled: bool


def ascend(
    objective: LogLikelihood, start: np.ndarray, free: np.ndarray | None = None, settled: float = SETTLED
) -> Maximum:
    """Maximise by Newton's steps, each halved until the likelihood rises (Armijo's rule).

    Args:
        objective: What to maximise.
        start: Coefficients of a finite likelihood [P].
        free: Which of them move, bool [P]; by default all.
        settled: Newton decrement at which to stop, after one more step.

    Returns:
        Where it ended; not settled where no step rises, the information is singular, or steps have run out.
    """
    free = np.ones(len(start), dtype=bool) if free is None else free
    point, step = start.astype(np.float64), np.zeros(len(start))
    terms = objective.terms(point)
    for _ in range(_STEPS):
        ahead = newton_step(terms, free)
        if ahead is None:
            return Maximum(point, terms, step, False)
        step, decrement = ahead, float(terms.gradient @ ahead)
        ready = decrement <= settled
        moved = _rise(objective.value, point, step, terms.value, decrement)
        if moved is None:
            return Maximum(point, terms, step, ready)
        point = moved
        terms = objective.terms(point)
        if ready:
            return Maximum(point, terms, step, True)
    return Maximum(point, terms, step, False)


def ascend_quasi(objective: LogLikelihood, start: np.ndarray, free: np.ndarray | None = None) -> Maximum:
    """Maximise as `ascend` does where the information is only near minus the second derivative, as Firth's is.

    The inverse of the information at the start is corrected by every step (Broyden, Fletcher, Goldfarb and Shanno).
    """
    free = np.ones(len(start), dtype=bool) if free is None else free
    point, step, decrement = start.astype(np.float64), np.zeros(len(start)), np.inf
    terms = objective.terms(point)
    inverse = np.linalg.inv(terms.information[np.ix_(free, free)])
    for _ in range(_STEPS):
        step[free] = inverse @ terms.gradient[free]
        decrement = float(terms.gradient @ step)
        ready = decrement <= _SETTLED_QUASI
        moved = _rise(objective.value, point, step, terms.value, decrement)
        if moved is None or ready:
            return Maximum(point, terms, step, decrement <= _ROUNDED)
        ahead = objective.terms(moved)
        change, bend = (moved - point)[free], (terms.gradient - ahead.gradient)[free]
        if change @ bend > 0:  # else the likelihood is not concave between the two
            scale = 1 / (change @ bend)
            turn = np.eye(len(change)) - scale * np.outer(change, bend)
            inverse = turn @ inverse @ turn.T + scale * np.outer(change, change)
        point, terms = moved, ahead
    return Maximum(point, terms, step, decrement <= _ROUNDED)


def newton_step(terms: LikelihoodTerms, free: np.ndarray) -> np.ndarray | None:
    """Newton's step of the free coefficients [P], of the others 0; None where the information is not positive."""
    step = np.zeros(len(free))
    try:
        step[free] = cho_solve(cho_factor(terms.information[np.ix_(free, free)]), terms.gradient[free])
    except LinAlgError:
        return None
    return step


def _rise(
    value: Callable[[np.ndarray], float], point: np.ndarray, step: np.ndarray, before: float, decrement: float
) -> np.ndarray | None:
    rounding = 1e-12 * (1 + abs(before))
    for halved in range(_HALVINGS):
        size = 0.5**halved
        moved = point + size * step
        if value(moved) >= before + 1e-4 * size * decrement - rounding:
            return moved
    return None
