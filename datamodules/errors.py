"""The one error that bad data raises, and the finding that a check reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["PASS", "WARN", "FAIL"]


class DataError(ValueError):
    """Bad data or a bad request about data; the message is meant for the user.

    The message names what was found, where, what was expected and what to do. The command line prints it
    as one sentence and exits with code 2.
    """


class WriteError(DataError):
    """A file that could not be written; whatever it was about, the place that is written to is the cause."""


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Args:
        level: PASS, WARN (training would run, the result may mislead) or FAIL (training is refused).
        what: What was found.
        where: File, row and column, patient or series.
        expected: What a valid cohort holds there.
        fix: What the user can do.
    """

    level: Level
    what: str
    where: str = ""
    expected: str = ""
    fix: str = ""

    def sentence(self) -> str:
        """The finding as one readable sentence."""
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.fix:
            parts.append(self.fix)
        return "; ".join(parts) + "."

    def to_dict(self) -> dict[str, str]:
        """The finding as plain data."""
        return asdict(self)


def raise_failures(findings: Sequence[Finding], shown: int = 3) -> None:
    """Refuse when any finding is a FAIL.

    Raises:
        DataError: naming the first `shown` failures and how many more there are.
    """
    failures = [finding for finding in findings if finding.level == "FAIL"]
    if not failures:
        return
    text = " ".join(finding.sentence() for finding in failures[:shown])
    if len(failures) > shown:
        text += f" And {len(failures) - shown} more: run `make data-check` for all of them."
    raise DataError(text)
