"""Days from the patient's day 0 to a study, as a DICOM file tells them: its date is read, subtracted and forgotten."""

from __future__ import annotations

from pathlib import Path

import pydicom

from datamodules.importers.dicom.values import number_of, quiet, value_of
from datamodules.importers.study_days import days_between

_TAGS = ("StudyDate", "LongitudinalTemporalOffsetFromEvent", "LongitudinalTemporalEventType")


def dicom_study_days(path: Path, origin_date: object, time_origin: str | None) -> int | None:
    """Days from day 0 to the study of a DICOM file; None where the file, or the origin, does not tell.

    An archive without dates states Longitudinal Temporal Offset from Event (0012,0052), in days, and the event
    (0012,0053), which must be the patient's origin (DICOM PS3.3, C.7.1.4 Patient Study). Otherwise the study's date is
    subtracted from the date of the origin.

    Args:
        path: Any file of the study.
        origin_date: Date of day 0, as the clinical table states it; None where it does not.
        time_origin: What day 0 is.
    """
    with quiet():
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
        offset = number_of(dataset, "LongitudinalTemporalOffsetFromEvent")
        event = str(value_of(dataset, "LongitudinalTemporalEventType") or "").strip().lower()
        if offset is not None and time_origin is not None and event == time_origin:
            return int(offset // 1)
        return days_between(value_of(dataset, "StudyDate"), origin_date)
