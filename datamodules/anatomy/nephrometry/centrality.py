"""The centrality index (Simmons et al., J Urol 2009;182:1733-1738) of one lesion."""

from __future__ import annotations

import numpy as np

from datamodules.anatomy.nephrometry.mask_geometry import Bools, positions
from datamodules.anatomy.nephrometry.organ import Organ


def centrality_index(organ: Organ, lesion: Bools, diameter_mm: float) -> float:
    r"""How far from the kidney's centre a lesion lies, in radii of its own.

    .. math:: C = \sqrt{x^2 + y^2} / r

    with y the distance between the two centres along the axial slices, x that within them, and r half of the largest
    axial diameter. 0 is concentric; at 1 the border reaches the centre; the larger, the more peripheral. The article
    takes the centre of an ellipse that a reader draws around the kidney on the slice half-way between its poles; here
    it is the centre of the kidney's convex hull, from which the lesion is left out as in R.E.N.A.L.

    Args:
        organ: The kidney, as of `measure_organ`.
        lesion: bool [D, H, W].
        diameter_mm: Largest axial diameter, R of R.E.N.A.L.
    """
    centre = positions(lesion, organ.spacing_mm).mean(axis=0)
    return float(np.linalg.norm(centre - organ.frame.centre) / (diameter_mm / 2.0))
