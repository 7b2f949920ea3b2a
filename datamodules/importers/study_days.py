"""Days from the patient's day 0 to a study: dates are read, subtracted and forgotten."""

from __future__ import annotations

import contextlib
import datetime
import re

import pandas as pd

from datamodules.errors import Finding, raise_failures

ORIGIN_DATE, STUDY_DATE = "origin_date", "study_date"
"""Columns that are read beside those of the cohort, and are never part of it."""

_YEAR, _MONTH, _DAY = r"(?P<year>\d{4})", r"(?P<month>\d{1,2})", r"(?P<day>\d{1,2})"
_ORDERS = {
    "compact": re.compile(r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})"),
    "year first": re.compile(rf"{_YEAR}(?P<mark>[-/.]){_MONTH}(?P=mark){_DAY}"),
    "day first": re.compile(rf"{_DAY}(?P<mark>[-/.]){_MONTH}(?P=mark){_YEAR}"),
    "month first": re.compile(rf"{_MONTH}(?P<mark>[-/]){_DAY}(?P=mark){_YEAR}"),  # nobody puts points there
}
_YEARS = range(1900, 2300)
"""Years of an examination, those among them into which some archives shift all dates; 0219 is a slip of the pen."""
_MIDNIGHT = re.compile(r"[ T]00:00(?::00(?:\.0+)?)?(?:Z|\+00:00)?$")


def parse_date(text: object) -> datetime.date | None:
    """A date whose parts stand in one order only: 2019-04-17, 20190417, 2019/04/17, 17.04.2019, with midnight or not.

    Returns:
        None where it is no date, and where day and month could be exchanged (03/04/2019).
    """
    found = _dates(str(text).strip())
    return next(iter(found.values())) if len(set(found.values())) == 1 else None


def _dates(text: str) -> dict[str, datetime.date]:
    """The dates that a text can mean, by the order of its parts."""
    text = _MIDNIGHT.sub("", text)
    found: dict[str, datetime.date] = {}
    for order, pattern in _ORDERS.items():
        if parts := pattern.fullmatch(text):
            with contextlib.suppress(ValueError):
                date = datetime.date(int(parts["year"]), int(parts["month"]), int(parts["day"]))
                if date.year in _YEARS:
                    found[order] = date
    return found


def check_dates(frame: pd.DataFrame, column: str, source: str) -> None:
    """Write the dates of a column as YYYY-MM-DD, or refuse the column; a message names rows and never what they hold.

    Where day and month of a date could be exchanged, the order is that of the other rows, if all of them are dates in
    one order only.

    Args:
        frame: Table, whose column is changed.
        column: Its name; a table without it is left as it is.
        source: How messages name the table.

    Raises:
        DataError: naming file, row and column.
    """
    if column not in frame:
        return
    read = {line: _dates(str(text).strip()) for line, text in frame[column].dropna().items()}
    orders = {order for order in _ORDERS if all(order in found for found in read.values())}
    if len(orders) == 1:
        (order,) = orders
        read = {line: {order: found[order]} for line, found in read.items()}
    dates = {line: set(found.values()) for line, found in read.items()}
    wrong = [line for line, found in dates.items() if len(found) != 1]
    raise_failures(
        [
            Finding(
                "FAIL",
                "a date whose day and month could be exchanged" if dates[line] else "no date",
                f"{source}, row {line}, column {column}",
                "YYYY-MM-DD, YYYYMMDD or missing",
            )
            for line in wrong[:5]
        ]
    )
    for line, found in dates.items():
        frame.loc[line, column] = next(iter(found)).isoformat()


def days_between(study_date: object, origin_date: object) -> int | None:
    """Whole days from day 0 to a study, negative before it; None where a date is missing."""
    study, origin = parse_date(study_date), parse_date(origin_date)
    return None if study is None or origin is None else (study - origin).days
