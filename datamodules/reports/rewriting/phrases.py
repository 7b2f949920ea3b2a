"""Sentences that may stand in other reports: what they state, with a slot for the size of the lesion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datamodules.reports.reader.clauses import Report, read_report
from datamodules.reports.reader.measurements import Measurement, diameters
from datamodules.reports.rewriting.flips import other_side

SLOT = "\0"
WRITTEN_SIDE = "left"


class PhrasedFact(NamedTuple):
    """What a sentence states."""

    attribute: str
    value: str
    uncertain: bool


@dataclass(frozen=True)
class Phrase:
    """A sentence that may stand in other reports.

    Args:
        text: The sentence about a left kidney, with a slot for the size of the lesion.
        facts: What it states, without side and size.
        sized: Whether it has the slot.
    """

    text: str
    facts: frozenset[PhrasedFact]
    sized: bool


def lesion_diameters(report: Report) -> Iterator[tuple[int, int, Measurement]]:
    """Start, end and values of every exact size in a report."""
    for clause in report.clauses:
        for entry in diameters(clause.text):
            if not entry.vague and not entry.ranged:
                yield clause.start + entry.start, clause.start + entry.end, entry


def with_slot(sentence: str, main: float | None = None) -> tuple[str | None, tuple[float, ...]]:
    """A sentence with a slot for the size of the lesion.

    Args:
        sentence: The sentence.
        main: Largest diameter of the lesion that is meant; left out, any.

    Returns:
        The sentence, which has no slot where it gives no size, and the size; None where it gives others.
    """
    report = read_report(sentence)
    found = list(lesion_diameters(report))
    if not found:
        return sentence, ()
    start, end, entry = found[0]
    if len(found) > 1 or main not in (None, entry.largest):
        return None, ()
    return report.plain[:start] + SLOT + report.plain[end:], tuple(sorted(entry.values, reverse=True)[:2])


def other_size(size: tuple[float, ...], rng: np.random.Generator) -> tuple[float, ...]:
    """A size of at least 1.6 times or at most 0.6 times the given one, within 8 to 160 mm, in proportion."""
    factors = [*np.linspace(0.2, 0.6, 9), *np.linspace(1.6, 4.0, 9)]
    usable = [factor for factor in factors if 8 <= size[0] * factor <= 160] or factors
    factor = usable[int(rng.integers(len(usable)))]
    return tuple(value * factor for value in size)


def joined(phrases: Sequence[Phrase], side: str, size: tuple[float, ...], how: int) -> str:
    """The sentences about a side, with the size in centimetres or millimetres."""
    rng = np.random.default_rng(how)
    centimetres, both, by = rng.random() < 0.5, rng.random() < 0.7, rng.random() < 0.3
    values = [f"{value / 10:.1f}" if centimetres else f"{value:.0f}" for value in size[: 2 if both else 1]]
    written = f"{(' by ' if by else ' x ').join(values)} {'cm' if centimetres else 'mm'}"
    text = " ".join(phrase.text.replace(SLOT, written) for phrase in phrases)
    return text if side == WRITTEN_SIDE else other_side(text)
