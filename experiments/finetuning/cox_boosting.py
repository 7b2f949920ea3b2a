"""Gradient boosting of regression trees by Cox's partial likelihood."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.tree import DecisionTreeRegressor

from experiments.statistics.partial_likelihood import RiskSets


class CoxBoosting:
    """Stochastic gradient boosting of Cox's partial likelihood (Friedman, 2002; Ridgeway, 1999).

    Every tree is fitted by least squares to the martingale residuals of a sample of the patients, which are minus the
    gradient of the loss in their log-risks, with Efron's ties.

    Args:
        trees: Number of trees.
        depth: Depth of each.
        seed: Seed of the draws of patients and features.
        learning_rate: Share of each tree that is added.
        subsample: Share of patients that each tree is fitted on, drawn without replacement.
        max_features: Features that each split chooses among, as scikit-learn's trees take it.
        min_samples_leaf: Patients in a leaf at least.
    """

    def __init__(
        self,
        trees: int,
        depth: int,
        seed: int,
        learning_rate: float = 0.1,
        subsample: float = 1.0,
        max_features: str | float | None = None,
        min_samples_leaf: int = 1,
    ) -> None:
        self.trees, self.depth, self.seed = trees, depth, seed
        self.learning_rate, self.subsample = learning_rate, subsample
        self.max_features, self.min_samples_leaf = max_features, min_samples_leaf
        self.fitted: list[DecisionTreeRegressor] = []

    def fit(self, feature: np.ndarray, time_months: np.ndarray, event: np.ndarray) -> CoxBoosting:
        """Fit to training patients.

        Args:
            feature: [N, F].
            time_months: Time to event or censoring [N].
            event: Whether the event was observed [N].
        """
        feature = np.asarray(feature, dtype=np.float32)  # the trees' own kind
        time, event = np.asarray(time_months), np.asarray(event).astype(bool)
        rng = np.random.default_rng(self.seed)
        risk, self.fitted = np.zeros(len(feature)), []
        drawn = max(1, int(self.subsample * len(feature)))
        for _ in range(self.trees):
            bag = np.sort(rng.permutation(len(feature))[:drawn])
            tree = DecisionTreeRegressor(
                max_depth=self.depth,
                max_features=self.max_features,
                min_samples_leaf=self.min_samples_leaf,
                random_state=int(rng.integers(1 << 31)),
            )
            self.fitted.append(tree.fit(feature[bag], _residuals(time[bag], event[bag], risk[bag])))
            risk += self.learning_rate * tree.predict(feature)
        return self

    def staged_predict(self, feature: np.ndarray) -> Iterator[np.ndarray]:
        """Log-risks [N] after each tree."""
        feature = np.asarray(feature, dtype=np.float32)
        risk = np.zeros(len(feature))
        for tree in self.fitted:
            risk = risk + self.learning_rate * tree.predict(feature)
            yield risk

    def predict(self, feature: np.ndarray) -> np.ndarray:
        """Log-risks [N] after all trees."""
        feature = np.asarray(feature, dtype=np.float32)
        steps = (self.learning_rate * tree.predict(feature) for tree in self.fitted)
        return np.asarray(sum(steps, np.zeros(len(feature))))


def _residuals(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> np.ndarray:
    return RiskSets(time, event).residuals(risk) if event.any() else np.zeros(len(time))
