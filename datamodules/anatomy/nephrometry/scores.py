"""R.E.N.A.L. nephrometry (Kutikov and Uzzo, J Urol 2009;182:844) from a label map in millimetres.

Each component has a continuous value, which is measured here, and points, which follow from it by the thresholds of
the article (`points.py`); the value is kept beside the points because a lesion 1 mm from a threshold is no other
lesion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from datamodules.anatomy.nephrometry.kidneys import find_lesions
from datamodules.anatomy.nephrometry.mask_geometry import (
    Bools,
    Points,
    Spacing,
    axial_diameter_mm,
    positions,
    surface_points,
)
from datamodules.anatomy.nephrometry.organ import Organ, measure_organ, original_surface
from datamodules.anatomy.nephrometry.points import (
    Face,
    Pole,
    a_suffix,
    crosses,
    e_points,
    l_points,
    n_points,
    pole_of,
    r_points,
)
from datamodules.errors import DataError

LARGE_MM = 40.0
"""Diameter above which the kidney's former surface is completed by an ellipsoid."""


@dataclass(frozen=True)
class Nephrometry:
    """The R.E.N.A.L. score of one lesion.

    Args:
        r_mm: Largest axial diameter.
        e_fraction: Exophytic share of the volume, 0 to 1.
        n_mm: Distance to the sinus or collecting system.
        anterior_fraction: Share of the volume in front of the kidney's coronal plane.
        l_fraction: Share of the volume between the polar lines.
        r: Points.
        e: Points.
        n: Points.
        a: anterior, posterior or x.
        l: Points.
        pole: Third of the kidney by L.
        sinus_source: Whether the sinus was drawn (`mask`) or `approximated`.
    """

    r_mm: float
    e_fraction: float
    n_mm: float
    anterior_fraction: float
    l_fraction: float
    r: int
    e: int
    n: int
    a: Face
    l: int  # noqa: E741 - the letter is the component's name
    pole: Pole
    sinus_source: Literal["mask", "approximated"]

    @property
    def total(self) -> int:
        """Sum of the points, 4 (least complex) to 12; A has none."""
        return self.r + self.e + self.n + self.l

    def row(self) -> dict[str, object]:
        """The columns of the table `kidneys`."""
        return {
            "renal_r_mm": self.r_mm,
            "renal_e_fraction": self.e_fraction,
            "renal_n_mm": self.n_mm,
            "renal_l_fraction": self.l_fraction,
            "renal_r": self.r,
            "renal_e": self.e,
            "renal_n": self.n,
            "renal_a": self.a,
            "renal_l": self.l,
            "renal_pole": self.pole,
            "renal_source": "geometry",
            "sinus_source": self.sinus_source,
        }


def score(
    labels: np.ndarray, spacing_mm: Spacing, side: Literal["left", "right"], lesion: Bools | None = None
) -> Nephrometry:
    """Score one lesion of one kidney.

    Args:
        labels: uint8 [D, H, W] of `Tissue` codes of one kidney with its lesions, in patient axes (D to superior, H to
            anterior, W to right).
        spacing_mm: Voxel spacing, D, H, W. Below about 1.5 mm it costs time and changes nothing.
        side: left or right.
        lesion: bool [D, H, W]; the largest tumour by default, or the largest cyst where there is no tumour.

    Raises:
        DataError: if there is no lesion, or no parenchyma to refer it to.
    """
    if lesion is None:
        found = find_lesions(labels, spacing_mm)
        if not found:
            raise DataError(f"The {side} kidney has no lesion to score; score kidneys that have one.")
        lesion = found[0].mask
    return score_within(measure_organ(labels, spacing_mm, side), lesion)


def score_within(organ: Organ, lesion: Bools) -> Nephrometry:
    """Score one lesion of a kidney that was measured before.

    Args:
        organ: The kidney.
        lesion: bool [D, H, W].
    """
    points = positions(lesion, organ.spacing_mm)
    # Spacings come from affines in single precision, and 40.0000004 mm are no reason for another point.
    r_mm = round(axial_diameter_mm(lesion, organ.spacing_mm), 3)
    e_fraction = exophytic_fraction(organ, lesion, r_mm)
    n_mm = round(sinus_distance_mm(organ, lesion), 3)
    anterior = float(((points - organ.frame.centre) @ organ.frame.anterior > 0).mean())
    between, above = polar_shares(organ, points)
    location = l_points(between, crosses(above))
    return Nephrometry(
        r_mm=r_mm,
        e_fraction=e_fraction,
        n_mm=n_mm,
        anterior_fraction=anterior,
        l_fraction=between,
        r=r_points(r_mm),
        e=e_points(e_fraction),
        n=n_points(n_mm),
        a=a_suffix(anterior),
        l=location,
        pole=pole_of(location, above),
        sinus_source=organ.sinus_source,
    )


def exophytic_fraction(organ: Organ, lesion: Bools, r_mm: float) -> float:
    """Share of a lesion's volume outside the kidney.

    The kidney is the convex hull of its parenchyma, without the rim that annotation leaves around a lesion. A large
    tumour takes the parenchyma, and with it the hull, of the pole that it grows in: above `LARGE_MM` the ellipsoid
    fitted to the untouched surface is added. On spheres set into healthy kidneys of KiTS23, where the truth is known,
    the mean absolute error is .06 to .14 for diameters of 2 to 8.4 cm; those below 4 cm are made more exophytic by
    that much, because the hull spans their bed by a chord.
    """
    inside = organ.inside[lesion]
    if r_mm > LARGE_MM:
        inside |= original_surface(organ, lesion).contains(positions(lesion, organ.spacing_mm))
    return float(1.0 - inside.mean())


def sinus_distance_mm(organ: Organ, lesion: Bools) -> float:
    """Shortest distance from border to border between a lesion and the sinus or collecting system, in mm.

    N of Kutikov and Uzzo, J Urol 2009;182:844. Drawn, these are what the map says. Otherwise they are the hollow of
    the hilum and the cavities of the parenchyma, calyces deep in the kidney among them; a cavity that touches a lesion
    is none.
    """
    return border_distance_mm(organ.sinus, lesion, organ.spacing_mm)


def border_distance_mm(other: Bools, lesion: Bools, spacing_mm: Spacing) -> float:
    """Shortest distance from border to border of two masks in mm, 0 where they overlap."""
    if (other & lesion).any():
        return 0.0
    distance, _ = cKDTree(surface_points(other, spacing_mm)).query(surface_points(lesion, spacing_mm))
    return float(distance.min())


def polar_shares(organ: Organ, points: Points) -> tuple[float, float]:
    """Where a lesion lies along the kidney.

    The polar lines are the planes, perpendicular to the kidney's long axis, beyond which the medial lip of the
    parenchyma is no longer interrupted by the renal sinus (Kutikov and Uzzo, J Urol 2009;182:844): those through the
    ends of the opening of the hilar hollow. A calyx that leads off the hollow, or lies apart from it, moves neither.
    The midline is half-way between them.

    Returns:
        Share of the volume between the polar lines, and above the midline.
    """
    along = (points - organ.frame.centre) @ organ.frame.superior
    lower, upper = organ.polar_mm
    between = float(((along > lower) & (along < upper)).mean())
    return between, float((along > (lower + upper) / 2.0).mean())
