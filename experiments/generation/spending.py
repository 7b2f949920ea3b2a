"""What the answers of a server cost, in tokens and, where a user gave prices, in money."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datamodules.errors import DataError

_MILLION = 1e6


@dataclass(frozen=True)
class Prices:
    """Prices of a million tokens, in whatever money; 0 where nobody gave one.

    Args:
        read: Of a question.
        written: Of an answer.

    Raises:
        DataError: if one is negative.
    """

    read: float = 0.0
    written: float = 0.0

    def __post_init__(self) -> None:
        if min(self.read, self.written) < 0:
            raise DataError(f"Prices {self.read:g} and {self.written:g} were given; expected none below 0.")


@dataclass(frozen=True)
class Spending:
    """Tokens that a server counted.

    Args:
        kidneys: Kidneys that were asked about, those without an answer included.
        read: Tokens of questions.
        written: Tokens of answers.
        prices: What they cost.
    """

    kidneys: int
    read: int
    written: int
    prices: Prices

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]], prices: Prices) -> Spending:
        """The sum over lines of a journal.

        Args:
            lines: Each with `spent`, tokens read and written.
            prices: What they cost.
        """
        counts = [line["spent"] for line in lines]
        return cls(len(counts), sum(count[0] for count in counts), sum(count[1] for count in counts), prices)

    @property
    def cost(self) -> float | None:
        """Money; None where nobody gave a price."""
        if not (self.prices.read or self.prices.written):
            return None
        return (self.read * self.prices.read + self.written * self.prices.written) / _MILLION

    def sentence(self) -> str:
        """Tokens and cost in a few words."""
        cost = "" if self.cost is None else f", {self.cost:.2f} at the prices given"
        return f"{self.read:,} tokens read and {self.written:,} written{cost}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {"kidneys": self.kidneys, "tokens_read": self.read, "tokens_written": self.written, "cost": self.cost}
