"""Statements as rows: the table `attributes` of a cohort, and a reviewer's corrections on top of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.cohort.columns import SIDES
from datamodules.cohort.table_checks import check_table, conform
from datamodules.cohort.tables import TABLES
from datamodules.csv_files import from_text
from datamodules.errors import DataError, Finding
from datamodules.reports.reader.statements import Statement
from datamodules.reports.schema import AttributeSchema

NOT_STATED = "not stated"
KIDNEY = ["patient_id", "study_id", "side"]
KEY = [*KIDNEY, "attribute"]
REVIEWER = "reviewer"
_REVIEW_COLUMNS = (*KEY, "value", "comment")


def statements_table(
    reports: pd.DataFrame, statements: Sequence[Sequence[Statement]], extractor: str, schema: AttributeSchema
) -> pd.DataFrame:
    """What an extractor found in reports, one row per kidney and stated attribute.

    A report with a `side` speaks of that kidney only. Where two reports of a study state the same attribute, the
    certain one counts before the hedged one, then the one of higher confidence, then the first.

    Args:
        reports: Rows of the table `reports`.
        statements: The statements of every report, in the same order.
        extractor: Name for the column `extractor`.
        schema: The schema they follow.

    Returns:
        Rows of the table `attributes`.
    """
    rows: list[dict[str, Any]] = []
    for report, found in zip(reports.to_dict("records"), statements, strict=True):
        keys = {name: report[name] for name in ("report_id", "patient_id", "study_id")}
        only = report.get("side")
        of_this_kidney = [entry for entry in found if only is None or pd.isna(only) or entry.side == only]
        rows += [keys | vars(entry) for entry in of_this_kidney]
    names = [column.name for column in TABLES["attributes"].columns]
    frame = pd.DataFrame(rows, columns=names).assign(extractor=extractor, schema_version=schema.version)
    frame = frame.sort_values(["uncertain", "confidence"], ascending=[True, False], kind="stable")
    return _ordered(frame.drop_duplicates(KEY), schema)


def check_attributes(table: pd.DataFrame, schema: AttributeSchema, source: str = "attributes.parquet") -> list[Finding]:
    """What the table's columns or the attribute schema refuse, as findings.

    Args:
        table: Rows of the table `attributes`.
        schema: The schema that they should follow.
        source: File name for the findings.
    """
    findings = check_table(table, TABLES["attributes"], source)
    if findings:
        return findings
    classes = schema.classes
    for row, (name, value) in enumerate(zip(table["attribute"], table["value"], strict=True)):
        if value not in classes.get(name, ()):
            expected = ", ".join(classes[name]) if name in classes else "an attribute of the schema"
            findings.append(
                Finding("FAIL", f"{name} = {value}", f"{source}, row {row}", expected, "run `make attributes` again")
            )
    return findings[:5]


def merge_review(table: pd.DataFrame, path: Path, schema: AttributeSchema, kidneys: pd.DataFrame) -> pd.DataFrame:
    """A reviewer's corrections on top of a table: values replaced, confirmed, removed or added.

    A corrected row has the extractor `reviewer`; it keeps its evidence only where the value is confirmed. Merging the
    same file twice gives the same table.

    Args:
        table: Rows of the table `attributes`.
        path: CSV with the columns patient_id, study_id, side, attribute, value (a class or "not stated") and, if
            wanted, comment.
        schema: Attributes and classes.
        kidneys: Known kidneys: patient_id, study_id, side.

    Raises:
        DataError: naming the line, if a column, kidney, attribute or value is unknown, or a line is repeated.
    """
    review = _read_review(path)
    known = set(kidneys[KIDNEY].itertuples(index=False, name=None))
    refused = [_refused(row, known, schema) for row in review.to_dict("records")]
    for line, reason in enumerate(refused, start=2):
        if reason:
            raise DataError(f"{path.name}, line {line}: {reason}")
    repeated = review[review.duplicated(KEY, keep=False)]
    if len(repeated):
        lines = " and ".join(str(row + 2) for row in repeated.index[:2])
        named = ", ".join(repeated[KEY].iloc[0])
        raise DataError(f"{path.name}, lines {lines}: {named} is corrected twice; keep one line.")
    return _corrected(table, review[review.columns.drop("comment", errors="ignore")], schema)


def _read_review(path: Path) -> pd.DataFrame:
    try:
        review = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            f"REVIEW={path.name} could not be read as CSV ({error}); save it as CSV with commas."
        ) from error
    unknown = [name for name in review.columns if name not in _REVIEW_COLUMNS]
    missing = [name for name in _REVIEW_COLUMNS[:-1] if name not in review.columns]
    if unknown or missing:
        raise DataError(
            f"{path.name}, line 1: unknown columns {unknown}, missing columns {missing}; expected "
            f"{', '.join(_REVIEW_COLUMNS[:-1])} and, if wanted, comment."
        )
    return review.apply(lambda column: column.map(from_text).str.strip())


def _refused(row: Mapping[Any, str], known: set[tuple[str, str, str]], schema: AttributeSchema) -> str | None:
    """Why a line of a review is refused; None where it is good."""
    patient, study, side = (row[name] for name in KIDNEY)
    if side not in SIDES:
        return f"side {side!r}; expected {' or '.join(SIDES)}."
    if (patient, study, side) not in known:
        patients = {entry[0] for entry in known}
        where = f"study {study!r} with a {side} kidney" if patient in patients else f"patient {patient!r}"
        return f"the cohort has no {where}; copy the keys from attributes.parquet."
    if row["attribute"] not in schema.names:
        return f"attribute {row['attribute']!r}; expected one of {', '.join(schema.names)}."
    classes = schema.classes[row["attribute"]]
    if row["value"] not in (*classes, NOT_STATED):
        return f"{row['attribute']} = {row['value']!r}; expected one of {', '.join(classes)} or {NOT_STATED}."
    return None


def _corrected(table: pd.DataFrame, review: pd.DataFrame, schema: AttributeSchema) -> pd.DataFrame:
    merged = review.merge(table.drop(columns="value").assign(before=table["value"]), on=KEY, how="left")
    confirmed = (merged["before"] == merged["value"]).fillna(False)
    for name in ("start", "end", "evidence"):
        merged[name] = merged[name].where(confirmed)
    merged = merged.assign(extractor=REVIEWER, confidence=1.0, uncertain=False, schema_version=schema.version)
    corrected = pd.MultiIndex.from_frame(table[KEY]).isin(pd.MultiIndex.from_frame(review[KEY]))
    added = conform(merged[merged["value"] != NOT_STATED].drop(columns="before"), TABLES["attributes"])
    kept = conform(table[~corrected], TABLES["attributes"])
    parts = [part for part in (kept, added) if len(part)]
    return _ordered(pd.concat(parts) if parts else kept, schema)


def _ordered(frame: pd.DataFrame, schema: AttributeSchema) -> pd.DataFrame:
    """Rows by kidney, attributes in the order of the schema, with the table's types."""
    place = {name: number for number, name in enumerate(schema.names)}
    numbered = frame.assign(place=frame["attribute"].map(place))
    ordered = numbered.sort_values([*KIDNEY, "place"], kind="stable").drop(columns="place")
    return conform(ordered, TABLES["attributes"])
