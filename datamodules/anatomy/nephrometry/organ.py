"""The kidney as the frame in which a lesion is described: hull, axes, sinus, and the surface before the tumour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.optimize import least_squares
from scipy.spatial import QhullError, cKDTree
from scipy.spatial.transform import Rotation

from datamodules.anatomy.nephrometry.kidneys import KIDNEY_ML
from datamodules.anatomy.nephrometry.mask_geometry import (
    CONNECTED,
    Axes,
    Bools,
    Hull,
    Points,
    Spacing,
    ball,
    positions,
    principal_axes,
    surface_points,
    voxel_volume_ml,
)
from datamodules.anatomy.nephrometry.sinus import calyces, opened_hollows
from datamodules.anatomy.tissues import LESION, Tissue
from datamodules.errors import DataError

SINUS = (Tissue.RENAL_SINUS, Tissue.COLLECTING_SYSTEM)

RIM_MM = 6.0
"""Thickness of parenchyma over a lesion below which it is the rim of an annotation; cortex alone is 7 to 10 mm."""
RIM_REACH_MM = 6.0
"""Distance from a lesion beyond which thin parenchyma is parenchyma."""

ADULT_MM = np.array([60.7, 35.2, 26.8])
ADULT_SD_MM = np.array([6.2, 3.4, 2.8])
"""Semi-axes of the adult kidney: mean and standard deviation of the hulls of 120 kidneys without a lesion in KiTS23."""

MALROTATED = 0.05
"""Share of left to right in the width's direction below which a kidney is turned by a right angle."""
USUAL_MEDIAL = 0.6
USUAL_LENGTHS = (0.3, 0.35, 0.4)
"""Centre of the sinus towards the hilum and its semi-axes, in semi-axes of the kidney, where no hollow is left."""
LIP_MM = 3.0
"""Depth below the hull down to which a hollow is its own opening; what lies deeper is sinus and calyces."""
LEAST_OPENING = 0.13
"""Length of the opening, as a share of the kidney's, below which a hollow is no hilum but what a tumour left of one or
a notch; 97.5 % of the kidneys without a lesion in KiTS23 have a longer one."""


@dataclass(frozen=True)
class Frame:
    """The kidney's own axes, unit vectors in D, H, W; none of them is an axis of the body.

    Args:
        centre: Centre of the hull, mm.
        superior: Long axis, to the upper pole.
        medial: Width, towards the hilum.
        anterior: Thickness; normal of the kidney's coronal plane.
        lengths_mm: Semi-axes of the hull along them.
    """

    centre: Points
    superior: Points
    medial: Points
    anterior: Points
    lengths_mm: Points


@dataclass(frozen=True)
class Organ:
    """One kidney, measured.

    Args:
        parenchyma: bool [D, H, W].
        lesions: bool [D, H, W], all of them.
        spacing_mm: Voxel spacing, D, H, W.
        hull: Convex hull of the parenchyma, without rims around lesions.
        inside: bool [D, H, W], the voxels in the hull.
        frame: Axes of the hull.
        sinus: bool [D, H, W], sinus and collecting system, to which N is measured.
        sinus_source: `mask`, or `approximated` from the shape of the kidney.
        polar_mm: Lower and upper polar line, positions along `frame.superior` from `frame.centre`.
    """

    parenchyma: Bools
    lesions: Bools
    spacing_mm: Spacing
    hull: Hull
    inside: Bools
    frame: Frame
    sinus: Bools
    sinus_source: Literal["mask", "approximated"]
    polar_mm: tuple[float, float]


def measure_organ(labels: np.ndarray, spacing_mm: Spacing, side: Literal["left", "right"]) -> Organ:
    """Hull, axes and sinus of one kidney.

    Args:
        labels: uint8 [D, H, W] of `Tissue` codes of one kidney in patient axes.
        spacing_mm: Voxel spacing, D, H, W.
        side: left or right; it says where medial is.

    Raises:
        DataError: if there is too little parenchyma to have a shape.
    """
    parenchyma = labels == Tissue.KIDNEY
    lesions = np.isin(labels, LESION)
    try:
        hull = Hull(surface_points(without_rim(parenchyma, lesions, spacing_mm), spacing_mm))
    except (QhullError, ValueError) as error:
        volume = float(parenchyma.sum()) * voxel_volume_ml(spacing_mm)
        raise DataError(
            f"The {side} kidney has {volume:.2f} ml of parenchyma; expected a body with a shape, of at least a few ml. "
            "Check the labels of the mask."
        ) from error
    inside = hull.fill(labels.shape, spacing_mm)
    space = inside & ~(parenchyma | lesions)
    frame = _frame(positions(inside, spacing_mm), positions(space, spacing_mm), side)
    hollow, opening = _hilum(hull, space, frame, spacing_mm)
    # The pelvis leaves the kidney as the ureter does; only what lies in the kidney is sinus.
    drawn = np.isin(labels, SINUS) & inside
    usual, usual_mm = _usual_place(inside, frame, spacing_mm)
    if (drawn & (labels == Tissue.RENAL_SINUS)).any():
        sinus = drawn
    elif drawn.any():
        sinus = drawn | hollow
    else:
        sinus = (hollow if hollow.any() else usual) | calyces(parenchyma, lesions, spacing_mm)
    polar_mm = opening or (_extent(drawn, frame, spacing_mm) if drawn.any() else usual_mm)
    source: Literal["mask", "approximated"] = "mask" if drawn.any() else "approximated"
    return Organ(parenchyma, lesions, spacing_mm, hull, inside, frame, sinus, source, polar_mm)


def without_rim(parenchyma: Bools, lesions: Bools, spacing_mm: Spacing) -> Bools:
    """Parenchyma without the thin shell around its lesions.

    Annotators who outline the whole organ first and the lesion in it after leave a rim of kidney, a voxel or two,
    around the part of the lesion that stands out of the kidney. The convex hull would take it for the kidney's surface
    and most tumours for wholly endophytic (in KiTS23, 56 % of them, and 6 % without the rim).

    Args:
        parenchyma: bool [D, H, W].
        lesions: bool [D, H, W].
        spacing_mm: Voxel spacing, D, H, W.

    Returns:
        bool [D, H, W]; the parenchyma itself when nothing thicker than a rim would be left of it.
    """
    if not lesions.any():
        return parenchyma
    thick = ndimage.binary_opening(parenchyma, ball(RIM_MM / 2.0, spacing_mm))
    far = ~ndimage.binary_dilation(lesions, ball(RIM_REACH_MM, spacing_mm))
    pieces, count = ndimage.label(parenchyma & (thick | far), CONNECTED)
    large = np.bincount(pieces.ravel(), minlength=count + 1) * voxel_volume_ml(spacing_mm) >= KIDNEY_ML
    large[0] = False
    return large[pieces] if large.any() else parenchyma


def _frame(points: Points, hollows: Points, side: Literal["left", "right"]) -> Frame:
    """Axes of a kidney from the points of its hull and those of them in no tissue, its hollows."""
    axes = principal_axes(points)
    superior, width, _ = axes.directions
    superior = superior if superior[0] > 0 else -superior
    # W grows to the patient's right, so medial is +W for a left kidney.
    towards = 1.0 if side == "left" else -1.0
    inward = width[2] * towards
    if abs(inward) < MALROTATED and len(hollows):
        # The width of a kidney that faces forwards says nothing of the midline, but the hilum still opens along it.
        inward = (hollows.mean(axis=0) - axes.centre) @ width
    medial = width if inward > 0 else -width
    anterior = -towards * np.cross(superior, medial)
    return Frame(axes.centre, superior, medial, anterior, axes.lengths_mm)


def _hilum(hull: Hull, space: Bools, frame: Frame, spacing_mm: Spacing) -> tuple[Bools, tuple[float, float] | None]:
    """The hollow of the hilum, and the ends of its opening along the kidney.

    The hilum lies medially and in the middle half of the length, which a hollow beside a bulging tumour does not, and
    it opens onto the surface, which a cavity does not. The opening is what lies just below the hull: the sinus widens
    behind its lips, and the calyces that lead off it may reach far into the poles.

    Args:
        hull: Convex hull of the kidney.
        space: bool [D, H, W], the hull without parenchyma and lesions.
        frame: Axes of the kidney.
        spacing_mm: Voxel spacing, D, H, W.

    Returns:
        bool [D, H, W] and positions in mm; no voxel and None where the kidney has no hilum or a tumour fills it.
    """
    found, ends = np.zeros_like(space), None
    # A slice thicker than the opening is deep still has to show it.
    reach = max(LIP_MM, *spacing_mm)
    for hollow in opened_hollows(space, spacing_mm):
        points = positions(hollow, spacing_mm)
        offset = points.mean(axis=0) - frame.centre
        along, medial, anterior = offset @ frame.superior, offset @ frame.medial, offset @ frame.anterior
        in_place = abs(along) < 0.5 * frame.lengths_mm[0] and medial > abs(anterior)
        shallow = hull.depth_mm(points) <= reach
        if in_place and shallow.any() and len(points) > np.count_nonzero(found):
            opening = np.zeros_like(hollow)
            opening[hollow] = shallow
            low, high = _extent(opening, frame, spacing_mm)
            if high - low >= LEAST_OPENING * 2.0 * frame.lengths_mm[0]:
                found, ends = hollow, (low, high)
    return found, ends


def _extent(mask: Bools, frame: Frame, spacing_mm: Spacing) -> tuple[float, float]:
    """Lowest and highest position of a mask along the kidney."""
    along = (surface_points(mask, spacing_mm) - frame.centre) @ frame.superior
    return float(along.min()), float(along.max())


def _usual_place(inside: Bools, frame: Frame, spacing_mm: Spacing) -> tuple[Bools, tuple[float, float]]:
    """Where the sinus of a kidney usually lies, bool [D, H, W], and its ends along the kidney in mm.

    A kidney of a few thick slices may have no voxel there: then it is the nearest one, with the ends of the ellipsoid.
    """
    usual = Axes(
        frame.centre + USUAL_MEDIAL * frame.lengths_mm[1] * frame.medial,
        np.stack([frame.superior, frame.medial, frame.anterior]),
        frame.lengths_mm * np.array(USUAL_LENGTHS),
    )
    points = positions(inside, spacing_mm)
    contained = usual.contains(points)
    place = np.zeros_like(inside)
    if contained.any():
        place[inside] = contained
        return place, _extent(place, frame, spacing_mm)
    place[inside] = np.arange(len(points)) == int(np.argmin(np.linalg.norm(points - usual.centre, axis=1)))
    reach = float(usual.lengths_mm[0])
    return place, (-reach, reach)


def original_surface(organ: Organ, lesion: Bools, clearance_mm: float = 4.0, seed: int = 0) -> Axes:
    """The ellipsoid of the kidney before the tumour, from the surface that the tumour has left alone.

    The semi-axes are held near those of an adult kidney, so that a pole that is gone is put back.

    Args:
        organ: The kidney.
        lesion: bool [D, H, W].
        clearance_mm: Distance from the lesion below which the surface is taken to be displaced.
        seed: Seed of the choice of surface points.

    Returns:
        Centre, axes and semi-axes.
    """
    rng = np.random.default_rng(seed)
    core = without_rim(organ.parenchyma, organ.lesions, organ.spacing_mm)
    # The fit does not gain from thousands of neighbouring points.
    surface = _sample(surface_points(core, organ.spacing_mm), 4000, rng)
    away, _ = cKDTree(surface_points(lesion, organ.spacing_mm)).query(surface)
    outer = organ.hull.depth_mm(surface) < 3.0
    points = _sample(surface[outer & (away > clearance_mm)], 400, rng)
    start = np.stack([organ.frame.superior, organ.frame.medial, organ.frame.anterior])
    if len(points) < 20:
        return Axes(organ.frame.centre, start, np.maximum(organ.frame.lengths_mm, ADULT_MM))

    def residuals(change: Points) -> Points:
        offset = points - organ.frame.centre - change[:3]
        directions = Rotation.from_rotvec(change[3:6]).as_matrix() @ start
        radius = np.linalg.norm(offset @ directions.T / np.exp(change[6:]), axis=1)
        # Distance to the ellipsoid along the ray from its centre; 2.5 mm is the roughness of a real kidney.
        misfit = np.linalg.norm(offset, axis=1) * (1.0 - 1.0 / np.maximum(radius, 1e-6)) / 2.5
        # The prior weighs as much as thirty independent points.
        prior = (change[6:] - np.log(ADULT_MM)) / (ADULT_SD_MM / ADULT_MM)
        return np.concatenate([misfit * np.sqrt(30.0 / len(points)), prior, change[3:6] / 0.3])

    best = least_squares(residuals, np.concatenate([np.zeros(6), np.log(ADULT_MM)]), max_nfev=30).x
    directions = Rotation.from_rotvec(best[3:6]).as_matrix() @ start
    return Axes(organ.frame.centre + best[:3], directions, np.exp(best[6:]))


def _sample(points: Points, most: int, rng: np.random.Generator) -> Points:
    return points if len(points) <= most else points[rng.choice(len(points), most, replace=False)]
