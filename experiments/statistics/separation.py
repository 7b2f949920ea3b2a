"""Whether a Cox likelihood is monotone: some combination of covariates is never lower in who has the event."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, vstack

from experiments.statistics.partial_likelihood import RiskSets

_NOTHING = 1e-6
"""Mean lead over a risk set, in standard deviations, that is the solver's rounding and no separation."""


def separating_direction(design: np.ndarray, time: np.ndarray, event: np.ndarray) -> np.ndarray | None:
    r"""A direction along which the partial likelihood rises for ever, by linear programming (Bryson and Johnson, 1981).

    The likelihood has no maximum if and only if there is a :math:`d` with :math:`d^\top x_i \ge d^\top x_j` for all
    events i and all j at risk with them, and not always equality. Running maxima over the risk sets hold it to N rows
    instead of one for each pair.

    Args:
        design: Standardised covariates [N, P].
        time: Time to event or censoring [N].
        event: bool [N].

    Returns:
        The direction [P], between -1 and 1; None where there is none.

    Raises:
        RuntimeError: if the solver fails.
    """
    sets = RiskSets(time, event)
    x, last = design[sets.order], len(sets.first)
    # Each patient enters the maximum of the last event time that it is at risk at; earlier ones are chained to it.
    joined = np.searchsorted(sets.first, np.arange(len(x)), side="right") - 1
    seen = joined >= 0
    rows = np.flatnonzero(seen)
    member = csr_array((np.ones(len(rows)), (np.arange(len(rows)), joined[rows])), shape=(len(rows), last))
    below = hstack([csr_array(x[rows]), -member])  # d'x_j <= m_k
    chain = csr_array(
        (np.tile([1.0, -1.0], last - 1), (np.repeat(np.arange(last - 1), 2), np.ravel(_pairs(last)))),
        shape=(last - 1, last),
    )
    chained = hstack([csr_array((last - 1, x.shape[1])), chain])  # m_(k + 1) <= m_k
    tied = csr_array((np.ones(len(sets.tie)), (np.arange(len(sets.tie)), sets.tie)), shape=(len(sets.tie), last))
    above = hstack([csr_array(-x[sets.events]), tied])  # m_k <= d'x_i
    at_risk = len(x) - sets.first
    means = (np.cumsum(x[::-1], axis=0)[::-1][sets.first] / at_risk[:, None])[sets.tie]
    lead = (x[sets.events] - means).sum(axis=0)
    bounds = [(-1.0, 1.0)] * x.shape[1] + [(None, None)] * last
    bound = vstack([below, chained, above]).tocsr()
    cost = np.concatenate([-lead, np.zeros(last)])
    found = linprog(cost, A_ub=bound, b_ub=np.zeros(bound.shape[0]), bounds=bounds, method="highs")
    if not found.success:
        raise RuntimeError(f"The linear program of separation was not solved: {found.message}")
    direction = found.x[: x.shape[1]]
    return direction if -found.fun > _NOTHING * len(sets.events) else None


def _pairs(last: int) -> np.ndarray:
    return np.column_stack([np.arange(1, last), np.arange(last - 1)])
