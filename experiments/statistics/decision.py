"""Decision curves: what acting on a prediction is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from experiments.statistics.bootstrap import patient_weights, percentile_interval, weighted_means
from experiments.statistics.estimate import probabilities

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
        Columns threshold, net_benefit, low, high (percentile interval), treat_all, treat_none, advantage,
        advantage_low, advantage_high (over the better of treating all and treating nobody), n, events.

    Raises:
        DataError: if lengths differ, there is no patient, or a probability or threshold is out of range.
    """
    target, probability = probabilities(target, probability)
    n, positives = len(target), int(target.sum())
    chosen = np.asarray(list(thresholds), dtype=np.float64)
    outside = chosen[~((chosen > 0) & (chosen < 1))]
    if len(outside) or not n:
        raise DataError(f"Thresholds {outside.tolist()} for {n} patients; expected patients, and more than 0, below 1.")
    worth = np.where(target[:, None], 1.0, -chosen / (1 - chosen))
    acted = worth * (probability[:, None] >= chosen)
    ones = np.ones((1, n))
    weights = patient_weights(n, replicates, seed)
    benefits, everyone = weighted_means(acted, weights), weighted_means(worth, weights)
    value, treat_all = weighted_means(acted, ones)[0], weighted_means(worth, ones)[0]
    rows = []
    for number, threshold in enumerate(chosen):
        benefit = percentile_interval(value[number], benefits[:, number])
        advantage = percentile_interval(
            value[number] - max(treat_all[number], 0.0), benefits[:, number] - np.maximum(everyone[:, number], 0)
        )
        rows.append(
            {
                "threshold": float(threshold),
                "net_benefit": float(benefit.value),
                "low": benefit.low,
                "high": benefit.high,
                "treat_all": float(treat_all[number]),
                "treat_none": 0.0,
                "advantage": float(advantage.value),
                "advantage_low": advantage.low,
                "advantage_high": advantage.high,
                "n": n,
                "events": positives,
            }
        )
    return pd.DataFrame(rows)
