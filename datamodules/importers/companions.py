"""The clinical table and the reports that stand beside the scans, in the words of the suite's schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.cohort.clinical import Pathology, aggressiveness
from datamodules.cohort.columns import SIDES, Column, Table
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError
from datamodules.importers.delimited import columns_of, read_table, records
from datamodules.importers.spellings import grouped_age
from datamodules.importers.study_days import ORIGIN_DATE, check_dates

INDEX_SIDE = "index_side"

_PATIENTS = TABLES["patients"]
_OPTIONAL = ("center",)
PATIENT_COLUMNS = Table(
    "patients",
    ("patient_id",),
    (
        *(
            Column(column.name, column.kind, column.doc, column.nullable or column.name in _OPTIONAL, column.choices,
                   column.low, column.high)
            for column in _PATIENTS.columns
        ),
        Column(INDEX_SIDE, "string", "Side of the largest lesion, where no mask shows it.", choices=SIDES),
        Column(ORIGIN_DATE, "string", "Date of day 0, to count the days to a study; it is not kept."),
    ),
)  # fmt: skip
"""Columns of `patients.csv`: those of the table `patients`, `index_side`, and `origin_date`, which is not kept."""

REPORT_COLUMNS = Table(
    "reports",
    ("study_id", "side", "text"),
    (
        *columns_of(TABLES["reports"], ("study_id", "side", "text")),
        Column("patient_id", "string", "Patient; not needed, the study names it."),
        Column("source", "string", "clinical or generated; clinical by default.", choices=("clinical", "generated")),
    ),
)
"""Columns of `reports.csv`."""


def read_patients(path: Path) -> dict[str, dict[str, Any]]:
    """Read the clinical table.

    Args:
        path: CSV or TSV with `patient_id` and any columns of the table `patients`. Ages and intervals have columns;
            the only date is that of day 0, from which the days to each study are counted.

    Returns:
        The known values of each patient; aggressiveness is derived where it is not stated.

    Raises:
        DataError: naming file, row and column of the first bad cells.
    """
    table = read_table(path, PATIENT_COLUMNS)
    check_dates(table, ORIGIN_DATE, path.name)
    rows = {str(row["patient_id"]): row for row in records(table)}
    return {patient: with_aggressiveness(row) for patient, row in rows.items()}


def with_aggressiveness(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with `aggressiveness`, unless it states it or the malignancy is not known.

    The definition is that of `datamodules.cohort.clinical.aggressiveness`.
    """
    names = [field.name for field in fields(Pathology) if field.name != "malignant"]
    known = {name: row[name] for name in names if name in row}
    malignant = {0: False, 1: True}.get(row.get("malignancy", -1))
    derived = aggressiveness(Pathology(malignant=malignant, **known))
    if "aggressiveness" in row or derived is None:
        return dict(row)
    return {**row, "aggressiveness": derived}


def read_reports(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the reports.

    Args:
        path: CSV or TSV with `study_id`, `text` and where known `side` and `source`; one row per study, or one per
            kidney. Texts must be free of names and dates: nothing here removes them.

    Returns:
        Rows of each study, in the order of the file.

    Raises:
        DataError: naming file, row and column of the first bad cells.
    """
    reports: dict[str, list[dict[str, Any]]] = {}
    for row in records(read_table(path, REPORT_COLUMNS)):
        reports.setdefault(str(row["study_id"]), []).append(row)
    return reports


def report_rows(patient_id: str, study_id: str, reports: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table `reports` for one study.

    Args:
        patient_id: Pseudonym of the patient.
        study_id: Pseudonym of the study.
        reports: Its rows of `reports.csv`.
    """
    return [
        {
            "report_id": f"{study_id}-r{number}",
            "patient_id": patient_id,
            "study_id": study_id,
            "side": row.get("side", pd.NA),
            "text": row["text"],
            "source": row.get("source", "clinical"),
        }
        for number, row in enumerate(reports, start=1)
    ]


def patient_row(patient_id: str, center: str, clinical: Mapping[str, Any]) -> dict[str, Any]:
    """Row of the table `patients`.

    Raises:
        DataError: if the clinical table states another centre than the scans do.
    """
    stated = clinical.get("center", center)
    if stated != center:
        raise DataError(
            f"{patient_id}: the clinical table says centre {stated!r}, the scans say {center!r}; correct one of them."
        )
    known = {name: value for name, value in clinical.items() if name not in (INDEX_SIDE, ORIGIN_DATE)}
    if "age_years" in known:
        known["age_years"] = grouped_age(float(known["age_years"]))
    return {**known, "patient_id": patient_id, "center": center}
