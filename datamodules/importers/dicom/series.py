"""From the slices of one SeriesInstanceUID to stacks: sets of parallel, evenly spaced slices that make one volume."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from datamodules.errors import DataError
from datamodules.importers.dicom.headers import SliceHeader

CT_CLASSES = ("CT Image Storage", "Enhanced CT Image Storage", "Legacy Converted Enhanced CT Image Storage")
TRUNCATED = "truncated files"
ANNOTATED = "marked as showing burned-in text, which may name the patient (BurnedInAnnotation is YES)"
EVEN_MM = 0.02
"""Distances of slices that differ by less than this, or 2 %, are equal; positions that are rounded may differ by more,
see `rounding_mm`."""
SAME_AXES = 0.015
"""Directions of parallel slices differ by less in each component, as two that are rounded to two decimals do."""
TILT_DEGREES = 0.5
"""A gantry tilted by less moves a slice by less than the smallest pixel."""

_FEW = 0.25
"""Share of slices out of order that is a fault; where there are more, numbers mean something else."""
_LEAST_INTERLEAVED = 4
"""Slices of a scan that lies between those of another; scanners that number every rotation have fewer each."""
_PROJECTION = re.compile(r"\b(?:MIP|MINIP|MPVR|VRT|VOLUME ?RENDERED|PROJECTION ?IMAGE|3D|DOSE|SCREEN ?SAVE|SURFACE)\b")
_MATERIAL = re.compile(
    r"\b(?:iodine (?:map|overlay|density|water|no water|concentration)|iodine$|(?:spectral|de) iodine"
    r"|material (?:fractional|quantitative)|eff(?:ective)? ?(?:atomic ?num(?:ber)?|z)|z ?eff(?:ective)?"
    r"|electron ?density|rho ?z)\b"
)
"""Maps of a material, as scanners of two energies make them, whose values are no attenuation."""
_SCOUT = re.compile(r"\b(?:scout|localizer|localiser|topogram|surview|scanogram)\b")

SamePixels = Callable[[SliceHeader, SliceHeader], bool]


def refusal(header: SliceHeader, *, burned_in: bool = False) -> str | None:
    """Why an object cannot be a slice of a CT volume, in words; None if it can.

    Args:
        header: Header of the object.
        burned_in: Whether pixels with burned-in text are welcome.
    """
    if header.modality != "CT":
        return f"{header.modality or 'objects without a modality'} instead of CT"
    if header.sop_class not in (*CT_CLASSES, ""):  # some anonymisers blank it
        return f"{header.sop_class} (secondary capture, dose sheet or other object without a volume)"
    if "LOCALIZER" in header.image_type or _SCOUT.search(header.description.lower()):
        return "a localiser (scout)"
    # The first two values say original or derived, primary or secondary; reformatted volumes are welcome.
    if match := _PROJECTION.search(" ".join(header.image_type[2:]).replace("_", " ")):
        return f"a derived picture ({match.group()})"
    if match := _material(header):
        return f"a map of a material ({match.group()})"
    if header.annotated and not burned_in:
        return ANNOTATED
    return fault(header)


def _material(header: SliceHeader) -> re.Match[str] | None:
    """The words by which ImageType or the description call a picture a map of a material."""
    kinds = " | ".join(header.image_type[2:])
    return next(filter(None, (_MATERIAL.search(_plain_words(text)) for text in (kinds, header.description))), None)


def _plain_words(text: str) -> str:
    return " ".join(re.sub(r"[_()\-]", " ", text.lower()).split())


def fault(header: SliceHeader) -> str | None:
    """Why a slice of a CT cannot be used although its volume needs it; None if it can."""
    if header.truncated and not header.rows:
        return TRUNCATED
    if not header.rows or not header.columns:
        return "without Rows or Columns"
    return " and ".join(header.faults) or None


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


def split_series(slices: Sequence[SliceHeader], same_pixels: SamePixels) -> list[Stack]:
    """Sort the slices of one series into stacks.

    Slices of one orientation and size belong together. A slice that stands twice, pixel by pixel, is dropped with a
    note. What is then not one even stack is divided by description, acquisition, temporal position, kind of image or
    blocks of instance numbers, whichever gives even stacks; where none does, it stays one stack that `geometry` refuses
    with the reason. Descriptions divide an even stack, too: it is two series under one identifier.

    Args:
        slices: Headers of one SeriesInstanceUID for which `refusal` is None.
        same_pixels: Whether two slices hold the same pixels; asked only of slices at one position.
    """
    found: list[tuple[list[SliceHeader], int]] = []
    for group in _by_geometry(slices):
        kept, dropped = _drop_copies(group, same_pixels)
        parts = _divide(kept)
        found += [(part, dropped if number == 0 else 0) for number, part in enumerate(parts)]
    stacks = []
    for number, (part, dropped) in enumerate(found, start=1):
        notes = [f"{dropped} duplicated slices were dropped"] if dropped else []
        notes += _joined(part) if len(found) > 1 else [*_joined(part), *_absent(part)]
        stacks.append(Stack(part[0].series_uid, number, len(found), tuple(part), tuple(notes)))
    return stacks


def _joined(slices: Sequence[SliceHeader]) -> list[str]:
    """A word on acquisitions that follow one another and are one volume here; scanners that number every rotation have
    fewer slices each."""
    counts = Counter(header.acquisition for header in slices)
    if len(counts) < 2 or min(counts.values()) < _LEAST_INTERLEAVED:
        return []
    return [f"{len(counts)} acquisitions that follow one another were read as one volume"]


def _absent(slices: Sequence[SliceHeader]) -> list[str]:
    """Words on slices that the files themselves count and that are not there, though what is there is an even stack."""
    stated = {header.images for header in slices}
    (images,) = stated if len(stated) == 1 else (None,)
    if images is not None and images > len(slices) and len({header.acquisition for header in slices}) == 1:
        return [f"its files say that the acquisition gave {images} slices, and {len(slices)} are here"]
    numbers = [header.instance for header in slices]
    steps = {abs(after - before) for before, after in itertools.pairwise(number or 0 for number in numbers)}
    if len(slices) > 2 and None not in numbers and len(steps) == 1 and max(steps) > 1:
        return [f"its instance numbers rise by {max(steps)}, so that the slices between may be missing"]
    return []


def _axes(header: SliceHeader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along a row, along a column and along the normal, in LPS."""
    along = np.asarray(header.orientation, dtype=float).reshape(2, 3)
    row = along[0] / np.linalg.norm(along[0])
    column = along[1] - row * (along[1] @ row)
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _along(slices: Sequence[SliceHeader]) -> np.ndarray:
    """Position of each slice along the normal of the first, in mm."""
    normal = _axes(slices[0])[2]
    return np.array([np.asarray(header.position, dtype=float) @ normal for header in slices])


def _by_geometry(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices of one coordinate system, orientation, pixel spacing and size, but for what rounding does to them."""
    frames = {header.frame_of_reference for header in slices}
    own = len(frames) < len(slices)  # an anonymiser that gives every file another one says nothing by it
    groups: list[list[SliceHeader]] = []
    for header in slices:
        for group in groups:
            if _parallel(group[0], header) and (not own or group[0].frame_of_reference == header.frame_of_reference):
                group.append(header)
                break
        else:
            groups.append([header])
    return [_sorted(group) for group in groups]


def _parallel(first: SliceHeader, second: SliceHeader) -> bool:
    return (
        (first.rows, first.columns) == (second.rows, second.columns)
        and np.allclose(_axes(first), _axes(second), rtol=0.0, atol=SAME_AXES)
        and np.allclose(first.pixel_spacing or (), second.pixel_spacing or (), rtol=1e-3, atol=1e-3)
    )


def _sorted(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    order = np.argsort(_along(slices), kind="stable")
    return [slices[index] for index in order]


def _drop_copies(slices: list[SliceHeader], same_pixels: SamePixels) -> tuple[list[SliceHeader], int]:
    """Leave out what repeats an earlier slice at its position, pixel by pixel."""
    kept: list[SliceHeader] = []
    places: list[float] = []
    for header, place in zip(slices, _along(slices), strict=True):
        here = [other for other, at in zip(kept[-8:], places[-8:], strict=True) if abs(at - place) <= EVEN_MM]
        if any(same_pixels(header, other) for other in here):
            continue
        kept.append(header)
        places.append(float(place))
    return kept, len(slices) - len(kept)


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


def _even(slices: Sequence[SliceHeader]) -> bool:
    """Whether slices lie on an even line, none missing and none twice."""
    if len(slices) < 2:
        return False
    places = np.sort(_along(slices))
    step = float(places[-1] - places[0]) / (len(places) - 1)
    return step > EVEN_MM and bool(_off_line(places).max() <= _tolerance(slices, step))


def _off_line(places: np.ndarray) -> np.ndarray:
    """Distance of each place from the even line that fits all of them best, in mm."""
    numbers = np.arange(len(places))
    return np.abs(places - np.polyval(np.polyfit(numbers, places, 1), numbers))


def _divide(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    even = _even(slices)
    described: list[object] = [header.description for header in slices]
    keys: list[list[object]] = [
        described,
        [header.acquisition for header in slices],
        [header.temporal for header in slices],
        [header.image_type for header in slices],
        _blocks(slices),
    ]
    for key in keys[:-1] if even else keys:
        groups: dict[object, list[SliceHeader]] = {}
        for value, header in zip(key, slices, strict=True):
            groups.setdefault(value, []).append(header)
        if len(groups) > 1 and all(_even(group) for group in groups.values()):
            apart = min(map(len, groups.values())) >= _LEAST_INTERLEAVED
            if even and not (apart and (key is described or _interleaved(list(groups.values())))):
                continue  # one acquisition ends where the next begins
            return sorted(groups.values(), key=lambda group: min(header.instance or 0 for header in group))
    return [slices]


def _interleaved(groups: Sequence[Sequence[SliceHeader]]) -> bool:
    """Whether two sets of slices lie between each other: two scans, which together look like one of half the step."""
    spans = sorted((float(places.min()), float(places.max())) for places in (_along(group) for group in groups))
    return any(after[0] < before[1] for before, after in itertools.pairwise(spans))


def _blocks(slices: Sequence[SliceHeader]) -> list[object]:
    """Number of the block of each slice when every position was scanned equally often, one pass after another."""
    places = np.round(_along(slices) / EVEN_MM).astype(int)
    counts = np.unique(places, return_counts=True)[1]
    if len(set(counts.tolist())) != 1 or any(header.instance is None for header in slices):
        return [0] * len(slices)
    length = len(slices) // int(counts[0])
    ranks = np.argsort(np.argsort([header.instance or 0 for header in slices], kind="stable"), kind="stable")
    return [int(rank) // length for rank in ranks]


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
    row, column, normal = np.mean([_axes(header) for header in slices], axis=0)
    row /= np.linalg.norm(row)
    column -= row * (column @ row)
    column /= np.linalg.norm(column)
    normal = np.cross(row, column)
    places = _along(slices)
    steps = np.diff(places)
    mean, first = np.polyfit(np.arange(len(slices)), places, 1)  # as even as rounding lets them be
    unit = rounding_mm(slices)
    if not _even(slices):
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
    return float(np.median(np.diff(_along(stack.slices)))) if len(stack.slices) > 1 else 0.0


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
