"""Predictions of a test, one row per patient, as a table that every statistic is computed from."""

from __future__ import annotations

from pathlib import Path

import lightning
import numpy as np
import pandas as pd
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from lightning_modules.metrics.patient_scores import PatientTable

PREDICTIONS = "predictions.parquet"


class PredictionWriter(Callback):
    """Writes `predictions.parquet` into the run's folder at the end of a test.

    Columns: patient_id, center, role, part, target and one score_<class> per class (softmax of the patient's mean
    logits). The module offers the gathered table as `test_table`, the DataModule the patients as `plan.patients`.
    """

    @rank_zero_only
    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the table, atomically."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        table: PatientTable = pl_module.test_table  # type: ignore[assignment]
        _write(prediction_frame(table, datamodule.plan.patients, datamodule.label.class_names), trainer)


class AttributePredictionWriter(Callback):
    """Writes `predictions.parquet` of attribute pretraining into the run's folder at the end of a test.

    One row per kidney: patient_id, study_id, side, center, role, part, and for every attribute `target:<attribute>`
    (class index, -100 where not stated) and `score:<attribute>:<class>` (softmax of the kidney's mean logits).
    """

    @rank_zero_only
    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the table, atomically."""
        plan = trainer.datamodule.plan  # type: ignore[attr-defined]
        table: PatientTable = pl_module.test_table  # type: ignore[assignment]
        classes: dict[str, list[str]] = pl_module.classes  # type: ignore[assignment]
        _write(attribute_frame(table, plan.kidneys, plan.patients, classes), trainer)


def _write(frame: pd.DataFrame, trainer: lightning.Trainer) -> None:
    path = Path(trainer.default_root_dir) / PREDICTIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    frame.to_parquet(temporary, index=False)
    temporary.replace(path)


def attribute_frame(
    table: PatientTable, kidneys: pd.DataFrame, patients: pd.DataFrame, classes: dict[str, list[str]]
) -> pd.DataFrame:
    """Join the scores of attributes to kidneys.

    Args:
        table: Logits and targets by kidney number.
        kidneys: Kidney table that the numbers index, with `row` of the patient table.
        patients: Patient table.
        classes: Classes by attribute, in the order of scores and targets.

    Returns:
        One row per kidney, sorted by patient, study and side.
    """
    rows = kidneys.iloc[table.patient.cpu().numpy()].reset_index(drop=True)
    owners = patients.iloc[rows["row"].to_numpy()].reset_index(drop=True)
    keys = [rows[["patient_id", "study_id", "side"]], owners[["center", "role"]], rows[["part"]]]
    columns: dict[str, np.ndarray] = {}
    start = 0
    for number, (name, values) in enumerate(classes.items()):
        part = table.score[:, start : start + len(values)].double().softmax(dim=1).cpu().numpy()
        columns[f"target:{name}"] = table.target[:, number].cpu().numpy()
        columns |= {f"score:{name}:{value}": part[:, column] for column, value in enumerate(values)}
        start += len(values)
    frame = pd.concat([*(key.astype("string") for key in keys), pd.DataFrame(columns)], axis=1)
    return frame.sort_values(["patient_id", "study_id", "side"], ignore_index=True)


def prediction_frame(table: PatientTable, patients: pd.DataFrame, class_names: list[str]) -> pd.DataFrame:
    """Join scores to patients.

    Args:
        table: Scores (logits) by patient number.
        patients: Patient table that the numbers index.
        class_names: Names of the score columns.

    Returns:
        One row per patient, sorted by patient_id.
    """
    rows = patients.iloc[table.patient.cpu().numpy()]
    probability = table.score.double().softmax(dim=1).cpu().numpy()
    columns = ["patient_id", "center", "role", "part"]
    frame = rows[columns].reset_index(drop=True).astype("string")
    frame["target"] = table.target.cpu().numpy()
    for number, name in enumerate(class_names):
        frame[f"score_{name}"] = probability[:, number]
    return frame.sort_values("patient_id", ignore_index=True)
