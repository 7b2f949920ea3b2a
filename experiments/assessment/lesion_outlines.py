"""Where lesions lie in a scan: the outlines that were measured, and the Hounsfield units inside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from datamodules.anatomy.nephrometry.mask_geometry import Spacing
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.crop import roi_affine


@dataclass(frozen=True)
class LesionOutline:
    """The outline of one lesion.

    Args:
        mask: bool [D, H, W].
        affine: From indices D, H, W to RAS millimetres, float64 [4, 4].
    """

    mask: np.ndarray
    affine: np.ndarray


def grid_affine(kidney: ScanKidney, contract: PreprocessingContract) -> np.ndarray:
    """From indices D, H, W of a kidney's region to RAS millimetres, float64 [4, 4]."""
    assert kidney.located is not None
    return array_affine(roi_affine(kidney.located.center(contract.region), contract))


def array_affine(affine: np.ndarray) -> np.ndarray:
    """An affine of voxels x, y, z as that of indices D, H, W, which run z, y, x."""
    return np.ascontiguousarray(np.asarray(affine, dtype=np.float64)[:, [2, 1, 0, 3]])


def regridded(affine: np.ndarray, spacing_mm: Spacing, new_mm: Spacing) -> np.ndarray:
    """The affine of an array after `coarsened`, which keeps the corner of its first voxel and not the centre.

    Args:
        affine: From indices D, H, W to RAS millimetres before.
        spacing_mm: Spacing before.
        new_mm: Spacing after.
    """
    scale = np.asarray(new_mm) / np.asarray(spacing_mm)
    step = np.diag([*scale, 1.0])
    step[:3, 3] = (scale - 1) / 2
    return np.asarray(affine @ step)


def lesion_hu(
    kidney: ScanKidney, outlines: Sequence[LesionOutline], contract: PreprocessingContract
) -> list[Mapping[str, dict[str, float]]]:
    """Hounsfield units inside each outline, by contrast phase, on the grid that the models read.

    Args:
        kidney: The kidney.
        outlines: The outlines.
        contract: Its contract.

    Returns:
        By phase (`unknown` where it is not known) mean and standard deviation in HU; nothing of an outline that holds
        no voxel of that grid.
    """
    grid = grid_affine(kidney, contract)
    found: list[Mapping[str, dict[str, float]]] = []
    for outline in outlines:
        to_outline = np.linalg.inv(outline.affine) @ grid
        inside = ndimage.affine_transform(
            outline.mask.astype(np.uint8), to_outline[:3, :3], to_outline[:3, 3], contract.grid, order=0
        ).astype(bool)
        views = kidney.views if inside.any() else ()
        values = {view.phase or "unknown": view.image[inside].astype(float) for view in views}
        found.append({phase: {"mean_hu": float(hu.mean()), "sd_hu": float(hu.std())} for phase, hu in values.items()})
    return found
