"""Predictions of a test, one row per patient, as a table that every statistic is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from lightning_modules.metrics.patient_scores import PatientTable

PREDICTIONS = "predictions.parquet"
LESION_DICE = "lesion_dice"


class PredictionWriter(Callback):
    """Writes `predictions.parquet` into the run's folder at the end of a test.

    Columns: patient_id, center, role, part; `target` (class index) of a classification task, or `<endpoint>_months` and
    `<endpoint>_event` (missing where not known) of a survival task; and what the module predicts: one `score_<class>`
    per class, or `risk`. Where the same weights were validated before, the validation patients are in the table too
    (part val), since thresholds and risk groups are cut on them.

    The module offers the gathered tables as `val_table` and `test_table` and the columns as `prediction_columns`, the
    DataModule the patients as `plan.patients`, the task as `label`, and `write_table`.
    """

    def __init__(self) -> None:
        self._validated: pd.DataFrame | None = None

    @rank_zero_only
    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Forget what earlier weights predicted."""
        self._validated = None

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the validation of the weights that will be tested; those in the middle of a fit are others."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._validated = _predictions(trainer, pl_module, pl_module.val_table)  # type: ignore[arg-type]

    @rank_zero_only
    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the table, atomically."""
        tested = _predictions(trainer, pl_module, pl_module.test_table)  # type: ignore[arg-type]
        parts = [tested] if self._validated is None else [tested, self._validated]
        _write(pd.concat(parts, ignore_index=True).sort_values("patient_id", ignore_index=True), trainer)


def _predictions(trainer: lightning.Trainer, module: lightning.LightningModule, table: PatientTable) -> pd.DataFrame:
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    columns = module.prediction_columns(table.score, list(datamodule.label.class_names))  # type: ignore[operator]
    return prediction_frame(table.patient, datamodule.plan.patients, columns, datamodule.label.endpoint)


class AttributePredictionWriter(Callback):
    """Writes `predictions.parquet` of attribute pretraining into the run's folder at the end of a test.

    One row per kidney: patient_id, study_id, side, center, role, part, and for every attribute `target:<attribute>`
    (class index, -100 where not stated) and `score:<attribute>:<class>` (softmax of the kidney's mean logits). Of an
    encoder that paints anatomy also `lesion_dice`, the mean over its series; missing where its mask has no lesion.
    """

    @rank_zero_only
    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the table, atomically."""
        plan = trainer.datamodule.plan  # type: ignore[attr-defined]
        table: PatientTable = pl_module.test_table  # type: ignore[assignment]
        classes: dict[str, list[str]] = pl_module.classes  # type: ignore[assignment]
        frame = attribute_frame(table, plan.kidneys, plan.patients, classes)
        dice: PatientTable = pl_module.test_dice_table  # type: ignore[assignment]
        if len(dice.patient):
            rows = plan.kidneys.iloc[dice.patient.cpu().numpy()][["patient_id", "study_id", "side"]].astype("string")
            measured = rows.assign(**{LESION_DICE: dice.score[:, 0].double().cpu().numpy()})
            frame = frame.merge(measured, on=["patient_id", "study_id", "side"], how="left", validate="one_to_one")
        _write(frame, trainer)


def _write(frame: pd.DataFrame, trainer: lightning.Trainer) -> None:
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    datamodule.write_table(Path(trainer.default_root_dir) / PREDICTIONS, frame)


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


def prediction_frame(
    patient: torch.Tensor, patients: pd.DataFrame, columns: Mapping[str, torch.Tensor], endpoint: str = ""
) -> pd.DataFrame:
    """Join predictions to patients and what is known of them.

    Args:
        patient: Rows of the patient table [N].
        patients: Patient table of the DataModule.
        columns: What is predicted, by name [N].
        endpoint: The endpoint that a survival task was trained on; its columns come before those of the others.

    Returns:
        One row per patient, sorted by patient_id; columns as `PredictionWriter` says.
    """
    rows = patients.iloc[patient.cpu().numpy()].reset_index(drop=True)
    frame = rows[["patient_id", "center", "role", "part"]].astype("string")
    endpoints = [name.removesuffix("_known") for name in map(str, rows) if name.endswith("_known")]
    endpoints.sort(key=lambda name: name != endpoint)
    if not endpoints:
        frame["target"] = rows["target"].to_numpy(dtype=int)
    for name in endpoints:
        known = rows[f"{name}_known"].to_numpy(dtype=bool)
        frame[f"{name}_months"] = rows[f"{name}_months"].astype("Float64").where(known)
        frame[f"{name}_event"] = rows[f"{name}_event"].astype("boolean").where(known)
    for name, values in columns.items():
        frame[name] = values.cpu().numpy()
    return frame.sort_values("patient_id", ignore_index=True)
