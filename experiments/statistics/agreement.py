"""Agreement of predicted and true grades."""

from __future__ import annotations

import numpy as np

from experiments.statistics.bootstrap import Statistic


def quadratic_kappa(target: np.ndarray, predicted: np.ndarray, classes: int) -> Statistic:
    """Cohen's kappa with quadratic weights (Cohen, Psychological Bulletin 1968) as a statistic of weighted patients.

    The value is that of scikit-learn's `cohen_kappa_score(weights="quadratic")`.

    Args:
        target: Class indices in their order [N].
        predicted: Class indices [N].
        classes: Number of classes.

    Returns:
        Maps weights [R, N] to float64 [R]; NaN where everybody is in one class and predicted to be.
    """
    cell = np.asarray(target) * classes + np.asarray(predicted)
    grade = np.arange(classes)
    penalty = np.square(grade[:, None] - grade[None]).astype(np.float64)
    in_cell = np.eye(classes * classes)[cell]

    def statistic(weights: np.ndarray) -> np.ndarray:
        table = (np.asarray(weights, dtype=np.float64) @ in_cell).reshape(-1, classes, classes)
        chance = table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None] / table.sum(axis=(1, 2))[:, None, None]
        expected = (penalty * chance).sum(axis=(1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(expected > 0, 1 - (penalty * table).sum(axis=(1, 2)) / expected, np.nan)

    return statistic
