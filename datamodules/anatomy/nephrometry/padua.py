"""PADUA (Ficarra et al., Eur Urol 2009;56:786-793) of one lesion, from the same geometry as R.E.N.A.L."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.anatomy.nephrometry.mask_geometry import Bools, positions
from datamodules.anatomy.nephrometry.organ import Organ
from datamodules.anatomy.nephrometry.points import e_points
from datamodules.anatomy.nephrometry.scores import Nephrometry, border_distance_mm
from datamodules.anatomy.tissues import Tissue

SIZE_MM = (40.0, 70.0)
"""Diameter up to which the size has one point, and up to which it has two."""
CONTACT_MM = 2.0
"""Distance up to which a lesion involves sinus or collecting system: thinner parenchyma is the rim of an annotation."""
COMPLEXITY: tuple[tuple[int, str], ...] = ((7, "low"), (9, "intermediate"), (14, "high"))
"""Risk of complications by the highest total of each group, as in the article."""


@dataclass(frozen=True)
class Padua:
    """The PADUA score of one lesion; its face, anterior or posterior, is that of R.E.N.A.L. and has no points.

    Args:
        location: Longitudinal, by the lines at the ends of the renal sinus: 1 polar, wholly beyond a line or at most
            half across it; 2 middle.
        exophytic: 1 from 50 % exophytic, 2 below, 3 endophytic.
        rim: 1 lateral, 2 medial.
        sinus: 1 not involved, 2 involved.
        collecting_system: 1 not involved, 2 dislocated or infiltrated; None where the map does not draw it, since no
            geometry can tell it then.
        size: 1 up to 4 cm, 2 up to 7 cm, 3 above.
    """

    location: int
    exophytic: int
    rim: int
    sinus: int
    collecting_system: int | None
    size: int

    @property
    def total(self) -> tuple[int, int]:
        """Lowest and highest sum that the map leaves open, each 6 to 14; equal where all is known."""
        known = self.location + self.exophytic + self.rim + self.sinus + self.size
        own = (1, 2) if self.collecting_system is None else (self.collecting_system, self.collecting_system)
        return known + own[0], known + own[1]

    @property
    def complexity(self) -> str:
        """low (6 or 7), intermediate (8 or 9) or high (10 and more); both where the sum is open between two."""
        return " or ".join(dict.fromkeys(_group(total) for total in self.total))


def _group(total: int) -> str:
    return next(name for highest, name in COMPLEXITY if total <= highest)


def size_points(diameter_mm: float) -> Literal[1, 2, 3]:
    """Size: 1 up to 4 cm, 2 up to 7 cm, 3 above; R.E.N.A.L. counts 7 cm itself as 3."""
    return 1 if diameter_mm <= SIZE_MM[0] else 2 if diameter_mm <= SIZE_MM[1] else 3


def padua(organ: Organ, labels: np.ndarray, lesion: Bools, renal: Nephrometry) -> Padua:
    """Score one lesion.

    The lines of the sinus are the polar lines of R.E.N.A.L.; the rim is medial where more than half of the lesion lies
    on the hilum's side of the kidney's centre; sinus and collecting system are involved within `CONTACT_MM`.

    Args:
        organ: The kidney, as of `measure_organ`.
        labels: uint8 [D, H, W] of `Tissue` codes that the kidney was measured on.
        lesion: bool [D, H, W].
        renal: R.E.N.A.L. of the same lesion, whose measures are used.
    """
    offset = positions(lesion, organ.spacing_mm) - organ.frame.centre
    medial = float((offset @ organ.frame.medial > 0.0).mean())
    drawn = labels == Tissue.COLLECTING_SYSTEM
    return Padua(
        location=2 if renal.l_fraction > 0.5 else 1,
        exophytic=e_points(renal.e_fraction),
        rim=2 if medial > 0.5 else 1,
        sinus=_involved(organ.sinus & ~drawn, lesion, organ),
        collecting_system=_involved(drawn, lesion, organ) if drawn.any() else None,
        size=size_points(renal.r_mm),
    )


def _involved(part: Bools, lesion: Bools, organ: Organ) -> int:
    near = part.any() and border_distance_mm(part, lesion, organ.spacing_mm) <= CONTACT_MM
    return 2 if near else 1
