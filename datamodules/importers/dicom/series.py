"""From the slices of one SeriesInstanceUID to stacks: sets of parallel, evenly spaced slices that make one volume."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.dicom.stack_geometry import EVEN_MM, SAME_AXES, Stack, along_normal, axes_of, is_even

_LEAST_INTERLEAVED = 4
"""Slices of a scan that lies between those of another; scanners that number every rotation have fewer each."""

SamePixels = Callable[[SliceHeader, SliceHeader], bool]


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
    if _two_passes(numbers):
        return ["its instance numbers count two sets of slices that lie between each other, which may be two scans"]
    first = min((number for number in numbers if number is not None), default=1)
    if 1 < first <= len(slices):
        return [f"its instance numbers begin at {first}, so that slices before may be missing"]
    steps = {abs(after - before) for before, after in itertools.pairwise(number or 0 for number in numbers)}
    if len(slices) > 2 and None not in numbers and len(steps) == 1 and max(steps) > 1:
        return [f"its instance numbers rise by {max(steps)}, so that the slices between may be missing"]
    return []


def _two_passes(numbers: Sequence[int | None]) -> bool:
    """Whether every second slice has a number that rises or falls steadily, and all of them together have not."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or len(known) < 2 * _LEAST_INTERLEAVED:
        return False
    return _steady(known[::2]) and _steady(known[1::2]) and not _steady(known)


def _steady(numbers: Sequence[int]) -> bool:
    steps = np.diff(numbers)
    return bool((steps > 0).all() or (steps < 0).all())


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
        and np.allclose(axes_of(first), axes_of(second), rtol=0.0, atol=SAME_AXES)
        and np.allclose(first.pixel_spacing or (), second.pixel_spacing or (), rtol=1e-3, atol=1e-3)
    )


def _sorted(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    order = np.argsort(along_normal(slices), kind="stable")
    return [slices[index] for index in order]


def _drop_copies(slices: list[SliceHeader], same_pixels: SamePixels) -> tuple[list[SliceHeader], int]:
    """Leave out what repeats an earlier slice at its position, pixel by pixel."""
    kept: list[SliceHeader] = []
    places: list[float] = []
    for header, place in zip(slices, along_normal(slices), strict=True):
        here = [other for other, at in zip(kept[-8:], places[-8:], strict=True) if abs(at - place) <= EVEN_MM]
        if any(same_pixels(header, other) for other in here):
            continue
        kept.append(header)
        places.append(float(place))
    return kept, len(slices) - len(kept)


def _divide(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    even = is_even(slices)
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
        if len(groups) > 1 and all(is_even(group) for group in groups.values()):
            apart = min(map(len, groups.values())) >= _LEAST_INTERLEAVED
            if even and not (apart and (key is described or _interleaved(list(groups.values())))):
                continue  # one acquisition ends where the next begins
            return sorted(groups.values(), key=lambda group: min(header.instance or 0 for header in group))
    return [slices]


def _interleaved(groups: Sequence[Sequence[SliceHeader]]) -> bool:
    """Whether two sets of slices lie between each other: two scans, which together look like one of half the step."""
    spans = sorted((float(places.min()), float(places.max())) for places in (along_normal(group) for group in groups))
    return any(after[0] < before[1] for before, after in itertools.pairwise(spans))


def _blocks(slices: Sequence[SliceHeader]) -> list[object]:
    """Number of the block of each slice when every position was scanned equally often, one pass after another."""
    places = np.round(along_normal(slices) / EVEN_MM).astype(int)
    counts = np.unique(places, return_counts=True)[1]
    if len(set(counts.tolist())) != 1 or any(header.instance is None for header in slices):
        return [0] * len(slices)
    length = len(slices) // int(counts[0])
    ranks = np.argsort(np.argsort([header.instance or 0 for header in slices], kind="stable"), kind="stable")
    return [int(rank) // length for rank in ranks]
