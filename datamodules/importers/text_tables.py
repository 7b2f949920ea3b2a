"""Reading a text table as hospitals write them: CSV, TSV or semicolons, with the row named where it is not a table."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from datamodules.errors import DataError

_SEPARATORS = (",", ";", "\t", "|")
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_ROWS_SHOWN = 3
_UNSEEN = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""Signs without a width, which web pages and spreadsheets leave at the ends of cells."""


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text.

    Args:
        frame: Stripped cells, empty ones missing; the index holds the row numbers of the file, as spreadsheets count
            them, so that a message can name them.
        separator: What stands between two cells. Where it is a semicolon or a tab, a comma is a decimal comma.
    """

    frame: pd.DataFrame
    separator: str


def read_text(path: Path) -> TextTable:
    """Read a table whose cells are separated by commas, semicolons, tabs or bars.

    The separator is the one that the header holds most often outside of quotes. Byte order marks, a line `sep=;` and
    blank rows are skipped; columns without a name that hold nothing are dropped.

    Args:
        path: The file.

    Raises:
        DataError: naming the file and its rows, if it is missing, empty or not text, a row has more or fewer cells
            than the header has columns, a quote is not closed, or two columns have one name.
    """
    first, text = _text(path)
    separator = _separator(text)
    rows = _rows(path, first, text, separator)
    if not rows:
        raise DataError(f"{path.name} is empty; expected a table in text form with one header row.")
    (_, header), *body = rows
    names = [_stripped(name) for name in header]
    _check_names(names, path)
    _check_widths(names, body, path)
    kept = [place for place, name in enumerate(names) if name or any(cells[place].strip() for _, cells in body)]
    frame = pd.DataFrame(
        [[_stripped(cells[place]) for place in kept] for _, cells in body],
        columns=pd.Index([names[place] or f"column {place + 1} without a name" for place in kept]),
        index=pd.Index([number for number, _ in body], name="line", dtype="int64"),
        dtype="string",
    )
    return TextTable(frame.replace("", pd.NA), separator)


def _stripped(cell: str) -> str:
    return cell.strip().strip(_UNSEEN).strip()


def _text(path: Path) -> tuple[int, str]:
    """The text, and the number of the row that it begins with."""
    if not path.is_file():
        raise DataError(f"{path.name} was not found; expected a table in text form. Check the name and try again.")
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path.name} is not a readable table (row {row} is not {encoding.upper().removesuffix('-SIG')} text); "
            "expected UTF-8 text with one header row. Save it as CSV UTF-8."
        ) from None
    if "\0" in text:
        row = text[: text.index("\0")].count("\n") + 1
        raise DataError(
            f"{path.name} is not a readable table (row {row} holds a NUL character); expected text. Export it again as "
            "CSV UTF-8."
        )
    head, _, rest = text.partition("\n")
    return (2, rest) if head.strip().lower().startswith("sep=") else (1, text)  # Excel's own mark


def _separator(text: str) -> str:
    header = next((line for line in text.splitlines() if line.strip()), "")
    outside = "".join(header.split('"')[::2])
    return max(_SEPARATORS, key=outside.count)


def _rows(path: Path, first: int, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Number and cells of every row that is not blank."""
    rows: list[tuple[int, list[str]]] = []
    number = first - 1
    limit = csv.field_size_limit(len(text) + 1)  # a report may be longer than the library expects
    try:
        reader = csv.reader(io.StringIO(text, newline=None), delimiter=separator, strict=True)
        for number, cells in enumerate(reader, start=first):
            if any(cell.strip() for cell in cells):
                rows.append((number, cells))
    except csv.Error as error:
        raise DataError(
            f"{path.name}, row {number + 1}: a quote does not close or does not end its cell ({error}); expected "
            'quotes around a whole cell, and "" for one inside it.'
        ) from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _check_names(names: list[str], path: Path) -> None:
    twice = [name for name, count in Counter(filter(None, names)).items() if count > 1]
    if twice:
        places = [str(place) for place, name in enumerate(names, start=1) if name == twice[0]]
        raise DataError(
            f"{path.name}: columns {' and '.join(places)} are both named {twice[0]!r}; expected one of that name. "
            "Remove or rename the others."
        )


def _check_widths(names: list[str], body: list[tuple[int, list[str]]], path: Path) -> None:
    """Bring rows to the width of the header where only empty cells differ, and refuse all others."""
    wrong = []
    for number, cells in body:
        while len(cells) > len(names) and not cells[-1].strip():
            cells.pop()
        if len(cells) != len(names):
            wrong.append((number, len(cells)))
    if wrong:
        shown = ", ".join(str(number) for number, _ in wrong[:_ROWS_SHOWN])
        more = f" and {len(wrong) - _ROWS_SHOWN} more" if len(wrong) > _ROWS_SHOWN else ""
        raise DataError(
            f"{path.name}, row{'s' if len(wrong) > 1 else ''} {shown}{more}: {wrong[0][1]} cells were found under "
            f"{len(names)} columns; expected one each. A cell that holds the separator must stand in quotes."
        )
