"""Clinical variables as features: the baselines that read the cohort's tables and no image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.cohort.labels import Label
from datamodules.errors import DataError
from datamodules.tasks import RoiDataModule
from experiments.runs.baseline import clinical_values
from experiments.runs.console import say

_MEASURED_BY_SIZE = ("renal_r",)
"""Labels that are classes of the tumour's size: a baseline that reads it would read the label."""


def table_features(
    module: RoiDataModule, columns: Sequence[str], parts: Sequence[str]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Columns of the tables of the patients of each part.

    A missing value is the median of the training patients in use, those of the label fraction; a column that none of
    them has is left out and named.

    Args:
        module: DataModule of a task.
        columns: Columns of `patients`, or of the index kidney.
        parts: train, val, test; the first is the one that medians are of.

    Returns:
        For each part rows of the patient table int64 [N], rising, and float64 [N, F]; none where nobody is in it.

    Raises:
        DataError: if no training patient has any of the columns, or the label is a class of one of them.
    """
    check_columns(module.label, columns)
    patients = module.plan.patients
    values = clinical_values(module.plan.cohort, patients, columns)
    rows = [np.flatnonzero((patients["part"] == part).to_numpy(dtype=bool)) for part in parts]
    medians = values.iloc[rows[0]].median()
    absent = medians.index[medians.isna()].tolist()
    if len(absent) == len(columns):
        raise DataError(
            f"No training patient of task {module.label.name} has {' or '.join(absent)} in cohort "
            f"{module.plan.cohort.info.name}; add the column to its tables, or choose another encoder."
        )
    if absent:
        say(f"Left out, since no training patient has it: {', '.join(absent)}.")
    filled = values.drop(columns=absent).fillna(medians).to_numpy(dtype=np.float64)
    return [(row.astype(np.int64), filled[row]) for row in rows]


def check_columns(label: Label, columns: Sequence[str], radiomics: bool = False) -> None:
    """Refuse a baseline that would read the label itself.

    Args:
        label: What is predicted.
        columns: Columns that are read.
        radiomics: Whether radiomics are, which hold the largest diameter of the lesion.

    Raises:
        DataError: if the label is a class of one of the columns.
    """
    if label.column in _MEASURED_BY_SIZE and ("tumor_size_mm" in columns or radiomics):
        read = ", ".join(columns) or "the features of its mask"
        raise DataError(
            f"Task {label.name} is a class of the tumour's size, which is one of {read}; "
            "a baseline that reads it would read the label. Choose another encoder."
        )
