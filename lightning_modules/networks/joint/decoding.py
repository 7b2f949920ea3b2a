"""How a report is written token by token, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lightning_modules.core.errors import ModelError


@dataclass(frozen=True)
class Decoding:
    """How a report is written.

    Args:
        max_tokens: Most tokens of a report; one that has not ended by then is truncated.
        beams: Beams of the search; 1 is greedy.
        temperature: Of sampling; 0 does not sample.
        top_p: Share of probability that sampling draws from.
        repetition_penalty: Divides the score of tokens that were written already; 1 leaves them.
        no_repeat: Tokens in a row that are not written twice, which ends the loops that small models fall into; 0
            forbids nothing.
    """

    max_tokens: int = 160
    beams: int = 1
    temperature: float = 0.0
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    no_repeat: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.beams < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ModelError(
                f"Decoding with max_tokens {self.max_tokens}, beams {self.beams}, temperature {self.temperature:g}, "
                f"top_p {self.top_p:g} was asked for; expected at least 1, 1, 0 and a share in (0, 1]."
            )
        if self.no_repeat < 0:
            raise ModelError(f"no_repeat {self.no_repeat} was asked for; expected a number of tokens, or 0.")
        if self.beams > 1 and self.temperature > 0:
            raise ModelError("Beams and sampling exclude each other here; set beams to 1 or temperature to 0.")


class Written(NamedTuple):
    """A report that was written.

    Args:
        text: The report.
        tokens: Its tokens as text, the end included.
        logprobs: Log-probability of each in nats, under the model itself: before any penalty.
        truncated: Whether it did not end.
    """

    text: str
    tokens: list[str]
    logprobs: list[float]
    truncated: bool
