"""Which words of a report are right, wrong or left out, as pieces of text that a page can colour."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments.generation.facts import INVENTED, MISSED, RIGHT, WRONG, ComparedFact, named_side

SYMBOLS = {RIGHT: "✓", WRONG: "✗", INVENTED: "+", MISSED: "○"}
"""A sign beside every colour, since colours alone do not reach everyone."""
MEANING = {
    RIGHT: "right",
    WRONG: "wrong: the reference says otherwise",
    INVENTED: "wrong: the reference does not say it",
    MISSED: "missing: in the reference and not in the report",
}
_WORST_FIRST = (WRONG, INVENTED, MISSED, RIGHT)


@dataclass(frozen=True)
class Span:
    """Words of a text that state one fact or several.

    Args:
        start: Offset of the first character.
        end: Offset after the last.
        verdict: One of `facts.VERDICTS`, the worst of them.
        labels: What is said of each fact, in words.
        badge: What is drawn behind the words.
    """

    start: int
    end: int
    verdict: str
    labels: tuple[str, ...]
    badge: str


@dataclass(frozen=True)
class Piece:
    """A stretch of text of which the same is said throughout.

    Args:
        text: The characters.
        verdict: The worst of the facts that they state; empty where they state none.
        labels: What is said of those facts.
        badges: What is drawn behind it, where the words of a span end.
    """

    text: str
    verdict: str = ""
    labels: tuple[str, ...] = ()
    badges: tuple[str, ...] = ()


def words_of(name: str) -> str:
    """An attribute or its value as it is read: `sinus_fat` becomes `sinus fat`."""
    return name.replace("_", " ")


def value_of(fact: ComparedFact) -> str:
    """A fact as it is stated, or as it should have been: `margin: ill defined (reference: smooth)`."""
    value = words_of(str(fact.true if fact.stated is None else fact.stated))
    truth = f" (reference: {words_of(str(fact.true))})" if fact.verdict == WRONG else ""
    return f"{words_of(fact.attribute)}: {value}{truth}"


def label_of(fact: ComparedFact) -> str:
    """A fact with what is to be said of it."""
    return f"{value_of(fact)}, {MEANING[fact.verdict]}"


def located(text: str, side: str, span: tuple[int, int]) -> tuple[int, int] | None:
    """Where words of the text that was compared stand in the report as it was written.

    What is compared has single blanks, and its side in front where it names none (`facts.named_side`).

    Args:
        text: The report.
        side: left or right, its kidney.
        span: Start and end in `named_side(text, side)`.

    Returns:
        Start and end in `text`; None where the words are those put in front.
    """
    place: list[int] = []
    for match in re.finditer(r"\S+", text):
        place += [place[-1] + 1] if place else []
        place += range(match.start(), match.end())
    shift = len(named_side(text, side)) - len(place)
    start, end = max(span[0] - shift, 0), span[1] - shift
    return (place[start], place[end - 1] + 1) if end > start else None


def report_spans(text: str, side: str, facts: Sequence[ComparedFact]) -> list[Span]:
    """The words of a generated report that state facts, right or wrong; words that state several are one span."""
    spans = []
    for evidence in dict.fromkeys(fact.evidence for fact in facts if fact.evidence is not None):
        place = located(text, side, evidence)
        if place is not None:
            own = [fact for fact in facts if fact.evidence == evidence]
            count = Counter(fact.verdict for fact in own)
            verdicts = [name for name in _WORST_FIRST if count[name]]
            badge = "".join(f"{SYMBOLS[name]}{count[name] if count[name] > 1 else ''}" for name in verdicts)
            spans.append(Span(*place, verdicts[0], tuple(label_of(fact) for fact in own), badge))
    return spans


def reference_spans(text: str, side: str, facts: Mapping[str, Sequence[ComparedFact]]) -> list[Span]:
    """The words of the reference that state what some report leaves out.

    Args:
        text: The reference.
        side: left or right, its kidney.
        facts: The facts of every report, by its letter.

    Returns:
        One span for the same words, whose badge names the reports that leave something of them out.
    """
    left_out: dict[tuple[int, int], dict[str, list[str]]] = {}
    for letter, own in facts.items():
        for fact in own:
            if fact.verdict == MISSED and fact.true_evidence is not None:
                name = f"{words_of(fact.attribute)}: {words_of(str(fact.true))}"
                left_out.setdefault(fact.true_evidence, {}).setdefault(name, []).append(letter)
    spans = []
    for evidence, names in left_out.items():
        place = located(text, side, evidence)
        if place is not None:
            letters = "".join(sorted({letter for found in names.values() for letter in found}))
            labels = tuple(f"{name}, missing in {', '.join(found)}" for name, found in names.items())
            spans.append(Span(*place, MISSED, labels, f"{SYMBOLS[MISSED]}{letters}"))
    return spans


def pieces(text: str, spans: Sequence[Span]) -> list[Piece]:
    """A text cut wherever a span begins or ends; joined, the pieces are the text."""
    cuts = sorted({0, len(text), *(span.start for span in spans), *(span.end for span in spans)})
    result = []
    for start, end in pairwise(cuts):
        over = [span for span in spans if span.start <= start and end <= span.end]
        verdict = next((name for name in _WORST_FIRST if any(span.verdict == name for span in over)), "")
        badges = dict.fromkeys(span.badge for span in over if span.end == end)
        result.append(
            Piece(text[start:end], verdict, tuple(label for span in over for label in span.labels), tuple(badges))
        )
    return result
