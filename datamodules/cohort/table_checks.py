"""The check that holds the tables of a cohort: columns, types, ranges, keys, and rows of other tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from datamodules.cohort.columns import Column, Table
from datamodules.cohort.tables import TABLES
from datamodules.errors import Finding
from datamodules.names import PLAIN, is_identifier

_PANDAS: dict[str, Any] = {"string": "string", "integer": "Int64", "number": "Float64", "boolean": "boolean"}


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
    if column.identifier:
        distinct = typed.dropna().drop_duplicates()
        refused = [value for value in distinct[~distinct.str.fullmatch(PLAIN)] if not is_identifier(value)]
        if refused:
            bad |= typed.isin(refused)
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
        keys, own = list(columns), tables[name].reset_index(drop=True)[list(columns)]
        joined = own.merge(tables[parent][keys].drop_duplicates(), on=keys, how="left", indicator=True)
        alone = own[(joined["_merge"] == "left_only").to_numpy(dtype=bool)].head(5)
        for row, values in zip(alone.index.tolist(), alone.itertuples(index=False, name=None), strict=True):
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
