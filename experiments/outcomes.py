"""What is scored, and how: the one place where the kind of a task decides its metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.statistics.agreement import quadratic_kappa
from experiments.statistics.bootstrap import Statistic, bootstrap, macro_auroc, macro_auroc_bootstrap
from experiments.statistics.concordance import c_index, harrell
from experiments.statistics.discrimination import auroc_delong
from experiments.statistics.estimate import Estimate

RISK = "risk"


@dataclass(frozen=True)
class Metric:
    """The metric of a kind of task.

    Args:
        name: Its name in tables and MLflow.
        title: What it is called in text.
        count: Column of what is counted beside n.
        count_title: What that is called in text.
    """

    name: str
    title: str
    count: str
    count_title: str


AUROC = Metric("auroc", "AUC", "positives", "positives")
MACRO_AUROC = Metric("auroc", "macro AUC", "minority", "minority")
C_INDEX = Metric("c_index", "C-index", "events", "events")


def score_columns(predictions: pd.DataFrame) -> list[str]:
    """The score columns in class order; none for a survival task."""
    return [name for name in predictions.columns if name.startswith("score_")]


def endpoints_of(predictions: pd.DataFrame) -> list[str]:
    """The endpoints that a survival task is scored on, the one that it was trained on first; none of other tasks."""
    return [str(name).removesuffix("_event") for name in predictions if str(name).endswith("_event")]


def metric_of(predictions: pd.DataFrame) -> Metric:
    """The metric of the task that was predicted: Harrell's C-index of a survival task; the AUC of two classes, counting
    the positive ones; the macro one-vs-rest AUC of more, counting the patients outside the largest class."""
    if RISK in predictions:
        return C_INDEX
    return AUROC if len(score_columns(predictions)) == 2 else MACRO_AUROC


@dataclass(frozen=True)
class Outcome:
    """One outcome of a group of patients, and their predictions.

    Args:
        endpoint: The endpoint of a survival task; empty for others.
        rows: The patients of whom it is known.
        target: Class indices, or whether the event was observed [N].
    """

    endpoint: str
    rows: pd.DataFrame
    target: np.ndarray

    @property
    def months(self) -> np.ndarray:
        """Time to event or censoring [N]; survival only."""
        return self.rows[f"{self.endpoint}_months"].to_numpy(dtype=float)

    @property
    def scores(self) -> np.ndarray:
        """Probability of each class [N, C], or the risk [N]."""
        if self.endpoint:
            return self.rows[RISK].to_numpy(dtype=float)
        return self.rows[score_columns(self.rows)].to_numpy(dtype=float)

    @property
    def count(self) -> int:
        """Events, positives, or patients outside the largest class."""
        if self.endpoint or self.scores.shape[1] == 2:
            return int((self.target == 1).sum())
        return int(len(self.target) - np.bincount(self.target, minlength=1).max())

    def statistic(self) -> Statistic:
        """The metric as a statistic of weighted patients, for a bootstrap."""
        target, scores = self.target, self.scores
        if self.endpoint:
            return harrell(self.months, target, scores)
        return lambda weights: macro_auroc(target, scores, weights)

    def estimate(self) -> Estimate:
        """The metric with its 95 % interval: DeLong's for two classes, else by bootstrap over patients."""
        if self.endpoint:
            return c_index(self.statistic(), self.target)
        if self.scores.shape[1] == 2:
            return auroc_delong(self.target, self.scores[:, 1])
        return macro_auroc_bootstrap(self.target, self.scores)

    def kappa(self) -> Estimate | None:
        """Quadratic kappa of three or more classes with its interval; None for other tasks."""
        if self.endpoint or self.scores.shape[1] < 3:
            return None
        statistic = quadratic_kappa(self.target, self.scores.argmax(axis=1), self.scores.shape[1])
        return bootstrap(statistic, len(self.target))[0]


def outcomes_of(rows: pd.DataFrame) -> Iterator[Outcome]:
    """What a group of patients is scored on: its classes, or every endpoint that is known of some of them.

    Args:
        rows: Predictions of the group, as `PredictionWriter` writes them.
    """
    endpoints = endpoints_of(rows)
    if not endpoints:
        yield Outcome("", rows, rows["target"].to_numpy(dtype=int))
    for endpoint in endpoints:
        known = rows[rows[f"{endpoint}_event"].notna()]
        if len(known):
            yield Outcome(endpoint, known, known[f"{endpoint}_event"].to_numpy(dtype=bool))
