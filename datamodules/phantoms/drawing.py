"""Drawing the anatomy of a patient as a label map on any grid."""

from __future__ import annotations

import numpy as np

from datamodules.anatomy.tissues import Tissue
from datamodules.phantoms.facts import Anatomy, PhantomKidney, PhantomLesion
from datamodules.phantoms.shapes import KidneyShape, capsule_distance
from datamodules.phantoms.surroundings import AORTA_MM, CAVA_MM, Grid, draw_surroundings

_KEPT = (Tissue.BONE, Tissue.AORTA, Tissue.VENA_CAVA)  # a growing lesion pushes against these and does not replace them
_MARGIN_MM = 26.0


def draw_labels(anatomy: Anatomy, grid: Grid) -> np.ndarray:
    """Label map of a region: surroundings, both kidneys with their vessels, then the lesions.

    Args:
        anatomy: The patient.
        grid: Voxel centres.

    Returns:
        uint8 [D, H, W] of `Tissue` codes, none of them `UNLABELED`.
    """
    labels = draw_surroundings(grid, anatomy.girth, anatomy.seed)
    for side in sorted(anatomy.kidneys):
        kidney = anatomy.kidneys[side]
        reach = max([0.0, *(lesion.measures.diameter_mm for lesion in kidney.lesions)])
        box = _box(grid, kidney.shape, _MARGIN_MM + reach)
        if box is not None:
            _draw_kidney(labels[box], grid.part(box), kidney, anatomy)
    return labels


def _box(grid: Grid, shape: KidneyShape, margin_mm: float) -> tuple[slice, ...] | None:
    half = np.abs(shape.frame.T) @ np.array(shape.half_axes_mm) + margin_mm
    # Vessels run to the midline.
    low, high = np.array(shape.center_mm) - half, np.array(shape.center_mm) + half
    low[0], high[0] = min(low[0], -25.0), max(high[0], 25.0)
    return grid.box(low, high)


def _draw_kidney(labels: np.ndarray, grid: Grid, kidney: PhantomKidney, anatomy: Anatomy) -> None:
    shape = kidney.shape
    u, v, w = shape.local(grid.x, grid.y, grid.z)
    body = shape.body(u, v, w)
    # A level of 1 + 2 t / r lies about t millimetres outside a surface of radius r.
    halo = 1.0 + 2.0 * anatomy.fat_mm / min(shape.half_axes_mm)
    labels[(body < halo) & (u > -shape.half_axes_mm[0] * 0.6) & ~_among(labels, _KEPT)] = Tissue.FAT
    labels[(body < 1.25) & ~_among(labels, _KEPT)] = Tissue.FAT
    labels[body < 1.0] = Tissue.KIDNEY
    _sinus(labels, (u, v, w), body, shape)
    _vessels(labels, grid, kidney)
    if kidney.stones:
        end = shape.calyces[-1][1]
        labels[(u - end[0]) ** 2 + (v - end[1]) ** 2 + (w - end[2]) ** 2 < 3.0**2] = Tissue.STONE
    _neighbours(labels, grid, kidney)
    for lesion in reversed(kidney.lesions):
        _draw_lesion(labels, (u, v, w), lesion, kidney)


def _sinus(labels: np.ndarray, local: tuple[np.ndarray, ...], body: np.ndarray, shape: KidneyShape) -> None:
    """Sinus fat and collecting system, inside the organ and just before its hilum."""
    near = (body < 1.0) | ((body < 1.12) & (local[0] < 0.0))
    # Distances to all calyces are costly: only the voxels of the organ are asked.
    collecting, sinus = shape.system(*(axis[near] for axis in local))
    tissue = labels[near]
    tissue[sinus < 0.0] = Tissue.RENAL_SINUS
    tissue[(collecting < 0.0) & (body[near] < 1.05)] = Tissue.COLLECTING_SYSTEM
    labels[near] = tissue


def _among(labels: np.ndarray, tissues: tuple[Tissue, ...]) -> np.ndarray:
    table = np.zeros(256, dtype=bool)
    table[list(tissues)] = True
    return table[labels]


def _vessels(labels: np.ndarray, grid: Grid, kidney: PhantomKidney) -> None:
    """Renal artery and vein from the great vessels into the sinus; a thrombus fills and widens the vein."""
    shape = kidney.shape
    a = shape.half_axes_mm[0]
    hilum = tuple(shape.to_ras(np.array([-0.55 * a, 1.0, 5.0])))
    box = grid.box(
        np.minimum(hilum, (min(AORTA_MM[0], hilum[0]), -45.0, hilum[2])) - 14.0,
        np.maximum(hilum, (max(CAVA_MM[0], hilum[0]), 5.0, hilum[2] + 12.0)) + 14.0,
    )
    if box is None:
        return
    part = grid.part(box)
    allowed = _among(labels[box], (Tissue.FAT, Tissue.RENAL_SINUS, Tissue.MUSCLE, Tissue.BOWEL, Tissue.SOFT_TISSUE))
    clot = kidney.thrombus != "none"
    routes = (
        (Tissue.RENAL_ARTERY, AORTA_MM, -7.0, 2.6),
        (Tissue.THROMBUS if clot else Tissue.RENAL_VEIN, CAVA_MM, 0.0, 6.0 if clot else 3.8),
    )
    for tissue, (x, y), lift, radius in routes:
        start = (x, y + (5.0 if tissue is not Tissue.RENAL_ARTERY else 0.0), hilum[2] + 6.0)
        end = (hilum[0], hilum[1], hilum[2] + lift)
        # The left renal vein passes before the aorta.
        bend = (
            0.5 * (x + hilum[0]),
            0.5 * (y + hilum[1]) + (11.0 if tissue is not Tissue.RENAL_ARTERY else 4.0),
            end[2],
        )
        near = np.minimum(
            capsule_distance(part.x, part.y, part.z, start, bend), capsule_distance(part.x, part.y, part.z, bend, end)
        )
        labels[box][(near < radius) & allowed] = tissue
    if kidney.thrombus == "vena_cava":
        core = ((part.x - CAVA_MM[0]) / 8.0) ** 2 + ((part.y - CAVA_MM[1]) / 6.5) ** 2 < 1.0
        height = np.abs(part.z - hilum[2] - 8.0) < 18.0
        labels[box][core & height & (labels[box] == Tissue.VENA_CAVA)] = Tissue.THROMBUS


def _neighbours(labels: np.ndarray, grid: Grid, kidney: PhantomKidney) -> None:
    """Adrenal gland above the kidney, and enlarged nodes beside the great vessels."""
    shape = kidney.shape
    x, y, z = shape.to_ras(np.array([-0.35 * shape.half_axes_mm[0], 4.0, 1.08 * shape.half_axes_mm[2]]))
    sign = 1.0 if shape.side == "right" else -1.0
    blobs = [((x - sign * 4.0, y + 6.0, z), (3.0, 9.0, 8.0))]
    if kidney.adrenal == "nodule":
        blobs.append(((x - sign * 2.0, y + 4.0, z + 2.0), (9.0, 9.0, 10.0)))
    if kidney.nodes == "enlarged":
        near = CAVA_MM if shape.side == "right" else AORTA_MM
        blobs += [
            ((near[0] + sign * 15.0, near[1] - 4.0, shape.center_mm[2] + height), (7.0, 8.0, 10.0))
            for height in (-12.0, 10.0)
        ]
    for center, radii in blobs:
        level = sum(((axis - c) / r) ** 2 for axis, c, r in zip((grid.x, grid.y, grid.z), center, radii, strict=True))
        labels[(level < 1.0) & (labels == Tissue.FAT)] = Tissue.SOFT_TISSUE


def _draw_lesion(
    labels: np.ndarray, local: tuple[np.ndarray, ...], lesion: PhantomLesion, kidney: PhantomKidney
) -> None:
    shape = lesion.shape
    reach = float(shape.half_axes_mm.max() * (1.0 + 4.0 * shape.ripple)) + 14.0
    near = np.ones(labels.shape, dtype=bool)
    for axis, center in zip(local, shape.center, strict=True):
        near &= np.abs(axis - center) < reach
    if not near.any():
        return
    box = tuple(
        slice(int(rows[0]), int(rows[-1]) + 1)
        for rows in (np.flatnonzero(near.any(axis=tuple({0, 1, 2} - {dim}))) for dim in range(3))
    )
    part = labels[box]
    u, v, w = (axis[box] for axis in local)
    level = shape.level(u, v, w)
    index = lesion is kidney.lesions[0]
    # A lesion displaces sinus and calyces unless it invades them.
    held: tuple[Tissue, ...] = _KEPT
    if not (index and kidney.sinus_invasion):
        held += (Tissue.RENAL_SINUS,)
    if not (index and kidney.collecting_invasion):
        held += (Tissue.COLLECTING_SYSTEM,)
    free = ~_among(part, held)
    radius = float(shape.half_axes_mm.mean())
    part[(level < 1.0 + 4.0 / radius) & (level >= 1.0) & free & _among(part, _SOFT)] = Tissue.FAT
    if index and kidney.perirenal != "none":
        _perirenal(part, level, (u, v, w), lesion, kidney.perirenal == "invasion")
    inside = (level < 1.0) & free
    part[inside] = _content(lesion, level[inside], tuple(axis[inside] for axis in shape.unit(u, v, w)), radius)


_SOFT = (Tissue.LIVER, Tissue.SPLEEN, Tissue.BOWEL, Tissue.MUSCLE, Tissue.AIR, Tissue.SOFT_TISSUE)


def _perirenal(
    part: np.ndarray, level: np.ndarray, local: tuple[np.ndarray, ...], lesion: PhantomLesion, invasion: bool
) -> None:
    """Strands in the fat around a lesion; with invasion denser, and tongues of tumour among them."""
    radius = float(lesion.shape.half_axes_mm.mean())
    field = _waves(lesion.look.seed + 1, tuple(axis / 7.0 for axis in local))
    fat = part == Tissue.FAT
    depth = (level - 1.0) * radius
    part[fat & (depth > 0.0) & (depth < (12.0 if invasion else 9.0)) & (field > (0.1 if invasion else 0.5))] = (
        Tissue.STRANDING
    )
    if invasion:
        part[fat & (depth > 0.0) & (depth < 6.0) & (field > 0.75)] = Tissue.TUMOR


def _content(lesion: PhantomLesion, level: np.ndarray, unit: tuple[np.ndarray, ...], radius: float) -> np.ndarray:
    """Tissues of the voxels inside a lesion, from their level and their position in units of its half axes."""
    look = lesion.look
    rng = np.random.default_rng([look.seed, 5])
    if look.composition == "cystic":
        tissue = _cystic(look.bosniak, level, unit, radius, rng)
    else:
        tissue = np.full(level.shape, Tissue.TUMOR, dtype=np.uint8)
        if look.necrosis > 0.0:
            score = _waves(look.seed + 2, tuple(axis * 2.2 for axis in unit)) - 2.2 * level
            tissue[_highest(score, look.necrosis)] = Tissue.NECROSIS
        if look.fat > 0.0:
            score = _waves(look.seed + 3, tuple(axis * 3.0 for axis in unit))
            tissue[_highest(score, look.fat)] = Tissue.MACROSCOPIC_FAT
        if look.scar:
            arms = np.minimum(
                np.minimum(*np.abs(unit[:2])), np.minimum(np.abs(unit[0] - unit[2]), np.abs(unit[1] + unit[2]))
            )
            tissue[(arms * radius < 1.8) & (level < 0.55)] = Tissue.NECROSIS
    if look.calcified:
        for _ in range(int(rng.integers(1, 4))):
            spot = rng.normal(size=3)
            spot *= rng.uniform(0.35, 0.85) / np.linalg.norm(spot)
            distance = sum((axis - place) ** 2 for axis, place in zip(unit, spot, strict=True))
            tissue[distance * radius**2 < rng.uniform(2.0, 3.6) ** 2] = Tissue.CALCIFICATION
    return tissue


def _cystic(
    bosniak: str, level: np.ndarray, unit: tuple[np.ndarray, ...], radius: float, rng: np.random.Generator
) -> np.ndarray:
    """Fluid with wall, septa and nodule by Bosniak class, version 2019 (Silverman et al., Radiology 2019;292:475)."""
    septa, septum_mm, wall_mm = {
        "I": (0, 0.0, 0.0),
        "II": (1, 0.7, 0.0),
        "IIF": (3, 0.9, 1.2),
        "III": (3, 1.7, 2.6),
        "IV": (2, 1.5, 2.0),
    }[bosniak]
    tissue = np.full(level.shape, Tissue.CYST, dtype=np.uint8)
    for _ in range(septa):
        normal = rng.normal(size=3)
        normal /= np.linalg.norm(normal)
        plane = sum(axis * part for axis, part in zip(unit, normal, strict=True)) - rng.uniform(-0.45, 0.45)
        tissue[np.abs(plane) * radius < septum_mm] = Tissue.TUMOR
    tissue[level > 1.0 - wall_mm / radius] = Tissue.TUMOR
    if bosniak == "IV":
        place = rng.normal(size=3)
        place *= 0.75 / np.linalg.norm(place)
        distance = sum((axis - part) ** 2 for axis, part in zip(unit, place, strict=True))
        tissue[distance < max(rng.uniform(0.35, 0.5), 5.0 / radius) ** 2] = Tissue.TUMOR
    return tissue


def _highest(score: np.ndarray, share: float) -> np.ndarray:
    """Where a score is among the highest `share` of its values."""
    if score.size == 0:
        return np.zeros(0, dtype=bool)
    return score >= np.quantile(score, 1.0 - share)


def _waves(seed: int, position: tuple[np.ndarray, ...]) -> np.ndarray:
    """A smooth random function of position with unit variance, the same on every grid."""
    rng = np.random.default_rng([seed, 7])
    total = np.zeros(np.broadcast(*position).shape, dtype=np.float32)
    for (a, b, c), phase in zip(rng.normal(size=(6, 3)), rng.uniform(0, 2 * np.pi, 6), strict=True):
        total += np.cos(np.float32(a) * position[0] + np.float32(b) * position[1] + np.float32(c) * position[2] + phase)
    return total / np.float32(np.sqrt(3.0))
