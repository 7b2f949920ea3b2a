"""Intervals where resampling cannot vary: an exact or score interval stands in the place of one without width.

A bootstrap only knows patients like those that were seen. Where all of them say the same, such as an AUC of 1, 12 of 12
or two systems that agree on everybody, every replicate does too, and its percentiles would claim that nothing is left
to know. Each statistic therefore carries its `Support`: what it can be, and how many independent units showed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, norm

from experiments.statistics.proportions import CLOPPER_PEARSON, LEVEL, unvaried_ends
from experiments.statistics.strata import strata_members

DELONG, WILSON, WALD, GREENWOOD = "DeLong", "Wilson", "Wald", "log-log Greenwood"
NEWCOMBE, ORDER, BETA_PRODUCT = "Newcombe", "order statistics", "beta product"
STANDS_IN = (CLOPPER_PEARSON, NEWCOMBE, ORDER, BETA_PRODUCT)
"""Methods that stand in where resampling cannot vary, or widen an AUC's interval that reaches 0 or 1."""
MARK = "\N{DAGGER}"
"""Stands behind an interval of such a method."""
MARKED = (
    f"{MARK} nothing varies among the patients, or the interval reaches 0 or 1: Newcombe's score interval of an AUC, "
    "order statistics of a median, the beta product of a survival of 0, or else Clopper and Pearson's."
)


class Interval(NamedTuple):
    """Ends of a 95 % interval and the name of its method; NaN, and the reason, where there is none."""

    low: float
    high: float
    method: str


def no_interval(reason: str) -> Interval:
    """No interval, and why."""
    return Interval(float("nan"), float("nan"), f"none: {reason}")


def mark(method: object) -> str:
    """The mark of an interval by a method that stands in; empty for others."""
    return MARK if any(name in str(method) for name in STANDS_IN) else ""


@dataclass(frozen=True)
class Support:
    """What a statistic can be, and how many independent units it rests on.

    Its interval where it is the same in every replicate is that of `unvaried_ends`. Pairs of patients, as of a C-index,
    are units where they share no patient.

    Args:
        lowest: Least possible value.
        highest: Greatest possible value; infinite where there is none.
        units: Independent units: patients, or pairs that share no patient.
    """

    lowest: float
    highest: float
    units: int

    def interval(self, value: float) -> Interval:
        """The interval of a value that is the same in every replicate."""
        if self.units < 1:
            return no_interval("it rests on no patient")
        if not np.isfinite([self.lowest, self.highest]).all():
            return no_interval("nothing varies, and its values have no known range")
        return Interval(*unvaried_ends(value, self.lowest, self.highest, self.units), CLOPPER_PEARSON)

    def widened(self, value: float, low: float, high: float, method: str) -> Interval:
        """An interval that resampling or a normal approximation gave, where it can be taken as it is."""
        return Interval(low, high, method)

    def minus(self, other: Support) -> Support:
        """Support of the difference to another statistic of the same patients."""
        return Support(self.lowest - other.highest, self.highest - other.lowest, min(self.units, other.units))

    def times(self, factor: float) -> Support:
        """Support of the statistic times a number above 0."""
        return Support(self.lowest * factor, self.highest * factor, self.units)


def share_support(patients: int) -> Support:
    """Support of a mean of numbers in [0, 1], such as a share of patients or of their kidneys."""
    return Support(0.0, 1.0, patients)


@dataclass(frozen=True)
class PairSupport(Support):
    """Support of an AUC.

    Args:
        classes: Positives and negatives of every stratum that has both.
    """

    classes: tuple[tuple[int, int], ...] = ()

    def interval(self, value: float) -> Interval:
        """Newcombe's score interval."""
        if not self.classes:
            return no_interval("one class only")
        return newcombe(value, self.classes)

    def widened(self, value: float, low: float, high: float, method: str) -> Interval:
        """The interval, or where it reaches 0 or 1 that and Newcombe's together.

        There the sampling of an AUC is skew, and intervals by DeLong or bootstrap hold the truth too rarely: an AUC of
        0.98 of 30 and 60 patients in 72 to 85 % of samples rather than 95 %, and both together in 98 % or more.
        """
        if low > 0 and high < 1:
            return Interval(low, high, method)
        score = newcombe(value, self.classes)
        return Interval(min(max(0.0, low), score.low), max(min(1.0, high), score.high), f"{method}, {NEWCOMBE}")


def auroc_support(target: np.ndarray, strata: np.ndarray | None = None, owner: np.ndarray | None = None) -> PairSupport:
    """Support of an AUC, within strata where they are given.

    Args:
        target: bool [N], the positives.
        strata: Stratum of each sample [N]; only pairs within one are compared.
        owner: Patient of each sample [N], where a patient has several; patients are counted then, one of both classes
            in both.
    """
    target = np.asarray(target, dtype=bool)
    people = np.arange(len(target)) if owner is None else np.asarray(owner)
    counts = []
    for members in strata_members(strata, len(target)):
        ups, downs = (len(np.unique(people[members][target[members] == side])) for side in (True, False))
        if ups and downs:
            counts.append((ups, downs))
    return PairSupport(0.0, 1.0, sum(min(pair) for pair in counts), tuple(counts))


def newcombe(value: float, classes: Sequence[tuple[int, int]]) -> Interval:
    r"""Score interval of an AUC (Newcombe, Statistics in Medicine 2006; 25: 559-573, method 5).

    The values that are no further from the estimate than 1.96 of their own standard errors,

    .. math:: V(\theta) = \frac{\theta (1 - \theta)}{m n}
        \left[1 + N \frac{1 - \theta}{2 - \theta} + N \frac{\theta}{1 + \theta}\right], \quad N = \frac{m + n}{2} - 1.

    Of several strata the AUC is their mean weighted by pairs, and V follows from theirs. It takes the scores of both
    classes for about equally spread: a small part of a class that is ranked quite otherwise may go unseen.

    Args:
        value: The AUC.
        classes: Positives and negatives of every stratum, at least one of each.
    """
    ups, downs = np.array(classes, dtype=np.float64).T
    share = ups * downs / (ups * downs).sum()
    spread = float(norm.ppf(0.5 + LEVEL / 2))

    def lower(estimate: float) -> float:
        def beyond(theta: float) -> float:
            terms = ((ups + downs) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
            variance = theta * (1 - theta) * (1 + terms) / (ups * downs)
            return estimate - theta - spread * float(np.sqrt((share**2 * variance).sum()))

        # An estimate of 1 is a root of its own, which is not the one that is sought.
        return float(brentq(beyond, 0.0, estimate - 1e-9, xtol=1e-12)) if estimate > 1e-9 else 0.0

    return Interval(lower(value), 1 - lower(1 - value), NEWCOMBE)


@dataclass(frozen=True)
class MeanSupport(Support):
    """Support of the mean of several statistics of the same patients, such as the AUCs of several classes.

    The ends of its interval are the means of theirs, as if they all erred alike.

    Args:
        parts: Support of each.
    """

    parts: tuple[Support, ...] = ()

    def interval(self, value: float) -> Interval:
        """The mean of the intervals of the parts; none where a part has none."""
        found = [part.interval(value) for part in self.parts]
        missing = [part for part in found if np.isnan(part.low)]
        if missing or not found:
            return missing[0] if missing else no_interval("it is the mean of nothing")
        return Interval(
            float(np.mean([part.low for part in found])), float(np.mean([part.high for part in found])), found[0].method
        )


def mean_support(parts: Sequence[Support]) -> Support:
    """Support of the mean of several statistics; of several with one support that, as of the seeds of a model."""
    if len(set(parts)) == 1:
        return parts[0]
    lowest, highest = (float(np.mean([getattr(part, end) for part in parts])) for end in ("lowest", "highest"))
    return MeanSupport(lowest, highest, min((part.units for part in parts), default=0), tuple(parts))


@dataclass(frozen=True)
class MedianSupport(Support):
    """Support of a median.

    Args:
        ordered: One value a unit, in rising order.
    """

    ordered: tuple[float, ...] = ()

    def interval(self, value: float) -> Interval:
        """Order statistics (Thompson, Annals of Mathematical Statistics 1936).

        The k-th least and the k-th greatest value, k - 1 being the largest number that a binomial of one half stays at
        or below with a chance of at most 2.5 %. Below six units there is none, and the ends are those of the range. An
        interval without width is right here where the same value was seen of most units.
        """
        if self.units < 1:
            return no_interval("it rests on no patient")
        place = int(binom.ppf((1 - LEVEL) / 2, self.units, 0.5))
        place -= binom.cdf(place, self.units, 0.5) > (1 - LEVEL) / 2
        if place < 0:
            return Interval(self.lowest, self.highest, ORDER)
        return Interval(self.ordered[place], self.ordered[-1 - place], ORDER)


@dataclass(frozen=True)
class DiceSupport(Support):
    """Support of an F1, which is 2J / (1 + J) of the share J of right answers among those right, false or missed."""

    def interval(self, value: float) -> Interval:
        """Clopper and Pearson's of J, carried over."""
        found = Support.interval(self, value / (2 - value))
        return found._replace(low=2 * found.low / (1 + found.low), high=2 * found.high / (1 + found.high))


@dataclass(frozen=True)
class KappaSupport(Support):
    """Support of a kappa.

    Its least possible value is that of the greatest disagreement for everybody, at the disagreement that is expected by
    chance; ends of intervals stop at -1.
    """

    def interval(self, value: float) -> Interval:
        """As of any support, from -1 on."""
        found = super().interval(value)
        return found._replace(low=max(-1.0, found.low))
