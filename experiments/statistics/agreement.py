"""Agreement of predicted and true grades."""

from __future__ import annotations

import numpy as np

from experiments.statistics.bootstrap import Statistic, ratio
from experiments.statistics.support import KappaSupport


def cohen_kappa(
    target: np.ndarray, predicted: np.ndarray, classes: int, owner: np.ndarray | None = None, *, ordered: bool = True
) -> Statistic:
    """Cohen's kappa with quadratic weights (Cohen, Psychological Bulletin 1968) as a statistic of weighted patients.

    The value is that of scikit-learn's `cohen_kappa_score(weights="quadratic")`, or without weights where classes have
    no order (Cohen, Educational and Psychological Measurement 1960).

    Args:
        target: Class indices in their order [N].
        predicted: Class indices [N].
        classes: Number of classes.
        owner: int [N], number of each row's patient, where patients have several rows.
        ordered: Whether the classes have an order.

    Returns:
        The statistic; NaN where everybody is in one class and predicted to be.
    """
    cell = np.asarray(target) * classes + np.asarray(predicted)
    grade = np.arange(classes)
    apart = np.square(grade[:, None] - grade[None])
    penalty = (apart if ordered else apart > 0).astype(np.float64)
    in_cell = np.eye(classes * classes)[cell]

    def statistic(weights: np.ndarray) -> np.ndarray:
        own = weights if owner is None else np.take(weights, owner, axis=1)
        table = (np.asarray(own, dtype=np.float64) @ in_cell).reshape(-1, classes, classes)
        chance = table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None] / table.sum(axis=(1, 2))[:, None, None]
        expected = (penalty * chance).sum(axis=(1, 2))
        return 1 - ratio((penalty * table).sum(axis=(1, 2)), expected)

    shares = [np.bincount(np.asarray(graded), minlength=classes) / max(1, len(cell)) for graded in (target, predicted)]
    lowest = 1 - float(ratio(penalty.max(initial=0.0), (penalty * np.outer(*shares)).sum()))
    return Statistic(statistic, KappaSupport(lowest, 1.0, len(cell) if owner is None else len(np.unique(owner))))
