"""RT Structure Sets (RTSTRUCT): organs as closed contours on the slices of a scan, filled on that scan's voxels.

Read after DICOM PS3.3 A.19 and C.8.8; polygons are filled by scikit-image, and a contour inside another is a hole, as
even-odd filling makes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import torchio as tio
from skimage.draw import polygon

from datamodules.errors import DataError
from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.dicom.values import quiet
from datamodules.importers.masks import KidneyMask, compose
from datamodules.importers.part_names import meaning

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_OFF_SLICE = 0.5
_MOST_OUTSIDE = 0.3


@dataclass(frozen=True)
class Contours:
    """A structure set that shows kidneys.

    Args:
        parts: Name of each structure and its closed contours, arrays [N, 3] in RAS millimetres.
        series_uids: Series that it says it was drawn on; empty where it does not say.
        frame_of_reference: Coordinate system that it shares with its scan.
        notes: What was left out.
    """

    parts: tuple[tuple[str, tuple[np.ndarray, ...]], ...]
    series_uids: frozenset[str]
    frame_of_reference: str
    notes: tuple[str, ...] = ()

    def on(self, image: tio.ScalarImage, where: str) -> KidneyMask:
        """The contours filled on the voxels of a scan.

        Args:
            image: The scan.
            where: How messages name it.

        Raises:
            DataError: if a contour lies across slices, or most of them outside the scan.
        """
        inverse = np.linalg.inv(image.affine)
        voxels = [
            (name, [points @ inverse[:3, :3].T + inverse[:3, 3] for points in contours])
            for name, contours in self.parts
        ]
        every = [points for _, contours in voxels for points in contours]
        spread = np.array([np.ptp(points, axis=0) for points in every]).max(axis=0)
        axis = int(spread.argmin())
        if spread[axis] > _OFF_SLICE:
            raise DataError(f"{where}: contours of the structure set lie across slices; expected planar ones.")
        planes = np.array([points[:, axis].mean() for points in every])
        outside = float(((planes < -_OFF_SLICE) | (planes > image.spatial_shape[axis] - 1 + _OFF_SLICE)).mean())
        if outside > _MOST_OUTSIDE:
            raise DataError(
                f"{where}: {outside:.0%} of the contours of the structure set lie outside the scan; expected those of "
                "this scan."
            )
        notes = [*self.notes]
        if outside:
            notes.append(f"{where}: {outside:.0%} of the contours lie outside the scan, which ends before they do.")
        parts, between = [], 0
        for name, contours in voxels:
            volume, filled = _filled(contours, axis, image.spatial_shape)
            parts.append((name, volume[None]))
            between = max(between, filled)
        if between:
            notes.append(
                f"{where}: contours stand on every {between + 1}th slice; those between took the nearest contour."
            )
        mask = compose(parts, image.affine, image.spatial_shape, where)
        return replace(mask, notes=tuple(notes))


def _filled(contours: Sequence[np.ndarray], axis: int, shape: Sequence[int]) -> tuple[np.ndarray, int]:
    """One structure as bool [X, Y, Z], and how many slices between two contours were filled from their neighbours."""
    volume = np.zeros(tuple(shape), dtype=bool)
    view = np.moveaxis(volume, axis, 0)
    drawn: set[int] = set()
    for points in contours:
        place = int(np.round(points[:, axis].mean()))
        if 0 <= place < len(view):
            across = np.delete(points, axis, axis=1)
            rows, columns = polygon(across[:, 0], across[:, 1], view.shape[1:])
            view[place, rows, columns] ^= True
            drawn.add(place)
    places = np.array(sorted(drawn))
    if len(places) < 2:
        return volume, 0
    step = int(np.median(np.diff(places)))
    for before, after in itertools.pairwise(places.tolist()):
        if 1 < after - before <= step:
            for place in range(before + 1, after):
                view[place] = view[before if place - before <= after - place else after]
    return volume, step - 1


def read_contours(path: Path, where: str) -> Contours | None:
    """Read a structure set.

    Args:
        path: The file.
        where: How messages name it; they show no path.

    Returns:
        Its kidneys and lesions, or None where no structure is named kidney, or a lesion of it.

    Raises:
        DataError: if the object is damaged.
    """
    try:
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            names = {int(item.ROINumber): str(item.get("ROIName", "")) for item in dataset.StructureSetROISequence}
            parts, skipped = [], 0
            for item in dataset.ROIContourSequence:
                name = names[int(item.ReferencedROINumber)]
                if meaning(name)[0] is None:
                    continue
                closed = [one for one in item.get("ContourSequence") or [] if _is_closed(one)]
                skipped += len(item.get("ContourSequence") or []) - len(closed)
                if closed:
                    parts.append((name, tuple(_points(one) for one in closed)))
            series, frame_of_reference = _references(dataset)
    except MemoryError:
        raise
    except Exception as error:  # a damaged object makes the library raise almost anything
        raise DataError(f"{where}: the structure set is damaged ({type(error).__name__}); it was left out.") from None
    if not parts:
        return None
    others = len(names) - len(parts)
    notes = [f"{where}: {others} of {len(names)} structures are not of the kidney and were left out."] if others else []
    if skipped:
        notes.append(f"{where}: {skipped} contours are not closed and were left out.")
    return Contours(tuple(parts), series, frame_of_reference, tuple(notes))


def _is_closed(contour: pydicom.Dataset) -> bool:
    kind = str(contour.get("ContourGeometricType") or "CLOSED_PLANAR")
    return kind.startswith("CLOSED_PLANAR") and len(contour.ContourData) >= 9


def _points(contour: pydicom.Dataset) -> np.ndarray:
    points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) * _LPS_TO_RAS
    if not np.isfinite(points).all():
        raise ValueError("a point that is none")
    return points


def _references(dataset: pydicom.Dataset) -> tuple[frozenset[str], str]:
    """Series and coordinate system that a structure set refers to."""
    series: set[str] = set()
    frame = str(dataset.get("FrameOfReferenceUID") or "")
    for item in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        frame = frame or str(item.get("FrameOfReferenceUID") or "")
        for study in item.get("RTReferencedStudySequence") or []:
            for one in study.get("RTReferencedSeriesSequence") or []:
                series.add(str(one.get("SeriesInstanceUID") or ""))
    return frozenset(series - {""}), frame


def is_structure_set(header: SliceHeader) -> bool:
    """Whether an object is an RTSTRUCT."""
    return header.sop_class == "RT Structure Set Storage" or (not header.sop_class and header.modality == "RTSTRUCT")
