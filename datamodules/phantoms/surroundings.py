"""The abdomen around the kidneys as a label map: body wall, spine, vessels, liver, spleen, bowel and fat.

Positions are RAS millimetres: x to the patient's right, y anterior, z superior, the origin before the spine at the
height of the kidneys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.anatomy.tissues import Tissue

AORTA_MM, CAVA_MM = (-12.0, -18.0), (18.0, -16.0)
"""Position (x, y) of the great vessels."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel centres of a region in RAS millimetres, one array per axis, shaped to broadcast to [D, H, W]."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @classmethod
    def around(
        cls, center_mm: tuple[float, float, float], extent_mm: tuple[float, float, float], step_mm: float
    ) -> Grid:
        """A region of `extent_mm` (D, H, W) about a point in RAS millimetres."""
        axes = []
        for center, extent in zip(center_mm, extent_mm[::-1], strict=True):
            count = max(1, round(extent / step_mm))
            step = extent / count
            axes.append((center - extent / 2 + step * (np.arange(count) + 0.5)).astype(np.float32))
        return cls(axes[0][None, None, :], axes[1][None, :, None], axes[2][:, None, None])

    @property
    def shape(self) -> tuple[int, int, int]:
        """D, H, W."""
        return self.z.size, self.y.size, self.x.size

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of voxel centres, D, H, W."""
        depth, height, width = (
            float(axis.ravel()[1] - axis.ravel()[0]) if axis.size > 1 else 1.0 for axis in (self.z, self.y, self.x)
        )
        return depth, height, width

    def part(self, box: tuple[slice, ...]) -> Grid:
        """The sub-region of a box of D, H, W slices."""
        return Grid(self.x[:, :, box[2]], self.y[:, box[1], :], self.z[box[0], :, :])

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, ...] | None:
        """Slices (D, H, W) of the voxels between two corners in RAS millimetres; None where there are none."""
        slices = []
        for axis, first, last in zip((self.z, self.y, self.x), low[::-1], high[::-1], strict=True):
            values = axis.ravel()
            start, stop = np.searchsorted(values, first), np.searchsorted(values, last, side="right")
            if start >= stop:
                return None
            slices.append(slice(int(start), int(stop)))
        return tuple(slices)


def draw_surroundings(grid: Grid, girth: float, seed: int) -> np.ndarray:
    """Label map [D, H, W] of the abdomen without kidneys.

    Args:
        grid: Voxel centres.
        girth: Width of the body relative to an average one.
        seed: Seed of what differs between patients.
    """
    rng = np.random.default_rng([seed, 3])
    labels = np.empty(grid.shape, dtype=np.uint8)
    labels[:] = _wall(grid, girth, rng)
    _organs(labels, grid, girth, rng)
    _spine(labels, grid, rng)
    _ribs(labels, grid, girth, rng)
    for (x, y), radii, tissue in (
        (AORTA_MM, (9.5, 9.5), Tissue.AORTA),
        (CAVA_MM, (12.0, 9.0), Tissue.VENA_CAVA),
    ):
        sway = 2.0 * np.sin(grid.z / 45.0 + rng.uniform(0, 6.28))
        labels[((grid.x - x - sway) / radii[0]) ** 2 + ((grid.y - y) / radii[1]) ** 2 < 1.0] = tissue
    return labels


def _wall(grid: Grid, girth: float, rng: np.random.Generator) -> np.ndarray:
    """Air, skin and subcutaneous fat, the muscles of the wall and the back, retroperitoneal fat: [1, H, W]."""
    x, y = grid.x, grid.y
    ring = _body_level(grid, girth)
    plane = np.full(ring.shape, Tissue.FAT, dtype=np.uint8)
    plane[(ring > 0.80) & (ring < 0.885)] = Tissue.MUSCLE
    side = np.abs(x)
    psoas = rng.uniform(0.9, 1.1)
    for center, radii in (
        ((35.0, -46.0), (13.0 * psoas, 17.0 * psoas)),  # psoas
        ((40.0, -92.0), (33.0, 19.0)),  # erector spinae
        ((70.0, -80.0), (20.0, 10.0)),  # quadratus lumborum
    ):
        plane[((side - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 < 1.0] = Tissue.MUSCLE
    plane[ring > 1.0] = Tissue.AIR
    plane[(ring > 0.985) & (ring <= 1.0)] = Tissue.MUSCLE  # skin
    return plane


def _body_level(grid: Grid, girth: float) -> np.ndarray:
    """1 on the skin; a rounded box, flatter at the back than an ellipse. [1, H, W]."""
    across = (grid.x / (165.0 * girth)) ** 2
    along = ((grid.y + 8.0) / (112.0 * (0.5 + 0.5 * girth))) ** 2
    return np.sqrt(np.sqrt(across**2 + along**2 + 1.0 * across * along))


def _spine(labels: np.ndarray, grid: Grid, rng: np.random.Generator) -> None:
    """Vertebrae and discs of 35 mm, the canal and the posterior arch."""
    side, phase = np.abs(grid.x), rng.uniform(0.0, 35.0)
    height = (grid.z + phase) % 35.0
    waist = 1.0 - 0.08 * np.sin(np.pi * np.clip(height / 28.0, 0.0, 1.0))
    column = (grid.x / (23.0 * waist)) ** 2 + ((grid.y + 46.0) / (17.0 * waist)) ** 2 < 1.0
    disc = np.broadcast_to(height > 28.0, column.shape)
    labels[column & ~disc] = Tissue.BONE
    labels[column & disc] = Tissue.MUSCLE
    arch = (side < 4.0 + 0.25 * np.abs(grid.y + 74.0)) & (grid.y < -74.0) & (grid.y > -98.0) & (height < 24.0)
    lamina = ((grid.x / 17.0) ** 2 + ((grid.y + 70.0) / 13.0) ** 2 < 1.0) & (height < 30.0)
    process = (side < 34.0) & (np.abs(grid.y + 68.0) < 2.5) & (np.abs(height - 12.0) < 5.0)
    labels[np.broadcast_to(arch | lamina | process, labels.shape)] = Tissue.BONE
    canal = (grid.x / 9.0) ** 2 + ((grid.y + 68.0) / 7.0) ** 2 < 1.0
    labels[np.broadcast_to(canal, labels.shape)] = Tissue.SOFT_TISSUE


def _ribs(labels: np.ndarray, grid: Grid, girth: float, rng: np.random.Generator) -> None:
    """The lower ribs, falling towards the front, in the muscles of the wall."""
    ring = _body_level(grid, girth)
    slope = grid.z + 0.35 * (grid.y + 100.0) + rng.uniform(0.0, 30.0)
    inside = (ring > 0.815) & (ring < 0.87) & (grid.y < 40.0)
    rib = inside & (np.abs(slope % 32.0 - 16.0) < 5.0) & (slope > 8.0) & (np.abs(grid.x) > 52.0)
    labels[rib] = Tissue.BONE


def _organs(labels: np.ndarray, grid: Grid, girth: float, rng: np.random.Generator) -> None:
    """Liver, spleen, colon and small bowel inside the wall."""
    cavity = _body_level(grid, girth) < 0.79
    free = np.broadcast_to(cavity, labels.shape) & (labels == Tissue.FAT)
    for _ in range(16):
        loop = (rng.uniform(-95, 95) * girth, rng.uniform(22, 88), rng.uniform(-85, 45))
        size = rng.uniform(13, 21)
        _put(labels, free, grid, loop, (size * rng.uniform(1.0, 1.9), size, size), Tissue.BOWEL)
    for sign, y, top in ((1.0, 2.0, 8.0), (-1.0, -4.0, 55.0)):
        _colon(labels, free, grid, (sign * 108.0 * girth, y), top, rng)
    _put(labels, free, grid, (28.0, 4.0, -2.0), (17.0, 13.0, 42.0), Tissue.BOWEL)  # duodenum
    _put(labels, free, grid, (-8.0, 22.0, 34.0), (62.0, 11.0, 13.0), Tissue.SOFT_TISSUE)  # pancreas
    shift = rng.normal(0.0, 6.0, size=3)
    _put(labels, free, grid, (78.0 * girth, 34.0, 72.0 + shift[0]), (88.0 * girth, 84.0, 78.0), Tissue.LIVER)
    _put(labels, free, grid, (-112.0 * girth, -24.0, 74.0 + shift[1]), (30.0, 50.0, 52.0), Tissue.SPLEEN)


def _colon(
    labels: np.ndarray, free: np.ndarray, grid: Grid, place: tuple[float, float], top: float, rng: np.random.Generator
) -> None:
    haustra = 1.0 + 0.12 * np.cos(grid.z / 6.0 + rng.uniform(0, 6.28))
    sway = 5.0 * np.sin(grid.z / 30.0 + rng.uniform(0, 6.28))
    level = ((grid.x - place[0] - sway) ** 2 + (grid.y - place[1]) ** 2) / (rng.uniform(15, 20) * haustra) ** 2
    below = grid.z < top
    labels[free & (level < 1.0) & below] = Tissue.BOWEL
    gas = (grid.y > place[1] + 2.0) & (np.sin(grid.z / 14.0 + rng.uniform(0, 6.28)) > 0.1)
    labels[free & (level < 0.62) & below & gas] = Tissue.AIR


def _put(
    labels: np.ndarray,
    free: np.ndarray,
    grid: Grid,
    center: tuple[float, float, float],
    radii: tuple[float, float, float],
    tissue: Tissue,
) -> None:
    """An ellipsoid, drawn in its bounding box and only where nothing but fat or another organ lies."""
    box = grid.box(np.subtract(center, radii), np.add(center, radii))
    if box is None:
        return
    part = grid.part(box)
    level = sum(((axis - c) / r) ** 2 for axis, c, r in zip((part.x, part.y, part.z), center, radii, strict=True))
    labels[box][free[box] & (level < 1.0)] = tissue
