"""Predictions of a test, one row per patient, as a table that every statistic is computed from."""

from __future__ import annotations

from pathlib import Path

import lightning
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
        frame = prediction_frame(table, datamodule.plan.patients, datamodule.label.class_names)
        path = Path(trainer.default_root_dir) / PREDICTIONS
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        frame.to_parquet(temporary, index=False)
        temporary.replace(path)


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
