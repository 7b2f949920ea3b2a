"""The thresholds of R.E.N.A.L. nephrometry, from a measured value to its points and to the words for them.

Kutikov and Uzzo, The R.E.N.A.L. nephrometry score, J Urol 2009;182:844. Whoever writes a sentence about a measured
lesion asks here, so that no text says what the points deny.
"""

from __future__ import annotations

from typing import Literal

Face = Literal["anterior", "posterior", "x"]
Pole = Literal["upper", "interpolar", "lower"]

R_MM = (40.0, 70.0)
"""Diameter up to which R is 1, and from which it is 3."""
E_HALF = 0.5
"""Exophytic share from which E is 1."""
ENDOPHYTIC = 0.05
"""Exophytic share up to which a lesion is wholly endophytic: the roughness of a mask's border alone gives that much."""
N_MM = (4.0, 7.0)
"""Distance up to which N is 3, and from which it is 1."""
CLEAR_MAJORITY = 2.0 / 3.0
"""Share of a lesion on one side of the coronal plane from which it is anterior or posterior."""
TRACE = 0.02
"""Share of a lesion below which it does not cross a plane: the voxels of a smooth border reach that far."""

SIZE_CLASS = {1: "to_4_cm", 2: "4_to_7_cm", 3: "from_7_cm"}
EXOPHYTIC = {1: "mostly", 2: "partly", 3: "endophytic"}
NEARNESS = {1: "distant", 2: "near", 3: "abutting"}
"""From the points of R, E and N to the values of the attributes that say the same."""


def r_points(diameter_mm: float) -> int:
    """R, radius: 1 up to 4 cm, 2 above 4 and below 7 cm, 3 from 7 cm of maximal diameter."""
    return 1 if diameter_mm <= R_MM[0] else 2 if diameter_mm < R_MM[1] else 3


def e_points(exophytic: float) -> int:
    """E, exophytic: 1 from 50 % exophytic, 2 below 50 %, 3 wholly endophytic."""
    return 1 if exophytic >= E_HALF else 2 if exophytic > ENDOPHYTIC else 3


def n_points(distance_mm: float) -> int:
    """N, nearness to sinus or collecting system: 1 from 7 mm, 2 above 4 and below 7 mm, 3 up to 4 mm."""
    return 1 if distance_mm >= N_MM[1] else 2 if distance_mm > N_MM[0] else 3


def a_suffix(anterior: float) -> Face:
    """A, anterior or posterior of the kidney's own coronal plane; x when neither is clear."""
    if anterior >= CLEAR_MAJORITY:
        return "anterior"
    return "posterior" if anterior <= 1.0 - CLEAR_MAJORITY else "x"


def crosses(above: float) -> bool:
    """Whether a lesion crosses a plane, from the share of its volume above it."""
    return TRACE < above < 1.0 - TRACE


def l_points(between: float, crosses_midline: bool) -> int:
    """L, location: 1 wholly beyond a polar line; 2 across one; 3 more than half of it across, or between, or midline.

    Args:
        between: Share of the volume between the polar lines.
        crosses_midline: Whether it crosses the axial midline of the kidney.
    """
    if between > 0.5 or crosses_midline:
        return 3
    return 2 if between > TRACE else 1


def pole_of(points: int, above: float) -> Pole:
    """The third of the kidney that a lesion lies in by its points for L.

    Args:
        points: L; 3 (more than half across a line, wholly between them, or across the midline) is interpolar.
        above: Share of the volume above the midline.
    """
    if points == 3:
        return "interpolar"
    return "upper" if above > 0.5 else "lower"


def stated_mm(diameter_mm: float) -> int:
    """A diameter in whole millimetres, as a report gives it, that has the points of the diameter itself.

    40.3 mm have two points for R and become 41 mm (4.1 cm): 4.0 cm would be read as one point.
    """
    nearest = round(diameter_mm)
    if r_points(nearest) == r_points(diameter_mm):
        return nearest
    return nearest + 1 if nearest < diameter_mm else nearest - 1
