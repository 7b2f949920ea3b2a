"""From a label map of the abdomen to its kidneys, each with its side and its lesions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from datamodules.anatomy.nephrometry.mask_geometry import CONNECTED, Bools, Spacing, bounding_slices, voxel_volume_ml
from datamodules.anatomy.nephrometry.sinus import hilar_hollow
from datamodules.anatomy.tissues import LESION, TUMOR, Tissue

Side = Literal["left", "right"]

ORGAN = (Tissue.KIDNEY, Tissue.RENAL_SINUS, Tissue.COLLECTING_SYSTEM)
"""Tissues of a kidney without its lesions."""

KIDNEY_ML = 3.0
"""Least volume of a piece of parenchyma that can be a kidney; an atrophic adult kidney is ten times larger."""
LESION_ML = 0.06
"""Least volume of a lesion, a sphere of 5 mm; smaller pieces are crumbs of another label's border."""
FUSED_MM = 130.0
"""Width of parenchyma in one piece above which it is two kidneys; a kidney on its own is less than 110 mm wide."""
APART_MM = 40.0
"""Distance from left to right between the centres of two kidneys; pieces nearer than that are one kidney."""


@dataclass(frozen=True)
class Lesion:
    """One lesion of a kidney.

    Args:
        kind: tumor, or cyst when it holds no tumour tissue.
        mask: bool [D, H, W] in the crop of its kidney.
        volume_ml: Volume.
    """

    kind: Literal["tumor", "cyst"]
    mask: Bools
    volume_ml: float


@dataclass(frozen=True)
class Kidney:
    """One kidney with its lesions, cut out of the map.

    Args:
        side: left or right.
        labels: uint8 [D, H, W] of `Tissue` codes in the smallest box; the other kidney's voxels are UNLABELED.
        origin: Index of the crop's first voxel in the whole map, D, H, W.
        spacing_mm: Voxel spacing, D, H, W.
        lesions: Tumours first, each kind from large to small.
        side_source: What the side was read from: `position`, against the other kidney or the body's midline, or
            `hilum`, from the kidney's own shape.
        fused: Whether it was cut from its fellow, as in a horseshoe kidney.
    """

    side: Side
    labels: np.ndarray
    origin: tuple[int, int, int]
    spacing_mm: Spacing
    lesions: tuple[Lesion, ...]
    side_source: Literal["position", "hilum"]
    fused: bool = False

    @property
    def index_lesion(self) -> Lesion | None:
        """The largest tumour; where there is none, the largest cyst."""
        return self.lesions[0] if self.lesions else None

    def volume_ml(self, codes: tuple[Tissue, ...]) -> float:
        """Volume of some tissues in ml."""
        return float(np.isin(self.labels, codes).sum()) * voxel_volume_ml(self.spacing_mm)


def separate_kidneys(labels: np.ndarray, spacing_mm: Spacing, midline_mm: float | None = None) -> list[Kidney]:
    """Find the kidneys of a label map, their sides and their lesions.

    Pieces of parenchyma that a tumour holds together are one kidney; one piece wider than any kidney (a horseshoe,
    or two kidneys that a large tumour pressed together) is cut where it is thinnest. A lesion belongs to the kidney
    nearest to it, so one that has lost touch with its kidney is still counted.

    Args:
        labels: uint8 [D, H, W] of `Tissue` codes in patient axes.
        spacing_mm: Voxel spacing, D, H, W.
        midline_mm: Position of the body's midline along W from the centre of the first voxel, which settles the side
            of a kidney on its own. Without it the side is read from the hilum, which faces the midline.

    Returns:
        No, one or two kidneys, left first.
    """
    organ = np.isin(labels, ORGAN)
    lesion = np.isin(labels, LESION)
    parts, fused = _parts(organ, lesion, spacing_mm)
    if not parts:
        return []
    owner = _owners(parts, organ, lesion, spacing_mm)
    sides: list[Side] = ["left", "right"]
    source: Literal["position", "hilum"] = "position"
    if len(parts) == 1 and midline_mm is not None:
        sides = ["left" if _centre_w(parts[0], spacing_mm) < midline_mm else "right"]
    elif len(parts) == 1:
        sides, source = [_side_by_hilum(parts[0], lesion, spacing_mm)], "hilum"
    kidneys = []
    for number, side in enumerate(sides, start=1):
        box = bounding_slices(owner == number, margin=1)
        cut = np.where(owner[box] == number, labels[box], np.uint8(Tissue.UNLABELED)).astype(np.uint8)
        origin = (box[0].start, box[1].start, box[2].start)
        kidneys.append(Kidney(side, cut, origin, spacing_mm, find_lesions(cut, spacing_mm), source, fused))
    return kidneys


def find_lesions(labels: np.ndarray, spacing_mm: Spacing) -> tuple[Lesion, ...]:
    """The separate lesions of one kidney.

    Solid and fluid parts that share at least half of the surface of one of them are one lesion: the fluid centre of
    a cystic tumour, a nodule in a cyst. A simple cyst that merely leans on a tumour stays apart.

    Args:
        labels: uint8 [D, H, W] of `Tissue` codes.
        spacing_mm: Voxel spacing, D, H, W.

    Returns:
        Tumours first, each kind from large to small.
    """
    if not np.isin(labels, LESION).any():
        return ()
    box = bounding_slices(np.isin(labels, LESION), margin=1)
    solid, solids = ndimage.label(np.isin(labels[box], TUMOR), CONNECTED)
    fluid, fluids = ndimage.label(labels[box] == Tissue.CYST, CONNECTED)
    pieces = np.where(fluid > 0, fluid + solids, solid)
    root = _joined(pieces, solids, fluids)
    voxel = voxel_volume_ml(spacing_mm)
    lesions = []
    for number in np.unique(root[1:]):
        inside = root[pieces] == number
        volume = float(inside.sum()) * voxel
        if volume < LESION_ML:
            continue
        mask = np.zeros(labels.shape, dtype=bool)
        mask[box] = inside
        lesions.append(Lesion("tumor" if (inside & (solid > 0)).any() else "cyst", mask, volume))
    return tuple(sorted(lesions, key=lambda lesion: (lesion.kind != "tumor", -lesion.volume_ml)))


def _joined(pieces: np.ndarray, solids: int, fluids: int) -> np.ndarray:
    """Number of the lesion of each piece; entry 0 is the background."""
    root = np.arange(solids + fluids + 1)
    if solids and fluids:
        surface = np.zeros(solids + fluids + 1)
        contact = np.zeros((solids + 1, fluids + 1))
        for axis in range(3):
            before, after = np.moveaxis(pieces, axis, 0)[:-1].ravel(), np.moveaxis(pieces, axis, 0)[1:].ravel()
            for own, other in ((before, after), (after, before)):
                edge = own != other
                surface += np.bincount(own[edge], minlength=len(surface))
                touching = edge & (own > 0) & (own <= solids) & (other > solids)
                np.add.at(contact, (own[touching], other[touching] - solids), 1)
        for first, second in np.argwhere(contact > 0):
            share = contact[first, second] / min(surface[first], surface[solids + second])
            if share >= 0.5:
                low, high = sorted((root[first], root[solids + second]))
                root[root == high] = low
    root[0] = 0
    return root


def _parts(organ: Bools, lesion: Bools, spacing_mm: Spacing) -> tuple[list[Bools], bool]:
    """Parenchyma of the kidneys, from left to right, and whether one piece had to be cut."""
    pieces, count = ndimage.label(organ | lesion, CONNECTED)
    volumes = ndimage.sum_labels(organ, pieces, np.arange(1, count + 1)) * voxel_volume_ml(spacing_mm)
    found = [organ & (pieces == number) for number in np.flatnonzero(volumes >= KIDNEY_ML) + 1]
    if len(found) == 1:
        width = np.ptp(np.flatnonzero(found[0].any(axis=(0, 1)))) * spacing_mm[2]
        if width > FUSED_MM:
            cut = _isthmus(found[0])
            left, right = found[0].copy(), found[0].copy()
            left[..., cut:], right[..., :cut] = False, False
            return [left, right], True
    if len(found) < 2:
        return found, False
    # A tumour can leave crumbs of its kidney behind: the two kidneys are the largest piece and the largest far off.
    found.sort(key=np.count_nonzero, reverse=True)
    centres = [_centre_w(part, spacing_mm) for part in found]
    far = [number for number, centre in enumerate(centres) if abs(centre - centres[0]) >= APART_MM]
    if not far:
        return [np.logical_or.reduce(found)], False
    seeds = (0, far[0])
    kidneys = [np.zeros_like(organ), np.zeros_like(organ)]
    for part, centre in zip(found, centres, strict=True):
        nearest = int(abs(centre - centres[seeds[1]]) < abs(centre - centres[seeds[0]]))
        kidneys[nearest] |= part
    kidneys.sort(key=lambda part: _centre_w(part, spacing_mm))
    return kidneys, False


def _isthmus(parenchyma: Bools) -> int:
    """Index along W of the thinnest section between the two halves of fused kidneys."""
    area = ndimage.gaussian_filter1d(parenchyma.sum(axis=(0, 1)).astype(float), 2.0)
    total = np.cumsum(area) / area.sum()
    # The isthmus lies between the middles of the halves, never in a pole.
    low, high = int(np.searchsorted(total, 0.2)), int(np.searchsorted(total, 0.8))
    between = area[low : high + 1]
    # An isthmus of even thickness is cut in its middle.
    thinnest = np.flatnonzero(between <= 1.1 * between.min())
    return low + int(thinnest[len(thinnest) // 2])


def _centre_w(mask: Bools, spacing_mm: Spacing) -> float:
    """Centre of a mask along W in mm."""
    profile = mask.sum(axis=(0, 1))
    return float(np.average(np.arange(len(profile)), weights=profile)) * spacing_mm[2]


def _side_by_hilum(parenchyma: Bools, lesion: Bools, spacing_mm: Spacing) -> Side:
    """Side of a kidney on its own: the hollow of the hilum opens towards the midline."""
    box = bounding_slices(parenchyma)
    hollow = hilar_hollow(parenchyma[box], lesion[box], spacing_mm)
    opening = _centre_w(hollow, spacing_mm) if hollow.any() else _centre_w(parenchyma[box], spacing_mm)
    return "left" if opening > _centre_w(parenchyma[box], spacing_mm) else "right"


def _owners(parts: list[Bools], organ: Bools, lesion: Bools, spacing_mm: Spacing) -> np.ndarray:
    """Number of the kidney (1, 2) that each voxel of parenchyma or lesion belongs to, 0 elsewhere."""
    owner = np.zeros(organ.shape, dtype=np.uint8)
    for number, part in enumerate(parts, start=1):
        owner[part] = number
    loose = (organ | lesion) & (owner == 0)
    if not loose.any():
        return owner
    if len(parts) == 1:
        owner[loose] = 1
        return owner
    nearest = ndimage.distance_transform_edt(
        owner == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    guess = owner[tuple(nearest)]
    # A lesion is never divided between two kidneys: the kidney that is nearer to most of it has all of it.
    pieces, count = ndimage.label(loose, CONNECTED)
    right = ndimage.sum_labels(guess == 2, pieces, np.arange(1, count + 1))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    choice = np.concatenate([[0], np.where(right > sizes / 2.0, 2, 1)]).astype(np.uint8)
    owner[loose] = choice[pieces[loose]]
    return owner
