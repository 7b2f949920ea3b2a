"""Exact trilinear resampling of a batch along any affine map."""

from __future__ import annotations

import torch
from torch.nn import functional

from datamodules.augmentation.geometry import SamplingMap

Grid = tuple[int, int, int]


def crop_start(grid: Grid, crop: Grid) -> Grid:
    """First voxel of the centre crop."""
    depth, height, width = ((count - size) // 2 for count, size in zip(grid, crop, strict=True))
    return depth, height, width


def centered(size: int, device: torch.device) -> torch.Tensor:
    """Indices of `size` voxels relative to their centre, float32."""
    return torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2


def resample_exact(volumes: torch.Tensor, mapping: SamplingMap, crop: Grid, pad_hu: float) -> torch.Tensor:
    """One trilinear interpolation per voxel, whatever the map.

    torch's 3D `grid_sample` is scalar code on a CPU, its 2D form is vectorised. So the slices, each framed by
    padding, are laid under one another as one tall image with two channels, a slice and the next one (the second
    channel is a view of the first, one slice on); one 2D sampling gives both neighbours in D, and a lerp the result.

    Args:
        volumes: int16 or float [B, D, H, W] in HU.
        mapping: From output to source voxels.
        crop: Size of the output.
        pad_hu: Value outside the source.

    Returns:
        float32 [B, *crop] in HU.
    """
    batch, depth, height, width = volumes.shape
    rows, columns = height + 2, width + 2
    slice_size = rows * columns
    tall, wide = _power_of_two((depth + 2) * rows + 1), _power_of_two(columns)
    # The last row and column of the views below are never sampled, but must lie within the storage.
    storage = volumes.new_empty(batch, tall * columns + wide + slice_size, dtype=torch.float32)
    framed = storage[:, : (depth + 2) * slice_size].view(batch, depth + 2, rows, columns)
    storage[:, (depth + 2) * slice_size : (depth + 3) * slice_size] = pad_hu
    for edge in (framed[:, :: depth + 1], framed[:, :, :: rows - 1], framed[..., :: columns - 1]):
        edge.fill_(pad_hu)
    framed[:, 1:-1, 1:-1, 1:-1] = volumes
    image = storage.as_strided((batch, 2, tall, wide), (storage.shape[1], slice_size, columns, 1))

    z, y, x = _source_coordinates(mapping, crop, (depth, height, width))
    below = z.floor().clamp_(max=depth)
    above = z.sub_(below)
    # With extents that are powers of two, normalising a coordinate and undoing it is free of rounding.
    grid = z.new_empty(batch, 2, crop[0] * crop[1], crop[2])
    torch.add(x.mul_(2 / wide), 1 / wide - 1, out=grid[:, 0].view_as(x))
    torch.add(below.mul_(rows).add_(y).mul_(2 / tall), 1 / tall - 1, out=grid[:, 1].view_as(y))
    pair = functional.grid_sample(image, grid.permute(0, 2, 3, 1), padding_mode="zeros", align_corners=False)
    pair = pair.view(batch, 2, *crop)
    return torch.lerp(pair[:, 0], pair[:, 1], above)


def _source_coordinates(mapping: SamplingMap, crop: Grid, grid: Grid) -> list[torch.Tensor]:
    """Coordinates [B, *crop] along D, H, W in the framed source, where voxel 0 is padding and voxel 1 the first one.

    They end at the frame, which is as good as any other place outside the source.
    """
    matrix, offset = mapping.affine()
    start = crop_start(grid, crop)
    along_d, along_h, along_w = (centered(size, matrix.device) for size in crop)
    coordinates = []
    for axis in range(3):
        from_d, from_h, from_w = (matrix[:, axis, column, None] for column in range(3))
        center = start[axis] + (crop[axis] - 1) / 2 + 1
        slices = from_d * along_d + offset[:, axis, None] + center
        plane = slices[:, :, None] + (from_h * along_h)[:, None]
        full = plane[..., None] + (from_w * along_w)[:, None, None]
        coordinates.append(full.clamp_(0, grid[axis] + 1))
    return coordinates


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
