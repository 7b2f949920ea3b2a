"""CSV files for people: a cell that a spreadsheet would run as a formula is written as text."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from datamodules.files import replacing

_FORMULA = re.compile(r"[=+\-@\t\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")
_ESCAPED = re.compile(r"'(?=[=+\-@\t\n'])")


def as_text(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: with an apostrophe before it where it would be one.

    What free words begin with `=`, `+`, `-`, `@`, a tab or a line end is calculated when the file is opened, and can
    call other programs (CSV injection, OWASP). Numbers, and a lone sign, stay as they are. A carriage return, which
    would end the row where a spreadsheet reads it, becomes a line feed, which is quoted.
    """
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")
    risky = len(cell) > 1 and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if risky or _ESCAPED.match(cell) else cell


def from_text(cell: str) -> str:
    """The words that `as_text` was given, with line feeds."""
    return _ESCAPED.sub("", cell, count=1)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, atomically; texts that a spreadsheet would calculate are written as text.

    Args:
        path: The file.
        frame: The table; its index is left out.

    Raises:
        DataError: if it cannot be written.
    """
    texts = {
        name: column.map(lambda cell: as_text(cell) if isinstance(cell, str) else cell)
        for name, column in frame.items()
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))
    }
    with replacing(path) as temporary:
        frame.assign(**{str(name): cells for name, cells in texts.items()}).to_csv(temporary, index=False)
