"""Kidneys found by TotalSegmentator where nobody shows them; an optional package that fetches its own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.importers.dicom.index import files_below
from experiments.assessment.dicom_objects import largest_series
from experiments.assessment.patient_files import PatientFiles
from lightning_modules.core.errors import ModelError

KIDNEYS = ("kidney_left", "kidney_right")
"""Structures of its task `total`; it outlines lesions as kidney, or leaves them out."""


def found_by_totalsegmentator(patient: PatientFiles, folder: Path) -> PatientFiles:
    """The files of a patient with masks of both kidneys (Wasserthal et al., Radiol Artif Intell 2023;5:e230024).

    Args:
        patient: The files, without a mask.
        folder: Empty folder for the masks.

    Raises:
        ModelError: if the package is not installed.
        DataError: if it finds no kidney.
    """
    segment = _totalsegmentator()
    out = folder / "masks"
    out.mkdir()
    segment(_one_series(patient, folder), out, task="total", roi_subset=list(KIDNEYS), ml=False, quiet=True)
    masks = tuple(path for name in KIDNEYS if (path := out / f"{name}.nii.gz").is_file())
    if not masks:
        raise DataError("TotalSegmentator found no kidney in the scan; show where they are with MASK= or BOX=.")
    return PatientFiles(patient.folder, patient.image, masks)


def _one_series(patient: PatientFiles, folder: Path) -> Path:
    """One NIfTI file, or a folder of the DICOM files of the series with most slices."""
    if patient.dicom_folder is None:
        return patient.image if isinstance(patient.image, Path) else next(iter(patient.image.values()))
    series = folder / "series"
    series.mkdir()
    for number, path in enumerate(largest_series(list(files_below(patient.dicom_folder)))):
        (series / f"{number:05d}.dcm").symlink_to(path.resolve())
    return series


def _totalsegmentator() -> Any:
    try:
        from totalsegmentator.python_api import totalsegmentator
    except ImportError as error:
        raise ModelError(
            "LOCATE=totalsegmentator needs a package that is not here; run `pip install TotalSegmentator`, which "
            "fetches its weights when it is first used."
        ) from error
    return totalsegmentator
