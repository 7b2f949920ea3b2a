"""What is scored, and how: the one place where the kind of a task decides its metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from experiments.statistics.agreement import cohen_kappa
from experiments.statistics.auroc import auroc_of, macro_auroc_bootstrap, macro_auroc_statistic
from experiments.statistics.bootstrap import Statistic, bootstrap
from experiments.statistics.concordance import c_index, harrell
from experiments.statistics.estimate import Estimate

RISK = "risk"
FOLD = "fold"
"""Column of the fold that tested a patient, where a cohort is evaluated in folds."""


@dataclass(frozen=True)
class Metric:
    """The metric of a kind of task.

    Args:
        name: Its name in tables and MLflow.
        title: What it is called in text.
        count: Column of what is counted beside n.
        count_title: What that is called in text.
        within_folds: Only patients of the same fold are compared with each other.
    """

    name: str
    title: str
    count: str
    count_title: str
    within_folds: bool = False

    @property
    def survival(self) -> bool:
        """Whether it is the metric of a survival task."""
        return self.name == "c_index"

    @property
    def remark(self) -> str:
        """What must be said beside a metric of folds; empty for others."""
        return WITHIN_FOLDS if self.within_folds else ""


AUROC = Metric("auroc", "AUC", "positives", "positives")
MACRO_AUROC = Metric("auroc", "macro AUC", "minority", "minority")
C_INDEX = Metric("c_index", "C-index", "events", "events")
WITHIN_FOLDS = (
    "AUC and C-index compare patients of the same fold, weighted by pairs; across folds, pooled, scores of different "
    "models are compared, which biases both downwards."
)
ACROSS_FOLDS = ("across_folds", "across_folds_low", "across_folds_high", "across_folds_interval")
"""Columns of the pooled metric of folds, with its interval and the method of that, beside that within folds."""


def score_columns(predictions: pd.DataFrame) -> list[str]:
    """The score columns in class order; none for a survival task."""
    return [name for name in predictions.columns if name.startswith("score_")]


def endpoints_of(predictions: pd.DataFrame) -> list[str]:
    """The endpoints that a survival task is scored on, the one that it was trained on first; none of other tasks."""
    return [str(name).removesuffix("_event") for name in predictions if str(name).endswith("_event")]


def fold_of(predictions: pd.DataFrame) -> np.ndarray | None:
    """Fold that tested each patient [N]; None where there are no folds."""
    return predictions[FOLD].to_numpy(dtype=int) if FOLD in predictions else None


def by_fold(predictions: pd.DataFrame) -> Iterator[tuple[int | None, pd.DataFrame]]:
    """The predictions of every fold that tested somebody; all of them under None where there are no folds."""
    if FOLD not in predictions:
        yield None, predictions
        return
    for fold in sorted(predictions.loc[predictions["part"] == "test", FOLD].unique()):
        yield int(fold), predictions[predictions[FOLD] == fold]


def metric_of(predictions: pd.DataFrame) -> Metric:
    """The metric of the task that was predicted: Harrell's C-index of a survival task; the AUC of two classes, counting
    the positive ones; the macro one-vs-rest AUC of more, counting the patients outside the largest class.

    Out-of-fold predictions are scored within folds: those of different folds come from different models, which are not
    on one scale. Pooling them is a test of models that nobody has (Forman and Scholz, SIGKDD Explorations 2010) and
    biased downwards, the more so the fewer patients a class has (Airola et al., Computational Statistics and Data
    Analysis 2011), so that it stands beside the metric and is not the metric.
    """
    classes = AUROC if len(score_columns(predictions)) == 2 else MACRO_AUROC
    metric = C_INDEX if RISK in predictions else classes
    return replace(metric, title=f"{metric.title} within folds", within_folds=True) if FOLD in predictions else metric


def across_columns(estimate: Estimate | None) -> dict[str, float | str]:
    """The pooled metric of folds as columns of a table; none where there are no folds."""
    return {} if estimate is None else dict(zip(ACROSS_FOLDS, (*estimate[:3], estimate.interval), strict=True))


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

    @property
    def folds(self) -> np.ndarray | None:
        """Fold that tested each patient [N]; None where there are no folds."""
        return fold_of(self.rows)

    def statistic(self) -> Statistic:
        """The metric as a statistic of weighted patients, for a bootstrap; within folds where there are some."""
        return self._statistic(self.folds)

    def across_folds(self) -> Statistic | None:
        """The metric of the pooled folds as a statistic; None where there are no folds."""
        return None if self.folds is None else self._statistic(None)

    def _statistic(self, folds: np.ndarray | None) -> Statistic:
        target, scores = self.target, self.scores
        if self.endpoint:
            return harrell(self.months, target, scores, folds)
        return macro_auroc_statistic(target, scores, folds)

    def estimate(self) -> Estimate:
        """The metric with its 95 % interval: DeLong's for two classes, else by bootstrap over patients.

        Where there are folds the metric is within them, and the bootstrap too.
        """
        if self.endpoint:
            return c_index(self.statistic(), self.target, strata=self.folds)
        if self.scores.shape[1] > 2:
            return macro_auroc_bootstrap(self.target, self.scores, strata=self.folds)
        return auroc_of(self.target, self.scores[:, 1], self.folds)

    def of_class(self, number: int) -> Estimate:
        """The AUC of a class against all others, with its 95 % interval; undefined where nobody is of it."""
        return auroc_of(self.target == number, self.scores[:, number], self.folds)

    def across_estimate(self) -> Estimate | None:
        """The metric of the pooled folds with its 95 % interval; None where there are no folds."""
        statistic = self.across_folds()
        if statistic is None:
            return None
        return bootstrap(statistic, len(self.target), events=self.count, strata=self.folds)[0]

    def kappa(self, ordered: bool = True) -> Estimate | None:
        """Kappa of three or more classes with its interval, quadratic where they have an order; else None."""
        if self.endpoint or self.scores.shape[1] < 3:
            return None
        statistic = cohen_kappa(self.target, self.scores.argmax(axis=1), self.scores.shape[1], ordered=ordered)
        return bootstrap(statistic, len(self.target), strata=self.folds)[0]


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
