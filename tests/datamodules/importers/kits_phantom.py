"""A KiTS23 download in small: the same layout, axes and fields, with phantom kidneys instead of patients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from datamodules.anatomy.tissues import Tissue
from tests.datamodules.kidney_phantom import kidney

SPACING = (3.0, 3.0, 3.0)
TUMOR = (20.0, 10.0, -25.0)

RECORD: dict[str, Any] = {
    "gender": "male",
    "vital_status": "censored",
    "vital_days_after_surgery": 0,
    "bmi": 29.5,
    "age_at_nephrectomy": 49,
    "radiographic_size": 2.4,
    "malignant": True,
    "pathology_t_stage": "1a",
    "pathology_n_stage": "x",
    "pathology_m_stage": "0",
    "tumor_histologic_subtype": "clear_cell_rcc",
    "tumor_necrosis": False,
    "tumor_isup_grade": "3",
    "sarcomatoid_features": False,
    "rhabdoid_features": None,
}


def abdomen(side: str = "left", radius_mm: float = 12.0) -> np.ndarray:
    """Two kidneys [D, H, W] of KiTS codes, a tumour in one of them."""
    other = "right" if side == "left" else "left"
    kidneys = {
        side: kidney(SPACING, TUMOR, radius_mm, drawn_sinus=False, side=side),
        other: kidney(SPACING, drawn_sinus=False, side=other),
    }
    labels = np.concatenate([kidneys["left"], kidneys["right"]], axis=2)
    assert set(np.unique(labels)) == {Tissue.UNLABELED, Tissue.KIDNEY, Tissue.TUMOR}
    return labels


def write_case(
    folder: Path, case: str, labels: np.ndarray, image: np.ndarray | None = None, image_shape_cut: int = 0
) -> None:
    """Write a case as KiTS does: stored z, y, x from head to foot, front to back and right to left.

    Args:
        folder: The `dataset` folder.
        case: Its name.
        labels: uint8 [D, H, W] in patient axes.
        image: HU [D, H, W] in patient axes.
        image_shape_cut: Slices that the image lacks.
    """
    affine = np.zeros((4, 4))
    affine[0, 2], affine[1, 1], affine[2, 0], affine[3, 3] = -SPACING[2], -SPACING[1], -SPACING[0], 1.0
    (folder / case).mkdir(parents=True)
    nib.Nifti1Image(labels[::-1, ::-1, ::-1], affine).to_filename(folder / case / "segmentation.nii.gz")
    if image is not None:
        stored = image[::-1, ::-1, ::-1][image_shape_cut:]
        nib.Nifti1Image(stored, affine).to_filename(folder / case / "imaging.nii.gz")


def write_records(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    """Write kits23.json: `RECORD` with the given changes for each case."""
    content = [{"case_id": case, **RECORD, **changes} for case, changes in records.items()]
    (folder / "kits23.json").write_text(json.dumps(content), encoding="utf-8")


def scan(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """HU [D, H, W] of a map: air, fat, and tissue that can be told apart."""
    hu = np.array([-100, 180, 90, 10], dtype=np.float32)[labels]
    hu[:, :2] = -1000.0
    noise = np.random.default_rng(seed).normal(0.0, 5.0, labels.shape)
    return np.asarray(hu + noise, dtype=np.float32)
