"""What a source holds: the scan of one patient, or a folder of patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from datamodules.cohort.columns import PHASES
from datamodules.errors import DataError
from datamodules.importers.dicom.index import files_below

MASK_NAMES = ("mask", "segmentation", "masks", "segmentations")
"""What a label map, or a folder of binary masks, is called beside a patient's scan."""


@dataclass(frozen=True)
class PatientFiles:
    """The files of one examination of one patient.

    Args:
        folder: Where they lie, or the file itself.
        image: NIfTI file, NIfTI files by contrast phase, or a folder of DICOM files.
        masks: Label map, folder of binary masks, or several masks; none where the DICOM files hold their own, or a box
            is given.
    """

    folder: Path
    image: Path | Mapping[str, Path]
    masks: tuple[Path, ...] = ()

    @property
    def dicom_folder(self) -> Path | None:
        """The folder of its DICOM files; None of NIfTI files."""
        return self.image if isinstance(self.image, Path) and self.image.is_dir() else None

    @property
    def files(self) -> list[Path]:
        """All files that are read, in a fixed order."""
        images = [self.image] if isinstance(self.image, Path) else list(self.image.values())
        roots = [*images, *self.masks]
        return sorted({path for root in roots for path in (files_below(root) if root.is_dir() else [root])})


def patients_in(source: Path, batch: bool | None = None) -> list[PatientFiles]:
    """The patients of a source, in the order of their names.

    A folder is one of patients where its subfolders hold different patients or examinations, by the first DICOM file of
    each, or NIfTI files of their own.

    Args:
        source: NIfTI file, folder of one patient, or folder of patients.
        batch: Whether it is a folder of patients; found out when left out.

    Raises:
        DataError: if nothing is there.
    """
    if not source.exists():
        raise DataError("The source was not found; name a NIfTI file, a folder of DICOM files or a folder of patients.")
    if not source.is_dir():
        return [PatientFiles(source, source)]
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    many = _holds_patients(source, folders) if batch is None else batch
    if not many:
        return [one_patient(source)]
    if not folders:
        raise DataError("The folder of patients holds no folder; expected one for each patient.")
    return [one_patient(folder) for folder in folders]


def one_patient(folder: Path) -> PatientFiles:
    """The files of one patient: DICOM, or NIfTI files that are called after their contrast phase; a mask beside them.

    A single NIfTI file may have any name; its phase is then unknown.
    """
    beside = {_stem(path): path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    masks = [path for name, path in beside.items() if name.lower() in MASK_NAMES]
    if len(masks) > 1:
        raise DataError(f"A folder of a patient holds {len(masks)} masks; expected one of {', '.join(MASK_NAMES)}.")
    scans = {name: path for name, path in beside.items() if _is_nifti(path) and path not in masks}
    if not scans:
        return PatientFiles(folder, folder, tuple(masks))
    phases = {name.lower(): path for name, path in scans.items() if name.lower() in PHASES}
    if len(phases) == len(scans):
        return PatientFiles(folder, {phase: phases[phase] for phase in PHASES if phase in phases}, tuple(masks))
    if len(scans) > 1:
        raise DataError(
            f"A folder of a patient holds {len(scans)} NIfTI scans, {len(scans) - len(phases)} of which are not called "
            f"after a contrast phase; expected {', '.join(PHASES)}."
        )
    return PatientFiles(folder, next(iter(scans.values())), tuple(masks))


def _holds_patients(source: Path, folders: list[Path]) -> bool:
    if any(_is_nifti(path) for path in source.iterdir()):
        return False
    if any(_is_nifti(path) for folder in folders for path in folder.iterdir() if folder.name.lower() not in MASK_NAMES):
        return True
    examinations = {found for folder in folders if (found := _first_examination(folder)) is not None}
    return len(examinations) > 1


def _first_examination(folder: Path) -> tuple[str, str] | None:
    """Patient and examination of the first DICOM file of a folder; None where it holds none."""
    for path in files_below(folder):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "StudyInstanceUID"])
        except (InvalidDicomError, OSError):
            continue  # a mask, a text: the importer counts what is no DICOM
        if "StudyInstanceUID" in header:
            return str(header.get("PatientID", "")), str(header.StudyInstanceUID)
    return None


def _is_nifti(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith((".nii", ".nii.gz"))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii") if _is_nifti(path) else path.name
