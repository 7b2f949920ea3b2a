"""How sure the scores of a task are, by the validation patients of its run: calibrated, and as a set of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.predictions import PREDICTIONS
from datamodules.files import read_parquet
from experiments.doubt.calibrators import Calibrator, choose_calibrator
from experiments.doubt.prediction_sets import CONFIDENCE, PredictionSets
from experiments.scores.outcomes import score_columns


@dataclass(frozen=True)
class Certainty:
    """What validation patients say of the scores of one task.

    Args:
        calibrator: From scores to probabilities.
        sets: From scores to sets that hold the true class in nine of ten patients like them.
        patients: Number of validation patients.
    """

    calibrator: Calibrator
    sets: PredictionSets
    patients: int

    @classmethod
    def of_run(cls, run: Path) -> Certainty | None:
        """The certainty of a finished run; None where its validation patients lack a class.

        Args:
            run: Folder of the run, of one fold where there are folds.
        """
        predictions = read_parquet(run / PREDICTIONS)[0]
        columns = score_columns(predictions)
        validated = predictions[predictions["part"] == "val"]
        target = validated["target"].to_numpy(dtype=np.int64)
        if not columns or len(np.unique(target)) < len(columns):
            return None
        score = validated[columns].to_numpy(dtype=np.float64)
        return cls(choose_calibrator(score, target).calibrator, PredictionSets(score, target), len(target))

    def of(self, score: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
        """What is said of one patient.

        Args:
            score: float64 [1, C].
            classes: Names of the classes.
        """
        probability, chosen = self.calibrator(score)[0].tolist(), self.sets(score)[0].tolist()
        return {
            "probabilities": dict(zip(classes, probability, strict=True)),
            "set": [name for name, kept in zip(classes, chosen, strict=True) if kept],
            "set_confidence": CONFIDENCE,
            "calibration": {"method": self.calibrator.method, "validation_patients": self.patients},
        }
