"""Masks on grids: several of one scan as one, and whether a mask lies where its scan does."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel
import numpy as np
import torchio as tio

from datamodules.anatomy.nephrometry.mask_geometry import bounding_slices
from datamodules.errors import DataError
from datamodules.importers.masks import PAINT, KidneyMask

_ONE_VOXEL = 1.0
_SAME_READING = 0.5
"""Share of a tissue from which two masks draw the same and not two parts of it."""
_MOST_OUTSIDE = 0.3
"""Share of a mask that a scan may cut off; a mask of which more lies outside was drawn on another one."""


def merge(masks: Sequence[KidneyMask], where: str) -> KidneyMask:
    """Join masks of one scan, such as those of two objects of which one shows the kidneys and the other the mass.

    What two of them show of the same tissue, on the same voxels, is a second reading: that of the first is kept.

    Args:
        masks: In the order in which they are believed; on any grids in one coordinate system.
        where: How notes name them.

    Returns:
        One mask on the finest of the grids, enlarged to hold them all.
    """
    if len(masks) == 1:
        return masks[0]
    finest = min(masks, key=lambda mask: abs(np.linalg.det(mask.labels.affine[:3, :3])))
    affine, shape = _common_grid(masks, finest.labels.affine)
    data, sides = np.zeros((2, *shape), dtype=np.uint8)
    notes = [note for mask in masks for note in mask.notes]
    for number, mask in enumerate(masks):
        labels, own_sides = _on_grid(mask, affine, shape)
        again = [
            tissue
            for tissue in PAINT
            if number and ((labels == tissue) & (data == tissue)).sum() > _SAME_READING * (labels == tissue).sum() > 0
        ]
        if again:
            labels[np.isin(labels, again)] = 0
            notes.append(f"{where}: a further segmentation draws the same again; the first one was kept.")
        # As in one object a tumour lies on the kidney, and a cyst is part of neither.
        stronger = labels > 0
        for tissue in PAINT:
            stronger &= ~((data == tissue) & (_rank(labels) < PAINT.index(tissue)))
        data[stronger] = labels[stronger]
        sides = np.where(stronger & (own_sides > 0), own_sides, sides)
    joined = tio.LabelMap(tensor=data[None], affine=affine)
    return KidneyMask(joined, sides[None] if sides.any() else None, tuple(notes))


def _rank(labels: np.ndarray) -> np.ndarray:
    """Place of each label in the order of painting."""
    order = np.zeros(256, dtype=np.int8)
    for place, tissue in enumerate(PAINT):
        order[tissue] = place
    return order[labels]


def _common_grid(masks: Sequence[KidneyMask], affine: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """A grid of one affine's voxels around the labels of all masks."""
    inverse = np.linalg.inv(affine)
    corners = []
    for mask in masks:
        box = bounding_slices(mask.labels.data[0].numpy() > 0)
        ends = np.array(np.meshgrid(*[(part.start, part.stop - 1) for part in box], indexing="ij")).reshape(3, -1)
        corners.append((inverse @ mask.labels.affine @ np.vstack([ends, np.ones(8)]))[:3])
    low = np.floor(np.hstack(corners).min(axis=1)).astype(int) - 1
    high = np.ceil(np.hstack(corners).max(axis=1)).astype(int) + 1
    moved = affine.copy()
    moved[:3, 3] = (affine @ np.append(low, 1.0))[:3]
    return moved, tuple(int(size) for size in high - low + 1)


def _on_grid(mask: KidneyMask, affine: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and sides of a mask on another grid, by the nearest voxel."""
    turn = np.linalg.inv(mask.labels.affine) @ affine
    indices = np.indices(tuple(shape)).reshape(3, -1)
    source = np.round(turn[:3, :3] @ indices + turn[:3, 3:]).astype(int)
    own = np.array(mask.labels.spatial_shape)[:, None]
    inside = ((source >= 0) & (source < own)).all(axis=0)
    found = np.zeros((2, indices.shape[1]), dtype=np.uint8)
    place = tuple(source[:, inside])
    found[0, inside] = mask.labels.data[0].numpy()[place]
    if mask.sides is not None:
        found[1, inside] = mask.sides[0][place]
    labels, sides = found.reshape(2, *shape)
    return labels, sides


def fit(mask: KidneyMask, image: tio.ScalarImage, where: str, *, exact_geometry: bool = False) -> KidneyMask:
    """Check that a mask belongs to its scan.

    Masks are cut in the scanner's millimetres, so another grid is no obstacle as long as its affine explains it.

    Args:
        mask: The mask.
        image: The scan it was drawn on.
        where: How messages name them.
        exact_geometry: Whether the format itself places every slice, as DICOM SEG does.

    Returns:
        The mask, with a note if its grid is another one.

    Raises:
        DataError: if it has another shape that its affine does not explain, or most labels lie outside the scan.
    """
    labels = mask.labels
    (shape, affine), (own_shape, own_affine) = _canonical_grid(image), _canonical_grid(labels)
    same_affine = np.allclose(affine, own_affine, atol=1e-2)
    if shape == own_shape and same_affine:
        return mask
    found = f"a mask of {labels.spatial_shape} voxels was found on a scan of {image.spatial_shape}"
    if same_affine and not exact_geometry:
        raise DataError(f"{where}: {found} with the same affine; expected the mask of this scan.")
    outside = _share_outside(labels, image)
    if outside > _MOST_OUTSIDE:
        raise DataError(
            f"{where}: {found}, and its labels lie outside the scan ({outside:.0%} of them); expected a mask in the "
            "scan's coordinates."
        )
    if outside:
        cut = f"{where}: {outside:.0%} of the mask lies outside the scan, which ends before the kidneys do."
        mask = KidneyMask(labels, mask.sides, (*mask.notes, cut))
    note = f"{where}: the mask has another grid and was resampled (nearest label)."
    return KidneyMask(labels, mask.sides, mask.notes if exact_geometry else (*mask.notes, note))


def _share_outside(labels: tio.LabelMap, image: tio.ScalarImage) -> float:
    """Share of the labelled voxels that lie more than a voxel outside a scan."""
    last = np.array(image.spatial_shape) - 1
    placed = voxels_of(labels, image)
    if (placed >= -_ONE_VOXEL).all() and (placed <= last + _ONE_VOXEL).all():
        return 0.0
    placed = placed_in(image, np.argwhere(labels.data[0].numpy() > 0), labels)
    return float(((placed < -_ONE_VOXEL) | (placed > last + _ONE_VOXEL)).any(axis=1).mean())


def _canonical_grid(image: tio.Image) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine that an image would have along R, A, S; stored the other way round, a grid is still the same."""
    turn = nibabel.io_orientation(image.affine)
    shape = tuple(int(image.spatial_shape[axis]) for axis in np.argsort(turn[:, 0]))
    return shape, image.affine @ nibabel.orientations.inv_ornt_aff(turn, image.spatial_shape)


def voxels_of(labels: tio.LabelMap, image: tio.ScalarImage) -> np.ndarray:
    """Corners of the box around all labels, [8, 3], as voxel indices of a scan."""
    box = bounding_slices(labels.data[0].numpy() > 0)
    corners = np.array(np.meshgrid(*[(part.start, part.stop - 1) for part in box], indexing="ij"))
    placed = np.linalg.inv(image.affine) @ labels.affine @ np.vstack([corners.reshape(3, -1), np.ones(8)])
    return placed[:3].T


def placed_in(image: tio.Image, voxels: np.ndarray, labels: tio.LabelMap) -> np.ndarray:
    """Voxels [N, 3] of a label map as voxel indices of a scan, between its voxels and beyond its edges, too."""
    turn = np.linalg.inv(image.affine) @ labels.affine
    return np.asarray(voxels @ turn[:3, :3].T + turn[:3, 3])


def values_at(image: tio.Image, voxels: np.ndarray) -> np.ndarray:
    """What an image holds at those of some whole voxel indices [N, 3] that lie in it."""
    inside = ((voxels >= 0) & (voxels < np.array(image.spatial_shape))).all(axis=1)
    return np.asarray(image.data[0].numpy()[tuple(voxels[inside].T)])
