"""A report as sections, sentences and clauses, each with its place in the text, its organ and its side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from datamodules.attributes.anatomy import (
    LESION,
    PLURAL,
    REGIONAL,
    Place,
    opposite,
    places,
    side_mentions,
    words,
)
from datamodules.schema import SIDES

Part = Literal["findings", "impression", "aside"]

_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(rf"\b(?:{pattern})", re.IGNORECASE))
    for kind, pattern in {
        "aside": r"techni|protocol|procedure|method|compar|prior|previous|earlier|indication|history|clinical (?!impr)|reason"
        r"|contrast|acquisition|exam|study|referr|background|recommend|modality|scan parameters",
        "other": r"other|rest\b|remain|elsewhere|additional|further|incidental|extra|outside|non-?renal|surround|neighbou?r"
        r"|associated|miscell|varia\b|abdom|retroperi|adrenal|suprarenal|organs|everything else|ancillary",
        "impression": r"impress|conclu|opinion|summar|assess|interpret|diagnos|evaluat|apprais|judg|synops|comment|overall|key"
        r"|bottom line|in short|in brief|result(?!s)",
        "left": r"left|lt\b|l\.? kidney|kidney,? \(?l\b|LK\b",
        "right": r"right|rt\b|r\.? kidney|kidney,? \(?r\b|RK\b",
        "findings": r"finding|report|descri|observ|results|body|imaging|kidneys|CT\b|details",
    }.items()
)
"""Kinds of sections by a word of their heading; the first that fits counts."""
_LINE_HEADING = re.compile(
    r"^[ \d.)*#\u2022>-]*(?P<name>[A-Za-z(][\w()/&,' -]{0,48}?)(?P<colon> ?:|(?=\n|$))", re.MULTILINE
)
_INLINE_HEADING = re.compile(
    r"(?<=[.;!?] )(?P<name>(?:CT )?(?:techniques?|comparison|indication|clinical (?:information|history|details)|history|findings?"
    r"|impressions?|conclusions?|opinion|summary|(?:the )?(?:right|left) kidney|other findings|recommendations?))(?P<colon> ?:)",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(
    r"(?:^|\W)(?:e\.?g|i\.?e|approx|ca|cf|vs|dr|fig|max|min|resp|incl|lat|prof|cat|diam|seq|im|ser|ant|post|sup|inf|dd|d/d|St|No(?= \d)"
    r"|no(?= \d)|v|a|p)$",
    re.IGNORECASE,
)
_IS_TEXT = re.compile(
    r"\b(?:is|are|was|were|no|without|normal|unremarkable|seen|measur\w+|with|shows?)\b|\d", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?]+[\"”']?(?=\s|$|[A-Z(])|\n+|(?<=\s)[\"“”•·](?=\s)")
_LIST_NUMBER = re.compile(r"\s*(?:\(?\d{1,2}[.)]|[-*•·>–\"“”])\s*")
_SPLIT = re.compile(
    r" ?; ?|,? (?=(?:but|however|whereas|while|although|though)\b)|(?:, | and )(?=there (?:is|are|was|were)\b)",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r", (?=(?:and |with )?(?:(?:in|on|at) )?(?:the|both|an?|it|no) (?:[\w.-]+ ){0,8}?(?:is|are|was|were|shows?|showed|contains?"
    r"|measur\w+|has|have|with|without|seen|noted|being|normal|unremarkable|observed|detected|of|in)\b)"
    r"| (?=and (?:the|both|it|an?|no) (?:[\w-]+ ){0,5}?(?:is|are|was|were|shows?|contains?|measures?|has|have|seen|observed|detected)\b)",
    re.IGNORECASE,
)
_VERB = words(
    r"is|are|was|were|shows?|showed|contains?|measur\w+|has|have|seen|noted|appears?|with|without|no|demonstrat\w+|normal|lies"
    r"|unremarkable|observed|detected|abuts?|invad\w+|extend\w*|reach\w*|arises?"
)
_REFERS = words(r"it|its|this|these|which|the (?:[\w-]+ )?(?:lesion|mass|tumou?r|cyst|nodule|finding)s?|enhanc\w+")
_WHOLE = words(r"urinary (?:calcul\w+|stones?|tract)|nephrolithiasis|urolithiasis")


@dataclass(frozen=True)
class Clause:
    """A part of a sentence that says one thing.

    Args:
        start: Offset in the plain text.
        text: The plain text from there on.
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


_PLAIN = str.maketrans(
    {"×": "x", "–": "-", "—": "-", "‑": "-", "−": "-", "’": "'", "\u00a0": " ", "\t": " ", "\r": " "}
)


def _plain(text: str) -> tuple[str, tuple[int, ...]]:
    kept, origin = [], []
    translated = text.translate(_PLAIN)
    for position, letter in enumerate(translated):
        if letter == " " and (not kept or kept[-1] in " \n"):
            continue
        if letter == "\n" and kept and kept[-1] == " ":
            kept.pop(), origin.pop()
        kept.append(letter)
        origin.append(position)
    return "".join(kept), (*origin, len(text))


@lru_cache(maxsize=256)
def read_report(text: str) -> Report:
    """Take a report apart.

    Args:
        text: The report; may be empty.
    """
    plain, origin = _plain(text)
    spans, clauses, focus = [], [], _Focus()
    for part, section, start, end in _sections(plain):
        focus.enter(part, section)
        for first, last in _sentences(plain, start, end):
            spans.append((first, last))
            for begin, stop in _clauses(plain, first, last):
                words_of_it = plain[begin:stop].replace("\n", " ")
                clauses.append(focus.clause(begin, words_of_it, len(spans) - 1, plain[first:last]))
    return Report(text, plain, origin, tuple(spans), tuple(clauses))


def _sections(plain: str) -> Iterator[tuple[Part, str | None, int, int]]:
    """Part, side (or `other`, or None) and extent of every section; headings themselves are left out."""
    part: Part = "findings"
    section: str | None = None
    position = 0
    for match, name in _headings(plain):
        yield part, section, position, match.start()
        if name in ("aside", "impression", "findings"):
            part, section = name, None  # type: ignore[assignment]
        else:
            part, section = "findings" if part == "aside" else part, name
        position = match.end() if _stands_apart(plain, match, name) else match.start("name")
    yield part, section, position, len(plain)


def _headings(plain: str) -> list[tuple[re.Match[str], str]]:
    """Headings in order, each with its kind."""
    found = [(match, kind) for match in _LINE_HEADING.finditer(plain) if (kind := _kind(match))]
    found += [(match, kind) for match in _INLINE_HEADING.finditer(plain) if (kind := _kind(match))]
    return sorted(found, key=lambda entry: entry[0].start())


def _kind(heading: re.Match[str]) -> str | None:
    """The kind of a heading, None for text; without a colon only one or two words or capitals are one."""
    name = heading["name"].strip()
    count = len(name.split())
    if count > 6 or (not heading["colon"] and count > 2 and not name.isupper()) or _IS_TEXT.search(name):
        return None
    kind = next((kind for kind, pattern in _KINDS if pattern.search(name)), None)
    if kind in ("left", "right") and (places(name) - {"kidney"} or LESION.search(name) or count > 3):
        return None
    return kind if heading["colon"] or kind is None or name[0].isupper() else None


def _stands_apart(plain: str, heading: re.Match[str], name: str) -> bool:
    """Whether a heading is no part of its text; "Adrenals: normal" needs its first word."""
    first = re.split(r"[.\n]", plain[heading.end() :].lstrip(), maxsplit=1)[0]
    return name != "other" or not places(heading["name"]) or bool(places(first))


def _sentences(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Extents of the sentences between two offsets, without list numbers and outer blanks."""
    first = start
    for match in _SENTENCE_END.finditer(plain[start:end]):
        at, stop = start + match.start(), start + match.end()
        before, after = plain[first:at], plain[stop:end]
        if _LIST_NUMBER.fullmatch(plain[first:stop].strip() or "x"):
            continue
        if match.group().startswith("\n"):
            if re.match(r"[ ]*(?:[a-z]|\d+(?:[.,]\d+)? ?(?:mm|cm|x))", after) and not re.search(r"[.;:!?]\s*$", before):
                continue
        elif _ABBREVIATION.search(before) or (
            match.group() == "." and re.match(r"\S", after) and before[-1:].isdigit()
        ):
            continue
        yield from _trimmed(plain, first, stop)
        first = stop
    yield from _trimmed(plain, first, end)


def _trimmed(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    number = _LIST_NUMBER.match(plain[start:end])
    start += number.end() if number else 0
    text = plain[start:end]
    if any(letter.isalnum() for letter in text):
        yield start + len(text) - len(text.lstrip()), start + len(text.rstrip())


def _clauses(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Extents of the clauses of a sentence: at semicolons, contrasts, and where another subject or side begins."""
    text, cut = plain[start:end].replace("\n", " "), 0
    borders = {match.end() for match in _SPLIT.finditer(text)}
    borders |= {m.end() for m in _SUBJECT.finditer(text) if _VERB.search(text[: m.start()])}
    mentions = side_mentions(text)
    for (_, before, one), (after, _, two) in zip(mentions, mentions[1:], strict=False):
        between = text[before:after]
        if one != two and not re.fullmatch(r"(?: kidneys?)?,? ?(?:and|or|/|,)(?: the)? ", between):
            found = re.search(r",? (?:and )?(?:(?:in|on|at) )?(?:the )?$", between)
            if found and re.search(r",|and", found.group()):
                borders.add(before + found.start() + len(re.match(r",? ", found.group()).group()))  # type: ignore[union-attr]
    for border in sorted(borders):
        if places(text[cut:border]) or _VERB.search(text[cut:border]):
            yield start + cut, start + border
            cut = border
    yield start + cut, end


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
    parts: dict[str, dict[int, str]] = {"findings": {}, "impression": {}}
    for clause in read.clauses:
        if clause.part in parts and side in clause.sides and clause.organs - {"elsewhere", "chest"}:
            before = parts[clause.part].get(clause.sentence, "")
            parts[clause.part][clause.sentence] = before + clause.text
    sentences = [text.strip(" ,;") for entries in parts.values() for text in entries.values()]
    return " ".join(_ended(text) for text in sentences if text) or f"The {side} kidney is not described."


def _ended(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else f"{text}."
