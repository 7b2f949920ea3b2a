"""Thresholds chosen on validation patients, and what a test reaches at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from datamodules.errors import DataError
from experiments.statistics.estimate import Estimate, binary_arrays, undefined
from experiments.statistics.support import WILSON


def youden_threshold(target: np.ndarray, score: np.ndarray) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden, Cancer 1950), for validation patients.

    Args:
        target: 0 or 1 of the validation patients [N].
        score: Higher means positive [N].

    Returns:
        A score; patients with this score or more are called positive. Of equal thresholds the highest.

    Raises:
        DataError: if a class has no patient, since no threshold can then be chosen.
    """
    false_positive, sensitivity, thresholds = _curve(target, score)
    return float(thresholds[1:][np.argmax((sensitivity - false_positive)[1:])])


def _curve(target: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target, score = binary_arrays(target, score)
    if target.all() or not target.any():
        raise DataError(
            f"A threshold needs both classes, but {int(target.sum())} of {len(target)} validation patients are "
            "positive; use a larger validation set."
        )
    return roc_curve(target, score, drop_intermediate=False)


@dataclass(frozen=True)
class OperatingPoint:
    """Patients above and below a threshold, and the shares that follow from them.

    Args:
        threshold: Patients with this score or more are called positive.
        true_positives: Positives called so.
        false_positives: Negatives called positive.
        true_negatives: Negatives called so.
        false_negatives: Positives called negative.
        estimates: sensitivity, specificity, ppv, npv, accuracy (Wilson intervals) and f1 (that of the share of right
            among all right, false and missed positives, of which it is a function), each with all patients as n and the
            positives as events; undefined where the share is of nobody.
    """

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    estimates: dict[str, Estimate]


def wilson(successes: int, trials: int, n: int | None = None, events: int | None = None) -> Estimate:
    """A share with its 95 % interval (Wilson, JASA 1927); undefined of no trials.

    Args:
        successes: Successes.
        trials: Trials.
        n: Carried with the estimate; the trials by default.
        events: Carried with the estimate; the successes by default.
    """
    n, events = trials if n is None else n, successes if events is None else events
    if not trials:
        return undefined(n, events, "a share of nobody")
    interval = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high), n, events, WILSON)


def operating_point(target: np.ndarray, score: np.ndarray, threshold: float) -> OperatingPoint:
    """What a test reaches at a threshold that was chosen on other patients.

    Args:
        target: 0 or 1 of the tested patients [N].
        score: Higher means positive [N].
        threshold: From `youden_threshold` of the validation patients.

    Raises:
        DataError: if the arrays differ in length, a score is not finite, or nobody is tested.
    """
    target, score = binary_arrays(target, score)
    if not len(target):
        raise DataError("An operating point of no patients was asked for; expected at least one.")
    called = score >= threshold
    n, positives = len(target), int(target.sum())
    hits, false_alarms = int((called & target).sum()), int((called & ~target).sum())
    misses, rejections = positives - hits, n - positives - false_alarms
    shares = {
        "sensitivity": (hits, positives),
        "specificity": (rejections, n - positives),
        "ppv": (hits, hits + false_alarms),
        "npv": (rejections, rejections + misses),
        "accuracy": (hits + rejections, n),
    }
    estimates = {name: wilson(part, whole, n, positives) for name, (part, whole) in shares.items()}
    jaccard = wilson(hits, hits + false_alarms + misses, n, positives)
    value, low, high = (2 * end / (1 + end) for end in jaccard[:3])
    estimates["f1"] = jaccard._replace(value=value, low=low, high=high)
    return OperatingPoint(float(threshold), hits, false_alarms, rejections, misses, estimates)
