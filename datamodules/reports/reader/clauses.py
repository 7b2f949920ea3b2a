"""A report as sections, sentences and clauses, each with its place in the text, its organ and its side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from datamodules.cohort.columns import SIDES
from datamodules.reports.reader.lists import item_borders, list_spans, readings_of_lists
from datamodules.reports.reader.organs import LESION, PLURAL, REGIONAL, Place, opposite, places, side_mentions, words
from datamodules.reports.reader.sections import Part, plain_text, sections, sentences
from datamodules.reports.reader.today import today

_SPLIT = re.compile(
    r" ?; ?|,? (?=(?:but(?!(?: \w+){0,2} (?:\w+ed|\w+en|intact|free|clear|patent|normal|unremarkable|smooth"
    r"|closed)\b(?! \w+ (?:is|are|was)))|however|whereas|while|although|though)\b)|(?:, | and )(?=there (?:is"
    r"|are|was|were)\b)",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r", (?=(?:and |with )?(?:(?:in|on|at) )?(?:the|both|an?|it|no) (?:[\w.-]+ ){0,8}?(?:is|are|was|were|shows?"
    r"|showed|contains?"
    r"|measur\w+|has|have|with|without|seen|noted|being|normal|unremarkable|observed|detected|of|in)\b)"
    r"| (?=and (?:the|both|it|an?|no) (?:[\w-]+ ){0,5}?(?:is|are|was|were|shows?|contains?|measures?|has|have"
    r"|seen|observed|detected)\b)",
    re.IGNORECASE,
)
_EXCEPT = re.compile(
    r",? (?:except(?:ing)?(?: for)?|apart from|aside from|other than|save for) (?=an? )", re.IGNORECASE
)
_OTHER_SIDE = re.compile(r"(, | (?=and ))((?:and )?(?:(?:in|on|at) )?(?:the )?)$")
_VERB = words(
    r"is|are|was|were|shows?|showed|contains?|measur\w+|has|have|seen|noted|appears?|with|without|no"
    r"|demonstrat\w+|normal|lies"
    r"|unremarkable|observed|detected|abuts?|invad\w+|extend\w*|reach\w*|arises?"
)
_WHOLE = words(r"urinary (?:calcul\w+|stones?|tract)|nephrolithiasis|urolithiasis")


@dataclass(frozen=True)
class Clause:
    """A part of a sentence that says one thing.

    Args:
        start: Offset in the plain text.
        text: The plain text from there on, blanked where it does not speak of this organ today.
        sentence: Number of the sentence.
        part: Findings, impression, or what is neither (technique, comparison, indication).
        organs: What it speaks of; `elsewhere` for any other organ.
        sides: Which kidneys it speaks of; empty where the words leave it open.
        sure: Whether a word or heading names the side, and not only the sentence before.
        named: Whether it names its organ itself.
    """

    start: int
    text: str
    sentence: int
    part: Part
    organs: frozenset[Place]
    sides: tuple[str, ...]
    sure: bool
    named: bool


@dataclass(frozen=True)
class Report:
    """A report that was taken apart.

    Args:
        text: The report as it came.
        plain: The report with runs of blanks as one and typographic signs as plain ones.
        origin: Offset in `text` of every character of `plain`, and of the end.
        sentences: Offsets in `plain`, start and end.
        clauses: In the order of the report.
    """

    text: str
    plain: str
    origin: tuple[int, ...]
    sentences: tuple[tuple[int, int], ...]
    clauses: tuple[Clause, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Offsets in the original text of a part of the plain one."""
        return self.origin[start], self.origin[end - 1] + 1


@lru_cache(maxsize=256)
def read_report(text: str) -> Report:
    """Take a report apart.

    Args:
        text: The report; may be empty.
    """
    plain, origin = plain_text(text)
    spans, clauses, focus = [], [], _Focus()
    for part, section, start, end in sections(plain):
        focus.enter(part, section)
        for first, last in sentences(plain, start, end):
            spans.append((first, last))
            meant = today(plain[first:last].replace("\n", " "))
            for begin, stop in _clauses(meant):
                for words_of_it in readings_of_lists(meant[begin:stop]):
                    clauses.append(focus.clause(first + begin, words_of_it, len(spans) - 1, meant))
    return Report(text, plain, origin, tuple(spans), tuple(clauses))


def _clauses(text: str) -> Iterator[tuple[int, int]]:
    """Extents of the clauses of a sentence: at semicolons, contrasts, and where a subject, item or side begins."""
    cut = 0
    borders = {match.end() for match in _SPLIT.finditer(text)}
    borders |= {match.end() for match in _EXCEPT.finditer(text) if side_mentions(text[match.end() :])}
    borders |= set(item_borders(text))
    borders |= {m.end() for m in _SUBJECT.finditer(text) if _VERB.search(text[: m.start()])}
    mentions = side_mentions(text)
    for (_, before, one), (after, _, two) in pairwise(mentions):
        between = text[before:after]
        if one != two and not re.fullmatch(r"(?: kidneys?)?,? ?(?:and|or|/|,)(?: the)? ", between):
            found = _OTHER_SIDE.search(between)
            if found and _VERB.search(text[: before + found.start()]):
                borders.add(before + found.start(2))
    lists = list_spans(text)
    for border in sorted(borders):
        within = any(start < border < end for start, end in lists)
        if not within and (places(text[cut:border]) or _VERB.search(text[cut:border])):
            yield cut, border
            cut = border
    yield cut, len(text)


class _Focus:
    """What the text spoke of last, to give it to clauses that do not say."""

    def __init__(self) -> None:
        self.part: Part = "findings"
        self.section: str | None = None
        self.side: str | None = None
        self.organs: frozenset[Place] = frozenset({"kidney"})
        self.index: str | None = None
        self.chest = False
        self.last: Clause | None = None

    def enter(self, part: Part, section: str | None) -> None:
        """A new section begins."""
        self.part, self.section = part, section
        self.side = section if section in SIDES else None
        self.organs = frozenset({"kidney"}) if section != "other" else frozenset()

    def clause(self, start: int, text: str, sentence: int, whole: str) -> Clause:
        """The clause with its organ and side; `whole` is its sentence."""
        found = self._regional(places(text), text)
        goes_on = self.last is not None and self.last.sentence == sentence
        organs = found or (self.organs if goes_on else self._regional(places(whole), whole)) or self.organs
        sides, sure = self._sides(text if found or goes_on or side_mentions(text) else whole, organs)
        if not found and not side_mentions(text) and goes_on and self.last is not None:
            # The rest of a sentence speaks of what its beginning named.
            sides, sure = self.last.sides, self.last.sure
        self.organs = organs
        if "kidney" in organs and len(sides) == 1:
            self.side = sides[0]
            if LESION.search(text):
                self.index = sides[0]
        elif organs <= {"elsewhere", "chest"}:
            self.side = self.section if self.section in SIDES else None
        self.last = Clause(start, text, sentence, self.part, organs, sides, sure, bool(found))
        return self.last

    def _regional(self, found: frozenset[Place], text: str) -> frozenset[Place]:
        """The organs, without nodes that are of the chest by their words or by what was spoken of before."""
        if found - {"nodes"}:
            self.chest = found <= {"chest", "nodes"}
        if "nodes" in found and self.chest and not REGIONAL.search(text):
            return frozenset({"chest"})
        return found

    def _sides(self, text: str, organs: frozenset[Place]) -> tuple[tuple[str, ...], bool]:
        named_sides = {name for _, _, name in side_mentions(text)}
        if "other" in named_sides:
            against = self.side or self.index
            return ((opposite(against),) if against else (), against is not None)
        if "both" in named_sides or named_sides >= set(SIDES):
            return SIDES, True
        if named_sides:
            return tuple(named_sides), True
        if organs & {"nodes"} and not organs & {"kidney"}:
            return SIDES, True
        if PLURAL.search(text) or (_WHOLE.search(text) and self.section not in SIDES):
            return SIDES, True
        if self.section in SIDES:
            return (str(self.section),), True
        if organs == {"adrenal"}:
            return SIDES, False
        return ((self.side,) if self.side else ()), False


def kidney_text(report: str, side: str) -> str:
    """What a report says of one kidney with its adrenal gland, nodes and veins, findings before impression.

    Args:
        report: The report.
        side: left or right.

    Returns:
        Its sentences, joined by blanks; "The left kidney is not described." where there is none.
    """
    read = read_report(report)
    parts: dict[str, dict[int, list[tuple[int, int]]]] = {"findings": {}, "impression": {}}
    for clause in read.clauses:
        if clause.part in parts and side in clause.sides and clause.organs - {"elsewhere", "chest"}:
            stretch = (clause.start, clause.start + len(clause.text))
            own = parts[clause.part].setdefault(clause.sentence, [])
            own += [stretch] if stretch not in own else []
    stretches = [entry for entries in parts.values() for entry in entries.values()]
    lines = ["".join(read.plain[slice(*own)] for own in entry).replace("\n", " ").strip(" ,;") for entry in stretches]
    return " ".join(_ended(text) for text in lines if text) or f"The {side} kidney is not described."


def _ended(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else f"{text}."
