"""The renal sinus of a kidney whose map does not draw it: the hollow of the hilum."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import QhullError

from datamodules.nephrometry.geometry import CONNECTED, Bools, Hull, Spacing, positions, surface_points

OPENING_MM = 3.0
"""Radius of the ball that must fit into the hollow; what is thinner is a groove between lobes."""


def hilar_hollow(parenchyma: Bools, lesion: Bools, spacing_mm: Spacing) -> Bools:
    """The largest hollow of a kidney: its convex hull without parenchyma and lesions.

    Args:
        parenchyma: bool [D, H, W].
        lesion: bool [D, H, W].
        spacing_mm: Voxel spacing, D, H, W.

    Returns:
        bool [D, H, W]; empty where the kidney has no hollow.
    """
    empty = ~(parenchyma | lesion)
    hollow = np.zeros_like(parenchyma)
    try:
        hull = Hull(surface_points(parenchyma, spacing_mm))
    except QhullError:
        return hollow
    hollow[empty] = hull.contains(positions(empty, spacing_mm))
    opened = _opened(hollow, spacing_mm)
    pieces, count = ndimage.label(opened, CONNECTED)
    if count == 0:
        return opened
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces == sizes.argmax()


def _opened(mask: Bools, spacing_mm: Spacing) -> Bools:
    """Morphological opening with a ball, by distances so that anisotropic voxels are no matter."""
    padded = np.pad(mask, 1)
    core = ndimage.distance_transform_edt(padded, sampling=spacing_mm) > OPENING_MM
    if not core.any():
        return np.zeros_like(mask)
    grown = ndimage.distance_transform_edt(~core, sampling=spacing_mm) <= OPENING_MM
    return (grown & padded)[1:-1, 1:-1, 1:-1]
