"""One row of each clinical table that is published beside a TCIA collection, in the words of the suite's schema.

The layouts are those of the TCGA Pan-Cancer Clinical Data Resource (TCGA-CDR, Liu et al., Cell 2018;173:400-416, Table
S1), of the GDC portal (`clinical.tsv`, `follow_up.tsv`), of the CPTAC clinical tables and of C4KC-KiTS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from datamodules.cohort.clinical import months, parse_grade, parse_stage
from datamodules.errors import DataError

Row = Mapping[str, str]
Values = dict[str, Any]

STAGE = "ajcc_stage"
"""Key of the overall stage (I to IV), which decides on endpoints and is then dropped."""
ALIVE, CONTACT = "alive", "contact_days"
"""Keys of what the GDC states of a living patient, from which the end of follow-up is found."""

_MISSING = frozenset(
    {"", "--", "'--", "na", "#n/a", "n/a", "nan", "not reported", "unknown", "not available", "not applicable"}
    | {"not evaluated", "discrepancy", "staging incomplete", "not performed", "not identified in the report"}
)


def clean(text: object) -> str | None:
    """A cell's text, or None where it is one of the archives' words for a missing value."""
    found = str(text).strip()
    return None if found.strip("[]").lower() in _MISSING else found


@dataclass(frozen=True)
class TableFormat:
    """One published layout.

    Args:
        name: Its name.
        keys: Columns that may hold the patient; the first that exists does.
        marks: Columns that only this layout has; one is enough.
        read: Turns one row of cleaned cells into values of the table `patients`.
    """

    name: str
    keys: tuple[str, ...]
    marks: tuple[str, ...]
    read: Callable[[Row], Values]


def endpoint(name: Literal["os", "dss", "rfs"], days: object, event: object) -> Values:
    """Months and event of an endpoint; nothing where either is missing or the time is negative."""
    time, observed = _number(days), _number(event)
    if time is None or observed is None or time < 0:
        return {}
    return {f"{name}_months": months(time), f"{name}_event": bool(observed)}


def _number(value: object) -> float | None:
    """A number; ages of 90 and more are published as `>=90`."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(str(value).replace(">=", "").strip())
    except ValueError:
        return None


def _known(values: Mapping[str, Any]) -> Values:
    return {name: value for name, value in values.items() if value is not None}


def _sex(text: str | None) -> str | None:
    return {"female": "female", "male": "male", "f": "female", "m": "male"}.get((text or "").lower())


def _side(text: str | None) -> str | None:
    side = (text or "").lower()
    return side if side in ("left", "right") else None


def _stage(text: str | None, letter: Literal["t", "n", "m"]) -> str | None:
    """A TNM stage; words and refinements that the schema does not have are missing or cut (`pT3a`, `cM0 (i+)`)."""
    if text is None:
        return None
    if "no pathologic evidence" in text.lower():
        return "0"
    found = re.match(r"[cpyr]*[tnm]?(?:\d[a-c]?|x)", text.strip().lower())
    if found is None:
        return None
    try:
        return parse_stage(found.group(), letter)
    except DataError:
        return None


def _grade(text: str | None) -> int | None:
    found = re.match(r"g?\s*([1-4])\b", (text or "").lower())
    return None if found is None else parse_grade(found.group(1))


def _roman(text: str | None) -> str | None:
    found = re.match(r"(?:stage\s+)?(iv|i{1,3})", (text or "").lower())
    return None if found is None else found.group(1).upper()


def _yes(text: str | None) -> bool | None:
    word = (text or "").lower()
    if word in ("yes", "true", "1", "present") or word.startswith("present"):
        return True
    return False if word in ("no", "false", "0", "absent", "not present") else None


def _first(row: Row, *names: str) -> str | None:
    return next((row[name] for name in names if name in row), None)


def cdr(row: Row) -> Values:
    """TCGA-CDR: all four endpoints; `rfs_dfi` and `rfs_pfi` are both kept until one is chosen."""
    if row.get("Redaction", "").lower().startswith("redact"):
        return {}
    values = _known(
        {
            "age_years": _number(row.get("age_at_initial_pathologic_diagnosis")),
            "sex": _sex(row.get("gender")),
            "histology": row.get("histological_type") or row.get("type"),
            "isup_grade": _grade(row.get("histological_grade")),
            STAGE: _roman(row.get("ajcc_pathologic_tumor_stage")),
        }
    )
    values |= endpoint("os", row.get("OS.time"), row.get("OS"))
    values |= endpoint("dss", row.get("DSS.time"), row.get("DSS"))
    for name in ("PFI", "DFI"):
        found = endpoint("rfs", row.get(f"{name}.time"), row.get(name))
        if found:
            values[name] = found
    return values


def gdc(row: Row) -> Values:
    """GDC `clinical.tsv`, columns without their prefix (`diagnoses.`, `demographic.`)."""
    days = _number(row.get("age_at_diagnosis"))
    values = _known(
        {
            "age_years": _number(row.get("age_at_index")) or (None if days is None else days / 365.25),
            "sex": _sex(_first(row, "gender", "sex_at_birth")),
            "histology": row.get("primary_diagnosis"),
            "isup_grade": _grade(row.get("tumor_grade")),
            "stage_pt": _stage(row.get("ajcc_pathologic_t"), "t"),
            "stage_pn": _stage(row.get("ajcc_pathologic_n"), "n"),
            "stage_pm": _stage(row.get("ajcc_pathologic_m"), "m"),
            STAGE: _roman(_first(row, "ajcc_pathologic_stage", "tumor_stage")),
            "index_side": _side(row.get("laterality")),
        }
    )
    status = row.get("vital_status", "").lower()
    if status == "dead":
        values |= endpoint("os", row.get("days_to_death"), 1)
    # A case has several rows and two files; the latest contact of a living patient ends its follow-up.
    contacts = [_number(row.get(name)) for name in ("days_to_last_follow_up", "days_to_follow_up")]
    known = [number for number in contacts if number is not None]
    return values | _known({ALIVE: True if status == "alive" else None, CONTACT: max(known, default=None)})


_DAYS = (
    "days_from_date_of_initial_pathologic_diagnosis_to_date_of_",
    "number_of_days_from_date_of_initial_pathologic_diagnosis_to_date_of_",
)
_NEW_TUMOR = ("new_tumor_after_initial_treatment", "new_tumor_event_after_initial_treatment")


def cptac(row: Row) -> Values:
    """CPTAC clinical tables, column names in lower case without their group (`baseline/`, `follow-up/`).

    Follow-up cells hold one value per visit, divided by `|`; the last is the latest.
    """
    size = _number(row.get("tumor_size_cm"))
    values = _known(
        {
            "age_years": _number(row.get("age")),
            "sex": _sex(_first(row, "sex", "gender")),
            "bmi_kg_m2": _number(row.get("bmi")),
            "tumor_size_mm": None if size is None else 10 * size,
            "histology": row.get("histologic_type"),
            "isup_grade": _grade(_first(row, "histologic_grade", "grade")),
            "stage_pt": _stage(_staging(row, "primary_tumor", "pt"), "t"),
            "stage_pn": _stage(_staging(row, "regional_lymph_nodes", "pn"), "n"),
            "stage_pm": _stage(_staging(row, "distant_metastasis", "pm"), "m"),
            STAGE: _roman(row.get("tumor_stage_pathological")),
            "necrosis": _yes(row.get("tumor_necrosis")),
            "sarcomatoid": _yes(row.get("sarcomatoid_features")),
            "rhabdoid": _yes(row.get("rhabdoid_features")),
            "index_side": _side(row.get("tumor_laterality")),
        }
    )
    return values | _cptac_endpoints(row)


def _staging(row: Row, what: str, suffix: str) -> str | None:
    name = f"pathologic_staging_{what}"
    older = "path_stage_dist_mets_pm" if suffix == "pm" else name
    return _first(row, name, f"{name}_{suffix}", older)


def _cptac_endpoints(row: Row) -> Values:
    last = _latest(row, *(f"{days}last_contact" for days in _DAYS), "path_diag_to_last_contact_day")
    death = _latest(row, *(f"{days}death" for days in _DAYS), "path_diag_to_death_days")
    status = (_latest(row, "vital_status_at_date_of_last_contact", "vital_status") or "").lower()
    dead = status in ("deceased", "dead") or _number(death) is not None
    if not dead and status not in ("living", "alive"):
        return {}
    time = death if dead and _number(death) is not None else last
    values = endpoint("os", time, dead)
    cause = (_latest(row, "cause_of_death") or "").lower()
    of_cancer = bool(re.search("cancer|carcinoma|tumou?r|neoplasm|metasta|disease progression", cause))
    if not dead or cause:
        values |= endpoint("dss", time, dead and of_cancer)
    recurred = _days_to_new_tumor(row)
    if recurred is not None:
        values["PFI"] = endpoint("rfs", recurred, 1)
    elif (_latest(row, *_NEW_TUMOR) or "").lower() == "no":
        # Death of another or an unknown cause censors; RFS counts recurrence and death of the cancer.
        values["PFI"] = endpoint("rfs", time, dead and of_cancer)
    return values


def _days_to_new_tumor(row: Row) -> float | None:
    names = [f"{days}{event}" for days in _DAYS for event in _NEW_TUMOR]
    cells = [row[name] for name in (*names, "path_diag_to_new_tumor_days") if name in row]
    days = [number for cell in cells for part in cell.split("|") if (number := _number(part)) is not None]
    return min(days, default=None)


def _latest(row: Row, *names: str) -> str | None:
    """The last visit's value that is not missing."""
    cell = _first(row, *names)
    parts = [part for part in (cell or "").split("|") if clean(part) is not None]
    return parts[-1].strip() if parts else None


def kits(row: Row) -> Values:
    """C4KC-KiTS: pathology, and death of any cause after surgery; recurrence is not published."""
    size = _number(_first(row, "radiographic_size", "pathologic_size"))
    malignant = _yes(row.get("malignant"))
    values = _known(
        {
            "age_years": _number(row.get("age_at_nephrectomy")),
            "sex": _sex(row.get("gender")),
            "bmi_kg_m2": _number(_first(row, "body_mass_index", "bmi")),
            "tumor_size_mm": None if size is None else 10 * size,
            "histology": row.get("tumor_histologic_subtype"),
            "malignancy": None if malignant is None else int(malignant),
            "isup_grade": _grade(row.get("tumor_isup_grade")),
            "stage_pt": _stage(row.get("pathology_t_stage"), "t"),
            "stage_pn": _stage(row.get("pathology_n_stage"), "n"),
            "stage_pm": _stage(row.get("pathology_m_stage"), "m"),
            "necrosis": _yes(row.get("tumor_necrosis")),
            "sarcomatoid": _yes(row.get("sarcomatoid_features")),
            "rhabdoid": _yes(row.get("rhabdoid_features")),
        }
    )
    status = row.get("vital_status", "").lower()
    if status in ("dead", "censored", "alive"):
        values |= endpoint("os", row.get("vital_days_after_surgery"), status == "dead")
    return values


FORMATS = (
    TableFormat("TCGA-CDR", ("bcr_patient_barcode",), ("OS.time", "PFI.time"), cdr),
    TableFormat("GDC", ("case_submitter_id",), ("days_to_follow_up", "vital_status", "ajcc_pathologic_t"), gdc),
    TableFormat("C4KC-KiTS", ("patient_id", "case_id"), ("vital_days_after_surgery",), kits),
    TableFormat(
        "CPTAC",
        ("case_id", "patient_id"),
        ("tumor_stage_pathological", "vital_status_at_date_of_last_contact", "path_diag_to_last_contact_day"),
        cptac,
    ),
)
"""Known layouts, the one whose endpoints are believed first in front."""
