"""R.E.N.A.L. nephrometry (Kutikov and Uzzo, J Urol 2009;182:844) from a label map in millimetres.

Each component has a continuous value, which is measured, and points, which follow from it by the thresholds of the
article; the value is kept beside the points because a lesion 1 mm from a threshold is no other lesion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from datamodules.errors import DataError
from datamodules.nephrometry.geometry import Bools, Points, Spacing, axial_diameter_mm, positions, surface_points
from datamodules.nephrometry.kidneys import find_lesions
from datamodules.nephrometry.organ import Organ, measure_organ, original_surface

TRACE = 0.02
"""Share of a lesion below which it does not cross a plane: the voxels of a smooth border reach that far."""
ENDOPHYTIC = 0.05
"""Exophytic share up to which a lesion is wholly endophytic: the roughness of a mask's border alone gives that much."""
CLEAR_MAJORITY = 2.0 / 3.0
"""Share of a lesion on one side of the coronal plane from which it is anterior or posterior."""
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
    a: Literal["anterior", "posterior", "x"]
    l: int  # noqa: E741 - the letter is the component's name
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
    organ = measure_organ(labels, spacing_mm, side)
    points = positions(lesion, spacing_mm)
    r_mm = axial_diameter_mm(lesion, spacing_mm)
    e_fraction = exophytic_fraction(organ, lesion, r_mm)
    n_mm = sinus_distance_mm(organ, lesion)
    anterior = float(((points - organ.frame.centre) @ organ.frame.anterior > 0).mean())
    between, crosses_midline = polar_shares(organ, points)
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
        l=l_points(between, crosses_midline),
        sinus_source=organ.sinus_source,
    )


def exophytic_fraction(organ: Organ, lesion: Bools, r_mm: float) -> float:
    """Share of a lesion's volume outside the kidney.

    The kidney is the convex hull of its parenchyma, without the rim that annotation leaves around a lesion. A large
    tumour takes the parenchyma, and with it the hull, of the pole that it grows in: above `LARGE_MM` the ellipsoid
    fitted to the untouched surface is added. On spheres set into healthy kidneys of KiTS23, where the truth is known,
    the mean absolute error is .05 to .06 for diameters of 2 to 8.4 cm; small ones are made more exophytic by that
    much, because the hull spans their bed by a chord.
    """
    inside = organ.inside[lesion]
    if r_mm > LARGE_MM:
        inside |= original_surface(organ, lesion).contains(positions(lesion, organ.spacing_mm))
    return float(1.0 - inside.mean())


def sinus_distance_mm(organ: Organ, lesion: Bools) -> float:
    """Shortest distance from border to border between a lesion and the sinus or collecting system, in mm."""
    if not organ.sinus.any() or (organ.sinus & lesion).any():
        return 0.0
    sinus = surface_points(organ.sinus, organ.spacing_mm)
    distance, _ = cKDTree(sinus).query(surface_points(lesion, organ.spacing_mm))
    return float(distance.min())


def polar_shares(organ: Organ, points: Points) -> tuple[float, bool]:
    """Where a lesion lies along the kidney.

    The polar lines are the planes through the upper and lower lip of the sinus, perpendicular to the long axis of
    the kidney; the midline is half-way between them.

    Returns:
        Share of the volume between the polar lines, and whether the lesion crosses the midline.
    """
    along = (points - organ.frame.centre) @ organ.frame.superior
    lips = (surface_points(organ.sinus, organ.spacing_mm) - organ.frame.centre) @ organ.frame.superior
    lower, upper = (lips.min(), lips.max()) if len(lips) else (0.0, 0.0)
    between = float(((along > lower) & (along < upper)).mean())
    above = float((along > (lower + upper) / 2.0).mean())
    return between, TRACE < above < 1.0 - TRACE


def r_points(diameter_mm: float) -> int:
    """R, radius: 1 up to 4 cm, 2 above 4 and below 7 cm, 3 from 7 cm of maximal diameter."""
    return 1 if diameter_mm <= 40.0 else 2 if diameter_mm < 70.0 else 3


def e_points(exophytic: float) -> int:
    """E, exophytic: 1 from 50 % exophytic, 2 below 50 %, 3 wholly endophytic."""
    return 1 if exophytic >= 0.5 else 2 if exophytic > ENDOPHYTIC else 3


def n_points(distance_mm: float) -> int:
    """N, nearness to sinus or collecting system: 1 from 7 mm, 2 above 4 and below 7 mm, 3 up to 4 mm."""
    return 1 if distance_mm >= 7.0 else 2 if distance_mm > 4.0 else 3


def a_suffix(anterior: float) -> Literal["anterior", "posterior", "x"]:
    """A, anterior or posterior of the kidney's own coronal plane; x when neither is clear."""
    if anterior >= CLEAR_MAJORITY:
        return "anterior"
    return "posterior" if anterior <= 1.0 - CLEAR_MAJORITY else "x"


def l_points(between: float, crosses_midline: bool) -> int:
    """L, location: 1 wholly beyond a polar line; 2 across one; 3 more than half of it across, or between, or midline.

    Args:
        between: Share of the volume between the polar lines.
        crosses_midline: Whether it crosses the axial midline of the kidney.
    """
    if between > 0.5 or crosses_midline:
        return 3
    return 2 if between > TRACE else 1
