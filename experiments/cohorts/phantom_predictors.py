"""What trivial predictors reach on a phantom cohort: printed beside the cohort, so that nobody is fooled by it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.study_times import index_kidneys
from datamodules.csv_files import write_csv
from datamodules.files import read_parquet
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet
from experiments.cohorts.trivial_predictors import image_statistics, trivial_predictors

PREDICTORS = "trivial_predictors.csv"
ENOUGH = 300
"""Patients from which ten folds within every role hold both classes."""


def write_predictors(root: Path, contract: PreprocessingContract) -> pd.DataFrame | None:
    """Size, centre, noise, histogram, report length and the truth as predictors, to `trivial_predictors.csv`.

    Args:
        root: Folder of a phantom cohort.
        contract: Contract of the volumes whose histogram and noise are read.

    Returns:
        Its table, or None for a cohort of fewer than `ENOUGH` patients.
    """
    cohort = Cohort.load(root)
    if len(cohort["patients"]) < ENOUGH:
        return None
    volumes = VolumeSet.find(root, contract.region, contract.hash)
    index = index_kidneys(cohort)[["patient_id", "study_id", "side"]].merge(volumes.index)
    # One volume a patient, of the phase that most patients have.
    index["preferred"] = index["phase"].map({"venous": 0, "arterial": 1, "delayed": 2, "non_contrast": 3})
    first = index.sort_values("preferred").drop_duplicates("patient_id")
    pairs = zip(first["patient_id"].astype(str), first["position"].astype(int), strict=True)
    images = pd.DataFrame([image_statistics(patient, volumes.read(position)) for patient, position in pairs])
    truth = read_parquet(root / "truth.parquet")[0]
    table = trivial_predictors(_plain(cohort.tables), _plain({"truth": truth})["truth"], images)
    write_csv(root / PREDICTORS, table)
    return table


def _plain(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables with NumPy types, which scikit-learn and lifelines expect."""
    return {
        name: frame.convert_dtypes(convert_string=False).astype(
            {column: object for column in frame if str(frame[column].dtype) in ("string", "boolean")}
            | {column: float for column in frame if str(frame[column].dtype) in ("Float64", "Int64")}
        )
        for name, frame in tables.items()
    }
