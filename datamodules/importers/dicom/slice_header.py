"""What is kept of the header of one slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
        image_type: Values of ImageType in upper case, and those of FrameType of a frame.
        description: SeriesDescription; read for the phase, never stored in the cohort.
        protocol: ProtocolName; the same.
        delay_s: Seconds from injection to acquisition, where both times are stated.
        acquisition: AcquisitionNumber.
        images: ImagesInAcquisition, how many slices its acquisition gave.
        temporal: TemporalPositionIdentifier.
        instance: InstanceNumber.
        position: ImagePositionPatient, x y z in LPS millimetres.
        orientation: ImageOrientationPatient, directions of a row and of a column.
        pixel_spacing: Distance between rows and between columns in mm.
        rows: Number of rows.
        columns: Number of columns.
        thickness_mm: SliceThickness.
        between_mm: SpacingBetweenSlices.
        faults: What of its geometry or scale is absent or cannot be read, in words.
        slope: Rescale slope, of the file or of its frame; 1 where it is not stated.
        intercept: Rescale intercept; 0 where it is not stated.
        rescaled: Whether both are stated.
        bits: BitsAllocated and BitsStored.
        signed: Whether PixelRepresentation says that stored values are signed.
        padding: PixelPaddingValue and PixelPaddingRangeLimit as stored; the first alone where it is no range.
        age_years: PatientAge.
        sex: female or male.
        truncated: Whether the file is shorter than its pixels.
        annotated: Whether its pixels hold burned-in text (BurnedInAnnotation is YES), which may name the patient.
        unnamed: Whether it names no series, so that its folder, coordinate system and number stand for one.
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
    images: int | None
    temporal: int | None
    instance: int | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    rows: int
    columns: int
    thickness_mm: float | None
    between_mm: float | None
    faults: tuple[str, ...]
    slope: float
    intercept: float
    rescaled: bool
    bits: tuple[int, ...]
    signed: bool
    padding: tuple[int, ...]
    age_years: float | None
    sex: str | None
    truncated: bool
    annotated: bool
    unnamed: bool

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> SliceHeader:
        """Read what `dataclasses.asdict` and JSON wrote: lists become tuples again."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**values)
