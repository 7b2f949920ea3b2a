"""Reading the tables that a hospital brings: CSV or TSV files, checked column by column before any scan is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.cohort.columns import Column, Table
from datamodules.cohort.table_checks import check_table
from datamodules.errors import DataError, Finding, raise_failures
from datamodules.importers.spellings import ABSENT, AGE_GROUP, PARSERS, SPELLINGS
from datamodules.importers.text_tables import read_text

_TRUE, _FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_OLDEST = re.compile(r"(?:>=?\s*|over\s+)(?:89|90)|(?:89|90)\s*(?:\+|or older|and older|and over)")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+")


def read_text_table(path: Path) -> pd.DataFrame:
    """Read a CSV or TSV file as text.

    Args:
        path: The file.

    Returns:
        All cells as stripped strings, empty cells missing; the index holds the row numbers of the file, so that a
        message can name them.

    Raises:
        DataError: if the file is missing, empty, not text or not a table, naming the file and the row.
    """
    return read_text(path).frame


def read_table(path: Path, table: Table) -> pd.DataFrame:
    """Read a CSV or TSV file and check it against a schema.

    Numbers may have a decimal comma, booleans may be 1, 1.0, true, yes and the like, and names of columns any case.
    A number such as `1,234`, which may be 1234 or 1.234, is refused unless the cells are separated by semicolons or
    tabs.

    Args:
        path: The file.
        table: Its columns; a column that may be missing may be left out of the file.

    Returns:
        The columns that the file holds, with nullable types, indexed by row number.

    Raises:
        DataError: naming file, row, column, value found and value expected of the first bad cells.
    """
    found = read_text(path)
    frame = _named(found.frame, table, path.name)
    findings: list[Finding] = []
    for column in table.columns:
        if column.name in frame:
            typed, bad = _typed(frame[column.name], column, path.name, found.separator)
            frame[column.name] = typed
            findings += bad
    raise_failures(findings + _repeated(frame, table, path.name))
    raise_failures(check_table(frame, table, path.name))
    return frame


def _named(frame: pd.DataFrame, table: Table, source: str) -> pd.DataFrame:
    """The table under the schema's names, whatever their case."""
    known = {column.name.casefold(): column.name for column in table.columns}
    names = [known.get(str(name).casefold().replace(" ", "_"), str(name)) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{source}: two columns are named {twice[0]!r} but for their case; expected one of that name.")
    return frame.set_axis(names, axis=1)


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


def _typed(values: pd.Series, column: Column, source: str, separator: str) -> tuple[pd.Series, list[Finding]]:
    """The cells of one column in its type, and those that are not of it."""
    parse, dtype = _parser(column, separator)
    free = column.kind == "string" and column.choices is None  # text that is no code may be the word NA
    typed: list[Any] = []
    findings = []
    for line, value in values.items():
        try:
            absent = pd.isna(value) or (not free and value.casefold() in ABSENT)
            typed.append(pd.NA if absent else parse(value))
        except ValueError:
            typed.append(pd.NA)
            findings.append(
                Finding("FAIL", f"value {value!r}", f"{source}, row {line}, column {column.name}", column.expectation)
            )
    return pd.Series(typed, index=values.index, dtype=dtype), findings


def _parser(column: Column, separator: str) -> tuple[Callable[[str], Any], str]:
    if column.name in PARSERS:
        return PARSERS[column.name], "Int64" if column.kind == "integer" else "string"
    if column.kind == "string":
        return lambda text: _word(text, column), "string"
    if column.kind == "boolean":
        return lambda text: _boolean(text, separator), "boolean"
    if column.kind == "integer" and column.choices == (0, 1):
        return lambda text: int(_boolean(text, separator)), "Int64"
    if column.kind == "integer":
        return lambda text: _integer(text, separator), "Int64"
    if column.name.endswith("_years"):
        return lambda text: _years(text, separator), "Float64"
    return lambda text: _number(text, separator), "Float64"


def _word(text: str, column: Column) -> str:
    """One of the choices of a column in its own spelling; any other text as it is."""
    if column.choices is None:
        return text
    plain = text.casefold()
    spelled = {str(choice).casefold(): str(choice) for choice in column.choices} | SPELLINGS.get(column.name, {})
    return spelled.get(plain, spelled.get(plain.replace(" ", "_").replace("-", "_"), text))


def _number(text: str, separator: str) -> float:
    """A number with a decimal point, or a decimal comma where it can be nothing else."""
    if _DECIMAL_COMMA.fullmatch(text) and (separator in ";\t" or not _THOUSANDS.fullmatch(text)):
        text = text.replace(",", ".")
    number = float(text)
    if not math.isfinite(number) or "_" in text:
        raise ValueError(text)
    return number


def _years(text: str, separator: str) -> float:
    """Years as `63`, `63Y`, `063Y`, `63 years`; `>89`, `89+` and `90+` are the group above 89."""
    if _OLDEST.fullmatch(text.lower()):
        return AGE_GROUP
    plain = re.sub(r"\s*(?:y|yrs?|years?(?: old)?|j|jahre)\.?$", "", text.strip().lower())
    return _number(plain, separator)


def _integer(text: str, separator: str) -> int:
    number = _number(text, separator)  # spreadsheets write 3 as 3.0
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _boolean(text: str, separator: str) -> bool:
    word = text.casefold()
    if word not in _TRUE | _FALSE:
        word = str(_integer(text, separator))  # a column with a missing cell is written 1.0 and 0.0
    if word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError(text)


def columns_of(table: Table, names: Sequence[str]) -> tuple[Column, ...]:
    """Some columns of a table, in the order asked for."""
    return tuple(table.column(name) for name in names)
