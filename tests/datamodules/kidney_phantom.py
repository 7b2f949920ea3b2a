"""An ellipsoid kidney with a notch for its hilum, on any grid: anatomy whose measures are known."""

from __future__ import annotations

import numpy as np

from datamodules.anatomy.nephrometry.mask_geometry import Spacing
from datamodules.anatomy.tissues import Tissue

SEMI_AXES_MM = np.array([55.0, 25.0, 30.0])
FIELD_MM = np.array([170.0, 130.0, 150.0])


def grid(spacing_mm: Spacing) -> np.ndarray:
    """Voxel centres [D, H, W, 3] in mm from the middle of the field."""
    axes = [
        (np.arange(round(field / step)) + 0.5) * step - field / 2.0
        for field, step in zip(FIELD_MM, spacing_mm, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def ellipsoid(points: np.ndarray, centre: tuple[float, ...], semi_axes: np.ndarray | float) -> np.ndarray:
    """Whether each point lies in an ellipsoid along the axes."""
    return (((points - np.array(centre)) / semi_axes) ** 2).sum(axis=-1) <= 1.0


def kidney(
    spacing_mm: Spacing = (2.0, 2.0, 2.0),
    tumor: tuple[float, float, float] | None = None,
    radius_mm: float = 15.0,
    *,
    drawn_sinus: bool = True,
    side: str = "left",
) -> np.ndarray:
    """A left kidney in the middle of the field, its hilum at +W (a right one is its mirror image).

    The sinus is an ellipsoid of 18 x 10 x 14 mm around (0, 0, 24): its lips lie at -18 and +18 mm along the kidney.

    Args:
        spacing_mm: Voxel spacing, D, H, W.
        tumor: Centre of a spherical tumour in mm from the kidney's centre, D, H, W.
        radius_mm: Its radius.
        drawn_sinus: Whether the sinus is labelled, or left out as in KiTS23.
        side: left or right.

    Returns:
        uint8 [D, H, W] of `Tissue` codes.
    """
    points = grid(spacing_mm)
    labels = np.zeros(points.shape[:3], dtype=np.uint8)
    organ = ellipsoid(points, (0, 0, 0), SEMI_AXES_MM)
    sinus = ellipsoid(points, (0, 0, 24), np.array([18.0, 10.0, 14.0]))
    labels[organ & ~sinus] = Tissue.KIDNEY
    if drawn_sinus:
        labels[organ & sinus] = Tissue.RENAL_SINUS
    if tumor is not None:
        labels[ellipsoid(points, tumor, radius_mm)] = Tissue.TUMOR
    return labels if side == "left" else labels[:, :, ::-1].copy()


def share_outside(tumor: tuple[float, float, float], radius_mm: float) -> float:
    """Exophytic share of a spherical tumour, counted on a million points."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-radius_mm, radius_mm, (1_000_000, 3))
    points = points[(points**2).sum(axis=1) <= radius_mm**2] + np.array(tumor)
    return float(1.0 - ellipsoid(points, (0, 0, 0), SEMI_AXES_MM).mean())
