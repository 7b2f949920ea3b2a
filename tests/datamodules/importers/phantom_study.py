"""A generated patient as a hospital would send it: one DICOM series a contrast phase, and a mask of the kidneys."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np

from datamodules.anatomy.rendering import Scene
from datamodules.anatomy.tissues import LESION, TUMOR, Tissue
from datamodules.phantoms.drawing import draw_labels
from datamodules.phantoms.facts import Patient
from datamodules.phantoms.surroundings import Grid
from tests.datamodules.importers.dicom_phantom import Scan, base, set_pixels

EXTENT_MM = (250.0, 250.0, 340.0)
CENTER_MM = (0.0, -8.0, 0.0)
_ORGAN = (Tissue.KIDNEY, *LESION)


def draw(patient: Patient, step_mm: float = 2.5, center_mm: tuple[float, float, float] = CENTER_MM,
         extent_mm: tuple[float, float, float] = EXTENT_MM) -> tuple[np.ndarray, Grid]:  # fmt: skip
    """Label map of the patient's abdomen [D, H, W], with its grid."""
    grid = Grid.around(center_mm, extent_mm, step_mm)
    return draw_labels(patient.anatomy, grid), grid


def mask_codes(labels: np.ndarray) -> np.ndarray:
    """The codes of KiTS23, as an annotator draws a kidney: its tissue, tumours and cysts."""
    codes = np.zeros_like(labels)
    codes[labels == Tissue.KIDNEY] = 1
    codes[np.isin(labels, TUMOR)] = 2
    codes[labels == Tissue.CYST] = 3
    return codes


def write_study(
    patient: Patient, folder: Path, step_mm: float = 2.5, phases: int | None = None, *, mask: bool = True
) -> np.ndarray:
    """Write the study of a patient.

    Args:
        patient: The patient.
        folder: Folder of its DICOM files, one subfolder a series; the mask lies in it as `mask.nii.gz`.
        step_mm: Voxel edge.
        phases: Number of series; all by default.
        mask: Whether the mask is written.

    Returns:
        The label map of the abdomen, uint8 [D, H, W].
    """
    labels, grid = draw(patient, step_mm)
    scene = Scene(labels, grid.spacing_mm, patient.anatomy.seed, tissues=patient.anatomy.tissues)
    study = f"1.2.826.0.1.3680043.8.498.{zlib.crc32(patient.patient_id.encode())}"
    for number, series in enumerate(patient.series[:phases]):
        image = scene.render(series.phase, series.protocol, number)
        write_series(image, grid, folder / f"{number}", study, f"{study}.{number}", series.phase)
    if mask:
        write_mask(mask_codes(labels), grid, folder / "mask.nii.gz")
    return labels


def write_series(image: np.ndarray, grid: Grid, folder: Path, study: str, uid: str, phase: str) -> None:
    """Write int16 HU [D, H, W] as axial slices; columns run to the patient's left, as a scanner writes them."""
    depth, height, width = grid.spacing_mm
    words = {"non_contrast": "NATIVE", "arterial": "ARTERIAL", "venous": "VENOUS", "delayed": "DELAYED"}
    scan = Scan(study=study, series=uid, description=f"ABDOMEN {words[phase]}")
    folder.mkdir(parents=True, exist_ok=True)
    for index, plane in enumerate(image):
        dataset = base(scan)
        dataset.InstanceNumber = index + 1
        # LPS: x and y change their sign, so that rows run to posterior and columns to the left.
        first = (-float(grid.x.max()), -float(grid.y.max()), float(grid.z.ravel()[index]))
        dataset.ImagePositionPatient = [round(value, 4) for value in first]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [round(height, 6), round(width, 6)], round(depth, 6)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        set_pixels(dataset, (plane[::-1, ::-1] + 1024).astype(np.int16), "native")
        dataset.save_as(folder / f"I{index:04d}", enforce_file_format=True)


def write_mask(codes: np.ndarray, grid: Grid, path: Path) -> None:
    """Write a label map [D, H, W] on the grid as NIfTI."""
    depth, height, width = grid.spacing_mm
    affine = np.diag([width, height, depth, 1.0])
    affine[:3, 3] = [float(grid.x.min()), float(grid.y.min()), float(grid.z.min())]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.ascontiguousarray(codes.transpose(2, 1, 0)), affine)
    image.set_sform(affine, code=1)
    nibabel.save(image, path)
