"""Figures of runs: one row of one table, shown with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from experiments.statistics.support import mark
from experiments.studies.figures_page.places import Call
from experiments.studies.figures_page.same_data import CohortRecord

BARE = "bare"


class RunFigures:
    """Reads figures out of the tables of runs, each of which must be of the cohort at hand.

    Args:
        runs: Folder of all runs.
        cohorts: Cohorts by name.
    """

    def __init__(self, runs: Path, cohorts: Mapping[str, Cohort]) -> None:
        self.runs = runs
        self.records = {name: CohortRecord(cohort) for name, cohort in cohorts.items()}
        self._tables: dict[str, pd.DataFrame] = {}

    def show(self, call: Call) -> str:
        """The figure of a place as text.

        Raises:
            LookupError: if the table, its row or the figure is not there, saying what.
            DataError: if the table is of other data, or several rows fit.
        """
        row = self._row(call)
        if call.column and call.column != BARE:
            if call.column not in row:
                raise LookupError(f"{call.figure.table} has no column {call.column}")
            return _plain(row[call.column], call)
        value = call.figure.value
        if value not in row or pd.isna(row[value]):
            raise LookupError(f"{call.figure.table} has no {value}")
        number = shown(float(row[value]), call.figure.digits, call.figure.signed)
        low, high = ((f"{value}_{end}" if f"{value}_{end}" in row else end) for end in ("low", "high"))
        if call.column == BARE or low not in row:
            return number
        method = row.get(f"{value}_interval", row.get("interval", ""))
        if pd.isna(row[low]):
            return f"{number} (interval not defined)"
        ends = " to ".join(shown(float(row[end]), call.figure.digits, call.figure.signed) for end in (low, high))
        return f"{number} ({ends}){mark(method)}"

    def _row(self, call: Call) -> pd.Series:
        table = self._table(call.figure.table)
        chosen = pd.Series(True, index=table.index)
        for column, value in call.figure.row.items():
            if column not in table:
                raise LookupError(f"{call.figure.table} has no column {column}")
            chosen &= _equal(table[column], value)
        rows = table[chosen]
        wanted = ", ".join(f"{column} {value}" for column, value in call.figure.row.items())
        if rows.empty:
            raise LookupError(f"{call.figure.table} has no row with {wanted}")
        if len(rows) > 1:
            raise DataError(f"{len(rows)} rows of {call.figure.table} have {wanted}; name more columns of the one.")
        return rows.iloc[0]

    def _table(self, name: str) -> pd.DataFrame:
        if name not in self._tables:
            cohort = name.partition("/")[0]
            if cohort not in self.records:
                raise LookupError(f"cohort {cohort} was not given by DATA=")
            path = self.runs / "renal" / name
            if not path.is_file():
                raise LookupError(f"{name} is not there")
            self.records[cohort].refuse_other(path)
            self._tables[name] = pd.read_csv(path)
        return self._tables[name]


def shown(value: float, digits: int, signed: bool = False) -> str:
    """A number without the zero before its point: .765, 14.5, or with its sign +.038.

    Args:
        value: The number.
        digits: Digits behind the point.
        signed: Whether + is shown; what rounds to 0 has no sign.
    """
    text = f"{abs(value):.{digits}f}"
    zero = float(text) == 0
    text = text[1:] if text.startswith("0.") else text
    sign = "-" if value < 0 else "+" if signed else ""
    return text if zero else f"{sign}{text}"


def _equal(column: pd.Series, value: str) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        try:
            return (column - float(value)).abs() < 1e-9
        except ValueError:
            return pd.Series(False, index=column.index)
    return column.astype("string").fillna("") == value


def _plain(value: object, call: Call) -> str:
    if isinstance(value, Real) and not isinstance(value, bool):
        if math.isnan(value):
            raise LookupError(f"{call.figure.table} has no {call.column}")
        return f"{value:,.0f}" if float(value).is_integer() else shown(float(value), call.figure.digits)
    return str(value)
