"""How many labels an encoder needs to reach the best baseline that had them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datamodules.errors import DataError


class FractionReached(NamedTuple):
    """The smallest fraction of labels that is enough; infinite stands for not reached.

    Args:
        value: By the estimates themselves.
        low: 2.5th percentile over the replicates; NaN where resampling cannot vary any metric.
        high: 97.5th percentile. It equals low where nearly all replicates agree on a step.
        reached: Share of replicates in which any fraction is enough.
        baseline: Which baseline is the best at 100 %, by the estimates.
        n: Patients that the replicates resample.
        events: Events or positives among them.
    """

    value: float
    low: float
    high: float
    reached: float
    baseline: int
    n: int | None = None
    events: int | None = None

    def sentence(self, encoder: str, baselines: Sequence[str]) -> str:
        """The result in words."""
        best = f"{baselines[self.baseline]} at 100 % of the labels"
        ends = f"95 % interval {_percent(self.low)} to {_percent(self.high)}"
        if self.low == self.high:
            ends = f"{_percent(self.low)} in 95 % of replicates or more, of the shares that were tried"
        if np.isnan(self.low):
            ends = "interval not defined: the metrics are not defined in enough replicates, or vary in none"
        counts = f"n {self.n}, events {self.events}" if self.n is not None else ""
        extra = "" if np.isnan(self.reached) else f"reached in {100 * self.reached:.0f} % of replicates"
        details = "; ".join(part for part in (ends, extra, counts) if part)
        if np.isinf(self.value):
            return f"{encoder} does not reach {best} at any fraction ({details})."
        return f"{encoder} reaches {best} with {_percent(self.value)} of them ({details})."


def smallest_fraction(
    fractions: Sequence[float],
    encoder: np.ndarray,
    encoder_replicates: np.ndarray,
    baselines: np.ndarray,
    baseline_replicates: np.ndarray,
    n: int | None = None,
    events: int | None = None,
    sustained: bool = True,
) -> FractionReached:
    """The smallest fraction at which an encoder is at least as good as the best baseline at 100 %.

    The same rule is applied to every replicate, the best baseline being chosen anew in each, so that the interval knows
    that the best was chosen. Fractions are not interpolated.

    Args:
        fractions: Fractions of the labels, increasing [F].
        encoder: Metric of the encoder at each fraction, higher is better [F].
        encoder_replicates: Its bootstrap replicates [F, R].
        baselines: Metric of each baseline with all labels [B].
        baseline_replicates: Their replicates, of the same patients in the same order of replicates [B, R].
        n: Patients, carried with the result.
        events: Events or positives, carried with the result.
        sustained: Whether all larger fractions must be at least as good too; else one lucky fraction is enough.

    Raises:
        DataError: if shapes do not match, fractions do not increase, or an estimate is not defined.
    """
    steps = np.asarray(fractions, dtype=np.float64)
    encoder, baselines = np.asarray(encoder, dtype=np.float64), np.atleast_1d(baselines).astype(np.float64)
    encoder_replicates, baseline_replicates = np.asarray(encoder_replicates), np.asarray(baseline_replicates)
    shapes = (encoder.shape, encoder_replicates.shape, baselines.shape, baseline_replicates.shape)
    count = encoder_replicates.shape[-1] if encoder_replicates.ndim == 2 else 0
    expected = ((len(steps),), (len(steps), count), (len(baselines),), (len(baselines), count))
    if not count or not len(baselines) or shapes != expected:
        raise DataError(
            f"Estimates and replicates {shapes} do not fit {len(steps)} fractions; expected [F], [F, R], [B], [B, R]."
        )
    if (np.diff(steps) <= 0).any():
        raise DataError(f"Fractions {steps.tolist()} do not increase; sort them.")
    if not (np.isfinite(encoder).all() and np.isfinite(baselines).all()):
        raise DataError("The metric of the encoder or a baseline is not defined; leave that fraction or baseline out.")
    value = _first(steps, encoder[:, None], baselines[:, None], sustained)[0]
    defined = np.isfinite(encoder_replicates).all(axis=0) & np.isfinite(baseline_replicates).all(axis=0)
    if defined.mean() < 0.9:
        return FractionReached(float(value), np.nan, np.nan, np.nan, int(baselines.argmax()), n, events)
    drawn, bases = encoder_replicates[:, defined], baseline_replicates[:, defined]
    found = _first(steps, drawn, bases, sustained)
    if not np.ptp(drawn, axis=1).any() and not np.ptp(bases, axis=1).any():
        found = np.full(1, np.nan)  # patients who are all alike say nothing of others
    low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")  # never between a fraction and infinity
    reached = float("nan") if np.isnan(found).any() else float(np.isfinite(found).mean())
    return FractionReached(float(value), float(low), float(high), reached, int(baselines.argmax()), n, events)


def _first(fractions: np.ndarray, encoder: np.ndarray, baselines: np.ndarray, sustained: bool) -> np.ndarray:
    """The smallest sufficient fraction of every column."""
    enough = encoder >= baselines.max(axis=0)
    if sustained:
        enough = np.logical_and.accumulate(enough[::-1], axis=0)[::-1]
    return np.where(enough.any(axis=0), fractions[enough.argmax(axis=0)], np.inf)


def _percent(fraction: float) -> str:
    if np.isnan(fraction):
        return "not defined"
    return "not reached" if np.isinf(fraction) else f"{100 * fraction:g} %"
