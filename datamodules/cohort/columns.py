"""What a column and a table of a cohort are, and the values that columns share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from datamodules.names import IDENTIFIER

Kind = Literal["string", "integer", "number", "boolean"]

ROLES = ("pretrain", "internal", "external")
SIDES = ("left", "right")
PHASES = ("non_contrast", "arterial", "venous", "delayed")
SPLITS = ("train", "val", "test")
ENDPOINTS = ("rfs", "dss", "os")
RENAL_A = ("anterior", "posterior", "x")
POLES = ("upper", "interpolar", "lower")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: Name with its unit as suffix where it has one (`_mm`, `_ml`, `_hu`, `_years`, `_months`).
        kind: string, integer, number or boolean; a missing value is a missing value in all of them.
        doc: What it holds.
        nullable: Whether a row may leave it out. Missing is missing, never a class.
        choices: The values allowed.
        low: Smallest value allowed.
        high: Largest value allowed.
        identifier: Whether it names a centre, patient, study, series or report, see `datamodules.names`.
    """

    name: str
    kind: Kind
    doc: str
    nullable: bool = True
    choices: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    identifier: bool = False

    @property
    def expectation(self) -> str:
        """What a valid value is, in words."""
        if self.choices is not None:
            text = "one of " + ", ".join(map(str, self.choices))
        elif self.low is not None or self.high is not None:
            low = "-inf" if self.low is None else f"{self.low:g}"
            high = "inf" if self.high is None else f"{self.high:g}"
            text = f"{self.kind} in [{low}, {high}]"
        elif self.identifier:
            text = IDENTIFIER
        else:
            text = self.kind
        return text + (" or missing" if self.nullable else "")


@dataclass(frozen=True)
class Table:
    """One table of a cohort, stored as `<name>.parquet`.

    Args:
        name: Name of the file without its ending.
        key: Columns that together name a row; no two rows share them.
        columns: All columns it may hold.
        parent: Table and columns that every row must be found in.
        optional: Whether a cohort may leave the table out.
        repeated: What is said of a key that stands in several rows.
        derived: Whether it is computed from the other tables, as attributes are read out of reports. It can be made
            anew at any time, so that the cohort's hash leaves it out.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    parent: tuple[str, tuple[str, ...]] | None = None
    optional: bool = False
    repeated: str = "stands in several rows"
    derived: bool = False

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)
