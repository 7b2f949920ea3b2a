"""Where the kidneys are: from a mask or a box to the centre of each region of interest and what can be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torchio as tio
from scipy import ndimage

from datamodules.anatomy.nephrometry import Kidney, coarsened, score, separate_kidneys
from datamodules.anatomy.nephrometry.kidneys import KIDNEY_ML
from datamodules.anatomy.nephrometry.lesion_scores import SCORED_MM
from datamodules.anatomy.nephrometry.mask_geometry import bounding_slices
from datamodules.anatomy.nephrometry.measures import measures
from datamodules.anatomy.tissues import LESION, Tissue
from datamodules.errors import DataError
from datamodules.importers.mask_grids import voxels_of
from datamodules.importers.masks import SIDE_CODES, KidneyMask
from datamodules.volumes.contract import Region

Point = tuple[float, float, float]


_APART_MM = 20.0
"""A small piece farther from every kidney is none of it: exophytic tumours and fragments of a kidney lie nearer."""
BODY_HU = -300
"""A voxel above this belongs to the body or the table."""


@dataclass(frozen=True)
class LocatedKidney:
    """One kidney of one scan.

    Args:
        side: left or right.
        center_ras_mm: Centre of the bounding box of kidney and lesions. The box, not the centroid: it does not move
            when a mask is thinner on one side, and a region centred on it holds the organ with equal margins.
        labels: Label map of this kidney only, in any crop of the scanner's space; None where only a box is known.
        lesion_center_ras_mm: Centre of the bounding box of the largest lesion, where a mask shows one.
        measures: Columns of the table `kidneys`.
    """

    side: str
    center_ras_mm: Point
    labels: tio.LabelMap | None = None
    lesion_center_ras_mm: Point | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)

    def center(self, region: Region) -> Point:
        """Centre of the region of interest: the lesion's for `lesion` where there is one, else the kidney's."""
        if region == "lesion" and self.lesion_center_ras_mm is not None:
            return self.lesion_center_ras_mm
        return self.center_ras_mm


def locate_kidneys(mask: KidneyMask, image: tio.ScalarImage, where: str) -> tuple[list[LocatedKidney], list[str]]:
    """Find the kidneys of a mask, each with its side.

    Sides are those that the mask's names state; otherwise the position in RAS decides: the kidney with the smaller x
    is the left one, and one on its own is compared with the middle of the body.

    Args:
        mask: Label map in the scan's coordinates.
        image: The scan, which shows where the middle of the body is.
        where: How notes name the scan.

    Returns:
        The kidneys, left first, and notes for the import report.

    Raises:
        DataError: if the mask holds no piece large enough to be a kidney, or a lesion far from any kidney.
    """
    mask, specks = without_specks(mask, where)
    canonical, named = _canonical(mask)
    labels = np.ascontiguousarray(canonical.data[0].numpy().transpose(2, 1, 0))
    x_spacing, y_spacing, z_spacing = (float(value) for value in canonical.spacing)
    middle = (_body_middle_x(image) - float(canonical.affine[0, 3])) * float(np.sign(canonical.affine[0, 0]))
    kidneys = separate_kidneys(labels, (z_spacing, y_spacing, x_spacing), middle)
    if not kidneys:
        raise DataError(f"{where}: the mask holds no piece that is large enough to be a kidney (3 ml).")
    sides, notes = _sides(kidneys, named, where)
    alone = [f"{where}: the mask shows one kidney, the {side} one." for side in sides if len(sides) == 1]
    notes = [*specks, *notes, *alone]
    found = []
    for kidney, side in zip(kidneys, sides, strict=True):
        located = _located(kidney, side, canonical.affine)
        try:
            if _cut_off(located, image):
                raise DataError("the edge of the scan cuts it off")
            located = replace(located, measures={**located.measures, **_nephrometry(kidney, located.side)})
        except DataError as error:
            notes.append(f"{where}: the {side} kidney was not scored: {error}.")
        found.append(located)
    return found, notes


def without_specks(mask: KidneyMask, where: str) -> tuple[KidneyMask, list[str]]:
    """A mask without pieces too small for a kidney that lie apart from every larger one, and a note on them.

    Segmentation programs leave single voxels anywhere in a scan; one of them would move the middle of a kidney.

    Args:
        mask: The mask.
        where: How the note names the scan.

    Raises:
        DataError: if a larger piece that lies apart from every kidney is lesion only: it would be counted as a lesion
            of the other kidney, and is often a kidney itself, of a mask whose codes are right and left.
    """
    labels = mask.labels.data[0].numpy()
    box = bounding_slices(labels > 0)
    pieces, count = ndimage.label(labels[box] > 0, np.ones((3, 3, 3)))
    if count < 2:
        return mask, []
    spacing = np.linalg.norm(mask.labels.affine[:3, :3], axis=0)
    volumes_ml = np.bincount(pieces.ravel(), minlength=count + 1)[1:] * float(spacing.prod()) / 1000.0
    places = ndimage.find_objects(pieces)
    large = [place for place, volume in zip(places, volumes_ml, strict=True) if volume >= KIDNEY_ML]
    drawn_ml = (
        np.bincount(pieces[labels[box] == Tissue.KIDNEY], minlength=count + 1)[1:] * float(spacing.prod()) / 1000.0
    )
    _check_strays(list(zip(places, volumes_ml, drawn_ml, strict=True)), spacing, where)
    apart = [
        number
        for number, (place, volume) in enumerate(zip(places, volumes_ml, strict=True), start=1)
        if volume < KIDNEY_ML and large and min(_gap_mm(place, other, spacing) for other in large) > _APART_MM
    ]
    if not apart:
        return mask, []
    kept = labels.copy()
    kept[box][np.isin(pieces, apart)] = 0
    note = (
        f"{where}: {len(apart)} specks of the mask ({volumes_ml[np.array(apart) - 1].sum():.2g} ml) lie more than "
        f"{_APART_MM:g} mm from the kidneys and were left out."
    )
    return replace(mask, labels=tio.LabelMap(tensor=kept[None], affine=mask.labels.affine)), [note]


def _check_strays(pieces: Sequence[tuple[tuple[slice, ...], float, float]], spacing: np.ndarray, where: str) -> None:
    """Refuse a piece, with its volume and that of kidney tissue in it in ml, that is a lesion far from any kidney."""
    kidneys = [place for place, _, drawn in pieces if drawn >= KIDNEY_ML]
    for place, volume, drawn in pieces:
        gap = min((_gap_mm(place, other, spacing) for other in kidneys), default=0.0)
        if volume >= KIDNEY_ML > drawn and gap > _APART_MM:
            raise DataError(
                f"{where}: {volume:.0f} ml that the mask calls tumour or cyst lie {gap:.0f} mm from the nearest kidney "
                "tissue; expected lesions at a kidney. If the codes of the mask are the right and the left kidney, say "
                "so with the option `labels`, such as {1: kidney_right, 2: kidney_left}."
            )


def _gap_mm(first: tuple[slice, ...], second: tuple[slice, ...], spacing: np.ndarray) -> float:
    """Least distance that two boxes of voxels can have."""
    gaps = [max(one.start - two.stop, two.start - one.stop, 0) for one, two in zip(first, second, strict=True)]
    return float(np.linalg.norm(np.array(gaps) * spacing))


def _nephrometry(kidney: Kidney, side: str) -> dict[str, Any]:
    """The R.E.N.A.L. score of a kidney's largest tumour; nothing where it has none."""
    lesion = kidney.index_lesion
    if lesion is None or lesion.kind != "tumor":
        return {}
    labels, spacing_mm = coarsened(kidney.labels, kidney.spacing_mm, SCORED_MM)
    return score(labels, spacing_mm, "left" if side == "left" else "right").row()


def _canonical(mask: KidneyMask) -> tuple[tio.LabelMap, np.ndarray | None]:
    """The part of the label map that holds labels, its axes along R, A, S, and the named sides as [D, H, W]."""
    turn = tio.ToCanonical()
    box = bounding_slices(mask.labels.data[0].numpy() > 0, margin=1)
    affine = mask.labels.affine.copy()
    affine[:3, 3] = (affine @ np.append([part.start for part in box], 1.0))[:3]
    canonical = turn(tio.LabelMap(tensor=mask.labels.data[(slice(None), *box)], affine=affine))
    if mask.sides is None:
        return canonical, None
    sides = turn(tio.LabelMap(tensor=mask.sides[(slice(None), *box)], affine=affine))
    return canonical, sides.data[0].numpy().transpose(2, 1, 0)


def _cut_off(kidney: LocatedKidney, image: tio.ScalarImage) -> bool:
    """Whether a kidney reaches the first or last voxel of the scan: its centre and volume are then those of a part."""
    if kidney.labels is None:
        return False
    placed = voxels_of(kidney.labels, image)
    return bool((placed < 0.5).any() or (placed > np.array(image.spatial_shape) - 1.5).any())


def _body_middle_x(image: tio.ScalarImage) -> float:
    """x of the middle of the body in RAS millimetres; every fourth voxel is enough."""
    body = np.argwhere(image.data[0, ::4, ::4, ::4].numpy() > BODY_HU) * 4
    if not len(body):
        return float(image.get_center()[0])
    corners = np.vstack([body.min(axis=0), body.max(axis=0)]).mean(axis=0)
    return float((image.affine @ np.append(corners, 1.0))[0])


def _sides(kidneys: Sequence[Kidney], named: np.ndarray | None, where: str) -> tuple[list[str], list[str]]:
    """Side of each kidney: as named where the names say it and do not contradict each other."""
    found: list[str] = [kidney.side for kidney in kidneys]
    if named is None:
        return found, [f"{where}: one kidney was cut in two (fused kidneys)." for kidney in kidneys[:1] if kidney.fused]
    stated = []
    for kidney in kidneys:
        box = tuple(slice(start, start + size) for start, size in zip(kidney.origin, kidney.labels.shape, strict=True))
        votes = np.bincount(named[box][kidney.labels > 0], minlength=3)
        stated.append("left" if votes[SIDE_CODES["left"]] >= votes[SIDE_CODES["right"]] else "right")
    if len(set(stated)) < len(stated):
        return found, [f"{where}: the mask names both kidneys {stated[0]}; their positions were believed instead."]
    if stated != found:
        return stated, [f"{where}: the sides are those that the mask names, although the positions say otherwise."]
    return stated, []


def _located(kidney: Kidney, side: str, affine: np.ndarray) -> LocatedKidney:
    own = affine.copy()
    own[:3, 3] = (affine @ np.append(kidney.origin[::-1], 1.0))[:3]
    labels = tio.LabelMap(tensor=np.ascontiguousarray(kidney.labels.transpose(2, 1, 0))[None], affine=own)
    center = _box_center(kidney.labels > Tissue.UNLABELED, own)
    lesion = kidney.index_lesion
    lesion_center = None if lesion is None else _box_center(lesion.mask, own)
    return LocatedKidney(side, center, labels, lesion_center, _measures(kidney))


def _box_center(mask: np.ndarray, affine: np.ndarray) -> Point:
    points = np.argwhere(mask)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2.0
    x, y, z = (affine @ np.append(middle[::-1], 1.0))[:3]
    return float(x), float(y), float(z)


def _measures(kidney: Kidney) -> dict[str, Any]:
    """Columns of `kidneys` that a mask answers; a mask without lesions cannot say that there is none."""
    row = measures(kidney)
    return row if kidney.lesions else {"kidney_volume_ml": row["kidney_volume_ml"]}


def draws_lesions(kidneys: Sequence[LocatedKidney]) -> bool:
    """Whether a mask shows lesions at all; a kidney without one then has none."""
    return any(kidney.labels is not None and np.isin(kidney.labels.data, LESION).any() for kidney in kidneys)


def locate_box(side: str, box: Sequence[float], image: tio.ScalarImage, *, voxels: bool) -> LocatedKidney:
    """A kidney that only a box shows; nothing of its tumour can be measured.

    Args:
        side: left or right.
        box: x, y, z of one corner and of the opposite one: RAS millimetres, or voxel indices of the scan's own axes
            from the first voxel to the one after the last.
        image: The scan.
        voxels: Whether `box` holds voxel indices.
    """
    corners = np.sort(np.asarray(box, dtype=float).reshape(2, 3), axis=0)
    middle = corners.mean(axis=0)
    if voxels:
        middle = (image.affine @ np.append(middle - 0.5, 1.0))[:3]
    x, y, z = middle
    return LocatedKidney(side, (float(x), float(y), float(z)))


def parse_box(text: str, where: str) -> tuple[float, ...]:
    """Six numbers of a box.

    Raises:
        DataError: if there are not six, or the box is flat.
    """
    try:
        numbers = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    corners = np.asarray(numbers).reshape(2, 3) if len(numbers) == 6 else np.zeros((2, 3))
    if not np.isfinite(corners).all() or (corners[0] == corners[1]).any():
        raise DataError(f"{where}: {text!r} was found; expected a box of six numbers x y z x y z that is not flat.")
    return numbers
