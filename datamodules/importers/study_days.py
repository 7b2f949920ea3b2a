"""Days from the patient's day 0 to a study: dates are read, subtracted and forgotten."""

from __future__ import annotations

import datetime
from pathlib import Path

import pandas as pd
import pydicom

from datamodules.errors import Finding, raise_failures
from datamodules.importers.dicom.values import number_of, quiet, value_of

ORIGIN_DATE, STUDY_DATE = "origin_date", "study_date"
"""Columns that are read beside those of the cohort, and are never part of it."""

_TAGS = ("StudyDate", "LongitudinalTemporalOffsetFromEvent", "LongitudinalTemporalEventType")


def parse_date(text: object) -> datetime.date | None:
    """A date as YYYY-MM-DD or YYYYMMDD; None where it is no date."""
    try:
        return datetime.date.fromisoformat(str(text).strip())
    except ValueError:
        return None


def check_dates(frame: pd.DataFrame, column: str, source: str) -> None:
    """Refuse a column of dates that holds something else; a message names rows and never what they hold.

    Raises:
        DataError: naming file, row and column.
    """
    if column not in frame:
        return
    wrong = [line for line, text in frame[column].dropna().items() if parse_date(text) is None]
    raise_failures(
        [
            Finding("FAIL", "no date", f"{source}, row {line}, column {column}", "YYYY-MM-DD, YYYYMMDD or missing")
            for line in wrong[:5]
        ]
    )


def days_between(study_date: object, origin_date: object) -> int | None:
    """Whole days from day 0 to a study, negative before it; None where a date is missing."""
    study, origin = parse_date(study_date), parse_date(origin_date)
    return None if study is None or origin is None else (study - origin).days


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
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        offset = number_of(dataset, "LongitudinalTemporalOffsetFromEvent")
        event = str(value_of(dataset, "LongitudinalTemporalEventType") or "").strip().lower()
        if offset is not None and time_origin is not None and event == time_origin:
            return int(offset // 1)
        return days_between(value_of(dataset, "StudyDate"), origin_date)
