"""Decision curves: what acting on a prediction is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from experiments.statistics.bootstrap import patient_weights, percentile_interval, weighted_means
from experiments.statistics.estimate import predicted_survival_arrays, probabilities
from experiments.statistics.horizons import known_by, usable_times
from experiments.statistics.support import Support
from experiments.statistics.weighted_survival import FollowUp, product_limit

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


def decision_curve(
    target: np.ndarray,
    probability: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    replicates: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Net benefit of treating those whose predicted probability reaches a threshold.

    .. math:: NB(p_t) = TP / n - FP / n \cdot p_t / (1 - p_t)

    After Vickers and Elkin, Medical Decision Making 2006. Treating nobody has a net benefit of 0.

    Args:
        target: 0 or 1 [N].
        probability: Predicted probability of 1 [N].
        thresholds: Threshold probabilities above 0 and below 1.
        replicates: Bootstrap replicates.
        seed: Seed.

    Returns:
        Columns threshold, net_benefit, low, high, interval (its method: bootstrap, or Clopper-Pearson where no
        replicate differs, as where nobody is treated), treat_all, treat_none, advantage, advantage_low, advantage_high,
        advantage_interval (over the better of treating all and treating nobody), n, events.

    Raises:
        DataError: if lengths differ, there is no patient, or a probability or threshold is out of range.
    """
    target, probability = probabilities(target, probability)
    chosen = _checked(thresholds, len(target))
    worth = np.where(target[:, None], 1.0, -chosen / (1 - chosen))
    acted = worth * (probability[:, None] >= chosen)
    weights = _weights(len(target), replicates, seed)
    return _table(
        chosen, weighted_means(acted, weights), weighted_means(worth, weights), len(target), int(target.sum())
    )


def survival_decision_curve(
    time_months: np.ndarray,
    event: np.ndarray,
    survival: np.ndarray,
    horizon_months: float,
    thresholds: Sequence[float] = THRESHOLDS,
    replicates: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Net benefit of treating those whose predicted probability of the event by a time reaches a threshold.

    .. math:: NB(p_t) = P(r \ge p_t) \left[1 - S_{p_t}(t) - S_{p_t}(t) \cdot p_t / (1 - p_t)\right]

    with Kaplan-Meier's estimate S among those who are treated, so that patients who are censored before count for as
    long as they were seen. After Vickers, Cronin, Elkin and Gonen, BMC Medical Informatics and Decision Making 2008.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        survival: Predicted probability of surviving the time [N].
        horizon_months: The time.
        thresholds: Threshold probabilities above 0 and below 1.
        replicates: Bootstrap replicates.
        seed: Seed.

    Returns:
        As `decision_curve`, n and events being those known by the time. Not defined where nobody among the treated is
        followed to the time and some of them are not known to have had the event by then.

    Raises:
        DataError: as of `decision_curve`; if follow-up allows no estimate at the time at all.
    """
    time, happened, survival = predicted_survival_arrays(time_months, event, survival)
    chosen = _checked(thresholds, len(time))
    if not usable_times([horizon_months], FollowUp(time, happened))[0]:
        raise DataError(
            f"A decision curve at {horizon_months:g} months was asked for; expected a time between the first event and "
            "the end of follow-up."
        )
    weights, odds = _weights(len(time), replicates, seed), chosen / (1 - chosen)
    groups = [1 - survival >= threshold for threshold in chosen]
    acted = [_benefit(time, happened, group, horizon_months, weights) for group in groups]
    everyone, kept = _benefit(time, happened, np.ones(len(time), dtype=bool), horizon_months, weights)
    benefits = np.column_stack([lost - odd * kept for odd, (lost, kept) in zip(odds, acted, strict=True)])
    treat_all = everyone[:, None] - odds * kept[:, None]
    return _table(chosen, benefits, treat_all, *known_by(time, happened, horizon_months))


def _benefit(
    time: np.ndarray, event: np.ndarray, group: np.ndarray, horizon_months: float, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of all patients who are in a group and have the event by a time, and who are in it and do not [R]."""
    if not group.any():
        return np.zeros(len(weights)), np.zeros(len(weights))
    followed, own = FollowUp(time[group], event[group]), np.compress(group, weights, axis=1)
    survived = product_limit(followed, np.array([horizon_months]), own)[:, 0]
    # A curve that ends before the time says nothing at it, unless nobody is left on it.
    if followed.time_months.max() < horizon_months and survived[0] > 0:
        survived = np.full_like(survived, np.nan)
    share = own.sum(axis=1, dtype=np.float64) / weights.sum(axis=1, dtype=np.float64)
    return share * (1 - survived), share * survived


def _checked(thresholds: Sequence[float], patients: int) -> np.ndarray:
    chosen = np.asarray(list(thresholds), dtype=np.float64)
    outside = chosen[~((chosen > 0) & (chosen < 1))]
    if len(outside) or not patients:
        raise DataError(
            f"Thresholds {outside.tolist()} for {patients} patients; expected patients, and more than 0, below 1."
        )
    return chosen


def _weights(patients: int, replicates: int, seed: int) -> np.ndarray:
    """Weights of one, and below them those of the replicates [1 + R, N]."""
    drawn = patient_weights(patients, replicates, seed)
    return np.concatenate([np.ones((1, patients), dtype=drawn.dtype), drawn])


def _table(chosen: np.ndarray, benefits: np.ndarray, treat_all: np.ndarray, n: int, events: int) -> pd.DataFrame:
    """Net benefit of acting on a prediction and of treating all [1 + R, T], the first row that of the patients."""
    advantages = benefits - np.maximum(treat_all, 0.0)
    rows = []
    for number, threshold in enumerate(chosen):
        odds = float(threshold / (1 - threshold))
        # Of one patient: a true positive is worth 1, a false one costs the odds; against another policy either way.
        benefit = percentile_interval(benefits[0, number], benefits[1:, number], Support(-odds, 1.0, n))
        either = Support(-max(1.0, odds), max(1.0, odds), n)
        advantage = percentile_interval(advantages[0, number], advantages[1:, number], either)
        rows.append(
            {
                "threshold": float(threshold),
                "net_benefit": float(benefit.value),
                "low": benefit.low,
                "high": benefit.high,
                "interval": benefit.interval,
                "treat_all": float(treat_all[0, number]),
                "treat_none": 0.0,
                "advantage": float(advantage.value),
                "advantage_low": advantage.low,
                "advantage_high": advantage.high,
                "advantage_interval": advantage.interval,
                "n": int(n),
                "events": int(events),
            }
        )
    return pd.DataFrame(rows)
