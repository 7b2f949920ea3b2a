"""Where the kidneys of a KiTS23 mask are, in the scanner's millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torchio as tio
from scipy import ndimage

from datamodules.anatomy.nephrometry import Kidney, coarsened, separate_kidneys
from datamodules.anatomy.nephrometry.mask_geometry import bounding_slices
from datamodules.anatomy.nephrometry.measures import box_centre, kidney_centre
from datamodules.anatomy.tissues import Tissue
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract, Region
from datamodules.volumes.crop import crop_roi

Point = tuple[float, float, float]

MEASURED_MM = 1.5
"""Spacing to which finer masks are coarsened before anything is measured."""
WHOLE_BODY_MM = 250.0
"""Width from which a file shows the whole body, whose midline is then the middle of the file."""
OWN, OTHER = 1, 2


@dataclass(frozen=True)
class KidneyCrop:
    """One kidney and where its crop lies.

    Args:
        kidney: The kidney on the grid that it was measured on.
        affine: From voxels (W, H, D) of its crop to RAS millimetres.
    """

    kidney: Kidney
    affine: np.ndarray

    def center(self, region: Region, kidneys: Sequence[KidneyCrop]) -> Point:
        """Centre of a region of interest in RAS millimetres: of the kidney with its lesions, of the index lesion
        where `region` asks for it and there is one, or of all kidneys."""
        if region == "abdomen":
            x, y, z = np.mean([other.center("kidney", kidneys) for other in kidneys], axis=0)
            return float(x), float(y), float(z)
        lesion = self.kidney.index_lesion if region == "lesion" else None
        spacing = self.kidney.spacing_mm
        depth, height, width = kidney_centre(self.kidney) if lesion is None else box_centre(lesion.mask, spacing)
        voxel = np.array([width / spacing[2], height / spacing[1], depth / spacing[0], 1.0])
        x, y, z = (self.affine @ voxel)[:3]
        return float(x), float(y), float(z)


def check_grid(labels: tio.LabelMap, image: tio.ScalarImage, case: str) -> None:
    """Refuse a mask that was not drawn on the voxels of its image, as every mask of KiTS23 was.

    Args:
        labels: The mask.
        image: The scan.
        case: How the message names them.

    Raises:
        DataError: if shape or affine differ.
    """
    if labels.spatial_shape != image.spatial_shape:
        found = f"{labels.spatial_shape} voxels, imaging.nii.gz {image.spatial_shape}"
    elif not np.allclose(labels.affine, image.affine, atol=0.1):
        found = "another affine than imaging.nii.gz"
    else:
        return
    raise DataError(
        f"{case}: segmentation.nii.gz has {found}; expected the same voxels in both. Download the case again."
    )


def locate(labels: tio.LabelMap) -> list[KidneyCrop]:
    """Find the kidneys of a mask in any orientation.

    A KiTS23 file is stored z, y, x; its affine says so, and the axes are turned by it.

    Args:
        labels: Codes of `datamodules.anatomy.tissues.Tissue`.

    Returns:
        The kidneys, left first; none where the mask holds no piece of parenchyma large enough.
    """
    file_box = bounding_slices(labels.data[0].numpy() > 0, margin=1)
    cut = labels.affine.copy()
    cut[:3, 3] = (cut @ np.append([part.start for part in file_box], 1.0))[:3]
    # Cut first: a whole scan has a hundred million voxels, the kidneys one in ten of them.
    canonical = tio.ToCanonical()(tio.LabelMap(tensor=labels.data[(slice(None), *file_box)], affine=cut))
    array = canonical.data[0].numpy().transpose(2, 1, 0)
    width, height, depth = (float(value) for value in canonical.spacing)
    coarse, spacing = coarsened(array, (depth, height, width), MEASURED_MM)
    turn = canonical.affine[:3, :3] / np.array([width, height, depth])
    # The corner of the first voxel is what the file's grid and the coarser one share.
    first = (np.array(spacing) - (depth, height, width)) / 2.0
    middle = _body_middle_mm(labels, canonical.affine)
    located = []
    for kidney in separate_kidneys(coarse, spacing, None if middle is None else middle - first[2]):
        corner = first + np.array(kidney.origin) * spacing
        affine = np.eye(4)
        affine[:3, :3] = turn * np.array(spacing[::-1])
        affine[:3, 3] = turn @ corner[::-1] + canonical.affine[:3, 3]
        located.append(KidneyCrop(kidney, affine))
    return located


def _body_middle_mm(labels: tio.LabelMap, affine: np.ndarray) -> float | None:
    """Middle of the body along W from the first voxel of a crop with `affine`; None where the file is no whole body."""
    width = np.abs(labels.affine[0, :3]) @ np.array(labels.spatial_shape)
    if width < WHOLE_BODY_MM:
        return None
    centre = labels.affine @ np.append((np.array(labels.spatial_shape) - 1.0) / 2.0, 1.0)
    return float(centre[0] - affine[0, 3])


def own_labels(
    anatomy: np.ndarray,
    found: KidneyCrop,
    kidneys: Sequence[KidneyCrop],
    center: Point,
    contract: PreprocessingContract,
) -> np.ndarray:
    """The label map of a region without the voxels of the other kidney.

    Args:
        anatomy: uint8 [D, H, W], everything that the mask shows in the region.
        found: The kidney of the region.
        kidneys: All kidneys.
        center: Centre of the region in RAS millimetres.
        contract: Its contract.

    Returns:
        uint8 [D, H, W].
    """
    if len(kidneys) < 2 or contract.region == "abdomen":
        return anatomy
    owner = crop_roi(_owners(found, kidneys), center, contract)
    if not (owner == OTHER).any():
        return anatomy
    # The kidneys were told apart on another grid: each voxel goes to the nearer of the two.
    to_own = ndimage.distance_transform_edt(owner != OWN, sampling=contract.spacing_mm)
    to_other = ndimage.distance_transform_edt(owner != OTHER, sampling=contract.spacing_mm)
    return np.where(to_own <= to_other, anatomy, np.uint8(Tissue.UNLABELED)).astype(np.uint8)


def _owners(found: KidneyCrop, kidneys: Sequence[KidneyCrop]) -> tio.LabelMap:
    """Map of all kidneys, `OWN` where `found` lies and `OTHER` where another one does."""
    ends = [np.add(item.kidney.origin, item.kidney.labels.shape) for item in kidneys]
    owner = np.zeros(np.max(ends, axis=0), dtype=np.uint8)
    for item, end in zip(kidneys, ends, strict=True):
        box = tuple(slice(start, stop) for start, stop in zip(item.kidney.origin, end, strict=True))
        owner[box][item.kidney.labels > Tissue.UNLABELED] = OWN if item is found else OTHER
    affine = found.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.array(found.kidney.origin[::-1])
    return tio.LabelMap(tensor=np.ascontiguousarray(owner.transpose(2, 1, 0))[None], affine=affine)
