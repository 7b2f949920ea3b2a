"""Every lesion of one kidney with its scores: R.E.N.A.L., PADUA and the centrality index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.anatomy.nephrometry.centrality import centrality_index
from datamodules.anatomy.nephrometry.kidneys import find_lesions
from datamodules.anatomy.nephrometry.mask_geometry import (
    Spacing,
    axial_diameter_mm,
    coarsened,
    feret_diameter_mm,
    surface_points,
)
from datamodules.anatomy.nephrometry.organ import measure_organ
from datamodules.anatomy.nephrometry.padua import Padua, padua
from datamodules.anatomy.nephrometry.scores import Nephrometry, score_within

SCORED_MM = 1.5
"""Spacing to which finer masks are coarsened before they are scored; finer voxels cost time and change nothing."""


@dataclass(frozen=True)
class LesionScores:
    """One lesion, measured.

    Args:
        kind: tumor or cyst.
        volume_ml: Volume.
        diameter_mm: Largest extent in space.
        axial_diameter_mm: Largest extent on an axial slice.
        mask: Its outline, bool [D, H, W] on the map of `coarsened` with `SCORED_MM`.
        renal: R.E.N.A.L.; None of a cyst, which the scores are not made for.
        padua: PADUA; None of a cyst.
        c_index: Centrality index; None of a cyst.
    """

    kind: Literal["tumor", "cyst"]
    volume_ml: float
    diameter_mm: float
    axial_diameter_mm: float
    mask: np.ndarray
    renal: Nephrometry | None = None
    padua: Padua | None = None
    c_index: float | None = None


def score_lesions(
    labels: np.ndarray, spacing_mm: Spacing, side: Literal["left", "right"], *, complete: bool = True
) -> list[LesionScores]:
    """Measure the lesions of a kidney, and score its tumours.

    Args:
        labels: uint8 [D, H, W] of `Tissue` codes of one kidney with its lesions, in patient axes (D to superior, H to
            anterior, W to right).
        spacing_mm: Voxel spacing, D, H, W.
        side: left or right.
        complete: Whether the whole kidney is in the map; without it nothing is scored.

    Returns:
        Tumours first, each kind from large to small; empty where there is no lesion.

    Raises:
        DataError: if there is a tumour, and too little parenchyma to refer it to.
    """
    labels, spacing_mm = coarsened(labels, spacing_mm, SCORED_MM)
    lesions = find_lesions(labels, spacing_mm)
    tumours = complete and any(lesion.kind == "tumor" for lesion in lesions)
    organ = measure_organ(labels, spacing_mm, side) if tumours else None
    found = []
    for lesion in lesions:
        sizes = (
            lesion.volume_ml,
            feret_diameter_mm(surface_points(lesion.mask, spacing_mm)),
            axial_diameter_mm(lesion.mask, spacing_mm),
            lesion.mask,
        )
        if organ is None or lesion.kind == "cyst":
            found.append(LesionScores(lesion.kind, *sizes))
            continue
        renal = score_within(organ, lesion.mask)
        found.append(
            LesionScores(
                lesion.kind,
                *sizes,
                renal,
                padua(organ, labels, lesion.mask, renal),
                centrality_index(organ, lesion.mask, renal.r_mm),
            )
        )
    return found
