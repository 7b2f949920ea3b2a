"""The images of a patient: the anatomy drawn once at 2 mm, every series rendered on it, resampled to the contract.

Nothing here knows a patient's pathology: the functions take `Anatomy` and `PhantomSeries` and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import interpolate

from datamodules.anatomy.rendering import Scene
from datamodules.phantoms.drawing import draw_labels
from datamodules.phantoms.facts import Anatomy, PhantomSeries
from datamodules.phantoms.surroundings import Grid
from datamodules.volumes.contract import PreprocessingContract

STEP_MM = 2.0


def region_center(anatomy: Anatomy, side: str, contract: PreprocessingContract) -> tuple[float, float, float]:
    """Centre of the region of a side in RAS millimetres: kidney, lesion, or the middle of the abdomen."""
    kidney = anatomy.kidneys[side]
    if contract.region == "abdomen":
        return (0.0, -8.0, 0.0)
    x, y, z = kidney.shape.center_mm
    if contract.region == "lesion" and kidney.lesions:
        offset = kidney.lesions[0].measures.offset_mm
        return (x + offset[0], y + offset[1], z + offset[2])
    return (x, y, z)


def draw_region(anatomy: Anatomy, side: str, contract: PreprocessingContract) -> tuple[np.ndarray, Grid]:
    """Label map of a region at about 2 mm, with its grid; its box is that of the contract."""
    grid = Grid.around(region_center(anatomy, side, contract), contract.extent_mm, STEP_MM)
    return draw_labels(anatomy, grid), grid


def image_kidney(
    anatomy: Anatomy, side: str, series: Sequence[PhantomSeries], contract: PreprocessingContract
) -> tuple[list[np.ndarray], np.ndarray]:
    """Every series of one kidney, and its label map.

    Args:
        anatomy: The patient.
        side: Kidney.
        series: The series of the study.
        contract: Box and grid.

    Returns:
        One int16 HU [D, H, W] per series, and uint8 labels [D, H, W], on the grid of the contract.
    """
    labels, grid = draw_region(anatomy, side, contract)
    scene = Scene(labels, grid.spacing_mm, anatomy.seed + (side == "right"), tissues=anatomy.tissues)
    images = [scene.render(one.phase, one.protocol, number) for number, one in enumerate(series)]
    return [resample_image(image, contract.grid) for image in images], resample_labels(labels, contract.grid)


def resample_image(image: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """An int16 volume on another grid of the same box: averaged where that is coarser, interpolated where finer.

    The box of the phantom is already that of the contract, so no crop, no rotation and no general resampler is
    needed; averaging over the new voxel is its antialiasing.
    """
    tensor = torch.from_numpy(image.astype(np.float32))[None, None]
    for axis in range(3):
        if grid[axis] != tensor.shape[axis + 2]:
            tensor = _along(tensor, axis, grid[axis])
    return tensor[0, 0].round().to(torch.int16).numpy()


def _along(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    source = tensor.shape[axis + 2]
    if size > source:
        shape = [size if other == axis else tensor.shape[other + 2] for other in range(3)]
        return interpolate(tensor, size=shape, mode="trilinear", align_corners=False)
    # Share of every source voxel in every target voxel along this axis.
    edges = torch.arange(size + 1, dtype=torch.float64) * source / size
    cells = torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], cells + 1.0) - torch.maximum(edges[:-1, None], cells)
    weight = (overlap.clamp(min=0.0) * size / source).to(tensor.dtype)
    return torch.movedim(torch.tensordot(tensor, weight, dims=([axis + 2], [1])), -1, axis + 2)


def resample_labels(labels: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """A label map on another grid of the same box, nearest label."""
    index = [
        np.minimum(((np.arange(size) + 0.5) * source / size).astype(int), source - 1)
        for size, source in zip(grid, labels.shape, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*index)])
