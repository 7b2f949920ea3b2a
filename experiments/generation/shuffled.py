"""The control of the report writer: the same prompts, with the images of other patients.

Where this is not worse than the writer itself, the writer does not look.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from experiments.generation.systems import WritingJob
from experiments.generation.trained import identity, written_from

__all__ = ["identity", "other_patients", "other_rows", "write"]


def other_patients(kidneys: pd.DataFrame, seed: int) -> np.ndarray:
    """For every kidney the place of one of another patient, of the same side and centre where there is one.

    Args:
        kidneys: Rows with patient_id, side, center.
        seed: Seed.

    Returns:
        int64 [N], places in the table; within a group of two patients or more every kidney is shown once.

    Raises:
        DataError: if there is only one patient.
    """
    if kidneys["patient_id"].nunique() < 2:
        raise DataError("Images of other patients were asked for, and there is one patient only.")
    rng = np.random.default_rng(seed)
    result = np.arange(len(kidneys))
    patient = kidneys["patient_id"].to_numpy()
    for _, group in kidneys.groupby(["center", "side"]):
        rows = rng.permutation(kidneys.index.get_indexer(group.index))
        # Sorted by patient after the shuffle, a shift by the most frequent patient's share meets no one twice.
        rows = rows[np.argsort(pd.factorize(patient[rows])[0], kind="stable")]
        shift = int(pd.Series(patient[rows]).value_counts().iloc[0])
        result[rows] = np.roll(rows, shift)
    same = patient[result] == patient
    for row in np.flatnonzero(same):
        result[row] = rng.choice(np.flatnonzero(patient != patient[row]))
    return result


def other_rows(job: WritingJob) -> list[int]:
    """For every tested kidney the row of the plan's kidneys of one of another patient, as of `other_patients`."""
    return [job.tested_rows[place] for place in other_patients(job.kidneys, job.options.seed)]


def write(job: WritingJob) -> pd.DataFrame:
    """Write the report of every kidney from the images of another patient's."""
    return written_from(job, other_rows(job))
