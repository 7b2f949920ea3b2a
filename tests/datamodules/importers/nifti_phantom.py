"""The phantom body as NIfTI scans and label maps, in any orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from tests.datamodules.importers.dicom_phantom import KIDNEYS_RAS_MM, TUMOR_RAS_MM, block, phantom_hu

SPACING_MM = 8.0
SHAPE = (32, 28, 20)
AFFINE = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
AFFINE[:3, 3] = -(np.array(SHAPE) - 1) / 2 * SPACING_MM


def points(shape: tuple[int, ...] = SHAPE, affine: np.ndarray = AFFINE) -> np.ndarray:
    """RAS positions of all voxels, [X, Y, Z, 3]."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return indices @ affine[:3, :3].T + affine[:3, 3]


def scan_hu(seed: int = 0) -> np.ndarray:
    """The body with noise, int16."""
    return (phantom_hu(points()) + np.random.default_rng(seed).integers(-4, 5, SHAPE)).astype(np.int16)


def kidney(side: str) -> np.ndarray:
    """Binary mask of one kidney with its tumour."""
    return block(points(), KIDNEYS_RAS_MM[side], (16, 16, 30)) | (tumor() if side == "left" else False)


def tumor() -> np.ndarray:
    """Binary mask of the tumour of the left kidney."""
    return block(points(), TUMOR_RAS_MM, (8, 8, 10))


def labels(left: int = 1, right: int = 1, mass: int = 2) -> np.ndarray:
    """Label map, uint8."""
    return np.where(tumor(), mass, np.where(kidney("left"), left, np.where(kidney("right"), right, 0))).astype(np.uint8)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, axes: str = "RAS") -> Path:
    """Write an array, turned so that its axes run along `axes`."""
    image = nibabel.Nifti1Image(data, affine)
    wanted = nibabel.orientations.axcodes2ornt(axes)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), wanted))
    image.set_sform(image.affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path
