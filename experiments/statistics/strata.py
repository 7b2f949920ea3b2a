"""Patients in strata, such as the folds of a cohort, within which alone they are compared and resampled.

Patients of different folds are scored by different models, whose scores have no common level, so that comparing them
across folds biases an AUC or C-index downwards (Forman and Scholz, SIGKDD Explorations 2010; Airola et al.,
Computational Statistics and Data Analysis 2011). Given the folds as `strata`, the statistics of this package compare
pairs within a fold alone, which weighs the folds by their comparable pairs, and resample patients within their fold.
"""

from __future__ import annotations

import numpy as np

from datamodules.errors import DataError


def strata_members(strata: np.ndarray | None, patients: int) -> list[np.ndarray]:
    """Positions of the patients of every stratum, in rising order of the strata; of all where there are none.

    Raises:
        DataError: if there is not one stratum a patient.
    """
    if strata is None:
        return [np.arange(patients)]
    strata = np.asarray(strata)
    if strata.shape != (patients,):
        raise DataError(f"Strata {strata.shape} of {patients} patients were found; expected one each a patient.")
    return [np.flatnonzero(strata == name) for name in np.unique(strata)]


def strata_key(strata: np.ndarray | None) -> tuple[int, ...] | None:
    """The strata in the form that `patient_weights` keeps its last draw by."""
    return None if strata is None else tuple(np.unique(strata, return_inverse=True)[1].tolist())
