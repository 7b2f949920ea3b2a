"""The clinical tables of a TCIA collection, joined to one row per patient.

Recurrence in TCGA is the progression-free interval (PFI) of the TCGA-CDR. Its event is a new tumour or death with the
cancer, which is the suite's RFS event as long as the tumour was removed, so patients with metastases at diagnosis are
left out. Liu et al. (Cell 2018;173:400-416, Table 3) recommend PFI for KIRC (162 events); the disease-free interval
(DFI), which needs a documented remission, has 15 events there and is recommended with caution only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from datamodules.errors import DataError
from datamodules.importers.companions import with_aggressiveness
from datamodules.importers.delimited import read_text_table
from datamodules.importers.tcia.clinical_rows import (
    ALIVE,
    CONTACT,
    FORMATS,
    STAGE,
    TableFormat,
    Values,
    clean,
    endpoint,
)

Recurrence = Literal["pfi", "dfi"]


def read_tcia_clinical(paths: Sequence[Path], recurrence: Recurrence = "pfi") -> dict[str, Values]:
    """Read the clinical tables of a collection.

    Args:
        paths: CSV or TSV files in any of the published layouts, known by their columns: TCGA-CDR (sheet 1 of Table
            S1 saved as text), GDC `clinical.tsv` and `follow_up.tsv`, CPTAC, C4KC-KiTS. Where two tables state the
            same, TCGA-CDR comes first, then GDC.
        recurrence: `pfi`, or `dfi` for the disease-free interval of the TCGA-CDR.

    Returns:
        Values of the table `patients` by PatientID.

    Raises:
        DataError: if a file has none of the layouts.
    """
    parts: dict[str, dict[str, list[Values]]] = {}
    for path in paths:
        kind, rows = _read(path)
        for patient, values in rows:
            parts.setdefault(patient, {}).setdefault(kind, []).append(values)
    joined: dict[str, Values] = {}
    for patient, tables in parts.items():
        found: Values = {}
        for known in FORMATS:
            for more in tables.get(known.name, []):
                found = _join(found, more)
        joined[patient] = _finish(patient, found, recurrence)
    return joined


def _read(path: Path) -> tuple[str, Iterator[tuple[str, Values]]]:
    frame = read_text_table(path)
    for kind in FORMATS:
        named = _plain_columns(frame, kind)
        key = next((name for name in kind.keys if name in named), None)
        if key is not None and any(mark in named for mark in kind.marks):
            return kind.name, _rows(named, key, kind)
    shown = ", ".join(map(str, frame.columns[:6]))
    raise DataError(
        f"{path.name} has the columns {shown}, ...; expected a clinical table of TCGA-CDR (bcr_patient_barcode, "
        "OS.time), GDC (cases.submitter_id, demographic.vital_status), CPTAC (case_id, follow-up/...) or C4KC-KiTS "
        "(patient_id, vital_days_after_surgery)."
    )


def _plain_columns(frame: pd.DataFrame, kind: TableFormat) -> pd.DataFrame:
    """The table with its columns named as the layout's reader expects them."""
    if kind.name == "GDC":
        names = [
            "case_submitter_id" if name == "cases.submitter_id" else str(name).split(".")[-1] for name in frame.columns
        ]
    elif kind.name == "CPTAC":
        names = [str(name).split("/")[-1].lower() for name in frame.columns]
    else:
        names = [str(name) for name in frame.columns]
    plain = frame.set_axis(names, axis=1)
    return plain.loc[:, ~plain.columns.duplicated()]


def _rows(frame: pd.DataFrame, key: str, kind: TableFormat) -> Iterator[tuple[str, Values]]:
    for record in frame.to_dict("records"):
        cells = {str(name): text for name, value in record.items() if pd.notna(value) and (text := clean(value))}
        if key in cells:
            # The KiTS challenge names the patients of C4KC-KiTS by case.
            yield re.sub(r"^case_(\d{5})$", r"KiTS-\1", cells[key]), kind.read(cells)


def _join(first: Values, second: Values) -> Values:
    """Values of both, the first believed; the two halves of an endpoint stay together."""
    joined = dict(first)
    for name, value in second.items():
        half_known = name.endswith("_event") and name.replace("_event", "_months") in first
        if name == CONTACT:
            joined[name] = max(joined.get(name, value), value)
        elif name not in joined and not half_known:
            joined[name] = value
    return joined


def _finish(patient: str, values: Values, recurrence: Recurrence) -> Values:
    """Choose the recurrence endpoint and add what the collection itself says."""
    own = ("PFI", "DFI", STAGE, ALIVE, CONTACT)
    row: dict[str, Any] = {name: value for name, value in values.items() if name not in own}
    if values.get(ALIVE) and "os_months" not in row:
        row |= endpoint("os", values.get(CONTACT), 0)
    if not patient.startswith("KiTS-"):
        row["malignancy"] = 1  # the other collections hold carcinomas only
    row["time_origin"] = "surgery" if patient.startswith("KiTS-") else "diagnosis"
    # A stage IV of unknown M may be metastatic.
    metastatic = row.get("stage_pm") == "1" or (values.get(STAGE) == "IV" and row.get("stage_pm") != "0")
    chosen = values.get(recurrence.upper(), {})
    if chosen and not metastatic:
        row |= chosen
    return with_aggressiveness(row)
