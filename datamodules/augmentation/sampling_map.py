"""From drawn parameters to the sampling map: which point of the stored volume each voxel of the crop shows.

All coordinates are voxel indices relative to the centre of the centre crop, so that the identity is exact. The map is
the inverse of the motion in `AugmentationParameters`,

    source = R_H^T R_W^T R_D^T (scale^-1 flip output - translation),

kept as its three planar factors, which act on (H, W), on (D, H) and on (W, D).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from datamodules.augmentation.parameters import AugmentationParameters, per_axis

D, H, W = 0, 1, 2
Grid = tuple[int, int, int]


def crop_start(grid: Grid, crop: Grid) -> Grid:
    """First voxel of the centre crop; odd margins are rounded down."""
    depth, height, width = ((count - size) // 2 for count, size in zip(grid, crop, strict=True))
    return depth, height, width


def crop_center(grid: Grid, crop: Grid) -> tuple[float, float, float]:
    """Centre of the centre crop in voxels of the grid; the point about which everything turns."""
    depth, height, width = (first + (size - 1) / 2 for first, size in zip(crop_start(grid, crop), crop, strict=True))
    return depth, height, width


@dataclass(frozen=True)
class PlanarMap:
    """An affine map of two axes that leaves the third alone.

    Args:
        axes: The two axes, in the cyclic order D, H, W.
        matrix: float32 [B, 2, 2] in voxels.
        offset: float32 [B, 2] in voxels.
    """

    axes: tuple[int, int]
    matrix: torch.Tensor
    offset: torch.Tensor

    def embedded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same map on all three axes: matrix [B, 3, 3] and offset [B, 3]."""
        matrix = torch.eye(3, device=self.matrix.device).repeat(len(self.matrix), 1, 1)
        offset = self.offset.new_zeros(len(self.offset), 3)
        for row, axis in enumerate(self.axes):
            offset[:, axis] = self.offset[:, row]
            for column, other in enumerate(self.axes):
                matrix[:, axis, other] = self.matrix[:, row, column]
        return matrix, offset


@dataclass(frozen=True)
class SamplingMap:
    """The factors of the sampling map; a voxel of the output shows the source at `roll(pitch(in_plane(index)))`.

    Args:
        in_plane: On (H, W): rotation about D, scale, flip and translation.
        pitch: On (D, H): rotation about W, and scale and translation along D.
        roll: On (W, D): rotation about H.
    """

    in_plane: PlanarMap
    pitch: PlanarMap
    roll: PlanarMap

    @property
    def device(self) -> torch.device:
        """Device of the maps."""
        return self.in_plane.matrix.device

    def affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole map: matrix [B, 3, 3] and offset [B, 3], in voxels."""
        matrix, offset = self.in_plane.embedded()
        for factor in (self.pitch, self.roll):
            left, shift = factor.embedded()
            # Written out: a matrix product may be rounded to TF32 on a GPU, a tenth of a voxel here.
            matrix = (left[:, :, :, None] * matrix[:, None]).sum(2)
            offset = (left * offset[:, None]).sum(2) + shift
        return matrix, offset


def sampling_map(parameters: AugmentationParameters, spacing_mm: tuple[float, float, float]) -> SamplingMap:
    """The map from output to source voxels.

    Args:
        parameters: Drawn parameters.
        spacing_mm: Voxel spacing D x H x W, of the source and of the output.
    """
    angle = torch.deg2rad(parameters.rotation_degrees)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    shrink, shift = 1 / parameters.scale, per_axis(parameters.translation_mm, [1 / step for step in spacing_mm])
    flip = 1 - 2 * parameters.flip.to(shrink.dtype)
    turn = _rotation(cosine[:, D], sine[:, D], spacing_mm[W] / spacing_mm[H])
    roll = _rotation(cosine[:, H], sine[:, H], spacing_mm[D] / spacing_mm[W])
    pitch = _rotation(cosine[:, W], sine[:, W], spacing_mm[H] / spacing_mm[D])
    size = torch.stack([shrink[:, H], shrink[:, W] * flip], dim=1)
    depth = torch.stack([shrink[:, D], torch.ones_like(shrink[:, D])], dim=1)
    return SamplingMap(
        in_plane=PlanarMap((H, W), turn * size[:, None], -(turn * shift[:, None, H:]).sum(2)),
        pitch=PlanarMap((D, H), pitch * depth[:, None], -pitch[:, :, 0] * shift[:, :1]),
        roll=PlanarMap((W, D), roll, torch.zeros_like(shift[:, :2])),
    )


def _rotation(cosine: torch.Tensor, sine: torch.Tensor, ratio: float) -> torch.Tensor:
    """A transposed right-handed rotation, of two axes in the cyclic order D, H, W whose spacings are not equal.

    Args:
        cosine: float32 [B].
        sine: float32 [B].
        ratio: Spacing of the second axis over that of the first.
    """
    # D, H, W point along z, y, x: a cyclic pair of them is an anticyclic pair of x, y, z, whence the signs.
    return torch.stack([cosine, -ratio * sine, sine / ratio, cosine], dim=1).view(-1, 2, 2)
