"""What every DICOM object of an assessment shares: the headers of its scan, and how masks become one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import generate_uid

from datamodules.errors import DataError
from datamodules.importers.dicom.index import files_below
from lightning_modules.core.errors import ModelError

MAKER, MODEL = "Renal VLM suite", "Renal mass assessment"
_OF_PATIENT = (
    "AccessionNumber", "PatientBirthDate", "PatientID", "PatientName", "PatientSex", "ReferringPhysicianName",
    "StudyDate", "StudyID", "StudyTime",
)  # fmt: skip
"""Attributes of patient and study that an object must have and that may be empty (type 2)."""
_OF_IMAGE = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Rows",
    "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness", "InstanceNumber",
    "PositionReferenceIndicator", "ImageType", "SpecificCharacterSet",
)  # fmt: skip
"""Attributes of an image that an object refers to or takes over, none of which says who the patient is."""


def scan_headers(source: Path, *, identified: bool) -> list[pydicom.Dataset]:
    """Headers of the CT series with most slices, in the order of its slices.

    Args:
        source: Folder of the scan's DICOM files.
        identified: Whether patient and examination keep their names, numbers and dates; otherwise these are empty. The
            UIDs stay, by which an object refers to its scan.

    Raises:
        DataError: if the source holds no CT with a frame of reference.
    """
    series = [header for _, header in _largest(list(files_below(source)))]
    if not series:
        raise DataError(
            "DICOM objects were asked for and the source holds no CT with a frame of reference to place them in; leave "
            "DICOM= out."
        )
    return [_kept(header, identified) for header in series]


def largest_series(paths: Sequence[Path]) -> list[Path]:
    """The files of the CT series with most slices, in the order of its slices.

    Raises:
        DataError: if there is none.
    """
    found = [path for path, _ in _largest(paths)]
    if not found:
        raise DataError("The folder holds no CT with a frame of reference.")
    return found


def _largest(paths: Sequence[Path]) -> list[tuple[Path, pydicom.Dataset]]:
    found: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue  # a mask, or what the import has accounted for
        if header.get("Modality") == "CT" and "FrameOfReferenceUID" in header:
            found.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
    series = max(found.values(), key=len, default=[])
    return sorted(series, key=lambda entry: float(entry[1].get("ImagePositionPatient", [0, 0, 0])[2]))


def _kept(header: pydicom.Dataset, identified: bool) -> pydicom.Dataset:
    kept = pydicom.Dataset()
    kept.file_meta = getattr(header, "file_meta", pydicom.dataset.FileMetaDataset())
    for name in (*_OF_IMAGE, *(_OF_PATIENT if identified else ())):
        if name in header:
            kept[name] = header[name]
    for name in _OF_PATIENT:
        if name not in kept:
            setattr(kept, name, "")
    return kept


def segmentation(
    masks: Sequence[np.ndarray],
    affine: np.ndarray,
    segments: Sequence[Any],
    headers: Sequence[pydicom.Dataset],
    number: int,
    title: str,
    version: str,
) -> pydicom.Dataset:
    """A DICOM Segmentation in the frame of reference of a scan.

    Args:
        masks: bool [D, H, W], one a segment.
        affine: From indices D, H, W to RAS millimetres, float64 [4, 4].
        segments: highdicom's description of each.
        headers: As of `scan_headers`.
        number: Number of its series.
        title: Description of its series.
        version: Hash of the models.
    """
    hd = highdicom()
    volume = hd.Volume(
        array=np.stack(masks, axis=-1).astype(np.uint8),
        affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=headers[0].FrameOfReferenceUID,
        channels={"SegmentNumber": list(range(1, len(masks) + 1))},
    )
    return hd.seg.Segmentation(
        source_images=list(headers),
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=list(segments),
        series_number=number,
        series_description=title,
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MODEL,
        software_versions=version[:12],
        device_serial_number="0",
    )


def highdicom() -> Any:
    """highdicom, which writes the objects.

    Raises:
        ModelError: if it is not installed.
    """
    try:
        import highdicom as hd
    except ImportError as error:
        raise ModelError(
            "DICOM objects are written by highdicom, which is not here; run `pip install highdicom`."
        ) from error
    import highdicom.seg
    import highdicom.sr

    return hd
