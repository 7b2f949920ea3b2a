"""The schema's patterns on one clause: which values its words state, each with its context."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from datamodules.reports.reader.clauses import Clause
from datamodules.reports.reader.context import context
from datamodules.reports.reader.lesions import Reading
from datamodules.reports.reader.measurements import (
    Measurement,
    diameters,
    distances,
    enhancement_hu,
    percentages,
    unenhanced_hu,
)
from datamodules.reports.reader.organs import LESION, PLACES, words
from datamodules.reports.schema import Attribute, AttributeSchema

PRESENCE = "lesion_present"
_QUANTITIES: dict[str, Callable[[str], Iterator[Measurement]]] = {
    "diameter_mm": diameters,
    "distance_mm": distances,
    "exophytic_percent": percentages,
    "unenhanced_hu": unenhanced_hu,
    "enhancement_hu": enhancement_hu,
}
"""From the quantity of a measure to what finds it in a clause."""
_OBJECTS = ("stones",)
"""Attributes of a kidney that have size and place of their own."""
_MOST_KNOWN = 20_000
"""Clauses whose matches are kept: reports repeat themselves."""
_DEFINITE = re.compile(r"\b(?:the|this|that|its|these|said|known)(?: (?!no\b)[\w-]+){0,3} $", re.IGNORECASE)


@dataclass(frozen=True)
class _Match:
    attribute: str
    value: str
    start: int
    end: int
    measured: Measurement | None = None
    denies: bool = False

    @property
    def length(self) -> int:
        return self.end - self.start


class Matcher:
    """The compiled schema.

    Args:
        schema: Attributes, classes and patterns.
    """

    def __init__(self, schema: AttributeSchema) -> None:
        self.schema = schema
        self.patterns = {
            attribute.name: [
                (entry.name, words(pattern), _denies(pattern))
                for entry in attribute.classes
                for pattern in entry.patterns
            ]
            for attribute in schema.attributes
        }
        self.topics = {entry.name: words(*entry.topic) if entry.topic else None for entry in schema.attributes}
        self.unless = {entry.name: words(*entry.unless) if entry.unless else None for entry in schema.attributes}
        self.negated = {
            (attribute.name, entry.name): entry.negated
            for attribute in schema.attributes
            for entry in attribute.classes
        }
        self.implies = {
            (attribute.name, entry.name): entry.implies
            for attribute in schema.attributes
            for entry in attribute.classes
        }
        self.findings = [
            words(*entry.patterns)
            for attribute in schema.attributes
            for entry in attribute.classes
            if attribute.level == "kidney"
            and attribute.organ == "kidney"
            and attribute.name in _OBJECTS
            and entry.negated
        ]
        self._known: dict[tuple[str, frozenset[str], str], list[_Match]] = {}

    def readings(self, clause: Clause, sentence: str) -> list[Reading]:
        """What a clause states, in the order of the schema, with what follows from it.

        Args:
            clause: The clause.
            sentence: Its whole sentence, where the topic of a later clause may stand.
        """
        topic = "" if clause.named else sentence
        key = (clause.text, frozenset(clause.organs), topic)
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = list(self._matches(clause, topic))
        readings = [entry for match in self._known[key] if (entry := self._in_context(clause, match)) is not None]
        if not LESION.search(sentence) and any(pattern.search(sentence) for pattern in self.findings):
            # "Three stones, the largest of 6 mm in the lower pole": their size and place are no lesion's.
            return [entry for entry in readings if self.schema[entry.attribute].level == "kidney"]
        return _about_lesions(readings, clause, self.schema)

    def _matches(self, clause: Clause, topic: str) -> Iterator[_Match]:
        found: dict[str, list[_Match]] = {}
        for attribute in self.schema.attributes:
            if attribute.organ in clause.organs and self._applies(attribute, clause.text, topic):
                matches = [*self._worded(attribute, clause.text), *_measured(attribute, clause.text)]
                found[attribute.name] = _longest(matches, attribute.ordinal)
        for attribute in self.schema.attributes:
            takers = [match for name in attribute.yields_to for match in found.get(name, ())]
            for match in found.get(attribute.name, ()):
                if not any(_holds(taker, match) for taker in takers):
                    yield match

    def _applies(self, attribute: Attribute, text: str, topic: str) -> bool:
        wanted, unless = self.topics[attribute.name], self.unless[attribute.name]
        return (wanted is None or wanted.search(text) is not None or wanted.search(topic) is not None) and (
            unless is None or unless.search(text) is None
        )

    def _worded(self, attribute: Attribute, text: str) -> Iterator[_Match]:
        for value, pattern, denies in self.patterns[attribute.name]:
            for match in pattern.finditer(text):
                yield _Match(attribute.name, value, match.start(), match.end(), denies=denies)

    def _in_context(self, clause: Clause, match: _Match) -> Reading | None:
        meant = context(clause.text, match.start, match.end, match.denies)
        value: str | None = match.value
        if meant.past or meant.unassessed:
            return None
        negated = (meant.negated or meant.gone) and match.measured is None
        # "No mass in liver and kidneys" denies it of both; a mass stands in one of them.
        if not negated and not _is_of(clause, match, self.schema[match.attribute]):
            return None
        if negated and match.attribute == PRESENCE and _DEFINITE.search(clause.text[: match.start]):
            return None  # "no fat in the lesion": there is one
        if negated:
            value = self.negated[match.attribute, match.value]
        if value is None:
            return None
        measure = self.schema[match.attribute].measure
        is_size = match.measured is not None and measure is not None and measure.quantity == "diameter_mm"
        size = match.measured.largest if match.measured is not None and is_size else None
        return Reading(match.attribute, value, clause, match.start, match.end, negated, meant.uncertain, False, size)

    def implied(self, readings: Iterable[Reading]) -> Iterator[Reading]:
        """What follows from values that are stated."""
        for entry in readings:
            for name, value in self.implies[entry.attribute, entry.value].items():
                yield Reading(name, value, entry.clause, entry.start, entry.end, entry.negated, entry.uncertain, True)


def _denies(pattern: str) -> bool:
    """Whether a pattern holds a negation of its own, which then does not turn its value round."""
    wanted = re.sub(r"\(\?!.*?\)", "", pattern)
    return re.search(r"\b(?:not?|without|nor|neither|free|devoid|lacks?)\b", wanted) is not None


def _measured(attribute: Attribute, text: str) -> Iterator[_Match]:
    """Values that a number decides; the match reaches from the number to the word it belongs to."""
    if attribute.measure is None:
        return
    for entry in _QUANTITIES.get(attribute.measure.quantity, lambda _: iter(()))(text):
        value = entry.largest if attribute.measure.quantity == "diameter_mm" else entry.middle
        start, end = entry.start, entry.end
        if attribute.topic and (topic := words(*attribute.topic).search(text)):
            start, end = min(start, topic.start()), max(end, topic.end())
        yield _Match(attribute.name, attribute.measure.class_of(value), start, end, entry)


def _longest(matches: list[_Match], ordinal: bool) -> list[_Match]:
    """Matches in order of place, without those that overlap a longer one; a number goes before words.

    Of an ordinal attribute only those of the same class: the most severe is chosen later, in context.
    """
    kept: list[_Match] = []
    for match in sorted(matches, key=lambda entry: (entry.measured is None, -entry.length, entry.start)):
        rivals = [other for other in kept if not ordinal or other.value == match.value]
        if all(match.end <= other.start or match.start >= other.end for other in rivals):
            kept.append(match)
    return sorted(kept, key=lambda entry: entry.start)


def _holds(taker: _Match, match: _Match) -> bool:
    return taker.start <= match.start and match.end <= taker.end and taker.length > match.length


def _is_of(clause: Clause, match: _Match, attribute: Attribute) -> bool:
    """Whether a match in a clause on several organs stands nearest to its own."""
    if len(clause.organs) < 2:
        return True

    def gap(place: str) -> int:
        spans = [entry.span() for entry in PLACES[place].finditer(clause.text)]  # type: ignore[index]
        return min((max(start - match.end, match.start - end, 0) for start, end in spans), default=10**6)

    others = min(gap(place) for place in clause.organs if place != attribute.organ)
    lesion = LESION.search(clause.text) is not None or (match.attribute, match.value) == (PRESENCE, "yes")
    in_list = not lesion or attribute.organ != "kidney"
    return gap(attribute.organ) <= others or (in_list and gap(attribute.organ) < 10**6)


def _about_lesions(readings: list[Reading], clause: Clause, schema: AttributeSchema) -> list[Reading]:
    """Readings without those that stand nearer to a stone than to a lesion: its place is not a lesion's."""
    levels = {attribute.name: attribute.level for attribute in schema.attributes}
    objects = [(entry.start, entry.end) for entry in readings if entry.attribute in _OBJECTS and not entry.negated]
    nouns = [match.span() for match in LESION.finditer(clause.text)]
    return [
        entry
        for entry in readings
        if levels[entry.attribute] == "kidney" or not objects or _gap(entry, nouns) <= _gap(entry, objects)
    ]


def _gap(entry: Reading, spans: list[tuple[int, int]]) -> int:
    return min((max(start - entry.end, entry.start - end, 0) for start, end in spans), default=10**6)
