"""Sets of classes that hold the true one as often as is said, by conformal prediction; and abstention.

crepes was chosen among three libraries: it has class-conditional (Mondrian) sets of plain scores. MAPIE 1.6 (BSD-3) has
none since its first version and wants estimators; torchcp 1.2 (LGPL) brings torch-geometric and another torch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from experiments.statistics.bootstrap import Statistic, mean_of, ratio
from experiments.statistics.estimate import Estimate
from experiments.statistics.operating_point import wilson
from experiments.statistics.support import Support

with warnings.catch_warnings():  # crepes changes the filters of the whole program when it is imported
    from crepes import ConformalClassifier

CONFIDENCE = 0.9


@dataclass(frozen=True)
class PredictionSets:
    r"""Class-conditional conformal sets (Vovk, Machine Learning 2013), with hinge scores 1 - p.

    A class is in the set where a patient of that class scores as low at least as often as one in ten:

    .. math:: p_c = \frac{|\{i: y_i = c,\ 1 - s_{ic} \ge 1 - s_c\}| + 1}{n_c + 1} > 1 - \text{confidence}

    Of exchangeable patients of every class at least that share is covered. Nothing is promised of patients of other
    centres; their coverage is measured.

    Args:
        score: float64 [N, C] of patients whom the model was not trained on.
        target: int64 [N].
    """

    score: np.ndarray
    target: np.ndarray

    def __post_init__(self) -> None:
        if self.score.ndim != 2 or len(self.score) != len(self.target):
            raise DataError(f"Scores {self.score.shape} and {len(self.target)} targets; expected one target a patient.")
        counts = np.bincount(self.target, minlength=self.score.shape[1])
        if counts.min() < 1:
            raise DataError(f"Prediction sets need patients of every class; found {counts.tolist()} by class.")

    def p_values(self, score: np.ndarray) -> np.ndarray:
        """How usual each class would be, float64 [M, C], for scores [M, C]."""
        found = np.empty(score.shape)
        for number in range(self.score.shape[1]):
            own = 1 - self.score[self.target == number, number]
            conformal = ConformalClassifier().fit(own)
            found[:, number] = conformal.predict_p(1 - score[:, [number]], smoothing=False)[:, 0]
        return found

    def __call__(self, score: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
        """Which classes are in the set of each patient, bool [M, C], for scores [M, C]."""
        sets: np.ndarray = self.p_values(score) > 1 - confidence + 1e-12
        return sets


def centre_sets(score: np.ndarray, target: np.ndarray, asked: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """Sets for further patients of one centre, made by some of its own (Mondrian by centre): bool [M, C].

    All classes share a threshold, since a centre has few patients of each: of exchangeable patients of that centre the
    stated share is covered, whatever happens at others. With fewer than nine patients every class is in every set.

    Args:
        score: float64 [N, C] of local patients with a known class.
        target: int64 [N].
        asked: float64 [M, C] of the others.
        confidence: Share of patients whose class is to be in the set.
    """
    conformal = ConformalClassifier().fit(1 - score[np.arange(len(target)), target])
    sets: np.ndarray = conformal.predict_p(1 - asked, smoothing=False) > 1 - confidence + 1e-12
    return sets


def coverage(sets: np.ndarray, target: np.ndarray) -> Estimate:
    """Share of patients whose set holds their class, with Wilson's interval; events are those that it does not."""
    held = sets[np.arange(len(target)), target]
    return wilson(int(held.sum()), len(held))._replace(events=int((~held).sum()))


def set_size(sets: np.ndarray) -> Statistic:
    """Mean number of classes in a set as a statistic of weighted patients."""
    return mean_of(sets.sum(axis=1).astype(np.float64), 0.0, float(sets.shape[1]))


def risk_coverage(probability: np.ndarray, target: np.ndarray) -> pd.DataFrame:
    """The error of those that are answered, when the least sure are left out (El-Yaniv and Wiener, JMLR 2010).

    Args:
        probability: float64 [N, C].
        target: int64 [N].

    Returns:
        One row for each number of answered patients, from all to one: `answered` (share), `n`, `errors`, `error` with
        Wilson's `low` and `high`, and `confidence`, the least probability of those that are answered.

    Raises:
        DataError: if nobody is given.
    """
    if not len(target):
        raise DataError("A risk-coverage curve of no patient was asked for.")
    sure, wrong = probability.max(axis=1), probability.argmax(axis=1) != target
    order = np.argsort(-sure, kind="stable")
    errors = np.cumsum(wrong[order])
    rows = []
    for kept in range(len(target), 0, -1):
        share = wilson(int(errors[kept - 1]), kept)
        rows.append({
            "answered": kept / len(target), "n": kept, "errors": int(errors[kept - 1]), "error": share.value,
            "low": share.low, "high": share.high, "confidence": float(sure[order[kept - 1]]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def selective_error(probability: np.ndarray, target: np.ndarray, answered: float) -> Statistic:
    """Error among the surest share of patients as a statistic of weighted patients.

    Args:
        probability: float64 [N, C].
        target: int64 [N].
        answered: Share that is answered, in (0, 1].
    """
    sure, wrong = probability.max(axis=1), (probability.argmax(axis=1) != target).astype(np.float64)
    order = np.argsort(-sure, kind="stable")

    def statistic(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, order].astype(np.float64)
        before = np.cumsum(drawn, axis=1) - drawn
        budget = answered * drawn.sum(axis=1, keepdims=True)
        kept = np.clip(budget - before, 0.0, drawn)
        return ratio(kept @ wrong[order], kept.sum(axis=1))

    return Statistic(statistic, Support(0.0, 1.0, max(1, round(answered * len(target)))))
