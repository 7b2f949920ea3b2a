"""Shapes of kidney and lesion as functions of position, in millimetres.

The same functions are sampled on a voxel grid to draw a patient and at points to measure one, so that the stored
R.E.N.A.L. values are those of the drawn geometry. A kidney has coordinates of its own: u away from the spine,
v anterior and w superior, turned with the organ; the origin is its centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Vector = tuple[float, float, float]
_SHEATH_MM = 1.5  # sinus fat around a calyx


def _ellipsoid_distance(u: np.ndarray, v: np.ndarray, w: np.ndarray, center: Vector, axes: Vector) -> np.ndarray:
    """Approximate signed distance to an ellipsoid in mm, exact on its surface, negative inside."""
    p, q, r = ((x - c) / a for x, c, a in zip((u, v, w), center, axes, strict=True))
    level = np.sqrt(p * p + q * q + r * r)
    slope = np.sqrt((p / axes[0]) ** 2 + (q / axes[1]) ** 2 + (r / axes[2]) ** 2)
    return level * (level - 1.0) / np.maximum(slope, 1e-6)


def capsule_distance(x: np.ndarray, y: np.ndarray, z: np.ndarray, start: Vector, end: Vector) -> np.ndarray:
    """Distance to the segment from `start` to `end`, in mm."""
    axis = np.subtract(end, start)
    p, q, r = x - start[0], y - start[1], z - start[2]
    along = np.clip((p * axis[0] + q * axis[1] + r * axis[2]) / float(axis @ axis), 0.0, 1.0)
    return np.sqrt((p - along * axis[0]) ** 2 + (q - along * axis[1]) ** 2 + (r - along * axis[2]) ** 2)


@dataclass(frozen=True, eq=False)
class KidneyShape:
    """A kidney: a convex body with the renal sinus cut into its medial side.

    Args:
        side: left or right.
        center_mm: Centre in RAS millimetres of the body.
        half_axes_mm: Half lengths along u, v, w; about 29, 23 and 54.
        frame: [3, 3] rows are the directions u, v, w in RAS; that of a left kidney is mirrored.
        dilation: Width of the collecting system relative to a normal one.
    """

    side: str
    center_mm: Vector
    half_axes_mm: Vector
    frame: np.ndarray
    dilation: float = 1.0

    def local(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, ...]:
        """Positions in RAS millimetres as u, v, w; arrays broadcast."""
        p, q, r = (value - center for value, center in zip((x, y, z), self.center_mm, strict=True))
        return tuple(np.float32(a) * p + np.float32(b) * q + np.float32(c) * r for a, b, c in self.frame)

    def to_ras(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] in u, v, w as RAS millimetres."""
        return points @ self.frame + np.array(self.center_mm)

    def body(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Level of the convex body: 1 on its surface, less inside. It is the kidney's convex hull, sinus filled."""
        a, b, c = self.half_axes_mm
        along = (w / c) ** 2
        return (u / a) ** 2 + (v / b) ** 2 + along * (0.65 + 0.35 * along)

    @property
    def _sinus(self) -> tuple[Vector, Vector]:
        a, b, c = self.half_axes_mm
        return (-0.62 * a, 0.0, 0.0), (0.66 * a, 0.40 * b, 0.40 * c)

    @property
    def calyces(self) -> list[tuple[Vector, Vector, float]]:
        """Start, end and radius in mm of the branches of the collecting system."""
        a, b, c = self.half_axes_mm
        pelvis = (-0.62 * a, 0.0, -0.04 * c)
        ends = ((-0.05, 0.14, 0.46), (0.04, -0.22, 0.25), (0.10, 0.18, 0.0), (0.04, -0.20, -0.23), (-0.05, 0.12, -0.46))
        return [(pelvis, (p * a, q * b, r * c), 2.0 * self.dilation) for p, q, r in ends]

    def collecting(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Signed distance to the collecting system in mm, negative inside."""
        return self._system(u, v, w)[0]

    def sinus(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Signed distance to the renal sinus with the collecting system in mm, negative inside."""
        return self._system(u, v, w)[1]

    def _system(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, c = self.half_axes_mm
        wide = self.dilation
        pelvis = (0.24 * a * wide, 0.20 * b * wide, 0.16 * c * wide)
        collecting = _ellipsoid_distance(u, v, w, (-0.62 * a, 0.0, -0.04 * c), pelvis)
        for start, end, radius in self.calyces:
            collecting = np.minimum(collecting, capsule_distance(u, v, w, start, end) - radius)
            cup = np.sqrt((u - end[0]) ** 2 + (v - end[1]) ** 2 + (w - end[2]) ** 2) - 1.6 * radius
            collecting = np.minimum(collecting, cup)
        fat = np.minimum(_ellipsoid_distance(u, v, w, *self._sinus), collecting - _SHEATH_MM)
        return collecting, fat

    def system(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both signed distances, `collecting` and `sinus`, for the cost of one."""
        return self._system(u, v, w)

    @property
    def lip_mm(self) -> float:
        """Height above and below the centre of the lips of the sinus: the polar planes of R.E.N.A.L."""
        a, _, c = self.half_axes_mm
        w = np.linspace(0.0, c, 400)
        along = (w / c) ** 2
        u = -a * np.sqrt(np.maximum(1.0 - along * (0.65 + 0.35 * along), 0.0))
        center, axes = self._sinus
        inside = ((u - center[0]) / axes[0]) ** 2 + (w / axes[2]) ** 2 < 1.0
        return float(w[inside].max())


@dataclass(frozen=True, eq=False)
class LesionShape:
    """A lesion: an ellipsoid with a smooth or irregular surface.

    Args:
        center: [3] u, v, w of its centre in mm.
        half_axes_mm: [3] half lengths of the ellipsoid.
        frame: [3, 3] rows are its axes in u, v, w.
        ripple: Standard deviation of the surface as a share of the radius.
        waves: [K, 3] wave vectors on the unit sphere; short ones make lobes, long ones spicules.
        offsets: [K] phases of the waves.
    """

    center: np.ndarray
    half_axes_mm: np.ndarray
    frame: np.ndarray
    ripple: float
    waves: np.ndarray
    offsets: np.ndarray

    def unit(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
        """Position in units of the half axes, along the lesion's own axes."""
        p, q, r = u - self.center[0], v - self.center[1], w - self.center[2]
        rows = self.frame / self.half_axes_mm[:, None]
        return tuple(np.float32(a) * p + np.float32(b) * q + np.float32(c) * r for a, b, c in rows)

    def relief(self, p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Radius of the surface in a direction (a unit vector), relative to the ellipsoid."""
        total = np.zeros(np.broadcast(p, q, r).shape, dtype=np.float32)
        for (a, b, c), offset in zip(self.waves, self.offsets, strict=True):
            total += np.cos(np.float32(a) * p + np.float32(b) * q + np.float32(c) * r + np.float32(offset))
        return 1.0 + np.float32(self.ripple * np.sqrt(2.0 / len(self.waves))) * total

    def level(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """1 on the surface, less inside, growing in proportion to the distance from the centre."""
        p, q, r = self.unit(u, v, w)
        length = np.sqrt(p * p + q * q + r * r) + np.float32(1e-6)
        return length / self.relief(p / length, q / length, r / length)

    def points(self, directions: np.ndarray, levels: np.ndarray | float = 1.0) -> np.ndarray:
        """Points [N, 3] in u, v, w at a level in each of `directions` [N, 3]."""
        radius = self.relief(*directions.T) * levels
        return self.center + (directions * radius[:, None] * self.half_axes_mm) @ self.frame


def directions(count: int) -> np.ndarray:
    """Unit vectors [count, 3] spread evenly over the sphere (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    height = 1.0 - 2.0 * index / count
    angle = np.pi * (1.0 + 5.0**0.5) * index
    ring = np.sqrt(1.0 - height**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
