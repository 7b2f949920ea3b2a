"""Studies that cannot be assessed, as they lie in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from pydicom.uid import SecondaryCaptureImageStorage

from datamodules.phantoms.phantom_source import DemoSource
from tests.datamodules.importers.dicom_phantom import Scan
from tests.datamodules.importers.phantom_study import write_study
from tests.experiments.assessment.place import STEP_MM, Place


def _two_patients(folder: Path, place: Place) -> None:
    Scan().write(folder / "all")
    for path in Scan(patient="other", study="1.2.826.0.1.9", series="1.2.826.0.1.9.1").write(folder / "more"):
        path.rename(folder / "all" / f"B{path.name}")
    (folder / "more").rmdir()


def _two_examinations(folder: Path, place: Place) -> None:
    write_study(DemoSource().patient("E1-0001"), folder / "all", STEP_MM, phases=1)
    write_study(DemoSource().patient("E1-0002"), folder / "all" / "later", STEP_MM, phases=1, mask=False)
    shutil.copy(folder / "all" / "mask.nii.gz", folder / "mask.nii.gz")


def _chest(folder: Path, place: Place) -> None:
    """A chest: its mask belongs to a part of the body that the scan does not show."""
    mask = nibabel.load(place.files / "E1-0001/mask.nii.gz")
    scan = nibabel.load(next(path for path in (place.files / "E1-0001").glob("*.nii.gz") if "mask" not in path.name))
    affine = scan.affine.copy()
    affine[2, 3] += 600.0
    nibabel.save(nibabel.Nifti1Image(np.asarray(scan.dataobj), affine), folder / "venous.nii.gz")
    nibabel.save(mask, folder / "mask.nii.gz")


def _no_kidney(folder: Path, place: Place) -> None:
    shutil.copytree(place.files / "E1-0001", folder, dirs_exist_ok=True)
    mask = nibabel.load(folder / "mask.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), folder / "mask.nii.gz")


def _no_mask(folder: Path, place: Place) -> None:
    write_study(DemoSource().patient("E1-0001"), folder, STEP_MM, phases=1, mask=False)


def _three_slices(folder: Path, place: Place) -> None:
    write_study(DemoSource().patient("E1-0001"), folder, STEP_MM, phases=1)
    for path in sorted((folder / "0").iterdir())[3:]:
        path.unlink()


def _film(folder: Path, place: Place) -> None:
    scan = Scan(sop_class=SecondaryCaptureImageStorage, tags={"ImageType": ["DERIVED", "SECONDARY"]})
    scan.write(folder / "0")
    shutil.copy(place.files / "E1-0001/mask.nii.gz", folder / "mask.nii.gz")


def _unknown_phase(folder: Path, place: Place) -> None:
    Scan(description="NO WORDS").write(folder / "0")
    shutil.copy(place.files / "E1-0001/mask.nii.gz", folder / "mask.nii.gz")


REFUSED: dict[str, tuple[Callable[[Path, Place], None], str]] = {
    "two patients": (_two_patients, r"files of 2 patients"),
    "two examinations": (_two_examinations, r"holds 2 examinations|no kidney mask"),
    "chest only": (_chest, r"outside|overlap"),
    "no kidney in the field": (_no_kidney, r"holds no kidney"),
    "no mask": (_no_mask, r"no kidney mask or box"),
    "three slices": (_three_slices, r"3 slices; expected at least"),
    "a scanned film": (_film, r"secondary|no CT|not CT"),
    "unknown phase": (_unknown_phase, r"contrast phase is unknown"),
}
"""By case how its folder is written, and what the one sentence says."""
