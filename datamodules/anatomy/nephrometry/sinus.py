"""The renal sinus of a kidney whose map does not draw it: hollows of its convex hull."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import QhullError

from datamodules.anatomy.nephrometry.mask_geometry import (
    CONNECTED,
    Bools,
    Hull,
    Spacing,
    ball,
    surface_points,
    voxel_volume_ml,
)

OPENING_MM = 3.0
"""Radius of the ball that must fit into a hollow; what is thinner is a groove between lobes."""
CAVITY_ML = 0.1
"""Least volume of a cavity in the parenchyma; smaller ones are pin-holes of the annotation."""


def hilar_hollow(parenchyma: Bools, lesion: Bools, spacing_mm: Spacing) -> Bools:
    """The largest hollow of a kidney: its convex hull without parenchyma and lesions.

    Args:
        parenchyma: bool [D, H, W].
        lesion: bool [D, H, W].
        spacing_mm: Voxel spacing, D, H, W.

    Returns:
        bool [D, H, W]; empty where the kidney has no hollow.
    """
    none = np.zeros_like(parenchyma)
    try:
        hull = Hull(surface_points(parenchyma, spacing_mm))
    except QhullError:
        return none
    hollow = hull.fill(parenchyma.shape, spacing_mm) & ~(parenchyma | lesion)
    return max(opened_hollows(hollow, spacing_mm), key=np.count_nonzero, default=none)


def opened_hollows(hollow: Bools, spacing_mm: Spacing) -> list[Bools]:
    """The separate parts of a hollow space that a ball of `OPENING_MM` can roll through."""
    opened = ndimage.binary_opening(hollow, ball(OPENING_MM, spacing_mm))
    pieces, count = ndimage.label(opened, CONNECTED)
    return [pieces == number for number in range(1, count + 1)]


def calyces(parenchyma: Bools, lesions: Bools, spacing_mm: Spacing) -> Bools:
    """Cavities of the parenchyma: calyces and sinus fat that the annotators left out.

    Tissue surrounds them on all sides. One that touches a lesion is no calyx but a gap between two labels.

    Args:
        parenchyma: bool [D, H, W].
        lesions: bool [D, H, W].
        spacing_mm: Voxel spacing, D, H, W.
    """
    tissue = parenchyma | lesions
    pieces, count = ndimage.label(ndimage.binary_fill_holes(tissue) & ~tissue, CONNECTED)
    taken = np.bincount(pieces.ravel(), minlength=count + 1) * voxel_volume_ml(spacing_mm) >= CAVITY_ML
    taken[np.unique(pieces[ndimage.binary_dilation(lesions, CONNECTED)])] = False
    taken[0] = False
    return np.asarray(taken[pieces])
