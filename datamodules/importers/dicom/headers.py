"""The technical header of a DICOM file: the few attributes that an import needs, and nothing else.

No attribute outside `TAGS` is ever read here, so a name, a date or an institution cannot reach a table, a message or a
log; `study_days` alone reads the date of a study, and gives a number of days. The identifiers among them leave this
part of the code as pseudonyms only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from datamodules.errors import DataError
from datamodules.importers.dicom.values import (
    age_years,
    delay_s,
    number_of,
    numbers_of,
    quiet,
    value_of,
    values_of,
    whole_of,
)

TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "PatientAge",
    "PatientSex",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "BurnedInAnnotation",
    "ImageType",
    "SeriesDescription",
    "ProtocolName",
    "AcquisitionTime",
    "ContrastBolusStartTime",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "BitsAllocated",
    "SamplesPerPixel",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""Attributes that are read. Times of day give one interval, from injection to acquisition, and are then dropped."""


_ELEMENT_HEADER = 8
"""Least number of bytes before the pixels themselves: tag and length."""


class NotDicom(Exception):  # noqa: N818 - nothing is wrong with a text file beside the scans
    """The file is something else than DICOM."""


@dataclass(frozen=True)
class SliceHeader:
    """One slice: a file, or one frame of an enhanced multi-frame file.

    Args:
        path: File, relative to the imported folder.
        frame: Number of the frame from 0 on; None for a file with one slice.
        patient: Identifier in the cohort.
        sop_class: Name of the kind of object, for example `CT Image Storage`.
        sop_uid: SOPInstanceUID.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        frame_of_reference: FrameOfReferenceUID, or an empty text.
        modality: Modality.
        image_type: Values of ImageType in upper case.
        description: SeriesDescription; read for the phase, never stored in the cohort.
        protocol: ProtocolName; the same.
        delay_s: Seconds from injection to acquisition, where both times are stated.
        acquisition: AcquisitionNumber.
        temporal: TemporalPositionIdentifier.
        instance: InstanceNumber.
        position: ImagePositionPatient, x y z in LPS millimetres.
        orientation: ImageOrientationPatient, directions of a row and of a column.
        pixel_spacing: Distance between rows and between columns in mm.
        rows: Number of rows.
        columns: Number of columns.
        thickness_mm: SliceThickness.
        slope: Rescale slope of a frame; a file's own is applied by the reader of pixels.
        intercept: Rescale intercept of a frame.
        age_years: PatientAge.
        sex: female or male.
        truncated: Whether the file is shorter than its pixels.
        annotated: Whether its pixels hold burned-in text (BurnedInAnnotation is YES), which may name the patient.
    """

    path: str
    frame: int | None
    patient: str
    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference: str
    modality: str
    image_type: tuple[str, ...]
    description: str
    protocol: str
    delay_s: float | None
    acquisition: int | None
    temporal: int | None
    instance: int | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    rows: int
    columns: int
    thickness_mm: float | None
    slope: float
    intercept: float
    age_years: float | None
    sex: str | None
    truncated: bool
    annotated: bool

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> SliceHeader:
        """Read what `dataclasses.asdict` and JSON wrote: lists become tuples again."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**values)


def read_headers(path: Path, root: Path) -> tuple[str, list[SliceHeader]]:
    """Read the header of one file.

    Args:
        path: File of any name.
        root: Folder that paths are kept relative to.

    Returns:
        The PatientID, to be replaced by a pseudonym at once, and one header per slice, `patient` still empty.

    Raises:
        NotDicom: if the file is something else.
        DataError: if it is DICOM but damaged; the message names nothing.
    """
    try:
        with quiet():
            return _read_headers(path, root)
    except InvalidDicomError:
        raise NotDicom from None
    except (NotDicom, DataError, MemoryError):
        raise
    except Exception as error:  # a hostile header makes the library raise almost anything
        raise DataError(f"a damaged DICOM file ({type(error).__name__})") from None


def _read_headers(path: Path, root: Path) -> tuple[str, list[SliceHeader]]:
    with path.open("rb") as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
        left = path.stat().st_size - file.tell()
    uids = [str(value_of(dataset, name) or "") for name in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")]
    if uids[0].startswith("1.2.840.10008.1.3."):
        raise NotDicom  # a DICOMDIR lists files and holds no image
    if not all(uids):
        raise DataError("a damaged DICOM file (its header ends before the series is named)")
    raw = str(value_of(dataset, "PatientID") or "").strip() or f"study {uids[1]}"
    return raw, _slices(dataset, path.relative_to(root).as_posix(), left)


def _slices(dataset: pydicom.Dataset, path: str, left: int) -> list[SliceHeader]:
    """One header per slice; `left` is the number of bytes from the pixels to the end of the file."""
    common: dict[str, Any] = _common(dataset, path, left)
    frames = value_of(dataset, "PerFrameFunctionalGroupsSequence")
    if frames is None or common["modality"] != "CT":
        found = _geometry(dataset, dataset, dataset)
        return [SliceHeader(**common, frame=None, **found)]
    shared = value_of(dataset, "SharedFunctionalGroupsSequence")
    shared = shared[0] if shared else pydicom.Dataset()
    headers = []
    for position, own in enumerate(frames):
        found = _geometry(
            _group(own, shared, "PlanePositionSequence"),
            _group(own, shared, "PlaneOrientationSequence"),
            _group(own, shared, "PixelMeasuresSequence"),
        )
        rescale = _group(own, shared, "PixelValueTransformationSequence")
        slope, intercept = number_of(rescale, "RescaleSlope"), number_of(rescale, "RescaleIntercept")
        content = _group(own, shared, "FrameContentSequence")
        own_values: dict[str, Any] = common | {
            "frame": position,
            "slope": 1.0 if slope is None else slope,
            "intercept": 0.0 if intercept is None else intercept,
            "acquisition": whole_of(content, "FrameAcquisitionNumber"),
            "temporal": whole_of(content, "TemporalPositionIndex"),
        }
        headers.append(SliceHeader(**own_values, **found))
    return headers


def _common(dataset: pydicom.Dataset, path: str, left: int) -> dict[str, Any]:
    rows, columns = whole_of(dataset, "Rows") or 0, whole_of(dataset, "Columns") or 0
    bits, samples = whole_of(dataset, "BitsAllocated") or 0, whole_of(dataset, "SamplesPerPixel") or 1
    expected = rows * columns * bits * samples * (whole_of(dataset, "NumberOfFrames") or 1) // 8
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    native = syntax is None or not (syntax.is_compressed or syntax.is_deflated)
    return {
        "path": path,
        "patient": "",
        "sop_class": UID(str(dataset.SOPClassUID)).name,
        "sop_uid": str(value_of(dataset, "SOPInstanceUID") or ""),
        "study_uid": str(dataset.StudyInstanceUID),
        "series_uid": str(dataset.SeriesInstanceUID),
        "frame_of_reference": str(value_of(dataset, "FrameOfReferenceUID") or ""),
        "modality": str(value_of(dataset, "Modality") or ""),
        "image_type": tuple(str(word).upper() for word in values_of(dataset, "ImageType")),
        "description": str(value_of(dataset, "SeriesDescription") or ""),
        "protocol": str(value_of(dataset, "ProtocolName") or ""),
        "delay_s": delay_s(dataset),
        "acquisition": whole_of(dataset, "AcquisitionNumber"),
        "temporal": whole_of(dataset, "TemporalPositionIdentifier"),
        "instance": whole_of(dataset, "InstanceNumber"),
        "rows": rows,
        "columns": columns,
        "slope": 1.0,
        "intercept": 0.0,
        "age_years": age_years(str(value_of(dataset, "PatientAge") or "")),
        "sex": {"F": "female", "M": "male"}.get(str(value_of(dataset, "PatientSex") or "")),
        "annotated": str(value_of(dataset, "BurnedInAnnotation") or "").strip().upper() == "YES",
        "truncated": native and left < expected + _ELEMENT_HEADER,
    }


def _geometry(position: pydicom.Dataset, orientation: pydicom.Dataset, measures: pydicom.Dataset) -> dict[str, Any]:
    return {
        "position": numbers_of(position, "ImagePositionPatient", 3),
        "orientation": numbers_of(orientation, "ImageOrientationPatient", 6),
        "pixel_spacing": numbers_of(measures, "PixelSpacing", 2),
        "thickness_mm": number_of(measures, "SliceThickness"),
    }


def _group(own: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """A functional group, of the frame itself or of all frames."""
    for source in (own, shared):
        items = value_of(source, name)
        if items:
            return items[0]
    return pydicom.Dataset()
