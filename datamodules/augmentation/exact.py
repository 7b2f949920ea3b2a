"""Exact trilinear resampling along any affine map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from datamodules.augmentation.sampling_map import D, Grid, H, SamplingMap, W, crop_center

Triple = tuple[float, float, float]


class ExactResampler:
    """One trilinear interpolation per voxel, whatever the map.

    torch's 3D `grid_sample` is scalar code on a CPU, its 2D form is vectorised. So the slices, each framed by
    padding, are laid under one another as one tall image with two channels, a slice and the next one (the second
    channel is a view of the first, one slice on). One 2D sampling gives both neighbours along D, a lerp the result.

    Args:
        mapping: From output to source voxels, of the whole batch.
        grid: Size of the source.
        crop: Size of the output.
        pad_hu: Value outside the source.
        at_once: Largest number of volumes in one call; they share working memory with those of the next call.
    """

    def __init__(self, mapping: SamplingMap, grid: Grid, crop: Grid, pad_hu: float, at_once: int) -> None:
        self._crop = crop
        rows, columns = grid[H] + 2, grid[W] + 2
        size = rows * columns
        # Extents that are powers of two make normalising a coordinate, and undoing it, free of rounding; the views
        # are larger than the image for that alone, and nothing is sampled beyond it.
        tall, wide = _power_of_two((grid[D] + 3) * rows), _power_of_two(columns)
        self._lines = _lines(mapping, grid, crop, scale=(1, 2 / tall, 2 / wide), first=(0, 1 / tall - 1, 1 / wide - 1))
        self._next_slice = 2 * rows / tall
        storage = torch.full((at_once, tall * columns + wide + size), float(pad_hu), device=mapping.device)
        framed = storage[:, : (grid[D] + 2) * size].view(at_once, grid[D] + 2, rows, columns)
        self._interior = framed[:, 1:-1, 1:-1, 1:-1]
        self._image = storage.as_strided((at_once, 2, tall, wide), (storage.shape[1], size, columns, 1))
        self._points = storage.new_empty(at_once, 2, *crop)

    def __call__(self, volumes: torch.Tensor, part: slice) -> torch.Tensor:
        """Resample some volumes of the batch.

        Args:
            volumes: int16 or float [b, D, H, W] in HU.
            part: Their places in the batch.

        Returns:
            float32 [b, *crop] in HU.
        """
        count = len(volumes)
        self._interior[:count] = volumes
        z, y, x = (line[part] for line in self._lines)
        points = self._points[:count]
        x.coordinates(out=points[:, 0])
        fraction = z.coordinates()
        below = fraction.floor()
        y.coordinates(out=points[:, 1]).add_(below, alpha=self._next_slice)
        fraction.sub_(below)
        places = points.flatten(2, 3).permute(0, 2, 3, 1)
        pair = functional.grid_sample(self._image[:count], places, padding_mode="zeros", align_corners=False)
        pair = pair.view(count, 2, *self._crop)
        return torch.lerp(pair[:, 0], pair[:, 1], fraction)


@dataclass(frozen=True)
class _Line:
    """One coordinate of every voxel, as a sum over the axes of the output that is not yet carried out.

    Args:
        plane: float32 [B, D, H].
        along_w: float32 [B, W].
        ends: First and last value; a point further out is as good on the frame, where all is padding.
    """

    plane: torch.Tensor
    along_w: torch.Tensor
    ends: tuple[float, float]

    def __getitem__(self, samples: slice) -> _Line:
        return _Line(self.plane[samples], self.along_w[samples], self.ends)

    def coordinates(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """float32 [B, D, H, W]."""
        return torch.add(self.plane[..., None], self.along_w[:, None, None], out=out).clamp_(*self.ends)


def _lines(mapping: SamplingMap, grid: Grid, crop: Grid, scale: Triple, first: Triple) -> list[_Line]:
    """Coordinates along D, H, W in the framed source, where `first` is the frame and `scale` the step of a voxel."""
    matrix, offset = mapping.affine()
    indices = [torch.arange(size, dtype=torch.float32, device=mapping.device) - (size - 1) / 2 for size in crop]
    lines = []
    for axis, center in enumerate(crop_center(grid, crop)):
        along = [matrix[:, axis, column, None] * scale[axis] * indices[column] for column in range(3)]
        start = (offset[:, axis, None] + (center + 1)) * scale[axis] + first[axis]
        ends = (first[axis], first[axis] + (grid[axis] + 1) * scale[axis])
        lines.append(_Line((along[D] + start)[:, :, None] + along[H][:, None], along[W], ends))
    return lines


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
