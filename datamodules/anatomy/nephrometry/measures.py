"""What the table `kidneys` says of a kidney besides its nephrometry score: volumes, counts, diameters, positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.anatomy.nephrometry.kidneys import ORGAN, Kidney
from datamodules.anatomy.nephrometry.mask_geometry import Bools, Points, Spacing, feret_diameter_mm, surface_points
from datamodules.anatomy.tissues import TUMOR, Tissue


def measures(kidney: Kidney) -> dict[str, Any]:
    """Columns of the table `kidneys` for a kidney whose map shows all lesions.

    `lesion_diameter_mm` is the largest extent in space; what a reader measures on axial slices is `renal_r_mm`. The
    offset leads from the centre of the box around kidney and lesions to the centre of the box around the index lesion.
    """
    row: dict[str, Any] = {
        "has_lesion": bool(kidney.lesions),
        "lesion_count": len(kidney.lesions),
        "kidney_volume_ml": kidney.volume_ml(ORGAN),
        "tumor_volume_ml": kidney.volume_ml(TUMOR),
        "cyst_volume_ml": kidney.volume_ml((Tissue.CYST,)),
    }
    lesion = kidney.index_lesion
    if lesion is None:
        return row
    offset = box_centre(lesion.mask, kidney.spacing_mm) - kidney_centre(kidney)
    return row | {
        "lesion_diameter_mm": feret_diameter_mm(surface_points(lesion.mask, kidney.spacing_mm)),
        "lesion_offset_d_mm": float(offset[0]),
        "lesion_offset_h_mm": float(offset[1]),
        "lesion_offset_w_mm": float(offset[2]),
    }


def box_centre(mask: Bools, spacing_mm: Spacing) -> Points:
    """Centre of the smallest box around a mask, [3] mm from the centre of voxel (0, 0, 0)."""
    used = np.argwhere(mask)
    return (used.min(axis=0) + used.max(axis=0)) / 2.0 * np.asarray(spacing_mm)


def kidney_centre(kidney: Kidney) -> Points:
    """Centre of the box around a kidney and its lesions, on which its region of interest is centred."""
    return box_centre(kidney.labels > Tissue.UNLABELED, kidney.spacing_mm)
