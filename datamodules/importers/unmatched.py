"""Rows of a hospital's tables that belong to no scan: counted, and refused where a slip of the pen is the cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError
from datamodules.importers.delimited import read_text_table

UNASSIGNED = "unassigned-"
"""How entries of the import report begin that are no patients."""
_SHOWN = 3
_LONGEST = 16  # digits of an identifier that may have lost leading zeros


@dataclass(frozen=True)
class CompanionTable:
    """A table that stands beside the scans.

    Args:
        kind: What it holds: patients, reports, phases or boxes.
        path: The file.
        column: Column with the identifier by which its rows are joined to scans.
        known: Whether an identifier, as the table writes it, is that of a scan.
    """

    kind: str
    path: Path
    column: str
    known: Callable[[str], bool]

    @property
    def entry(self) -> str:
        """Name of its entry in the import report."""
        return f"{UNASSIGNED}rows-of-{self.kind}"

    def unmatched(self) -> str | None:
        """How many rows match no scan, in words that show no identifier, whether there is none, and whether the last
        may have been cut; None where all match and the file is whole.

        Raises:
            DataError: if such a row would match but for leading zeros, case, blanks or a `.0` of a spreadsheet: the
                same identifier is meant, and whoever guesses may join two patients.
        """
        frame = read_text_table(self.path)
        column = next((name for name in frame.columns if str(name).casefold() == self.column), None)
        if column is None:
            return None
        if frame.empty:
            return f"{self.path.name} holds no row below its header."
        ids = frame[column].dropna()
        lost = ids[[not self.known(str(value)) for value in ids]]
        near = [line for line, value in lost.items() if any(self.known(other) for other in _spellings(str(value)))]
        if near:
            raise DataError(
                f"{self.path.name}, {_rows(near)}, column {self.column}: no scan has the identifier as it stands "
                "there, and one has it but for leading zeros, case, blanks or a final .0; expected the identifier of "
                "the scan letter by letter. Correct the table; a spreadsheet keeps zeros where the column is formatted "
                "as text."
            )
        found = []
        if not lost.empty:
            found.append(
                f"{len(lost)} of {len(ids)} rows of {self.path.name} match no scan ({_rows(list(lost.index))})."
            )
        if not self.path.read_bytes().rstrip(b" \t\0").endswith((b"\n", b"\r")):
            found.append(f"{self.path.name} does not end with the end of a line: its last row may have been cut.")
        return " ".join(found) or None


def _rows(lines: Sequence[object]) -> str:
    shown = ", ".join(map(str, lines[:_SHOWN]))
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return f"row{'s' if len(lines) > 1 else ''} {shown}{more}"


def _spellings(text: str) -> set[str]:
    """What an identifier may have been before a spreadsheet or a person wrote it otherwise."""
    plain = "".join(text.split()).removesuffix(".0")
    digits = plain.lstrip("0") or "0"
    padded = {digits.zfill(width) for width in range(len(digits), _LONGEST + 1)} if digits.isdigit() else set()
    return {other for one in {plain, digits, *padded} for other in (one, one.upper(), one.lower())} - {text}
