"""The clinical records of KiTS23 in the words of the tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.cohort.clinical import Pathology, aggressiveness, months, parse_grade, parse_stage
from datamodules.cohort.table_checks import check_table
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError, raise_failures
from datamodules.files import read_json
from datamodules.importers.delimited import read_text_table
from datamodules.importers.spellings import grouped_age

RECORDS = "kits23.json"
MM_PER_CM = 10.0


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The clinical records by case.

    Raises:
        DataError: if the folder or its kits23.json is missing, is not a list of records, or names a case twice.
    """
    path = folder / RECORDS
    if not path.is_file():
        found = f"no {RECORDS}" if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder.name}: {found}; expected the `dataset` folder of the official download, with {RECORDS} and one "
            "folder per case."
        )
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(item, dict) and item.get("case_id") for item in content):
        raise DataError(f"{RECORDS}: expected a list of records that each have a case_id; download it again.")
    records = {str(item["case_id"]): item for item in content}
    if len(records) < len(content):
        raise DataError(f"{RECORDS}: {len(content) - len(records)} cases stand in it twice; download it again.")
    return records


def read_sites(path: Path) -> dict[str, str]:
    """The site of each case, from a CSV file with the columns `case` and `site_id`.

    Raises:
        DataError: if the file or a column is missing, a value is empty, or a case has two sites.
    """
    frame = read_text_table(path)
    if not {"case", "site_id"} <= set(frame.columns):
        raise DataError(f"{path.name}: columns {list(frame.columns)} were found; expected case and site_id.")
    wrong = frame["case"].isna() | frame["site_id"].isna() | frame["case"].duplicated()
    if wrong.any():
        line = int(frame.index[wrong][0])
        raise DataError(f"{path.name}, line {line}: a case or site is empty or repeated; expected one site per case.")
    return dict(zip(frame["case"], frame["site_id"], strict=True))


def patient_row(record: Mapping[str, Any], center: str) -> dict[str, Any]:
    """The row of the table `patients` for one record.

    Deaths are of any cause; the source states neither causes nor recurrences, so DSS and RFS stay missing. A sex that
    is recorded as neither female nor male is missing, too: the column is the one that models and readers know.

    Args:
        record: One entry of kits23.json.
        center: Centre of the patient.

    Raises:
        DataError: naming the case and the field whose value is impossible.
    """
    where = f"{RECORDS}, {record['case_id']}"
    try:
        pathology = Pathology(
            malignant=_flag(record, "malignant"),
            isup_grade=parse_grade(record.get("tumor_isup_grade")),
            stage_pt=parse_stage(record.get("pathology_t_stage"), "t"),
            stage_pn=parse_stage(record.get("pathology_n_stage"), "n"),
            stage_pm=parse_stage(record.get("pathology_m_stage"), "m"),
            necrosis=_flag(record, "tumor_necrosis"),
            sarcomatoid=_flag(record, "sarcomatoid_features"),
            rhabdoid=_flag(record, "rhabdoid_features"),
        )
        age = _number(record, "age_at_nephrectomy")
        row = {
            "patient_id": record["case_id"],
            "center": center,
            "age_years": None if age is None else grouped_age(age),
            "sex": record.get("gender") if record.get("gender") in ("female", "male") else None,
            "bmi_kg_m2": _number(record, "bmi"),
            "tumor_size_mm": _number(record, "radiographic_size", MM_PER_CM),
            "histology": record.get("tumor_histologic_subtype"),
            "malignancy": None if pathology.malignant is None else int(pathology.malignant),
            "aggressiveness": aggressiveness(pathology),
            **{name: value for name, value in vars(pathology).items() if name != "malignant"},
            "time_origin": "surgery",
            **_survival(record),
        }
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    raise_failures(check_table(pd.DataFrame([row]), TABLES["patients"], where))
    return row


def _survival(record: Mapping[str, Any]) -> dict[str, Any]:
    status, days = record.get("vital_status"), _number(record, "vital_days_after_surgery")
    if status is None or days is None:
        return {"os_months": None, "os_event": None}
    if status not in ("dead", "censored"):
        raise DataError(f"vital_status {status!r} was found; expected dead or censored.")
    return {"os_months": months(days), "os_event": status == "dead"}


def _number(record: Mapping[str, Any], field: str, factor: float = 1.0) -> float | None:
    value = record.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{field} {value!r} was found; expected a number or null.")
    return float(value) * factor


def _flag(record: Mapping[str, Any], field: str) -> bool | None:
    value = record.get(field)
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{field} {value!r} was found; expected true, false or null.")
    return value
