"""Stacks of parallel slices: whether they lie on an even line, and where their voxels lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from datamodules.errors import DataError
from datamodules.importers.dicom.slice_header import SliceHeader

EVEN_MM = 0.02
"""Distances of slices that differ by less than this, or 2 %, are equal; positions that are rounded may differ by more,
see `rounding_mm`."""
SAME_AXES = 0.015
"""Directions of parallel slices differ by less in each component, as two that are rounded to two decimals do."""
TILT_DEGREES = 0.5
"""A gantry tilted by less moves a slice by less than the smallest pixel."""
_FEW = 0.25
"""Share of slices out of order that is a fault; where there are more, numbers mean something else."""


@dataclass(frozen=True)
class Stack:
    """Parallel slices that make one volume.

    Args:
        series_uid: SeriesInstanceUID.
        number: Number of the stack in its series, from 1 on.
        count: Number of stacks in the series.
        slices: In the order of their positions along the normal.
        notes: What was done to them.
    """

    series_uid: str
    number: int
    count: int
    slices: tuple[SliceHeader, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The UID, with the stack's number where the series holds several."""
        return self.series_uid if self.count == 1 else f"{self.series_uid}#{self.number}"


def axes_of(header: SliceHeader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along a row, along a column and along the normal, in LPS."""
    along = np.asarray(header.orientation, dtype=float).reshape(2, 3)
    row = along[0] / np.linalg.norm(along[0])
    column = along[1] - row * (along[1] @ row)
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def along_normal(slices: Sequence[SliceHeader]) -> np.ndarray:
    """Position of each slice along the normal of the first, in mm."""
    normal = axes_of(slices[0])[2]
    return np.array([np.asarray(header.position, dtype=float) @ normal for header in slices])


def rounding_mm(slices: Sequence[SliceHeader]) -> float:
    """The unit to which positions are rounded, in mm: 0.1 where no coordinate has a second decimal."""
    positions = np.array([header.position for header in slices], dtype=float)
    for decimals in range(4):
        if np.abs(positions - np.round(positions, decimals)).max() < 1e-6:
            return float(10.0**-decimals)
    return 0.0


def _tolerance(slices: Sequence[SliceHeader], step: float) -> float:
    """How far a slice may lie from its place on an even line, in mm.

    Half the unit of rounding, and a little for oblique planes, where that tells neighbours apart; what a coarser
    rounding hides, the distance that the files state (SpacingBetweenSlices) must confirm.
    """
    unit = rounding_mm(slices)
    stated = [header.between_mm for header in slices if header.between_mm]
    confirmed = len(stated) == len(slices) and np.allclose(np.abs(stated), step, rtol=0.02)
    plain = max(EVEN_MM, 0.02 * step)
    return max(plain, 0.6 * unit) if unit <= 0.5 * step or confirmed else plain


def is_even(slices: Sequence[SliceHeader]) -> bool:
    """Whether slices lie on an even line, none missing and none twice."""
    if len(slices) < 2:
        return False
    places = np.sort(along_normal(slices))
    step = float(places[-1] - places[0]) / (len(places) - 1)
    return step > EVEN_MM and bool(_off_line(places).max() <= _tolerance(slices, step))


def _off_line(places: np.ndarray) -> np.ndarray:
    """Distance of each place from the even line that fits all of them best, in mm."""
    numbers = np.arange(len(places))
    return np.abs(places - np.polyval(np.polyfit(numbers, places, 1), numbers))


@dataclass(frozen=True)
class StackGeometry:
    """Where the voxels of a stack lie, in LPS millimetres.

    Args:
        directions: [3, 3], columns are unit vectors along i (a row), j (a column) and the normal.
        spacing: Along i, j and the normal, in mm.
        origin: Centre of the first voxel of the first slice.
        drift: Shift of each slice against the one before it along i and j, in mm; not 0 when the gantry was tilted.
        notes: What a reader of the import report should know of it.
    """

    directions: np.ndarray
    spacing: tuple[float, float, float]
    origin: np.ndarray
    drift: tuple[float, float]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def tilt_degrees(self) -> float:
        """Angle between the normal and the line through the slices."""
        return float(np.degrees(np.arctan2(np.hypot(*self.drift), self.spacing[2])))


def geometry(stack: Stack, minimum_slices: int) -> StackGeometry:
    """Check the positions of a stack and find its geometry.

    Args:
        stack: The stack.
        minimum_slices: Least number of slices of a volume.

    Raises:
        DataError: if there are too few slices, two differ at one position, some are missing, or they are uneven or
            do not lie on one line. The message names no file.
    """
    slices = stack.slices
    if len(slices) < minimum_slices:
        raise DataError(f"{len(slices)} slices; expected at least {minimum_slices}")
    row, column, normal = np.mean([axes_of(header) for header in slices], axis=0)
    row /= np.linalg.norm(row)
    column -= row * (column @ row)
    column /= np.linalg.norm(column)
    normal = np.cross(row, column)
    places = along_normal(slices)
    steps = np.diff(places)
    mean, first = np.polyfit(np.arange(len(slices)), places, 1)  # as even as rounding lets them be
    unit = rounding_mm(slices)
    if not is_even(slices):
        raise DataError(_unevenness(slices, steps, unit))
    positions = np.array([header.position for header in slices], dtype=float)
    shift = (positions - positions[0]) @ np.column_stack([row, column])
    drift = np.polyfit(np.arange(len(slices)), shift, 1)[0]
    off = shift - shift.mean(axis=0) - (np.arange(len(slices)) - (len(slices) - 1) / 2)[:, None] * drift
    if np.abs(off).max() > 0.5 + unit:
        raise DataError("the slices do not lie on one line")
    drift = np.where(np.abs(drift) * (len(slices) - 1) > unit, drift, 0.0)  # the last slice may be off by rounding
    spacing = slices[0].pixel_spacing or (0.0, 0.0)
    notes = []
    if unit > 0.04 * mean and np.ptp(steps) > EVEN_MM:
        notes.append(f"positions rounded to {unit:g} mm were taken for even ones, {mean:.3f} mm apart")
    thickness = slices[0].thickness_mm
    if thickness is not None and mean > 1.5 * thickness > 0:
        notes.append(f"slices of {thickness:g} mm lie {mean:.2f} mm apart, so that what lies between was not scanned")
    if astray := _out_of_order(slices):
        notes.append(f"{astray} slices lie elsewhere than their instance numbers say; their positions were believed")
    axes = np.column_stack([row, column, normal])
    origin = positions[0] + normal * (first - places[0])
    return StackGeometry(
        axes, (spacing[1], spacing[0], float(mean)), origin, (float(drift[0]), float(drift[1])), tuple(notes)
    )


def _out_of_order(slices: Sequence[SliceHeader]) -> int:
    """How many slices of a numbered stack are not where their numbers say; 0 where numbers do not follow positions."""
    numbers = [header.instance for header in slices]
    if any(number is None for number in numbers) or len(set(numbers)) < len(numbers):
        return 0
    ranks = np.argsort(np.argsort(np.array(numbers, dtype=int)))
    straight = min(
        (int((ranks != order).sum()) for order in (np.arange(len(ranks)), np.arange(len(ranks))[::-1])), default=0
    )
    return straight if straight <= _FEW * len(ranks) else 0


def step_mm(stack: Stack) -> float:
    """Distance of the slices of a stack, in the middle of all, whether or not it is even."""
    return float(np.median(np.diff(along_normal(stack.slices)))) if len(stack.slices) > 1 else 0.0


def _unevenness(slices: Sequence[SliceHeader], steps: np.ndarray, unit: float) -> str:
    """Why slices are no even stack, in words."""
    if (steps <= EVEN_MM).any():
        at = f" (positions are rounded to {unit:g} mm)" if unit > EVEN_MM else ""
        twice = int((steps <= EVEN_MM).sum())
        return f"{twice} slices stand twice with different pixels{at}; expected one slice at each position"
    rounded = f", rounded to {unit:g} mm" if unit > EVEN_MM else ""
    step = float(np.median(steps))
    gaps = np.round(steps / step).astype(int) - 1
    if (
        unit <= 0.5 * step
        and (gaps > 0).any()
        and np.abs(steps - step * (gaps + 1)).max() <= max(EVEN_MM, 0.1 * step, 1.2 * unit)
    ):
        after = int(np.argmax(gaps > 0)) + 1
        return (
            f"{int(gaps.sum())} of {len(slices) + int(gaps.sum())} slices are missing, the first after slice {after}; "
            "copy the series again"
        )
    return f"the slices are unevenly spaced ({steps.min():.2f} to {steps.max():.2f} mm{rounded})"
