"""How sure the predictions of a task are: calibrated on validation patients, and as sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.doubt.calibrators import NONE, ChosenCalibrator, choose_calibrator
from experiments.doubt.prediction_sets import CONFIDENCE, PredictionSets
from experiments.scores.outcomes import by_fold, score_columns

CALIBRATION = "calibration.json"
"""File in the folder of a finished run."""
FORMAT = 1


@dataclass(frozen=True)
class TestedPredictions:
    """Predictions of some tested patients.

    Args:
        rows: The patients, as the predictions hold them.
        target: int64 [N].
        score: float64 [N, C], as the model gives them.
        probability: float64 [N, C], calibrated.
        sets: bool [N, C], classes in the set of each patient.
    """

    rows: pd.DataFrame
    target: np.ndarray
    score: np.ndarray
    probability: np.ndarray
    sets: np.ndarray

    def of(self, patients: pd.Series) -> TestedPredictions:
        """Those of some patients, in that order."""
        place = {name: number for number, name in enumerate(self.rows["patient_id"])}
        kept = np.array([place[name] for name in patients], dtype=int)
        return TestedPredictions(
            self.rows.iloc[kept], self.target[kept], self.score[kept], self.probability[kept], self.sets[kept]
        )


@dataclass(frozen=True)
class TaskDoubt:
    """What validation patients say of the scores of a classification.

    Args:
        chosen: The calibrator by fold, under None where there are no folds.
        tested: The tested patients.
    """

    chosen: Mapping[int | None, ChosenCalibrator]
    tested: TestedPredictions

    def to_dict(self) -> dict[str, Any]:
        """The calibrators as plain data; no patient."""
        return {
            "format": FORMAT,
            "calibrators": [
                {"fold": fold, "validation_patients": one.n, "log_loss": dict(one.loss), **one.calibrator.to_dict()}
                for fold, one in self.chosen.items()
            ],
        }

    @property
    def methods(self) -> str:
        """The methods that were chosen, in words."""
        names = dict.fromkeys(one.calibrator.method for one in self.chosen.values())
        return ", ".join("no change of the scores" if name == NONE else name for name in names)


@dataclass(frozen=True)
class Validated:
    """What the validation patients of one run say of its scores.

    Args:
        chosen: The calibrator that was chosen on them.
        sets: The prediction sets that they give.
    """

    chosen: ChosenCalibrator
    sets: PredictionSets

    @classmethod
    def of(cls, predictions: pd.DataFrame, seed: int = 0) -> Validated | None:
        """Calibrator and sets of a classification.

        Args:
            predictions: As `PredictionWriter` writes them, of one fold where there are folds.
            seed: Seed of the cross-validation.

        Returns:
            None of a survival task, or where the validation patients lack a class.
        """
        columns = score_columns(predictions)
        if not columns:
            return None
        own = predictions[predictions["part"] == "val"]
        target = own["target"].to_numpy(dtype=np.int64)
        if len(np.unique(target)) < len(columns):
            return None
        score = own[columns].to_numpy(dtype=np.float64)
        return cls(choose_calibrator(score, target, seed), PredictionSets(score, target))

    def said_of(self, score: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
        """What is said of one patient, as plain data.

        Args:
            score: float64 [1, C].
            classes: Names of the classes.
        """
        calibrator = self.chosen.calibrator
        probability, held = calibrator(score)[0].tolist(), self.sets(score)[0].tolist()
        return {
            "probabilities": dict(zip(classes, probability, strict=True)),
            "set": [name for name, kept in zip(classes, held, strict=True) if kept],
            "set_confidence": CONFIDENCE,
            "calibration": {"method": calibrator.method, "validation_patients": self.chosen.n},
        }


def task_doubt(predictions: pd.DataFrame, seed: int = 0) -> TaskDoubt | None:
    """Calibrate the predictions of a classification, and make sets of them, by its validation patients.

    The model is trained on neither; calibrators are chosen by cross-validation of the validation patients, in every
    fold of a cohort by its own.

    Args:
        predictions: As `PredictionWriter` writes them.
        seed: Seed of the cross-validation.

    Returns:
        The calibrated predictions of the tested patients; None of a survival task, or where the validation patients of
        some fold lack a class.
    """
    columns = score_columns(predictions)
    if not columns:
        return None
    chosen: dict[int | None, ChosenCalibrator] = {}
    parts = []
    for fold, own in by_fold(predictions):
        validated = Validated.of(own, seed)
        if validated is None:
            return None
        chosen[fold] = validated.chosen
        rows = own[own["part"] == "test"]
        asked, target = rows[columns].to_numpy(dtype=np.float64), rows["target"].to_numpy(dtype=np.int64)
        probability = validated.chosen.calibrator(asked)
        parts.append(TestedPredictions(rows, target, asked, probability, validated.sets(asked, CONFIDENCE)))
    joined = TestedPredictions(
        pd.concat([part.rows for part in parts], ignore_index=True),
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("target", "score", "probability", "sets")
        ),
    )
    return TaskDoubt(chosen, joined)


def asked_and_said(target: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is calibrated, as two classes: the second class, or of three and more whether the likeliest one is right.

    Returns:
        Targets 0 or 1 [N], and probabilities of 1 [N].
    """
    if probability.shape[1] == 2:
        return (target == 1).astype(int), probability[:, 1]
    return (probability.argmax(axis=1) == target).astype(int), probability.max(axis=1)
