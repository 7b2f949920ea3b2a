"""Resampling plane by plane: the voxels along the third axis share their positions and are vectorised over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch.nn import functional

from datamodules.augmentation.sampling_map import D, Grid, H, PlanarMap, SamplingMap, W, crop_center
from datamodules.volumes.contract import PreprocessingContract


def pitch_reach(degrees: float, contract: PreprocessingContract) -> int:
    """Voxels along H by which a volume grows on either side when it is turned about W by up to these degrees."""
    rise_mm = contract.extent_mm[D] / 2 * math.sin(math.radians(degrees))
    return math.ceil(rise_mm / contract.spacing_mm[H])


class SeparableResampler:
    """Resamples the sagittal planes (D, H) of a volume, then the axial ones (H, W).

    A pass interpolates bilinearly between four rows of voxels that run along the third axis: contiguous weighted sums
    (`embedding_bag`) instead of a gather per voxel.

    It follows every map that `AugmentationParameters` can describe without a rotation about H: rotations about D and
    W, any translation, any scale along the axes, flips. Without a rotation about W the result is trilinear
    interpolation, its sums in another order. With one, H is interpolated in both passes, which smooths the image along
    H a little more than `ExactResampler` does.

    Args:
        mapping: From output to source voxels, of the whole batch.
        grid: Size of the source.
        crop: Size of the output.
        pad_hu: Value outside the source.
        reach: How far the image between the passes extends beyond the source along H, in voxels, so that the first
            pass loses nothing that the second could show.
    """

    def __init__(self, mapping: SamplingMap, grid: Grid, crop: Grid, pad_hu: float, reach: int) -> None:
        self._crop, self._pad_hu = crop, pad_hu
        source = [_Line(size, center) for size, center in zip(grid, crop_center(grid, crop), strict=True)]
        output = [_Line(size, (size - 1) / 2) for size in crop]
        between = _Line(grid[H] + 2 * reach, source[H].center + reach)
        self._sagittal = _plan(mapping.pitch, (source[D], source[H]), (output[D], between))
        self._axial = _plan(mapping.in_plane, (between, source[W]), (output[H], output[W]))

    def __call__(self, volumes: torch.Tensor, part: slice) -> torch.Tensor:
        """Resample some volumes of the batch.

        Args:
            volumes: int16 or float [b, D, H, W] in HU.
            part: Their places in the batch.

        Returns:
            float32 [b, *crop] in HU.
        """
        batch, depth, height, width = volumes.shape
        # Relative to the padding: what lies outside the source then adds 0 to a weighted sum.
        image = volumes.to(torch.float32, copy=True, memory_format=torch.contiguous_format).sub_(self._pad_hu)
        image = self._sagittal.weigh(image.view(batch, depth * height, width), part)
        image = _transposed(image.view(batch, self._crop[D], -1))
        image = _transposed(self._axial.weigh(image, part))
        return image.view(batch, *self._crop).add_(self._pad_hu)


@dataclass(frozen=True)
class _Line:
    """One axis of an image: its number of voxels, and the index of the point about which everything turns."""

    size: int
    center: float

    def indices(self, device: torch.device) -> torch.Tensor:
        """Indices relative to the centre, float32 [size]."""
        return torch.arange(self.size, dtype=torch.float32, device=device) - self.center


@dataclass(frozen=True)
class _Plan:
    """Which rows are summed with which weights: int32 and float32, both [B, sums, 4]."""

    rows: torch.Tensor
    weights: torch.Tensor

    def weigh(self, image: torch.Tensor, part: slice) -> torch.Tensor:
        """Weighted sums of the rows of an image [b, rows, features]: [b, sums, features]."""
        rows, weights = self.rows[part], self.weights[part]
        batch, count, features = image.shape
        if batch > 1:
            first = torch.arange(0, batch * count, count, dtype=rows.dtype, device=rows.device)
            rows = rows + first[:, None, None]
        sums = functional.embedding_bag(
            rows.flatten(0, 1), image.view(-1, features), mode="sum", per_sample_weights=weights.flatten(0, 1)
        )
        return sums.view(batch, -1, features)


def _plan(mapping: PlanarMap, source: tuple[_Line, _Line], output: tuple[_Line, _Line]) -> _Plan:
    """Bilinear interpolation in the plane of two axes, from a row-major source to a row-major output."""
    first, second = (line.indices(mapping.matrix.device) for line in output)
    taps = []
    for axis, line in enumerate(source):
        along_first = mapping.matrix[:, axis, :1] * first + (mapping.offset[:, axis, None] + line.center)
        along_second = mapping.matrix[:, axis, 1:] * second
        taps.append(_taps(along_first[:, :, None] + along_second[:, None], line.size))
    shape = (len(mapping.matrix), len(first), len(second), 4)
    rows = torch.empty(shape, dtype=torch.int32, device=first.device)
    weights = torch.empty(shape, dtype=torch.float32, device=first.device)
    for place, ((row, row_weight), (column, column_weight)) in enumerate(product(*taps)):
        torch.add(column, row, alpha=source[1].size, out=rows[..., place])
        torch.mul(row_weight, column_weight, out=weights[..., place])
    return _Plan(rows.flatten(1, 2), weights.flatten(1, 2))


def _taps(coordinate: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Index (int32) and weight of the lower and of the upper neighbour; the weight is 0 outside the image."""
    below = coordinate.floor()
    fraction = coordinate.sub_(below)
    taps = []
    for neighbour, weight in ((below, 1 - fraction), (below + 1, fraction)):
        inside = neighbour.clamp(0, size - 1)
        taps.append((inside.to(torch.int32), weight.mul_(inside == neighbour)))
    return taps


def _transposed(image: torch.Tensor) -> torch.Tensor:
    """[b, rows, columns] to contiguous [b, columns, rows]."""
    if len(image) == 1:  # torch copies a lone matrix in blocks, twice as fast as a stack of them
        return image[0].t().contiguous()[None]
    return image.transpose(1, 2).contiguous()
