"""Ratings as a CSV file that is whole at every moment: one row a reviewer, kidney and system."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datamodules.csv_files import as_text, from_text
from datamodules.errors import DataError
from datamodules.files import replacing

QUALITIES = (1, 2, 3, 4, 5)
ERRORS = ("none", "minor", "major")
"""Clinically significant errors: none, some that would not change what is done, some that would."""
Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Rating:
    """What one reviewer says of one system's report of one kidney.

    Args:
        reviewer: Pseudonym of the reviewer.
        patient_id: Pseudonym of the patient.
        study_id: Study.
        side: left or right.
        system: Who wrote the report, which the reviewer was not told.
        letter: What the reviewer saw in its place.
        position: Place among the reports of the kidney, from 1.
        case: Place of the kidney in this reviewer's order, from 1.
        quality: 1 (useless) to 5 (as good as a radiologist's); None where not said yet.
        errors: One of `ERRORS`; empty where not said yet.
        comment: Free words.
        seconds: Time that the kidney lay open before the reviewer until this was last said.
        marks_visible: Whether right and wrong facts were shown at any time before it was said.
        first_rated: When it was first said, UTC.
        rated: When it was last said, UTC.
    """

    reviewer: str
    patient_id: str
    study_id: str
    side: str
    system: str
    letter: str
    position: int
    case: int
    quality: int | None = None
    errors: str = ""
    comment: str = ""
    seconds: float = 0.0
    marks_visible: bool = False
    first_rated: str = ""
    rated: str = ""

    @property
    def key(self) -> Key:
        """Whose rating of what it is; a later one of the same key takes its place."""
        return self.reviewer, self.patient_id, self.study_id, self.side, self.system

    @property
    def complete(self) -> bool:
        """Whether both scales were answered."""
        return self.quality is not None and self.errors != ""


COLUMNS = tuple(field.name for field in fields(Rating))


class Ratings:
    """The ratings of all reviewers; safe to use from several threads of one process.

    Args:
        path: CSV file; made at the first rating.

    Raises:
        DataError: if a file is there and is not one of ratings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._rows: dict[Key, Rating] = {row.key: row for row in read_ratings(path)} if path.is_file() else {}

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> list[Rating]:
        """All ratings, in the order in which they were first said."""
        return list(self._rows.values())

    def get(self, key: Key) -> Rating | None:
        """The rating of that key."""
        return self._rows.get(key)

    def save(self, rating: Rating) -> Rating:
        """Keep a rating, in place of an earlier one of the same key; it is on the disk when this returns.

        Returns:
            The rating as it is kept: with its times, and with marks seen where they were seen for the earlier one.

        Raises:
            DataError: if it cannot be written; the ratings before are kept.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock:
            before = self._rows.get(rating.key)
            seen = rating.marks_visible or (before is not None and before.marks_visible)
            first = now if before is None else before.first_rated
            kept = replace(rating, marks_visible=seen, first_rated=first, rated=now)
            rows = {**self._rows, kept.key: kept}
            write_ratings(self.path, rows.values())
            self._rows = rows
        return kept


def write_ratings(path: Path, rows: Iterable[Rating]) -> None:
    """Write ratings; the file is complete on the disk, or as it was before.

    Raises:
        DataError: if the disk is full.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        # The comment alone is free words; names and identifiers are checked.
        writer.writerows({**asdict(row), "comment": as_text(row.comment)} for row in rows)
        handle.flush()
        os.fsync(handle.fileno())


def read_ratings(path: Path) -> list[Rating]:
    """Read what `write_ratings` wrote.

    Raises:
        DataError: naming the row that is not a rating.
    """
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise DataError(
            f"{path.name} has the columns {', '.join(reader.fieldnames or ()) or 'none'}; expected those of ratings: "
            f"{', '.join(COLUMNS)}. Name another folder with --out."
        )
    rows = []
    for number, row in enumerate(reader, start=1):
        try:
            rows.append(_parsed(row))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path.name}, row {number}: {error}; expected a rating as the review page writes it. Mend the row, or "
                "move the file away."
            ) from error
    return rows


def _parsed(row: dict[str, Any]) -> Rating:
    if None in row or None in row.values():
        raise ValueError("it has another number of cells than the header")
    flags = {"True": True, "False": False}
    quality = int(row["quality"]) if row["quality"] else None
    if (quality is not None and quality not in QUALITIES) or row["errors"] not in ("", *ERRORS):
        raise ValueError(f"quality {row['quality']!r} and errors {row['errors']!r} were found")
    if row["marks_visible"] not in flags:
        raise ValueError(f"marks_visible is {row['marks_visible']!r}")
    numbers = {"position": int(row["position"]), "case": int(row["case"]), "seconds": float(row["seconds"])}
    words = {"comment": from_text(row["comment"])}
    return Rating(**{**row, **words, **numbers, "quality": quality, "marks_visible": flags[row["marks_visible"]]})
