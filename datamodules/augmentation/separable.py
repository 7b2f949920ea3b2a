"""Resampling plane by plane: the voxels along the third axis share their positions and are vectorised over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch.nn import functional

from datamodules.augmentation.geometry import D, H, PlanarMap, SamplingMap, W
from datamodules.augmentation.resampling import Grid, crop_start


@dataclass(frozen=True)
class Frames:
    """How far the images between two passes reach beyond the source, so that no tilt pushes content out of them.

    Args:
        depth: Further voxels on either side along D.
        height: Along H.
        width: Along W.
    """

    depth: int
    height: int
    width: int

    @classmethod
    def for_tilts(cls, tilt_degrees: tuple[float, float], extent_mm: tuple[float, float, float], grid: Grid) -> Frames:
        """Frames that hold a box of `extent_mm` when it is tilted by up to these degrees about H and W."""
        about_h, about_w = (math.sin(math.radians(degrees)) for degrees in tilt_degrees)
        depth_mm, height_mm = extent_mm[D], extent_mm[H]
        # Rotation about W comes first and mixes D and H; rotation about H then takes the deeper image along W.
        deeper_mm, higher_mm = height_mm * about_w / 2, depth_mm * about_w / 2
        wider_mm = (depth_mm / 2 + deeper_mm) * about_h
        depth, height, width = (
            math.ceil(mm * count / extent)
            for mm, count, extent in zip((deeper_mm, higher_mm, wider_mm), grid, extent_mm, strict=True)
        )
        return cls(depth, height, width)


@dataclass(frozen=True)
class Line:
    """One axis of an image between two passes.

    Args:
        size: Number of voxels.
        center: Index of the point about which the map turns.
    """

    size: int
    center: float

    def indices(self, device: torch.device) -> torch.Tensor:
        """Indices relative to the centre, float32 [size]."""
        return torch.arange(self.size, dtype=torch.float32, device=device) - self.center


def resample_separable(
    volumes: torch.Tensor, mapping: SamplingMap, crop: Grid, pad_hu: float, frames: Frames | None
) -> torch.Tensor:
    """Resample the planar factors of a map one after the other.

    A pass over two axes interpolates bilinearly between four rows of voxels that run along the third: contiguous
    weighted sums (`embedding_bag`) instead of a gather per voxel.

    Every map that `AugmentationParameters` can describe is followed exactly. Without tilts the result is trilinear
    interpolation, its sums in another order. With tilts each axis is interpolated in two passes, which smooths the
    image a little more than `resample_exact` does.

    Args:
        volumes: int16 or float [B, D, H, W] in HU.
        mapping: From output to source voxels.
        crop: Size of the output.
        pad_hu: Value outside the source.
        frames: Reach of the images between the passes; None leaves out the tilts, which must then be 0.

    Returns:
        float32 [B, *crop] in HU.
    """
    _, depth, height, width = volumes.shape
    grid = (depth, height, width)
    source = [
        Line(size, first + (part - 1) / 2) for size, first, part in zip(grid, crop_start(grid, crop), crop, strict=True)
    ]
    output = [Line(part, (part - 1) / 2) for part in crop]
    # Relative to the padding: what lies outside the source then adds 0 to a weighted sum.
    image = volumes.to(torch.float32, copy=True).sub_(pad_hu)
    if frames is None:
        middle = source
        image = _resample_depth(image, mapping.roll, source[D], output[D])
    else:
        reach = (frames.depth, frames.height, frames.width)
        middle = [Line(line.size + 2 * more, line.center + more) for line, more in zip(source, reach, strict=True)]
        image = _resample_plane(image, mapping.pitch, (source[D], source[H]), (middle[D], middle[H]))
        image = _resample_plane(image, mapping.roll, (source[W], middle[D]), (middle[W], output[D]))
    return _resample_plane(image, mapping.in_plane, (middle[H], middle[W]), (output[H], output[W])).add_(pad_hu)


def _resample_plane(
    image: torch.Tensor, mapping: PlanarMap, source: tuple[Line, Line], output: tuple[Line, Line]
) -> torch.Tensor:
    """Bilinear resampling of the first two axes of an image.

    Args:
        image: [B, first, second, third].
        mapping: Map on (first, second).
        source: The two axes of the image.
        output: The two axes of the result.

    Returns:
        [B, third, first, second]: the next pass finds its two axes in front.
    """
    rows, columns = (line.indices(image.device) for line in output)
    taps = []
    for axis, line in enumerate(source):
        along_first = mapping.matrix[:, axis, :1] * rows + (mapping.offset[:, axis, None] + line.center)
        along_second = mapping.matrix[:, axis, 1:] * columns
        taps.append(_taps(along_first[:, :, None] + along_second[:, None], line.size))
    number = taps[0][0][0].new_empty(*taps[0][0][0].shape, 4, dtype=torch.int32)
    weight = torch.empty_like(number, dtype=torch.float32)
    for place, ((row, row_weight), (column, column_weight)) in enumerate(product(*taps)):
        torch.add(column, row, alpha=source[1].size, out=number[..., place])
        torch.mul(row_weight, column_weight, out=weight[..., place])
    image = _weighted_rows(image.flatten(1, 2), number.flatten(1, 2), weight.flatten(1, 2))
    return _transposed(image).unflatten(2, (output[0].size, output[1].size))


def _resample_depth(image: torch.Tensor, roll: PlanarMap, source: Line, output: Line) -> torch.Tensor:
    """Linear resampling of [B, D, H, W] along D by a roll without rotation, to [B, H, W, D]."""
    along_d = roll.matrix[:, 1, 1:] * output.indices(image.device) + (roll.offset[:, 1:] + source.center)
    (below, below_weight), (above, above_weight) = _taps(along_d, source.size)
    number, weight = torch.stack((below, above), dim=-1), torch.stack((below_weight, above_weight), dim=-1)
    return _transposed(_weighted_rows(image.flatten(2), number, weight)).unflatten(1, image.shape[2:])


def _taps(coordinate: torch.Tensor, size: int) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Index (int32) and weight of the lower and of the upper neighbour; the weight is 0 outside the image."""
    below = coordinate.floor()
    fraction = coordinate.sub_(below)
    pair = []
    for neighbour, weight in ((below, 1 - fraction), (below + 1, fraction)):
        inside = neighbour.clamp(0, size - 1)
        pair.append((inside.to(torch.int32), weight.mul_(inside == neighbour)))
    return tuple(pair)


def _weighted_rows(image: torch.Tensor, number: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sums of weighted rows: image [B, rows, features], number and weight [B, sums, taps] to [B, sums, features]."""
    batch, rows, _ = image.shape
    first_row = torch.arange(0, batch * rows, rows, dtype=number.dtype, device=number.device)
    number = (number + first_row[:, None, None]).flatten(0, 1)
    table = image.flatten(0, 1)
    return functional.embedding_bag(number, table, mode="sum", per_sample_weights=weight.flatten(0, 1)).unflatten(
        0, (batch, -1)
    )


def _transposed(image: torch.Tensor) -> torch.Tensor:
    """[B, rows, columns] to contiguous [B, columns, rows]; a CPU copies a lone matrix in blocks, twice as fast."""
    if len(image) == 1:
        return image[0].t().contiguous()[None]
    return image.transpose(1, 2).contiguous()
