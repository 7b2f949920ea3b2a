"""From a scan in any orientation to the region of interest of a contract, with torchio."""

from __future__ import annotations

import numpy as np
import torch
import torchio as tio

from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract

HU_RANGE = (-8192, 16384)
"""HU that a scanner can produce; what lies outside is clipped before it is stored as int16."""


def roi_affine(center_ras_mm: tuple[float, float, float], contract: PreprocessingContract) -> np.ndarray:
    """Affine [4, 4] of the region's voxels (x, y, z) in RAS millimetres, centred on a point."""
    extent = np.array(contract.extent_mm[::-1])
    spacing = np.array(contract.spacing_mm[::-1])
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.asarray(center_ras_mm, dtype=float) - extent / 2 + spacing / 2
    return affine


def crop_roi(
    image: tio.Image, center_ras_mm: tuple[float, float, float], contract: PreprocessingContract
) -> np.ndarray:
    """Cut and resample the region of interest in one step.

    Scalar images are low-pass filtered where the grid is coarser than the scan, unless the contract says otherwise, and
    interpolated linearly; label maps take the nearest label. Outside the scan stands `contract.pad_hu`, or label 0.

    Args:
        image: Scan in HU or label map, in any orientation.
        center_ras_mm: Centre of the region in the scanner's RAS millimetres.
        contract: Extent, grid and padding.

    Returns:
        [D, H, W], int16 HU of a `ScalarImage`, uint8 of a `LabelMap`.

    Raises:
        DataError: if the contract wants an orientation other than RAS, or the region lies outside the scan.
    """
    if contract.orientation != "RAS":
        raise DataError(f"Orientation {contract.orientation} was asked for; regions of interest are RAS.")
    canonical = tio.ToCanonical()(image)
    affine = roi_affine(center_ras_mm, contract)
    near = _crop_near(canonical, affine, contract)
    scalar = isinstance(image, tio.ScalarImage)
    # The resampler pads with zero: lifted by the padding value, zero is what we want outside.
    lifted = _lifted(near.data.float(), contract) if scalar else near.data
    source = type(near)(tensor=lifted, affine=near.affine)
    shape = contract.grid[::-1]
    resampled = tio.Resample(target=(shape, affine), antialias=scalar and contract.antialias)(source)
    array = resampled.data[0].permute(2, 1, 0).contiguous()
    if scalar:
        return (array + contract.pad_hu).clamp(*HU_RANGE).round().to(torch.int16).numpy()
    return array.to(torch.uint8).numpy()


def _lifted(data: torch.Tensor, contract: PreprocessingContract) -> torch.Tensor:
    if contract.clip_first:
        data = data.clamp(*contract.window_hu)
    return data - contract.pad_hu


def _crop_near(image: tio.Image, affine: np.ndarray, contract: PreprocessingContract) -> tio.Image:
    """The part of a scan that the region can draw from, so that filtering does not cost the whole scan."""
    corners = np.array(np.meshgrid(*[(-0.5, count - 0.5) for count in contract.grid[::-1]], indexing="ij"))
    points = affine @ np.vstack([corners.reshape(3, -1), np.ones(8)])
    inside = np.linalg.inv(image.affine) @ points
    # Antialiasing looks a few voxels of the target beyond the edge.
    margin = 3 * np.array(contract.spacing_mm[::-1]) / np.abs(image.spacing) + 2
    low = np.floor(inside[:3].min(axis=1) - margin).astype(int)
    high = np.ceil(inside[:3].max(axis=1) + margin).astype(int)
    shape = np.array(image.spatial_shape)
    low, high = np.clip(low, 0, shape), np.clip(high, 0, shape)
    if (high - low).min() < 1:
        raise DataError(
            "The region of interest lies outside the scan; expected the kidney's centre in the scanner's RAS "
            "millimetres. Check that mask and image share one coordinate system."
        )
    return tio.Crop(tuple(np.stack([low, shape - high], axis=1).ravel().tolist()))(image)
