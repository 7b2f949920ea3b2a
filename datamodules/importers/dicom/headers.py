"""The technical header of a DICOM file: the few attributes that an import needs, and nothing else.

No attribute outside `TAGS` is ever read here, so a name, a date or an institution cannot reach a table, a message or a
log; `study_days` alone reads the date of a study, and gives a number of days. The identifiers among them leave this
part of the code as pseudonyms only.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from datamodules.errors import DataError
from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.dicom.values import (
    age_years,
    delay_s,
    number_of,
    numbers_of,
    quiet,
    states,
    value_of,
    values_of,
    whole_of,
)
from datamodules.importers.spellings import SPELLINGS

TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "PatientAge",
    "PatientSex",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SeriesNumber",
    "Modality",
    "BurnedInAnnotation",
    "ImageType",
    "SeriesDescription",
    "ProtocolName",
    "AcquisitionTime",
    "ContrastBolusStartTime",
    "AcquisitionNumber",
    "ImagesInAcquisition",
    "TemporalPositionIdentifier",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "SamplesPerPixel",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""Attributes that are read. Times of day give one interval, from injection to acquisition, and are then dropped."""


_ELEMENT_HEADER = 8
"""Least number of bytes before the pixels themselves: tag and length."""
_PREAMBLE = 128
_LAST_FIRST, _LONGEST_FIRST = 0x0070, 1024
"""A file without a preamble begins with an element of the groups 2 or 8, no later and no longer than this."""
_ROUNDED_COSINE = 0.02
"""How far rounding to two decimals moves the length of a direction, or its product with another."""
_OTHER_UNITS = {
    "OD": "optical density",
    "MGML": "mg/ml",
    "PCT": "percent",
    "Z_EFF": "effective atomic number",
    "ED": "electron density",
    "EDW": "electron density normalised to water",
}
"""RescaleType of pixels that are no Hounsfield units (DICOM PS3.3, C.11.1.1.2); a type of other words says nothing."""
UNNAMED = "unnamed-"
"""How UIDs begin that stand for blank ones."""


class NotDicom(Exception):  # noqa: N818 - nothing is wrong with a text file beside the scans
    """The file is something else than DICOM."""


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
    if path.exists() and not path.is_file():
        raise NotDicom  # a pipe or a socket, which nobody may ever write to
    with path.open("rb") as file:
        head = file.read(_PREAMBLE + 4)
        file.seek(0)
        bare = head[_PREAMBLE:] != b"DICM"
        if bare and not _looks_like_elements(head):
            raise NotDicom
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS), force=bare)
        left = path.stat().st_size - file.tell()
    kind = str(value_of(dataset, "SOPClassUID") or "")
    if kind.startswith("1.2.840.10008.1.3."):
        raise NotDicom  # a DICOMDIR lists files and holds no image
    if not kind and not value_of(dataset, "Modality"):
        if bare:
            raise NotDicom
        raise DataError("a damaged DICOM file (its header ends before it says what it holds)")
    place = path.relative_to(root)
    study, series = _named(dataset, place)
    raw = str(value_of(dataset, "PatientID") or "").strip() or f"study {study}"
    return raw, _slices(dataset, place.as_posix(), left, study, series)


def _looks_like_elements(head: bytes) -> bool:
    """Whether a file without a preamble begins with elements of DICOM, as some archives and scanners write them."""
    if len(head) < 12:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        if group in (0x0002, 0x0008) and element <= _LAST_FIRST:
            explicit = head[4:6].isalpha() and head[4:6].isupper()
            return explicit or (order == "<" and length <= _LONGEST_FIRST)
    return False


def _named(dataset: pydicom.Dataset, place: Path) -> tuple[str, str]:
    """UIDs of study and series, or what stands for them where an anonymiser blanked them.

    Then the folder and the coordinate system (FrameOfReferenceUID) make a study, and within it the number and the
    description make a series; orientation and acquisition are told apart like those of any series.
    """
    folder = place.parent.as_posix()
    frame = str(value_of(dataset, "FrameOfReferenceUID") or "")
    study = str(value_of(dataset, "StudyInstanceUID") or "").strip() or _stand_in("study", frame or folder)
    series = str(value_of(dataset, "SeriesInstanceUID") or "").strip()
    kind = [str(value_of(dataset, name) or "") for name in ("Modality", "SeriesNumber", "SeriesDescription")]
    return study, series or _stand_in("series", study, folder, frame, *kind)


def _stand_in(*parts: str) -> str:
    return f"{UNNAMED}{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def _slices(dataset: pydicom.Dataset, path: str, left: int, study: str, series: str) -> list[SliceHeader]:
    """One header per slice; `left` is the number of bytes from the pixels to the end of the file."""
    common: dict[str, Any] = _common(dataset, path, left) | {
        "study_uid": study,
        "series_uid": series,
        "unnamed": series.startswith(UNNAMED),
    }
    frames = value_of(dataset, "PerFrameFunctionalGroupsSequence")
    if frames is None or common["modality"] != "CT":
        return [SliceHeader(**common, frame=None, **_geometry(dataset, dataset, dataset, dataset))]
    shared = value_of(dataset, "SharedFunctionalGroupsSequence")
    shared = shared[0] if shared else pydicom.Dataset()
    count = whole_of(dataset, "NumberOfFrames") or 1
    undescribed = (f"of a file that describes {len(frames)} of its {count} frames",) if len(frames) != count else ()
    headers = []
    for position, own in enumerate(frames):
        found = _geometry(
            _group(own, shared, "PlanePositionSequence"),
            _group(own, shared, "PlaneOrientationSequence"),
            _group(own, shared, "PixelMeasuresSequence"),
            _group(own, shared, "PixelValueTransformationSequence"),
        )
        found["faults"] += undescribed
        content = _group(own, shared, "FrameContentSequence")
        kind = values_of(_group(own, shared, "CTImageFrameTypeSequence"), "FrameType")
        own_values: dict[str, Any] = common | {
            "frame": position,
            "image_type": (*common["image_type"], *(str(word).upper() for word in kind)),
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
        "sop_class": UID(str(value_of(dataset, "SOPClassUID") or "")).name,
        "sop_uid": str(value_of(dataset, "SOPInstanceUID") or ""),
        "frame_of_reference": str(value_of(dataset, "FrameOfReferenceUID") or ""),
        "modality": str(value_of(dataset, "Modality") or ""),
        "image_type": tuple(str(word).upper() for word in values_of(dataset, "ImageType")),
        "description": str(value_of(dataset, "SeriesDescription") or ""),
        "protocol": str(value_of(dataset, "ProtocolName") or ""),
        "delay_s": delay_s(dataset),
        "acquisition": whole_of(dataset, "AcquisitionNumber"),
        "images": whole_of(dataset, "ImagesInAcquisition"),
        "temporal": whole_of(dataset, "TemporalPositionIdentifier"),
        "instance": whole_of(dataset, "InstanceNumber"),
        "rows": rows,
        "columns": columns,
        "bits": (bits, whole_of(dataset, "BitsStored") or bits),
        "signed": whole_of(dataset, "PixelRepresentation") == 1,
        "padding": _padding(dataset),
        "age_years": age_years(str(value_of(dataset, "PatientAge") or "")),
        "sex": SPELLINGS["sex"].get(str(value_of(dataset, "PatientSex") or "").strip().lower()),
        "annotated": str(value_of(dataset, "BurnedInAnnotation") or "").strip().upper() == "YES",
        "truncated": native and left < expected + _ELEMENT_HEADER,
    }


def _padding(dataset: pydicom.Dataset) -> tuple[int, ...]:
    """PixelPaddingValue and PixelPaddingRangeLimit; what their VR (US or SS) makes of the bits is no matter."""
    found = [whole_of(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    return () if found[0] is None else tuple(value for value in found if value is not None)


def _geometry(
    position: pydicom.Dataset, orientation: pydicom.Dataset, measures: pydicom.Dataset, rescale: pydicom.Dataset
) -> dict[str, Any]:
    wanted = (
        (position, "ImagePositionPatient", 3),
        (orientation, "ImageOrientationPatient", 6),
        (measures, "PixelSpacing", 2),
    )
    place, axes, spacing = (numbers_of(source, name, count) for source, name, count in wanted)
    faults = [
        f"{'with an unreadable' if states(source, name) else 'without'} {name}"
        for source, name, count in wanted
        if numbers_of(source, name, count) is None
    ]
    if axes is not None and not _spans_a_plane(axes):
        faults.append("with an ImageOrientationPatient that is no two directions at right angles")
    slope, intercept = number_of(rescale, "RescaleSlope"), number_of(rescale, "RescaleIntercept")
    for name, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if (value is None and states(rescale, name)) or (name == "RescaleSlope" and value == 0.0):
            faults.append(f"with an unreadable {name}")
    if states(rescale, "ModalityLUTSequence"):
        faults.append("with a table (ModalityLUTSequence) in place of a slope and intercept")
    units = str(value_of(rescale, "RescaleType") or "").strip().upper()
    if units in _OTHER_UNITS:
        faults.append(f"in other units than HU ({units}, {_OTHER_UNITS[units]})")
    return {
        "position": place,
        "orientation": axes,
        "pixel_spacing": spacing,
        "thickness_mm": number_of(measures, "SliceThickness"),
        "between_mm": number_of(measures, "SpacingBetweenSlices"),
        "faults": tuple(faults),
        "slope": 1.0 if slope is None else slope,
        "intercept": 0.0 if intercept is None else intercept,
        "rescaled": slope is not None and intercept is not None,
    }


def _spans_a_plane(axes: tuple[float, ...]) -> bool:
    """Whether two directions are of length 1 and at right angles, but for rounding."""
    row, column = np.array(axes[:3]), np.array(axes[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    return bool(np.abs(lengths - 1.0).max() < _ROUNDED_COSINE and abs(row @ column) < _ROUNDED_COSINE)


def _group(own: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """A functional group, of the frame itself or of all frames."""
    for source in (own, shared):
        items = value_of(source, name)
        if items:
            return items[0]
    return pydicom.Dataset()
