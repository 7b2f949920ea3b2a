"""Reading the tables that a hospital brings: CSV or TSV files, checked column by column before any scan is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from datamodules.cohort.columns import Column, Table
from datamodules.cohort.table_checks import check_table
from datamodules.errors import DataError, Finding, raise_failures
from datamodules.importers.spellings import ABSENT, AGE_GROUP, PARSERS, SPELLINGS
from datamodules.importers.text_tables import read_text

_TRUE, _FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_OLDEST = re.compile(r"(?:>=?\s*|≥\s*|over\s+)(?:89|90)|(?:89|90)\s*(?:\+|or older|and older|and over)")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+")
_THOUSANDS_BY_POINT = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+")


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
    another number of the table tells what a comma is; so is `1.234` in a table of decimal commas.

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
    marks = _marks([frame[one.name] for one in table.columns if one.name in frame and _is_number(one)], found.separator)
    for column in table.columns:
        if column.name in frame:
            typed, bad = _typed(frame[column.name], column, path.name, marks)
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
    absent = set(table.key) - set(frame.columns)
    if any(not table.column(name).nullable for name in absent):
        return []
    key = [name for name in table.key if name not in absent]
    groups = frame[frame.duplicated(key, keep=False)].groupby(key, dropna=False).groups
    where = f"columns {', '.join(key)}"
    return [
        Finding("FAIL", "the same key", f"{source}, rows {', '.join(map(str, lines))}, {where}", "one row")
        for lines in list(groups.values())[:5]
    ]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dicts without their missing cells."""
    return [{str(name): value for name, value in row.items() if pd.notna(value)} for row in frame.to_dict("records")]


class _Marks(NamedTuple):
    """What is known of the marks in the numbers of a table: whether a comma is the decimal one, be it between digits
    that could be thousands, and whether a point could stand before thousands."""

    comma: bool
    grouping_point: bool


def _marks(columns: Sequence[pd.Series], separator: str) -> _Marks:
    cells = (cell for values in columns for cell in values.dropna())
    certain = any(_DECIMAL_COMMA.fullmatch(cell) and not _THOUSANDS.fullmatch(cell) for cell in cells)
    return _Marks(certain or separator == ";", certain)


def _is_number(column: Column) -> bool:
    return column.kind in ("number", "integer")


def _typed(values: pd.Series, column: Column, source: str, marks: _Marks) -> tuple[pd.Series, list[Finding]]:
    """The cells of one column in its type, and those that are not of it."""
    parse, dtype = _parser(column, marks)
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


def _parser(column: Column, marks: _Marks) -> tuple[Callable[[str], Any], str]:
    if column.name in PARSERS:
        return PARSERS[column.name], "Int64" if column.kind == "integer" else "string"
    if column.kind == "string":
        return lambda text: _word(text, column), "string"
    if column.kind == "boolean":
        return lambda text: _boolean(text, marks), "boolean"
    if column.kind == "integer" and column.choices == (0, 1):
        return lambda text: int(_boolean(text, marks)), "Int64"
    if column.kind == "integer":
        return lambda text: _integer(text, marks), "Int64"
    if column.name.endswith("_years"):
        return lambda text: _years(text, marks), "Float64"
    return lambda text: _number(text, marks), "Float64"


def _word(text: str, column: Column) -> str:
    """One of the choices of a column in its own spelling; any other text as it is."""
    if column.choices is None:
        return text
    plain = text.casefold()
    spelled = {str(choice).casefold(): str(choice) for choice in column.choices} | SPELLINGS.get(column.name, {})
    return spelled.get(plain, spelled.get(plain.replace(" ", "_").replace("-", "_"), text))


def _number(text: str, marks: _Marks) -> float:
    """A number with a decimal point, or a decimal comma where it can be nothing else."""
    if marks.grouping_point and _THOUSANDS_BY_POINT.fullmatch(text):
        raise ValueError(text)
    if _DECIMAL_COMMA.fullmatch(text) and (marks.comma or not _THOUSANDS.fullmatch(text)):
        text = text.replace(",", ".")
    number = float(text)
    if not math.isfinite(number) or "_" in text:
        raise ValueError(text)
    return number


def _years(text: str, marks: _Marks) -> float:
    """Years as `63`, `63Y`, `063Y`, `63 years`; `>89`, `89+` and `90+` are the group above 89."""
    if _OLDEST.fullmatch(text.lower()):
        return AGE_GROUP
    plain = re.sub(r"\s*(?:y|yrs?|years?(?: old)?|j|jahre)\.?$", "", text.strip().lower())
    return _number(plain, marks)


def _integer(text: str, marks: _Marks) -> int:
    number = _number(text, marks)  # spreadsheets write 3 as 3.0
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _boolean(text: str, marks: _Marks) -> bool:
    word = text.casefold()
    if word not in _TRUE | _FALSE:
        word = str(_integer(text, marks))  # a column with a missing cell is written 1.0 and 0.0
    if word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError(text)


def columns_of(table: Table, names: Sequence[str]) -> tuple[Column, ...]:
    """Some columns of a table, in the order asked for."""
    return tuple(table.column(name) for name in names)
