"""Gradient boosting of shallow trees on few patients: classes, or survival by Cox's partial likelihood."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

from experiments.finetuning.cox_boosting import CoxBoosting

DEPTHS = (1, 2, 3)
TREES = (10, 25, 50, 100, 200)
_FIXED: dict[str, Any] = {"learning_rate": 0.1, "subsample": 0.8, "max_features": "sqrt", "min_samples_leaf": 3}


class ChosenTrees(NamedTuple):
    """A fitted model and how it was chosen."""

    model: Any
    depth: int
    trees: int
    validation: float


def boosted_classes(
    feature: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    validated: Callable[[np.ndarray], float],
    val_feature: np.ndarray,
    seed: int,
) -> ChosenTrees:
    """Boosting with the log loss (Friedman, Ann Stat 2001).

    Args:
        feature: Training patients [N, F].
        target: Their classes [N].
        weight: Their weights [N].
        validated: Metric of probabilities [V, C] of the validation patients, NaN where it is not defined.
        val_feature: Validation patients [V, F].
        seed: Seed of the draws of patients and features.
    """

    def fitted(depth: int, trees: int) -> GradientBoostingClassifier:
        model = GradientBoostingClassifier(n_estimators=trees, max_depth=depth, random_state=seed, **_FIXED)
        return model.fit(feature, target, sample_weight=weight)

    return _chosen(fitted, lambda model: model.staged_predict_proba(val_feature), validated, len(val_feature))


def boosted_survival(
    feature: np.ndarray,
    outcome: np.ndarray,
    validated: Callable[[np.ndarray], float],
    val_feature: np.ndarray,
    seed: int,
) -> ChosenTrees:
    """Boosting with Cox's partial likelihood (Ridgeway, Computing Science and Statistics 1999).

    Args:
        feature: Training patients [N, F].
        outcome: Fields `event` and `months` of each [N].
        validated: Metric of risks [V] of the validation patients, NaN where it is not defined.
        val_feature: Validation patients [V, F].
        seed: Seed of the draws of patients and features.
    """

    def fitted(depth: int, trees: int) -> CoxBoosting:
        return CoxBoosting(trees, depth, seed, **_FIXED).fit(feature, outcome["months"], outcome["event"])

    return _chosen(fitted, lambda model: model.staged_predict(val_feature), validated, len(val_feature))


def _chosen(
    fitted: Callable[[int, int], Any],
    staged: Callable[[Any], Iterator[np.ndarray]],
    validated: Callable[[np.ndarray], float],
    patients: int,
) -> ChosenTrees:
    """The smallest model of the best validation; a middle one where validation tells none apart."""
    values: dict[tuple[int, int], float] = {}
    for depth in DEPTHS if patients else ():
        for trees, predicted in enumerate(staged(fitted(depth, TREES[-1])), start=1):
            if trees in TREES:
                values[depth, trees] = validated(predicted)
    known = [key for key in sorted(values, key=lambda key: (key[0] * key[1], key)) if np.isfinite(values[key])]
    best = max(known, key=lambda key: values[key]) if known else (DEPTHS[1], TREES[2])
    # Fitted anew, since the curve of survival that comes with it must be that of these trees.
    return ChosenTrees(fitted(*best), *best, values[best] if known else float("nan"))
