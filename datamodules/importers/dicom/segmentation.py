"""DICOM Segmentation (SEG) objects: every frame is one segment on one plane, placed by its own attributes.

Read with pydicom after DICOM PS3.3 A.51 and C.8.20; binary, fractional and label-map segmentations are understood. The
reader of highdicom, to which tests hold this one, refuses objects without all attributes of the standard, which many
archives hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import torchio as tio

from datamodules.errors import DataError
from datamodules.importers.dicom.pixels import complete
from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.dicom.stack_geometry import SAME_AXES
from datamodules.importers.dicom.values import quiet
from datamodules.importers.masks import KidneyMask, compose
from datamodules.importers.nifti.scan import MOST_VOXELS, check_spacing
from datamodules.importers.part_names import meaning

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAME_PLANE_MM = 0.2
"""Frames whose planes lie closer are on one plane: no CT has slices as thin."""
_OFF_PLANE = 0.1
"""How far a plane may lie from its place on an even line, in distances of planes."""


@dataclass(frozen=True)
class Segmentation:
    """A SEG object that shows kidneys.

    Args:
        mask: Its label map on its own grid.
        series_uids: Series that it says it was drawn on; empty where it does not say.
        frame_of_reference: Coordinate system that it shares with its scan.
    """

    mask: KidneyMask
    series_uids: frozenset[str]
    frame_of_reference: str

    def on(self, image: tio.ScalarImage, where: str) -> KidneyMask:
        """Its label map; the scan is no matter, since every frame states its place."""
        return self.mask


def read_seg(path: Path, where: str, steps_mm: Mapping[str, float]) -> Segmentation | None:
    """Read a SEG object.

    Args:
        path: The file.
        where: How messages name it; they show no path.
        steps_mm: Distance of slices by SeriesInstanceUID and FrameOfReferenceUID of the scans of its study. Frames
            without a voxel may be left out, so that the frames alone do not tell how far apart planes lie.

    Returns:
        Its kidneys and lesions, or None where no segment is named kidney, or a lesion of it.

    Raises:
        DataError: if the object is damaged, or its planes are not parallel and even.
    """
    try:
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            complete(dataset)
            asked = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
            if asked > MOST_VOXELS:
                raise DataError(f"{where}: its header asks for {asked} voxels; expected at most {MOST_VOXELS}.")
            frames = _frames(dataset)
            names = {int(item.SegmentNumber): _segment_name(item) for item in dataset.SegmentSequence}
            described = len(dataset.PerFrameFunctionalGroupsSequence)
            if described != len(frames):
                raise DataError(
                    f"{where}: the segmentation object describes {described} frames and holds {len(frames)}; it was "
                    "left out."
                )
            planes = [_plane(dataset, number) for number in range(len(frames))]
            segments = _segments(dataset, len(frames))
            series, frame_of_reference = _references(dataset)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged object makes the library raise almost anything
        raise DataError(
            f"{where}: the segmentation object is damaged ({type(error).__name__}); it was left out."
        ) from None
    ours = {number: name for number, name in names.items() if meaning(name)[0] is not None}
    if not ours:
        return None
    stated = [steps_mm[uid] for uid in (*sorted(series), frame_of_reference) if uid in steps_mm]
    affine, places, count = _grid(dataset, planes, stated, where)
    parts = []
    for number, name in ours.items():
        volume = np.zeros((count, *frames.shape[1:]), dtype=bool)
        for frame, place, segment in zip(frames, places, segments, strict=True):
            if segment is None or segment == number:
                volume[place] |= (frame == number) if segment is None else frame
        parts.append((name, volume.transpose(2, 1, 0)[None]))
    mask = compose(parts, affine, (frames.shape[2], frames.shape[1], count), where)
    others = len(names) - len(ours)
    notes = (f"{where}: {others} of {len(names)} segments are not of the kidney and were left out.",) if others else ()
    return Segmentation(replace(mask, notes=notes), series, frame_of_reference)


def _references(dataset: pydicom.Dataset) -> tuple[frozenset[str], str]:
    series = (item.get("SeriesInstanceUID") for item in dataset.get("ReferencedSeriesSequence") or [])
    return frozenset(map(str, filter(None, series))), str(dataset.get("FrameOfReferenceUID") or "")


def _frames(dataset: pydicom.Dataset) -> np.ndarray:
    """[frame, row, column]: bool, or segment numbers of a label map."""
    array = dataset.pixel_array
    array = array if array.ndim == 3 else array[None]
    if dataset.SegmentationType == "LABELMAP":
        return array
    if dataset.SegmentationType == "FRACTIONAL":
        return array >= dataset.MaximumFractionalValue / 2
    return array > 0


def _segments(dataset: pydicom.Dataset, count: int) -> list[int | None]:
    """Number of the segment of each frame; None where every frame holds all of them."""
    if dataset.SegmentationType == "LABELMAP":
        return [None] * count
    name = "SegmentIdentificationSequence"
    return [int(_group(dataset, own, name).ReferencedSegmentNumber) for own in dataset.PerFrameFunctionalGroupsSequence]


def _group(dataset: pydicom.Dataset, own: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """A functional group of one frame, or of all frames."""
    if name in own:
        return own[name].value[0]
    return dataset.SharedFunctionalGroupsSequence[0][name].value[0]


def _segment_name(item: pydicom.Dataset) -> str:
    """The label, the coded property and side, and the organ of a segment: `Mass`, `Kidney Right`, `Lesion Liver`."""
    words = [str(item.get("SegmentLabel", ""))]
    for name in ("SegmentedPropertyTypeCodeSequence", "AnatomicRegionSequence"):
        for kind in item.get(name) or []:
            words.append(str(kind.get("CodeMeaning", "")))
            for inner in ("SegmentedPropertyTypeModifierCodeSequence", "AnatomicRegionModifierSequence"):
                words += [str(modifier.get("CodeMeaning", "")) for modifier in kind.get(inner) or []]
    return " ".join(words)


def _plane(dataset: pydicom.Dataset, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, orientation and pixel spacing of one frame."""
    own = dataset.PerFrameFunctionalGroupsSequence[number]
    return (
        np.array(_group(dataset, own, "PlanePositionSequence").ImagePositionPatient, dtype=float),
        np.array(_group(dataset, own, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float),
        np.array(_group(dataset, own, "PixelMeasuresSequence").PixelSpacing, dtype=float),
    )


def _grid(
    dataset: pydicom.Dataset,
    planes: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    stated: list[float],
    where: str,
) -> tuple[np.ndarray, list[int], int]:
    """Affine to RAS, the index of each frame's plane, and the number of planes; planes without a frame are empty."""
    positions = np.array([plane[0] for plane in planes])
    orientation, spacing = planes[0][1], planes[0][2]
    if any(not np.allclose(plane[1], orientation, atol=SAME_AXES) for plane in planes):
        raise DataError(f"{where}: the planes of the segmentation are not parallel; expected one stack.")
    if any(not np.allclose(plane[2], spacing, rtol=1e-3) for plane in planes):
        raise DataError(f"{where}: the frames of the segmentation have pixels of several sizes; expected one.")
    row, column = orientation[:3], orientation[3:]
    normal = np.cross(row, column)
    along = positions @ normal
    step = _step(dataset, along, stated, where)
    places = np.round((along - along.min()) / step).astype(int)
    first = positions[int(along.argmin())]
    shift = (positions - first - np.outer(along - along.min(), normal)) @ np.column_stack([row, column])
    if np.abs(shift).max() > spacing.min() / 2:
        raise DataError(f"{where}: the frames of the segmentation do not lie above each other; expected one stack.")
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([row * spacing[1], column * spacing[0], normal * step])
    affine[:3, 3] = first
    affine = _LPS_TO_RAS @ affine
    check_spacing(affine, where)
    return affine, places.tolist(), int(places.max()) + 1


def _step(dataset: pydicom.Dataset, along: np.ndarray, stated: list[float], where: str) -> float:
    """Distance of planes: that of the scan where all frames lie on its slices, else that which the object states, else
    the smallest between two frames or a part of it."""
    measures = _group(dataset, dataset.PerFrameFunctionalGroupsSequence[0], "PixelMeasuresSequence")
    own = [float(measures.get(name) or 0.0) for name in ("SpacingBetweenSlices", "SliceThickness")]
    gaps = np.diff(np.sort(along))
    gaps = gaps[gaps > _SAME_PLANE_MM]
    if not len(gaps):
        return next((abs(step) for step in (*stated, *own) if step), 1.0)
    smallest = float(gaps.min())
    for step in (*stated, own[0], smallest, smallest / 2, smallest / 3, own[1]):
        if abs(step) > _SAME_PLANE_MM and _on_line(along, abs(step)):
            return abs(step)
    raise DataError(
        f"{where}: the planes of the segmentation are unevenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm apart)."
    )


def _on_line(along: np.ndarray, step: float) -> bool:
    steps = (along - along.min()) / step
    return bool(np.abs(steps - np.round(steps)).max() <= _OFF_PLANE)


def is_segmentation(header: SliceHeader) -> bool:
    """Whether an object is a SEG."""
    named = header.sop_class.endswith("Segmentation Storage") and "Surface" not in header.sop_class
    return named or (not header.sop_class and header.modality == "SEG")
