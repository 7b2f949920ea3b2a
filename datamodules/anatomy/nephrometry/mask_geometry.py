"""Geometry of label maps in millimetres: extents, diameters, hulls and axes.

Arrays are D x H x W as everywhere in the suite (D to superior, H to anterior, W to right); points and lengths are
float64 in millimetres in the same order, and the centre of voxel (0, 0, 0) is the origin.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

Spacing = tuple[float, float, float]
Points = NDArray[np.float64]
Bools = NDArray[np.bool_]

CONNECTED = np.ones((3, 3, 3), dtype=bool)
"""Neighbourhood of connected components: voxels that share a corner belong together, as a reader would see them."""


def voxel_volume_ml(spacing_mm: Spacing) -> float:
    """Volume of one voxel in ml."""
    return float(np.prod(spacing_mm)) / 1000.0


def positions(mask: Bools, spacing_mm: Spacing) -> Points:
    """Centres of the voxels of a mask, [N, 3] mm."""
    return np.argwhere(mask) * np.asarray(spacing_mm, dtype=float)


def coarsened(labels: np.ndarray, spacing_mm: Spacing, least_mm: float) -> tuple[np.ndarray, Spacing]:
    """A label map on a grid no finer than `least_mm`, by the nearest label.

    Axes that are coarser already are left alone. The measures of nephrometry do not gain from finer voxels, and their
    cost grows with the third power.

    Returns:
        The map and its spacing. Voxel (0, 0, 0) keeps its corner, not its centre.
    """
    picks, spacing = [], []
    for size, step in zip(labels.shape, spacing_mm, strict=True):
        count = size if step >= least_mm else max(1, round(size * step / least_mm))
        spacing.append(size * step / count)
        picks.append(((np.arange(count) + 0.5) * size / count).astype(int))
    return labels[np.ix_(*picks)], (spacing[0], spacing[1], spacing[2])


def bounding_slices(mask: Bools, margin: int = 0) -> tuple[slice, ...]:
    """Slices of the smallest box that holds a mask, widened by `margin` voxels within the array."""
    slices = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        slices.append(slice(max(0, int(used[0]) - margin), min(mask.shape[axis], int(used[-1]) + 1 + margin)))
    return tuple(slices)


def surface_points(mask: Bools, spacing_mm: tuple[float, ...]) -> Points:
    """Centres of the voxel faces between a mask and what is around it, [N, ndim] mm.

    Faces, not voxel centres: the outline then lies where the border between two labels is, and a length does not lose
    a voxel.
    """
    padded = np.pad(mask, 1)
    faces = []
    for axis in range(mask.ndim):
        step = np.zeros(mask.ndim)
        step[axis] = 0.5
        faces.append(np.argwhere(np.diff(padded, axis=axis)) - 1.0 + step)
    return np.concatenate(faces) * np.asarray(spacing_mm, dtype=float)


def ball(radius_mm: float, spacing_mm: Spacing) -> Bools:
    """Voxels within a radius of the central one, as a structuring element that knows anisotropic voxels."""
    reach = [int(radius_mm / step) for step in spacing_mm]
    offsets = np.stack(np.meshgrid(*[np.arange(-count, count + 1) for count in reach], indexing="ij"), axis=-1)
    return np.asarray(np.linalg.norm(offsets * np.asarray(spacing_mm), axis=-1) <= radius_mm)


def feret_diameter_mm(points: Points) -> float:
    """Largest distance between two points (maximal Feret diameter) in mm.

    It is exact: the two points are corners of the convex hull, so only those are compared.
    """
    if len(points) < 2:
        return 0.0
    try:
        points = points[ConvexHull(points).vertices]
    except QhullError:
        # A flat or tiny set has no hull of full dimension, and few points.
        points = np.unique(points, axis=0)
    return float(pdist(points).max())


def axial_diameter_mm(mask: Bools, spacing_mm: Spacing) -> float:
    """Largest Feret diameter on any axial slice in mm, the way a reader measures a mass."""
    in_plane = spacing_mm[1:]
    outlines = (surface_points(section, in_plane) for section in mask if section.any())
    return max((feret_diameter_mm(outline) for outline in outlines), default=0.0)


class Hull:
    """A convex body that can say how deep a point lies in it.

    Args:
        points: [N, 3] mm, not all in one plane.

    Raises:
        scipy.spatial.QhullError: if the points lie in one plane.
    """

    def __init__(self, points: Points) -> None:
        hull = ConvexHull(points)
        self.vertices: Points = points[hull.vertices]
        self.volume_ml = float(hull.volume) / 1000.0
        # Coplanar triangles of one facet repeat its plane.
        self._planes: Points = np.unique(hull.equations.round(9), axis=0)

    def depth_mm(self, points: Points) -> NDArray[np.float64]:
        """Distance of each point to the nearest facet's plane in mm, positive inside and negative outside."""
        return np.asarray(-(points @ self._planes[:, :3].T + self._planes[:, 3]).max(axis=1))

    def fill(self, shape: tuple[int, ...], spacing_mm: Spacing) -> Bools:
        """The voxels of a grid whose centres lie inside, bool [D, H, W].

        A convex body cuts a line in one interval, so the planes are asked once per line along W and not once per
        voxel.
        """
        depth, height, width = (np.arange(size) * step for size, step in zip(shape, spacing_mm, strict=True))
        across = self._planes[:, 2]
        flat = np.abs(across) < 1e-12
        lines = height[:, None] * self._planes[:, 1] + self._planes[:, 3]
        filled = np.zeros(shape, dtype=bool)
        low, high = self.vertices[:, 0].min(), self.vertices[:, 0].max()
        for row in np.flatnonzero((depth >= low) & (depth <= high)):
            room = -(lines + depth[row] * self._planes[:, 0])
            bound = room[:, ~flat] / across[~flat]
            upper = np.where(across[~flat] > 0.0, bound, np.inf).min(axis=1)
            lower = np.where(across[~flat] < 0.0, bound, -np.inf).max(axis=1)
            open_lines = (room[:, flat] >= 0.0).all(axis=1)
            filled[row] = open_lines[:, None] & (width >= lower[:, None]) & (width <= upper[:, None])
        return filled


class Axes(NamedTuple):
    """Centre and orthonormal axes of a body.

    `directions` is [3, 3], one axis a row, longest first; `lengths_mm` are the semi-axes of the ellipsoid with the
    same second moments.
    """

    centre: Points
    directions: Points
    lengths_mm: Points

    def contains(self, points: Points) -> Bools:
        """Whether each point lies inside the ellipsoid."""
        scaled = (points - self.centre) @ self.directions.T / self.lengths_mm
        return np.einsum("ij,ij->i", scaled, scaled) <= 1.0


def principal_axes(points: Points) -> Axes:
    """Principal axes of evenly spread points.

    A solid ellipsoid with semi-axis a has variance a^2 / 5 along it, which gives `lengths_mm`.
    """
    centre = points.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(points.T))
    order = np.argsort(variances)[::-1]
    return Axes(centre, directions[:, order].T, np.sqrt(5.0 * np.maximum(variances[order], 1e-9)))
