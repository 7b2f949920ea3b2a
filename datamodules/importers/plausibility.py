"""Whether a scan and a mask belong together: what the mask calls kidney must look like kidney in the scan."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torchio as tio

from datamodules.anatomy.tissues import Tissue
from datamodules.errors import DataError
from datamodules.importers.mask_grids import placed_in, values_at

KIDNEY_HU = (-30.0, 400.0)
"""Median HU of a kidney in any phase: 20 to 45 unenhanced, 80 to 220 enhanced, with room for low voltages and fat of
the sinus."""
_AIR_HU = -300.0
_MOST_AIR = 0.2
_MOST_FAT = 0.3
_INTERCEPT = 1024.0
_SAMPLE = 20_000
_CLEARLY, _SLIGHTLY = 0.2, 0.03
"""How much more of a mask must be soft tissue when mirrored, to refuse it and to note it."""
_AXES = ("left and right", "front and back", "up and down")


def check_tissue(masks: Mapping[str, tio.LabelMap], image: tio.ScalarImage, where: str) -> list[str]:
    """Refuse a mask under which the scan shows no kidney.

    Args:
        masks: Label maps of `Tissue` by what they are called in a message, such as `left kidney`; each on a grid of its
            own in the scan's millimetres.
        image: The scan in HU.
        where: How messages name it.

    Returns:
        Notes for the import report, on masks that hold much fat.

    Raises:
        DataError: with the figures, if the median under the mask is none of kidney tissue, more than a fifth of it is
            air, or the mask fits the scan far better mirrored.
    """
    notes = []
    for name, labels in masks.items():
        voxels = _voxels(labels, image)
        hu = _sampled(image, voxels)
        if not hu.size:
            continue
        name = f"{where}: under the mask of the {name} the scan"
        median, air = float(np.median(hu)), float((hu < _AIR_HU).mean())
        low, high = KIDNEY_HU
        if not low <= median <= high:
            raise DataError(
                f"{name} has a median of {median:.0f} HU and {air:.0%} of air; expected {low:.0f} to {high:.0f} HU. "
                f"{_cause(median)}"
            )
        if air > _MOST_AIR:
            raise DataError(
                f"{name} shows {air:.0%} of air (median {median:.0f} HU); expected less than {_MOST_AIR:.0%}. Scan and "
                "mask do not belong together, or lie in two coordinate systems."
            )
        fits = float(_is_tissue(hu).mean())
        mirrored = {
            axis: float(_is_tissue(_sampled(image, _mirrored(image, voxels, axis))).mean()) for axis in range(3)
        }
        best = max(mirrored, key=lambda axis: mirrored[axis])
        if fits < 1 - _MOST_FAT and mirrored[best] > fits + _CLEARLY:
            raise DataError(
                f"{name} shows {fits:.0%} of soft tissue, and {mirrored[best]:.0%} where {_AXES[best]} are exchanged; "
                "expected a mask in the scan's coordinates. Write scan and mask with one program."
            )
        if mirrored[best] > fits + _SLIGHTLY:
            notes.append(
                f"{name} shows {fits:.0%} of soft tissue, and {mirrored[best]:.0%} where {_AXES[best]} are exchanged; "
                "check that scan and mask belong together."
            )
        elif fits < 1 - _MOST_FAT:
            notes.append(f"{name} shows {1 - fits:.0%} of fat, air or bone; check that scan and mask belong together.")
    return notes


def _cause(median: float) -> str:
    low, high = KIDNEY_HU
    if low <= median + _INTERCEPT <= high:
        return "The rescale intercept was subtracted twice; convert the scan again from DICOM."
    if low <= median - _INTERCEPT <= high:
        return "The rescale intercept was left out; convert the scan again from DICOM."
    return "Scan and mask do not belong together, or the scan is not in Hounsfield units."


def _voxels(labels: tio.LabelMap, image: tio.ScalarImage) -> np.ndarray:
    """Positions [N, 3] of kidney voxels, a sample of many, as voxel indices of the scan."""
    array = labels.data[0].numpy()
    places = np.flatnonzero(array == Tissue.KIDNEY)
    if not len(places):
        places = np.flatnonzero(array)
    points = np.column_stack(np.unravel_index(places[:: max(1, len(places) // _SAMPLE)], array.shape))
    return np.asarray(np.round(placed_in(image, points, labels)).astype(int))


def _sampled(image: tio.ScalarImage, voxels: np.ndarray) -> np.ndarray:
    """HU at voxels that lie in the scan."""
    return values_at(image, voxels).astype(np.float32)


def _mirrored(image: tio.ScalarImage, voxels: np.ndarray, axis: int) -> np.ndarray:
    """The voxels on the other side of the middle of the scan, along the axis that runs nearest to x, y or z."""
    along = int(np.abs(image.affine[axis, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)).argmax())
    turned = voxels.copy()
    turned[:, along] = image.spatial_shape[along] - 1 - turned[:, along]
    return turned


def _is_tissue(hu: np.ndarray) -> np.ndarray:
    low, high = KIDNEY_HU
    return (hu >= low) & (hu <= high)
