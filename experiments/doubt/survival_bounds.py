"""A time that nine in ten patients outlive: conformal lower bounds of survival under censoring.

No library that is kept has them: MAPIE, crepes and torchcp know no censoring. Bounds are quantiles of the predicted
curves, and the level of the quantile is chosen by held-out patients (Candes, Lei and Ren, J R Stat Soc B 2023; Gui et
al., Biometrika 2024). Those papers know of every patient when follow-up would have ended. Of patients with an event
that is not known here: each event stands for those censored before it as well, weighted by the inverse of the
probability of not being censored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.errors import DataError
from experiments.doubt.prediction_sets import CONFIDENCE
from experiments.statistics.bootstrap import Statistic, bootstrap, ratio
from experiments.statistics.estimate import Estimate, survival_arrays
from experiments.statistics.support import Support
from experiments.statistics.weighted_survival import FollowUp, censoring_survival, censoring_weights, just_before

LEAST_FOLLOWED = 0.1
"""Least probability of not being censored up to a time that a bound may reach: later, single events weigh too much."""


@dataclass(frozen=True)
class LowerBounds:
    r"""The quantile of predicted curves below which at most one in ten held-out patients has the event.

    With :math:`s_i = 1 - \hat S(t_i | x_i)` of patients with an event and weights :math:`w_i = 1 / G(t_i-)`, the level
    is the largest :math:`\tau` with

    .. math:: \frac{1 + \sum_{i: s_i < \tau} w_i}{n + 1} \le 1 - \text{confidence}

    A patient's bound is the first time at which the predicted survival falls to :math:`1 - \tau`. Without censoring
    this is split conformal prediction, which holds for any number of exchangeable patients; with it, it holds as they
    grow in number, where censoring does not depend on the patient.

    Args:
        level: The level tau; 0 where there are too few patients to promise anything.
        last_months: Bounds later than that are set to it: follow-up says nothing of later times.
        n: Patients that it was chosen on.
        events: Events among them.
    """

    level: float
    last_months: float
    n: int
    events: int

    def __call__(self, months: np.ndarray, curves: np.ndarray) -> np.ndarray:
        """Bounds in months, float64 [N].

        Args:
            months: Rising times [T], the first 0.
            curves: Predicted survival [N, T]; NaN beyond the end of a curve.
        """
        below = curves <= 1 - self.level
        first = np.where(below.any(axis=1), below.argmax(axis=1), np.isfinite(curves).sum(axis=1) - 1)
        place = np.maximum(first, 1)
        rows = np.arange(len(curves))
        high, low = curves[rows, place - 1], curves[rows, place]
        share = np.clip(ratio(high - (1 - self.level), high - low), 0.0, 1.0)
        share = np.where(below.any(axis=1), np.nan_to_num(share, nan=1.0), 1.0)
        reached = months[place - 1] + share * (months[place] - months[place - 1])
        bound: np.ndarray = np.minimum(reached, self.last_months) * (self.level > 0)
        return bound


def fit_lower_bounds(
    time_months: np.ndarray, event: np.ndarray, survival: np.ndarray, confidence: float = CONFIDENCE
) -> LowerBounds:
    """Choose the level on patients whom the model was not trained on.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        survival: Predicted probability of surviving the own time [N]; of a time beyond the curve its last value.
        confidence: Share of patients that outlive their bound, in (0, 1).

    Raises:
        DataError: as of `survival_arrays`; if nobody is given, or the confidence is none.
    """
    time, happened, survival = survival_arrays(time_months, event, survival)
    if not len(time) or not 0 < confidence < 1:
        raise DataError(f"Bounds at {confidence:g} of {len(time)} patients were asked for; expected some, in (0, 1).")
    last, weight = _followed(time, happened)
    score = 1 - survival
    # An event after the last time breaks no bound.
    used = np.flatnonzero(happened & (time < last))
    order = used[np.argsort(score[used], kind="stable")]
    spent = (1 + np.cumsum(weight[order])) / (len(time) + 1)
    allowed = 1 - confidence
    if 1 / (len(time) + 1) > allowed + 1e-12:
        return LowerBounds(0.0, last, len(time), int(happened.sum()))
    broken = np.flatnonzero(spent > allowed + 1e-12)
    level = float(score[order[broken[0]]]) if len(broken) else 1.0
    return LowerBounds(level, last, len(time), int(happened.sum()))


def _followed(time: np.ndarray, event: np.ndarray) -> tuple[float, np.ndarray]:
    """The last time that bounds may reach, and the weights 1 / G(t-) [N]."""
    free = censoring_survival(FollowUp(time, event), just_before(time), np.ones((1, len(time))))[0]
    reached = time[free >= LEAST_FOLLOWED]
    last = float(reached.max()) if len(reached) else 0.0
    return last, np.where(free > 0, 1 / np.maximum(free, LEAST_FOLLOWED), 0.0)


def bound_coverage(time_months: np.ndarray, event: np.ndarray, bound: np.ndarray, replicates: int = 2000) -> Estimate:
    """`outlived` with its interval over patients.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        bound: Bounds in months [N].
        replicates: Replicates of the bootstrap.

    Returns:
        The estimate, with n and the events before a bound.
    """
    found = bootstrap(outlived(time_months, event, bound), len(bound), replicates)[0]
    return found._replace(events=int((event & (time_months < bound)).sum()))


def outlived(time_months: np.ndarray, event: np.ndarray, bound: np.ndarray) -> Statistic:
    """Share of patients that outlive their bounds as a statistic of weighted patients.

    Censoring is weighted away by Kaplan-Meier of the same patients, anew in each replicate.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        bound: Bounds in months [N].
    """
    time, happened, bound = survival_arrays(time_months, event, bound)
    group, broken = FollowUp(time, happened), happened & (time < bound)

    def statistic(weights: np.ndarray) -> np.ndarray:
        lost = (weights[:, broken] * censoring_weights(group, just_before(time[broken]), weights)).sum(axis=1)
        return np.asarray(np.clip(1 - ratio(lost, weights.sum(axis=1)), 0.0, 1.0))

    return Statistic(statistic, Support(0.0, 1.0, len(time)))
