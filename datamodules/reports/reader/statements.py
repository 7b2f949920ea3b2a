"""What an extractor finds in a report, and what every extractor is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from datamodules.cohort.columns import SIDES
from datamodules.errors import DataError


@dataclass(frozen=True)
class Statement:
    """One attribute value of one kidney with the words that say so.

    "Not stated" is the absence of a statement: an attribute that a report does not speak of has none.

    Args:
        side: left or right.
        attribute: Name in the schema.
        value: One of the attribute's classes.
        start: Offset of the evidence in the report, in characters.
        end: Offset after its last character.
        evidence: `report[start:end]`.
        confidence: Of the extractor, in (0, 1].
        uncertain: Whether the report hedges the value ("possible", "cannot be excluded").
    """

    side: str
    attribute: str
    value: str
    start: int
    end: int
    evidence: str
    confidence: float = 1.0
    uncertain: bool = False


class Extractor(Protocol):
    """Reads attributes out of reports."""

    @property
    def name(self) -> str:
        """Short name, as in the table's column `extractor`."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that its answers depend on: schema, rules or prompt, weights."""

    def extract(self, reports: Sequence[str]) -> list[list[Statement]]:
        """The statements of every report, at most one a side and attribute, in the order of the reports."""


def check_statement(statement: Statement, report: str, classes: dict[str, tuple[str, ...]]) -> None:
    """Refuse a statement that its report does not hold.

    Args:
        statement: The statement.
        report: The report it was read from.
        classes: Classes by attribute.

    Raises:
        DataError: if the evidence is not at its offsets, or attribute, value or side do not exist.
    """
    found = report[statement.start : statement.end]
    if not found or found != statement.evidence:
        raise DataError(
            f"Attribute {statement.attribute}: the evidence {statement.evidence!r} is not at characters "
            f"{statement.start} to {statement.end} of its report, where {found!r} stands; an extractor may only quote."
        )
    known = classes.get(statement.attribute)
    if known is None or statement.value not in known or statement.side not in SIDES:
        raise DataError(
            f"A statement says {statement.attribute} = {statement.value} on side {statement.side}; expected one of "
            f"{known if known else list(classes)} on {' or '.join(SIDES)}."
        )
