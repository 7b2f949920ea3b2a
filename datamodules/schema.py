"""The tables of a cohort: their columns, types, ranges and keys, and the check that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from datamodules.errors import Finding

Kind = Literal["string", "integer", "number", "boolean"]

ROLES = ("pretrain", "internal", "external")
SIDES = ("left", "right")
PHASES = ("non_contrast", "arterial", "venous", "delayed")
SPLITS = ("train", "val", "test")
ENDPOINTS = ("rfs", "dss", "os")
RENAL_A = ("anterior", "posterior", "x")

_PANDAS: dict[str, Any] = {"string": "string", "integer": "Int64", "number": "Float64", "boolean": "boolean"}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: Name with its unit as suffix where it has one (`_mm`, `_ml`, `_hu`, `_years`, `_months`).
        kind: string, integer, number or boolean; a missing value is a missing value in all of them.
        doc: What it holds.
        nullable: Whether a row may leave it out. Missing is missing, never a class.
        choices: The values allowed.
        low: Smallest value allowed.
        high: Largest value allowed.
    """

    name: str
    kind: Kind
    doc: str
    nullable: bool = True
    choices: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None

    @property
    def expectation(self) -> str:
        """What a valid value is, in words."""
        if self.choices is not None:
            text = "one of " + ", ".join(map(str, self.choices))
        elif self.low is not None or self.high is not None:
            low = "-inf" if self.low is None else f"{self.low:g}"
            high = "inf" if self.high is None else f"{self.high:g}"
            text = f"{self.kind} in [{low}, {high}]"
        else:
            text = self.kind
        return text + (" or missing" if self.nullable else "")


@dataclass(frozen=True)
class Table:
    """One table of a cohort, stored as `<name>.parquet`.

    Args:
        name: Name of the file without its ending.
        key: Columns that together name a row; no two rows share them.
        columns: All columns it may hold.
        parent: Table and columns that every row must be found in.
        optional: Whether a cohort may leave the table out.
        repeated: What is said of a key that stands in several rows.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    parent: tuple[str, tuple[str, ...]] | None = None
    optional: bool = False
    repeated: str = "stands in several rows"

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)


def _key(name: str, doc: str, choices: tuple[str, ...] | None = None) -> Column:
    return Column(name, "string", doc, nullable=False, choices=choices)


_PATIENT = _key("patient_id", "Pseudonym of the patient.")
_STUDY = _key("study_id", "Pseudonym of the examination; one patient may have several.")
_SIDE = _key("side", "Side of the kidney.", SIDES)
_POINTS = (1, 2, 3)


def _endpoint(name: str, event: str) -> tuple[Column, Column]:
    return (
        Column(f"{name}_months", "number", f"Time to {event} or to censoring, days / 30.4375.", low=0, high=600),
        Column(f"{name}_event", "boolean", f"True when {event} was observed, False when censored."),
    )


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "centers",
            ("center",),
            (
                _key("center", "Name of the centre, no hospital that can be recognised."),
                _key("role", "What the centre's patients serve.", ROLES),
            ),
        ),
        Table(
            "patients",
            ("patient_id",),
            (
                _PATIENT,
                _key("center", "Centre that the patient belongs to."),
                Column("age_years", "number", "Age at surgery or diagnosis.", low=0, high=120),
                Column("sex", "string", "Sex as recorded.", choices=("female", "male")),
                Column("bmi_kg_m2", "number", "Body-mass index.", low=8, high=100),
                Column("tumor_size_mm", "number", "Largest diameter as the source reports it.", low=0, high=400),
                Column("histology", "string", "Subtype in pathology, in the words of the source."),
                Column("malignancy", "integer", "1 malignant, 0 benign in pathology.", choices=(0, 1)),
                Column("aggressiveness", "integer", "1 aggressive, 0 indolent or benign.", choices=(0, 1)),
                Column("isup_grade", "integer", "WHO/ISUP grade.", choices=(1, 2, 3, 4)),
                Column(
                    "stage_pt",
                    "string",
                    "Pathological T stage.",
                    choices=("0", "1", "1a", "1b", "2", "2a", "2b", "3", "3a", "3b", "3c", "4", "X"),
                ),
                Column("stage_pn", "string", "Pathological N stage.", choices=("0", "1", "2", "X")),
                Column("stage_pm", "string", "M stage.", choices=("0", "1", "X")),
                Column("necrosis", "boolean", "Tumour necrosis in pathology."),
                Column("sarcomatoid", "boolean", "Sarcomatoid differentiation in pathology."),
                Column("rhabdoid", "boolean", "Rhabdoid differentiation in pathology."),
                Column("time_origin", "string", "Day 0 of the endpoints.", choices=("surgery", "diagnosis", "imaging")),
                *_endpoint("rfs", "recurrence or death of cancer"),
                *_endpoint("dss", "death of cancer"),
                *_endpoint("os", "death of any cause"),
            ),
            parent=("centers", ("center",)),
        ),
        Table(
            "series",
            ("patient_id", "study_id", "series_id"),
            (
                _PATIENT,
                _STUDY,
                _key("series_id", "Pseudonym of the series."),
                _key("phase", "Contrast phase.", PHASES),
                Column("phase_evidence", "string", "What the phase was read from."),
                _key("intensity", "Whether HU were acquired or rendered from masks.", ("acquired", "rendered")),
                Column("spacing_d_mm", "number", "Distance of slices in the source.", low=0.05, high=20),
                Column("spacing_h_mm", "number", "Pixel spacing in the source, posterior-anterior.", low=0.05, high=20),
                Column("spacing_w_mm", "number", "Pixel spacing in the source, left-right.", low=0.05, high=20),
                Column("slice_thickness_mm", "number", "Nominal slice thickness.", low=0.05, high=30),
            ),
            parent=("patients", ("patient_id",)),
        ),
        Table(
            "kidneys",
            ("patient_id", "study_id", "side"),
            (
                _PATIENT,
                _STUDY,
                _SIDE,
                Column("has_lesion", "boolean", "Whether the kidney holds a lesion."),
                Column("is_index", "boolean", "Whether it holds the patient's largest lesion.", nullable=False),
                Column("lesion_count", "integer", "Number of separate lesions.", low=0, high=200),
                Column("kidney_volume_ml", "number", "Kidney without its lesions.", low=0, high=3000),
                Column("tumor_volume_ml", "number", "All tumour tissue.", low=0, high=10000),
                Column("cyst_volume_ml", "number", "All cysts.", low=0, high=10000),
                Column("lesion_diameter_mm", "number", "Largest diameter of the largest lesion.", low=0, high=400),
                Column(
                    "lesion_offset_d_mm", "number", "Lesion centre minus kidney centre, superior.", low=-400, high=400
                ),
                Column(
                    "lesion_offset_h_mm", "number", "Lesion centre minus kidney centre, anterior.", low=-400, high=400
                ),
                Column("lesion_offset_w_mm", "number", "Lesion centre minus kidney centre, right.", low=-400, high=400),
                Column("renal_r_mm", "number", "R.E.N.A.L.: largest diameter.", low=0, high=400),
                Column("renal_e_fraction", "number", "R.E.N.A.L.: exophytic part of the tumour volume.", low=0, high=1),
                Column("renal_n_mm", "number", "R.E.N.A.L.: distance to sinus or collecting system.", low=0, high=400),
                Column("renal_l_fraction", "number", "R.E.N.A.L.: part across a polar line or between.", low=0, high=1),
                Column("renal_r", "integer", "R.E.N.A.L. points for R.", choices=_POINTS),
                Column("renal_e", "integer", "R.E.N.A.L. points for E.", choices=_POINTS),
                Column("renal_n", "integer", "R.E.N.A.L. points for N.", choices=_POINTS),
                Column("renal_a", "string", "R.E.N.A.L. suffix A.", choices=RENAL_A),
                Column("renal_l", "integer", "R.E.N.A.L. points for L.", choices=_POINTS),
                Column("renal_source", "string", "Where the score is from.", choices=("geometry", "reader", "truth")),
                Column("sinus_source", "string", "Where the sinus is from.", choices=("mask", "approximated")),
            ),
            parent=("patients", ("patient_id",)),
        ),
        Table(
            "reports",
            ("report_id",),
            (
                _key("report_id", "Pseudonym of the report."),
                _PATIENT,
                _STUDY,
                Column("side", "string", "Side the text speaks of; missing when it speaks of both.", choices=SIDES),
                _key("text", "Imaging findings; no histology, grade, stage or outcome."),
                _key("source", "Whether a radiologist wrote it or a program.", ("clinical", "generated")),
            ),
            parent=("patients", ("patient_id",)),
            optional=True,
        ),
        Table(
            "splits",
            ("patient_id",),
            (
                _PATIENT,
                Column("split", "string", "Part of the role that the patient belongs to.", choices=SPLITS),
                Column("fold", "integer", "Fold in which the patient is tested.", low=0, high=99),
            ),
            parent=("patients", ("patient_id",)),
            repeated="is in several splits",
        ),
    )
}


def conform(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Order the columns as the table does, add absent nullable ones and give each its nullable type.

    Args:
        frame: Rows with at least the columns that are not nullable.
        table: The table they belong to.

    Raises:
        KeyError, TypeError, ValueError: as pandas does, when a column is absent or its values have another type;
            run `check_table` first for a readable answer.
    """
    present = {
        column.name: frame[column.name].astype(_PANDAS[column.kind])
        if column.name in frame
        else pd.Series(pd.NA, index=frame.index, dtype=_PANDAS[column.kind])
        for column in table.columns
        if column.name in frame or column.nullable
    }
    return pd.DataFrame(present).reset_index(drop=True)


def check_table(frame: pd.DataFrame, table: Table, source: str) -> list[Finding]:
    """Every row that the table's schema refuses, as findings.

    Args:
        frame: Rows as read.
        table: The schema.
        source: File name for the findings.

    Returns:
        One finding per refused value, at most five a column; empty when all rows are valid.
    """
    findings: list[Finding] = []
    names = [column.name for column in table.columns]
    for name in [name for name in frame.columns if name not in names]:
        findings.append(Finding("FAIL", f"unknown column {name!r}", source, "one of " + ", ".join(names), "remove it"))
    for column in table.columns:
        if column.name in frame:
            findings += _check_column(frame, column, source)
        elif not column.nullable:
            findings.append(Finding("FAIL", f"column {column.name!r} is missing", source, column.expectation, "add it"))
    if all(name in frame for name in table.key):
        repeated = frame[frame.duplicated(list(table.key), keep=False)]
        for values in list(repeated.groupby(list(table.key), dropna=False).groups)[:5]:
            named = ", ".join(map(str, values)) if isinstance(values, tuple) else str(values)
            where = f"{source}, column{'s' if len(table.key) > 1 else ''} {', '.join(table.key)}"
            findings.append(Finding("FAIL", f"{named} {table.repeated}", where, "one row"))
    return findings


def _check_column(frame: pd.DataFrame, column: Column, source: str, shown: int = 5) -> list[Finding]:
    values = frame[column.name]
    try:
        typed = values.astype(_PANDAS[column.kind])
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        return [
            Finding("FAIL", f"values of another type ({reason})", f"{source}, column {column.name}", column.expectation)
        ]
    bad = typed.isna() & (not column.nullable)
    if column.choices is not None:
        bad |= typed.notna() & ~typed.isin(list(column.choices))
    if column.low is not None:
        bad |= (typed < column.low).fillna(False)
    if column.high is not None:
        bad |= (typed > column.high).fillna(False)
    if column.kind == "string" and not column.nullable:
        bad |= (typed.str.strip() == "").fillna(False)
    rows = list(frame.index[bad.to_numpy(dtype=bool)])
    findings = [
        Finding(
            "FAIL",
            f"value {_shown(typed[row])}",
            f"{source}, row {row}, column {column.name}",
            column.expectation,
            "correct or drop the row",
        )
        for row in rows[:shown]
    ]
    if len(rows) > shown:
        findings.append(Finding("FAIL", f"{len(rows) - shown} more such values", f"{source}, column {column.name}"))
    return findings


def _shown(value: Any) -> str:
    if pd.isna(value):
        return "missing"
    return repr(value.item() if isinstance(value, np.generic) else value)


def check_links(tables: dict[str, pd.DataFrame], names: Iterable[str] = tuple(TABLES)) -> list[Finding]:
    """Rows whose parent row does not exist, as findings."""
    findings: list[Finding] = []
    for name in names:
        table = TABLES[name]
        if table.parent is None or name not in tables:
            continue
        parent, columns = table.parent
        known = set(tables[parent][list(columns)].itertuples(index=False, name=None))
        rows = [
            (row, values)
            for row, values in enumerate(tables[name][list(columns)].itertuples(index=False, name=None))
            if values not in known
        ]
        for row, values in rows[:5]:
            findings.append(
                Finding(
                    "FAIL",
                    f"{', '.join(columns)} = {', '.join(map(str, values))} is not in {parent}.parquet",
                    f"{name}.parquet, row {row}",
                    f"a row of {parent}.parquet",
                    "add the parent row or drop this one",
                )
            )
    return findings
