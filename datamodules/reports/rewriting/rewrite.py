"""Reports in other words, and with one fact changed, out of the sentences of other reports of the same cohort.

The sentences of the training reports are read by rules, one by one. A report is then written anew from sentences of
other reports, or of a bank of phrasings, that state the same of their kidneys, and a hard negative differs from that by
the sentences of one fact. Nothing but the given texts and phrasings is a source of words: held-out reports are never
seen.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from datamodules.reports.reader.clauses import read_report
from datamodules.reports.reader.matching import PRESENCE
from datamodules.reports.reader.organs import opposite
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.rewriting.flips import SIDE, SIZE, other_side
from datamodules.reports.rewriting.phrases import (
    SLOT,
    WRITTEN_SIDE,
    Phrase,
    PhrasedFact,
    joined,
    lesion_diameters,
    other_size,
    with_slot,
)
from datamodules.reports.rewriting.phrasings import Phrasing

SIZE_CLASS = "size_class"
_LESION = f"There is a mass in the {WRITTEN_SIDE} kidney. "
"""Stands before a sentence about a lesion that is read alone."""
_TELLS_SIZE = re.compile(r"\b(?:small|large|tiny|huge|giant|bulky|sub\w+)\b", re.IGNORECASE)
"""Words by which a sentence of a bank would contradict another size in its slot."""
_OPENING, _SIDE_OR_SIZE = 0.9, 0.7
"""How often the sentence with the size is taken, and side and size are changed where they are stated."""


@dataclass(frozen=True)
class KidneyText:
    """A report's text on one kidney, taken apart.

    Args:
        side: left or right.
        phrases: Its sentences that can be written anew, the one with the size first.
        size_mm: Diameters of the main lesion; empty where none is given.
    """

    side: str
    phrases: tuple[Phrase, ...]
    size_mm: tuple[float, ...] = ()


class Rewritten(NamedTuple):
    """Two texts that state the same of a kidney, texts that differ from the second in one fact, and what they state.

    Args:
        own: In the report's own words.
        other: In those of other reports.
        changed: Kind of fact and text.
        facts: What both state, without side and size.
        sized: Whether they state the size.
    """

    own: str
    other: str
    changed: tuple[tuple[str, str], ...]
    facts: frozenset[PhrasedFact]
    sized: bool


@dataclass
class Rewriter:
    """Writes the texts of kidneys anew.

    Args:
        sides: Side of every kidney.
        texts: Text of every kidney, in the same order.
        bank: Sentences that may stand in a text beside those of the reports, each where the reader finds in it what it
            is said to state.
        reader: Reads the facts of a sentence.
    """

    sides: Sequence[str]
    texts: Sequence[str]
    bank: Sequence[Phrasing] = ()
    reader: RuleExtractor = field(default_factory=RuleExtractor)

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, bool], Phrase] = {}
        self.kidneys = [self._apart(side, text) for side, text in zip(self.sides, self.texts, strict=True)]
        phrases = {phrase.text: phrase for kidney in self.kidneys for phrase in kidney.phrases}
        phrases = {**{phrase.text: phrase for phrase in self._of_bank()}, **phrases}
        self._stating: dict[PhrasedFact, list[Phrase]] = defaultdict(list)
        self._values: dict[str, list[PhrasedFact]] = defaultdict(list)
        self._sized = [phrase for phrase in phrases.values() if phrase.sized]
        for phrase in phrases.values():
            for fact in sorted(phrase.facts):
                if not self._stating[fact]:
                    self._values[fact.attribute].append(fact)
                self._stating[fact].append(phrase)

    def _apart(self, side: str, text: str) -> KidneyText:
        report = read_report(text)
        texts = [report.plain[start:end].replace("\n", " ") for start, end in report.sentences]
        main = max(
            (entry.largest for part in texts for _, _, entry in lesion_diameters(read_report(part))), default=0.0
        )
        diseased = main > 0 or any(
            entry.attribute == PRESENCE and entry.value == "yes" and entry.side == side
            for entry in self.reader.extract([text])[0]
        )
        phrases: list[Phrase] = []
        size: tuple[float, ...] = ()
        for part in texts:
            whole = part if part[-1] in ".!?" else f"{part}."
            written, values = with_slot(other_side(whole) if side != WRITTEN_SIDE else whole, main)
            if written is None:
                continue
            size = size or values
            phrase = self._read(written, diseased)
            if phrase.facts or phrase.sized:
                phrases.append(phrase)
        return KidneyText(side, tuple(sorted(phrases, key=lambda phrase: not phrase.sized)), size)

    def _of_bank(self) -> Iterator[Phrase]:
        for attribute, value, text in self.bank:
            written, _ = with_slot(text)
            sized = attribute == SIZE_CLASS
            if written is None or (SLOT in written) != sized or (sized and _TELLS_SIZE.search(text)):
                continue
            phrase = self._read(written, diseased=attribute != PRESENCE)
            if phrase.sized or any((fact.attribute, fact.value) == (attribute, value) for fact in phrase.facts):
                yield phrase

    def _read(self, written: str, diseased: bool) -> Phrase:
        """The facts of a sentence; of a lesion's only what comes with it."""
        key = written, diseased
        if key not in self._known:
            text = (_LESION if diseased else "") + written.replace(SLOT, "5.0 cm")
            facts = frozenset(
                PhrasedFact(entry.attribute, entry.value, entry.uncertain)
                for entry in self.reader.extract([text])[0]
                if entry.side == WRITTEN_SIDE
                and entry.attribute != SIZE_CLASS
                and not (diseased and entry.attribute == PRESENCE)
            )
            self._known[key] = Phrase(written, facts, SLOT in written)
        return self._known[key]

    def __call__(self, number: int, seed: int, negatives: int, longest: int | None = None) -> Rewritten | None:
        """One kidney in its own and in other words, and with changed facts.

        Args:
            number: Number of the kidney.
            seed: Seed of words, order and facts.
            negatives: Most texts with a changed fact.
            longest: Most sentences of the report that are taken, drawn at random; all when left out.

        Returns:
            None where the rules read nothing that could be written anew.
        """
        kidney, rng = self.kidneys[number], np.random.default_rng([seed, 5])
        own = self._drawn(kidney, rng, longest)
        if not own:
            return None
        sized = any(phrase.sized for phrase in own)
        facts = frozenset(fact for phrase in own for fact in phrase.facts)
        # A side that the own words leave out is no fact that a changed text could turn round.
        sided = any(other_side(phrase.text) != phrase.text for phrase in own)
        size = kidney.size_mm if sized else ()
        other = self._covering(facts, sized, facts, rng)
        if other is None:
            return None
        how = int(rng.integers(1 << 31))
        text = joined(other, kidney.side, size, how)
        changed = tuple(
            (kind, found)
            for kind, found in self._changes(kidney.side, sided, size, facts, other, how, rng, negatives)
            if found != text
        )
        first = joined(_shuffled(own, rng), kidney.side, size, int(rng.integers(1 << 31)))
        return Rewritten(first, text, changed[:negatives], facts, sized)

    def _drawn(self, kidney: KidneyText, rng: np.random.Generator, longest: int | None) -> list[Phrase]:
        """Sentences of a kidney that do not contradict each other."""
        order = [int(place) for place in rng.permutation(len(kidney.phrases))]
        if kidney.phrases and kidney.phrases[0].sized and rng.random() < _OPENING:
            order = [0, *(place for place in order if place != 0)]
        own: list[Phrase] = []
        said: dict[str, PhrasedFact] = {}
        for place in order[:longest]:
            phrase = kidney.phrases[place]
            if all(said.get(fact.attribute, fact) == fact for fact in phrase.facts):
                own.append(phrase)
                said |= {fact.attribute: fact for fact in phrase.facts}
        return own

    def _covering(
        self, wanted: Iterable[PhrasedFact], sized: bool, allowed: frozenset[PhrasedFact], rng: np.random.Generator
    ) -> list[Phrase] | None:
        """Sentences, drawn at random, that state all that is wanted and nothing but what is allowed."""
        chosen: list[Phrase] = []
        left = set(wanted)
        if sized:
            fitting = [phrase for phrase in self._sized if phrase.facts <= allowed]
            if not fitting:
                return None
            chosen.append(fitting[int(rng.integers(len(fitting)))])
            left -= chosen[0].facts
        while left:
            fact = min(left)
            fitting = [phrase for phrase in self._stating[fact] if phrase.facts <= allowed and not phrase.sized]
            if not fitting:
                return None
            chosen.append(fitting[int(rng.integers(len(fitting)))])
            left -= chosen[-1].facts
        return [*chosen[: int(sized)], *_shuffled(chosen[int(sized) :], rng)]

    def _changes(
        self,
        side: str,
        sided: bool,
        size: tuple[float, ...],
        facts: frozenset[PhrasedFact],
        phrases: list[Phrase],
        how: int,
        rng: np.random.Generator,
        count: int,
    ) -> Iterator[tuple[str, str]]:
        """Texts with one fact changed: side and size more often than others, because nearly every report has them."""
        kinds = [fact.attribute for fact in sorted(facts) if len(self._values[fact.attribute]) > 1]
        kinds = [kinds[place] for place in rng.permutation(len(kinds))]
        always = ([SIDE] if sided else []) + ([SIZE] if size else [])
        first = [kind for kind in always if rng.random() < _SIDE_OR_SIZE]
        found = 0
        for kind in (*first, *kinds, *(kind for kind in always if kind not in first)):
            if found >= count:
                return
            if kind == SIDE:
                text: str | None = joined(phrases, opposite(side), size, how)
            elif kind == SIZE:
                text = joined(phrases, side, other_size(size, rng), how)
            else:
                text = self._with_other_value(kind, side, size, facts, phrases, how, rng)
            if text is not None:
                found += 1
                yield kind, text

    def _with_other_value(
        self,
        attribute: str,
        side: str,
        size: tuple[float, ...],
        facts: frozenset[PhrasedFact],
        phrases: list[Phrase],
        how: int,
        rng: np.random.Generator,
    ) -> str | None:
        old = next(fact for fact in facts if fact.attribute == attribute)
        others = [fact for fact in self._values[attribute] if fact.value != old.value]
        if not others:
            return None
        new = others[int(rng.integers(len(others)))]
        allowed = facts - {old} | {new}
        written: list[Phrase] = []
        for phrase in phrases:
            if old not in phrase.facts:
                written.append(phrase)
                continue
            part = self._covering(phrase.facts - {old} | {new}, phrase.sized, allowed, rng)
            if part is None:
                return None
            written += part
        return joined(written, side, size, how)


def _shuffled(phrases: Sequence[Phrase], rng: np.random.Generator) -> list[Phrase]:
    return [phrases[place] for place in rng.permutation(len(phrases))]
