"""The technical header of a DICOM file: the few attributes that an import needs, and nothing else.

No attribute outside `TAGS` is ever read from a file, so a name, a date or an institution cannot reach a table, a
message or a log. The identifiers among them leave this part of the code as pseudonyms only.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom import config
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from datamodules.errors import DataError

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

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> SliceHeader:
        """Read what `dataclasses.asdict` and JSON wrote: lists become tuples again."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings, which quote values, out of logs."""
    mode = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = mode


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
    with quiet():
        try:
            with path.open("rb") as file:
                dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
                left = path.stat().st_size - file.tell()
        except InvalidDicomError:
            raise NotDicom from None
        except (OSError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
            raise DataError(f"a damaged DICOM file ({type(error).__name__})") from None
        uids = [str(_get(dataset, name) or "") for name in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")]
        if uids[0].startswith("1.2.840.10008.1.3."):
            raise NotDicom  # a DICOMDIR lists files and holds no image
        if not all(uids):
            raise DataError("a damaged DICOM file (its header ends before the series is named)")
        raw = str(_get(dataset, "PatientID") or "").strip() or f"study {uids[1]}"
        return raw, _slices(dataset, path.relative_to(root).as_posix(), left)


def _slices(dataset: pydicom.Dataset, path: str, left: int) -> list[SliceHeader]:
    """One header per slice; `left` is the number of bytes from the pixels to the end of the file."""
    common = _common(dataset, path, left)
    frames = _get(dataset, "PerFrameFunctionalGroupsSequence")
    if frames is None or common["modality"] != "CT":
        return [SliceHeader(**common, frame=None, **_geometry(dataset, dataset, dataset))]
    shared = _get(dataset, "SharedFunctionalGroupsSequence")
    shared = shared[0] if shared else pydicom.Dataset()
    headers = []
    for number, own in enumerate(frames):
        found = _geometry(
            _group(own, shared, "PlanePositionSequence"),
            _group(own, shared, "PlaneOrientationSequence"),
            _group(own, shared, "PixelMeasuresSequence"),
        )
        value = _group(own, shared, "PixelValueTransformationSequence")
        content = _group(own, shared, "FrameContentSequence")
        headers.append(
            SliceHeader(
                **common
                | {
                    "slope": _number(value, "RescaleSlope", 1.0),
                    "intercept": _number(value, "RescaleIntercept", 0.0),
                    "acquisition": _whole(content, "FrameAcquisitionNumber"),
                    "temporal": _whole(content, "TemporalPositionIndex"),
                },
                frame=number,
                **found,
            )
        )
    return headers


def _common(dataset: pydicom.Dataset, path: str, left: int) -> dict[str, Any]:
    rows, columns = _whole(dataset, "Rows") or 0, _whole(dataset, "Columns") or 0
    bits, samples = _whole(dataset, "BitsAllocated") or 0, _whole(dataset, "SamplesPerPixel") or 1
    expected = rows * columns * bits * samples * (_whole(dataset, "NumberOfFrames") or 1) // 8
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    native = syntax is None or not (syntax.is_compressed or syntax.is_deflated)
    return {
        "path": path,
        "patient": "",
        "sop_class": UID(str(dataset.SOPClassUID)).name,
        "sop_uid": str(_get(dataset, "SOPInstanceUID") or ""),
        "study_uid": str(dataset.StudyInstanceUID),
        "series_uid": str(dataset.SeriesInstanceUID),
        "frame_of_reference": str(_get(dataset, "FrameOfReferenceUID") or ""),
        "modality": str(_get(dataset, "Modality") or ""),
        "image_type": tuple(str(value).upper() for value in _values(dataset, "ImageType")),
        "description": str(_get(dataset, "SeriesDescription") or ""),
        "protocol": str(_get(dataset, "ProtocolName") or ""),
        "delay_s": _delay_s(dataset),
        "acquisition": _whole(dataset, "AcquisitionNumber"),
        "temporal": _whole(dataset, "TemporalPositionIdentifier"),
        "instance": _whole(dataset, "InstanceNumber"),
        "rows": rows,
        "columns": columns,
        "slope": 1.0,
        "intercept": 0.0,
        "age_years": _age_years(str(_get(dataset, "PatientAge") or "")),
        "sex": {"F": "female", "M": "male"}.get(str(_get(dataset, "PatientSex") or "")),
        "truncated": native and left < expected,
    }


def _geometry(position: pydicom.Dataset, orientation: pydicom.Dataset, measures: pydicom.Dataset) -> dict[str, Any]:
    return {
        "position": _numbers(position, "ImagePositionPatient", 3),
        "orientation": _numbers(orientation, "ImageOrientationPatient", 6),
        "pixel_spacing": _numbers(measures, "PixelSpacing", 2),
        "thickness_mm": _number(measures, "SliceThickness", None),
    }


def _group(own: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """A functional group, of the frame itself or of all frames."""
    for source in (own, shared):
        items = _get(source, name)
        if items:
            return items[0]
    return pydicom.Dataset()


def _get(dataset: pydicom.Dataset, name: str) -> Any:
    """A value, or None where it is absent or cannot be read as what it should be."""
    try:
        return dataset.get(name)
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return None


def _values(dataset: pydicom.Dataset, name: str) -> Sequence[Any]:
    value = _get(dataset, name)
    if value is None:
        return ()
    return [value] if isinstance(value, str | int | float) else list(value)


def _numbers(dataset: pydicom.Dataset, name: str, count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(value) for value in _values(dataset, name))
    except (ValueError, TypeError):
        return None
    return numbers if len(numbers) == count else None


def _number(dataset: pydicom.Dataset, name: str, default: Any) -> Any:
    found = _numbers(dataset, name, 1)
    return default if found is None else found[0]


def _whole(dataset: pydicom.Dataset, name: str) -> int | None:
    found = _number(dataset, name, None)
    return None if found is None else int(found)


def _age_years(text: str) -> float | None:
    """Age of an AS value such as `063Y`."""
    units = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
    if len(text) != 4 or not text[:3].isdigit() or text[3] not in units:
        return None
    return round(int(text[:3]) * units[text[3]], 2)


def _delay_s(dataset: pydicom.Dataset) -> float | None:
    """Seconds from injection to acquisition; None where a time is absent or the order is impossible."""
    times = [_seconds(str(_get(dataset, name) or "")) for name in ("ContrastBolusStartTime", "AcquisitionTime")]
    if times[0] is None or times[1] is None:
        return None
    delay = times[1] - times[0]
    return delay if 0.0 < delay <= 3600.0 else None


def _seconds(text: str) -> float | None:
    """Seconds since midnight of a TM value, `HHMMSS.ffffff`."""
    if len(text) < 6 or not text[:6].isdigit():
        return None
    fraction = float(text[6:]) if text[6:7] == "." and text[7:].isdigit() else 0.0
    return 3600.0 * int(text[:2]) + 60.0 * int(text[2:4]) + int(text[4:6]) + fraction
