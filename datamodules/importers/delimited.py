"""Reading the tables that a hospital brings: CSV or TSV files, checked column by column before any scan is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.cohort.columns import Column, Table
from datamodules.cohort.table_checks import check_table
from datamodules.errors import DataError, Finding, raise_failures

_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no"}


def read_text_table(path: Path) -> pd.DataFrame:
    """Read a CSV or TSV file as text.

    Args:
        path: The file; one that ends with `.tsv` or `.txt` is split at tabs.

    Returns:
        All cells as stripped strings, empty cells missing; the index holds the line numbers of the file, so that a
        message can name them.

    Raises:
        DataError: if the file is missing, empty, not text or not a table, naming the file.
    """
    if not path.is_file():
        raise DataError(f"{path.name} was not found; expected a table in text form. Check the name and try again.")
    if b"\0" in path.read_bytes():
        # pandas ends a cell there, so that two patients who differ behind it would become one.
        raise DataError(
            f"{path.name} holds a NUL character; expected UTF-8 text with one header line. Export it again."
        )
    separator = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
    try:
        frame = pd.read_csv(path, sep=separator, dtype="string", keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{path.name} is not a readable table ({reason}); expected UTF-8 text with one header line."
        ) from None
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    frame = frame.apply(lambda column: column.str.strip()).replace("", pd.NA)
    frame.index = pd.RangeIndex(2, len(frame) + 2, name="line")
    return frame


def read_table(path: Path, table: Table) -> pd.DataFrame:
    """Read a CSV or TSV file and check it against a schema.

    Args:
        path: The file.
        table: Its columns; a column that may be missing may be left out of the file.

    Returns:
        The columns that the file holds, with nullable types, indexed by line number.

    Raises:
        DataError: naming file, line, column, value found and value expected of the first bad cells.
    """
    frame = read_text_table(path)
    findings: list[Finding] = []
    for column in table.columns:
        if column.name in frame:
            frame[column.name], bad = _typed(frame[column.name], column, path.name)
            findings += bad
    raise_failures(findings + _repeated(frame, table, path.name))
    raise_failures(check_table(frame, table, path.name))
    return frame


def _repeated(frame: pd.DataFrame, table: Table, source: str) -> list[Finding]:
    """Rows that share a key, by their lines: the key itself may be a hospital's number of a patient."""
    if not set(table.key) <= set(frame.columns):
        return []
    groups = frame[frame.duplicated(list(table.key), keep=False)].groupby(list(table.key), dropna=False).groups
    where = f"columns {', '.join(table.key)}"
    return [
        Finding("FAIL", "the same key", f"{source}, rows {', '.join(map(str, lines))}, {where}", "one row")
        for lines in list(groups.values())[:5]
    ]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dicts without their missing cells."""
    return [{str(name): value for name, value in row.items() if pd.notna(value)} for row in frame.to_dict("records")]


def _typed(values: pd.Series, column: Column, source: str) -> tuple[pd.Series, list[Finding]]:
    """The cells of one column in its type, and those that are not of it."""
    parsers: dict[str, tuple[Callable[[str], Any], str]] = {
        "string": (str, "string"),
        "integer": (_integer, "Int64"),
        "number": (float, "Float64"),
        "boolean": (_boolean, "boolean"),
    }
    parse, dtype = parsers[column.kind]
    typed: list[Any] = []
    findings = []
    for line, value in values.items():
        try:
            typed.append(pd.NA if pd.isna(value) else parse(value))
        except ValueError:
            typed.append(pd.NA)
            findings.append(
                Finding("FAIL", f"value {value!r}", f"{source}, row {line}, column {column.name}", column.expectation)
            )
    return pd.Series(typed, index=values.index, dtype=dtype), findings


def _integer(text: str) -> int:
    number = float(text)  # spreadsheets write 3 as 3.0
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError(text)


def columns_of(table: Table, names: Sequence[str]) -> tuple[Column, ...]:
    """Some columns of a table, in the order asked for."""
    return tuple(table.column(name) for name in names)
