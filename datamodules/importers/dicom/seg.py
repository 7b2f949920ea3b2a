"""DICOM Segmentation (SEG) objects: every frame is one segment on one plane, placed by its own attributes.

Read with pydicom after DICOM PS3.3 A.51 and C.8.20; binary, fractional and label-map segmentations are understood.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from datamodules.errors import DataError
from datamodules.importers.dicom.values import quiet
from datamodules.importers.masks import KidneyMask, compose, meaning
from datamodules.importers.nifti.scan import check_spacing

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


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


def read_seg(path: Path, where: str) -> Segmentation | None:
    """Read a SEG object.

    Args:
        path: The file.
        where: How messages name it; they show no path.

    Returns:
        Its kidneys and lesions, or None where no segment is named kidney, tumor (mass, lesion) or cyst.

    Raises:
        DataError: if the object is damaged, or its planes are not parallel and even.
    """
    try:
        with quiet():
            dataset = pydicom.dcmread(path)
            frames = _frames(dataset)
            names = {int(item.SegmentNumber): _segment_name(item) for item in dataset.SegmentSequence}
            planes = [_plane(dataset, number) for number in range(len(frames))]
    except (AttributeError, KeyError, IndexError, ValueError, RuntimeError, NotImplementedError, OSError, EOFError):
        raise DataError(f"{where}: the segmentation object is damaged or compressed; it was left out.") from None
    ours = {number: name for number, name in names.items() if meaning(name)[0] is not None}
    if not ours:
        return None
    affine, places, count = _grid(dataset, planes, where)
    parts = []
    for number, name in ours.items():
        volume = np.zeros((count, *frames.shape[1:]), dtype=bool)
        for frame, place, segment in zip(frames, places, _segments(dataset, len(frames)), strict=True):
            if segment is None or segment == number:
                volume[place] |= (frame == number) if segment is None else frame
        parts.append((name, volume.transpose(2, 1, 0)[None]))
    mask = compose(parts, affine, (frames.shape[2], frames.shape[1], count), where)
    series = (item.get("SeriesInstanceUID") for item in dataset.get("ReferencedSeriesSequence", []))
    return Segmentation(mask, frozenset(map(str, filter(None, series))), str(dataset.get("FrameOfReferenceUID", "")))


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
    """The label and the coded property and side of a segment: `Mass`, `Kidney Right`."""
    words = [str(item.get("SegmentLabel", ""))]
    for kind in item.get("SegmentedPropertyTypeCodeSequence", []):
        words.append(str(kind.get("CodeMeaning", "")))
        modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
        words += [str(modifier.get("CodeMeaning", "")) for modifier in modifiers]
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
    dataset: pydicom.Dataset, planes: list[tuple[np.ndarray, np.ndarray, np.ndarray]], where: str
) -> tuple[np.ndarray, list[int], int]:
    """Affine to RAS, the index of each frame's plane, and the number of planes; planes without a frame are empty."""
    positions = np.array([plane[0] for plane in planes])
    orientation, spacing = planes[0][1], planes[0][2]
    if any(not np.allclose(plane[1], orientation, atol=1e-3) for plane in planes):
        raise DataError(f"{where}: the planes of the segmentation are not parallel; expected one stack.")
    row, column = orientation[:3], orientation[3:]
    normal = np.cross(row, column)
    along = positions @ normal
    distinct = np.unique(np.round(along, 3))
    steps = np.diff(distinct)
    step = float(steps[steps > 0.01].min()) if (steps > 0.01).any() else _stated_step(dataset)
    places = np.round((along - along.min()) / step).astype(int)
    if np.abs(along - along.min() - places * step).max() > 0.1 * step:
        raise DataError(f"{where}: the planes of the segmentation are unevenly spaced.")
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([row * spacing[1], column * spacing[0], normal * step])
    affine[:3, 3] = positions[int(along.argmin())]
    affine = _LPS_TO_RAS @ affine
    check_spacing(affine, where)
    return affine, places.tolist(), int(places.max()) + 1


def _stated_step(dataset: pydicom.Dataset) -> float:
    measures = _group(dataset, dataset.PerFrameFunctionalGroupsSequence[0], "PixelMeasuresSequence")
    return float(measures.get("SpacingBetweenSlices", measures.get("SliceThickness", 1.0)))


def is_segmentation(sop_class: str) -> bool:
    """Whether the kind of an object is SEG."""
    return sop_class.endswith("Segmentation Storage") and "Surface" not in sop_class
