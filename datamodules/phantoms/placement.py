"""Where a lesion lies: its shape at a drawn place in the kidney, and the measures of that geometry."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.stats import qmc

from datamodules.anatomy.nephrometry.points import a_suffix, crosses, l_points, pole_of
from datamodules.phantoms.facts import Look, Measures
from datamodules.phantoms.shapes import KidneyShape, LesionShape, directions

_HILUM_MM = 6.0  # distance to the main vessels that counts as contact


@lru_cache(maxsize=1)
def _ball() -> tuple[np.ndarray, np.ndarray]:
    """Directions and levels of points that fill a ball evenly."""
    sample = qmc.Sobol(3, scramble=True, rng=0).random(512)
    height, angle = 2 * sample[:, 0] - 1, 2 * np.pi * sample[:, 1]
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1, dtype=np.float32), np.cbrt(
        sample[:, 2]
    )


@lru_cache(maxsize=1)
def _sphere() -> np.ndarray:
    return directions(256).astype(np.float32)


def random_frame(rng: np.random.Generator) -> np.ndarray:
    """A random rotation [3, 3]."""
    matrix, triangle = np.linalg.qr(rng.normal(size=(3, 3)))
    return matrix * np.sign(np.diag(triangle))


def place(rng: np.random.Generator, kidney: KidneyShape, diameter_mm: float, look: Look) -> LesionShape:
    """Draw shape and place of a lesion of a given largest diameter.

    The centre is moved along the normal of the kidney's surface, so lesions range from wholly endophytic ones to
    ones that hang on the kidney; large ones cannot hide inside it. Most keep off the hilum.
    """
    ripple = {"round": 0.012, "lobulated": 0.065, "irregular": 0.045}[look.outline]
    ripple += 0.05 if look.margin == "irregular" else 0.0
    short = rng.normal(size=(4, 3))
    long = rng.normal(size=(4, 3))
    waves = np.concatenate([3.2 * short, (9.0 if look.margin == "irregular" else 4.5) * long])
    ratio = rng.uniform(0.82, 1.0, size=2)
    shape = LesionShape(
        np.zeros(3), np.array([1.0, *ratio]), random_frame(rng), ripple, waves, rng.uniform(0, 2 * np.pi, len(waves))
    )
    scale = diameter_mm / pdist(shape.points(_sphere())).max()
    center = _center(rng, kidney, diameter_mm / 2)
    return LesionShape(center, shape.half_axes_mm * scale, shape.frame, ripple, waves, shape.offsets)


def _center(rng: np.random.Generator, kidney: KidneyShape, radius_mm: float) -> np.ndarray:
    a, b, c = kidney.half_axes_mm
    # Spine and great vessels leave a large tumour no room on the medial side.
    widest = float(np.clip(0.72 - 0.014 * (radius_mm - 18.0), 0.42, 0.72))
    turn = np.pi if rng.random() < 0.12 and radius_mm < 25.0 else widest * np.pi
    angle = rng.uniform(-turn, turn)
    w = c * rng.uniform(-0.85, 0.85)
    along = (w / c) ** 2
    ring = np.sqrt(1.0 - along * (0.65 + 0.35 * along))
    surface = np.array([a * ring * np.cos(angle), b * ring * np.sin(angle), w])
    normal = np.array([surface[0] / a**2, surface[1] / b**2, w / c**2 * (0.65 + 0.7 * along)])
    normal /= np.linalg.norm(normal)
    outward = np.clip(rng.normal(-0.2, 0.6), -1.5, 0.75) * radius_mm
    # Deeper than the middle of the organ would come out on its other side.
    return surface + max(outward, -0.85 * min(a, b) * ring) * normal


def measure(kidney: KidneyShape, lesion: LesionShape) -> Measures:
    """Measure a lesion against its kidney on 512 points of its volume and 256 of its surface."""
    volume = lesion.points(*_ball())
    surface = lesion.points(_sphere())
    relief = lesion.relief(*_sphere().T)
    u, v, w = volume.T
    a = kidney.half_axes_mm[0]
    between = float(np.mean(np.abs(w) < kidney.lip_mm))
    vessels = np.linalg.norm(surface - np.array([-0.95 * a, 0.0, 0.0]), axis=1).min()
    inside_vessels = lesion.level(*np.array([[-0.95 * a], [0.0], [0.0]]))[0] < 1.0
    above = float(np.mean(w > 0))
    crosses_midline = crosses(above)
    distances = squareform(pdist(surface))
    first, second = np.unravel_index(int(distances.argmax()), distances.shape)
    axis = (surface[first] - surface[second]) / distances[first, second]
    flat = surface - np.outer(surface @ axis, axis)
    offset = lesion.center @ kidney.frame
    return Measures(
        diameter_mm=float(distances.max()),
        second_mm=float(pdist(flat).max()),
        volume_ml=float(4 / 3 * np.pi * np.prod(lesion.half_axes_mm) * np.mean(relief**3) / 1000),
        exophytic_fraction=float(np.mean(kidney.body(u, v, w) > 1.0)),
        sinus_mm=float(max(0.0, kidney.sinus(*np.concatenate([surface, volume]).astype(np.float32).T).min())),
        between_fraction=between,
        crosses_midline=crosses_midline,
        offset_mm=(float(offset[0]), float(offset[1]), float(offset[2])),
        pole=pole_of(l_points(between, crosses_midline), above),
        face=a_suffix(float(np.mean(v > 0))),
        hilar=bool(vessels < _HILUM_MM or inside_vessels),
    )
