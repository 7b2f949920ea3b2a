"""Reading attributes out of reports by rules: the schema's patterns, in context, on the right side and lesion."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from datamodules.cohort.columns import SIDES
from datamodules.reports.language import check_english
from datamodules.reports.reader.clauses import Clause, Report, read_report
from datamodules.reports.reader.lesions import REFERS, Reading, ReportedKidney
from datamodules.reports.reader.matching import PRESENCE, Matcher
from datamodules.reports.reader.measurements import diameters
from datamodules.reports.reader.organs import LESION, side_mentions
from datamodules.reports.reader.statements import Statement
from datamodules.reports.schema import AttributeSchema, load_schema

CODE_VERSION = 7
"""Raised with every change of the rules' code: the fingerprint holds it."""

_TIED = re.compile(r"(?: (?!and\b|or\b)[\w.-]+){0,4} (?:in|of|on|at)(?: the)? ")
_OF_ALL = re.compile(r"(?:the )?(?:larg|bigg|great)est|(?:a )?(?:few|couple)|two|three|four|[234]\b", re.IGNORECASE)
"""Numbers that two kidneys may share, so that neither has several for certain."""
_LISTED = re.compile(r"\d ?[cm]m(?:,|,? and|,? &) \d+(?:[.,]\d+)? ?[cm]m\b", re.IGNORECASE)
"""Sizes in a row, "two masses, 3 cm and 5 cm": the largest lesion has the largest."""
_EXCHANGED = re.compile(
    r"\b(?:should (?:read|say|state)|instead of|rather than|incorrect\w*|erroneous\w*|wrong\w*|mistaken\w*|laterality"
    r"|transposed|not (?:on |in |of )?(?:the )?(?:left|right))\b",
    re.IGNORECASE,
)
"""What an addendum says that takes back what stood there, be it the side: which of the sentences, nobody can tell."""
_NUMBER = "lesion_number"
_HEDGED, _CARRIED, _CONTRADICTED, _IMPLIED = 0.7, 0.9, 0.6, 0.95
"""Factors of the confidence: an order of trust, no calibrated probability."""


class RuleExtractor:
    """Finds what a report states with the patterns of the schema.

    A clause's words state a value; words around them negate or hedge it; the clause's side and lesion say of what it
    is. Attributes of a lesion are those of the largest of its side. An addendum goes before the findings, these before
    the impression; where they contradict each other the confidence is lowered. The evidence is the clause. Of a report
    whose addendum exchanges sides nothing is read.

    Args:
        schema: What to read; the suite's own by default.
    """

    name = "rules"

    def __init__(self, schema: AttributeSchema | None = None) -> None:
        self.schema = schema or load_schema()
        self.matcher = Matcher(self.schema)

    @property
    def fingerprint(self) -> str:
        """Hash of the schema and of the version of the rules' code."""
        return hashlib.sha256(f"{self.name}/{CODE_VERSION}/{self.schema.hash}".encode()).hexdigest()[:16]

    def check(self, reports: Sequence[str]) -> None:
        """Refuse reports in another language than English, before any is read.

        Raises:
            DataError: naming the languages and the first report of each.
        """
        check_english(reports)

    def extract(self, reports: Sequence[str]) -> list[list[Statement]]:
        """The statements of every report, at most one a side and attribute, in the order of the reports."""
        return [list(self._statements(read_report(text))) for text in reports]

    def _statements(self, report: Report) -> Iterator[Statement]:
        if any(clause.part == "addendum" and _EXCHANGED.search(clause.text) for clause in report.clauses):
            return
        kidneys = {side: ReportedKidney() for side in SIDES}
        unsided: list[Reading] = []
        # Findings first, wherever they stand, because the impression refers to their lesions.
        for clause in sorted(report.clauses, key=lambda entry: entry.part != "findings"):
            if clause.part != "aside":
                unsided += self._read(report, clause, kidneys)
        self._place(unsided, kidneys)
        for side, kidney in kidneys.items():
            yield from self._of_kidney(report, side, kidney)

    def _read(self, report: Report, clause: Clause, kidneys: dict[str, ReportedKidney]) -> list[Reading]:
        """Give what a clause states to its kidneys and lesions; what has no side is returned."""
        first, last = report.sentences[clause.sentence]
        readings = self.matcher.readings(clause, report.plain[first:last].replace("\n", " "))
        if not clause.sides:
            return readings
        for side in clause.sides:
            own = [entry for entry in readings if _is_of_side(clause, entry, side)]
            if len(clause.sides) > 1 and not _names_both_apart(clause):
                own = [entry for entry in own if not self._is_of_one_only(entry)]
            self._give(kidneys[side], clause, own)
        return []

    def _is_of_one_only(self, entry: Reading) -> bool:
        """Whether a diameter or number given for both kidneys at once may be that of one of them."""
        if entry.attribute == _NUMBER:
            return _OF_ALL.match(entry.clause.text[entry.start : entry.end]) is not None
        measure = self.schema[entry.attribute].measure
        return entry.size_mm is not None and measure is not None and entry.value != measure.classes[0]

    def _give(self, kidney: ReportedKidney, clause: Clause, readings: list[Reading]) -> None:
        of_lesion = [entry for entry in readings if self.schema[entry.attribute].level == "lesion"]
        number = [entry for entry in of_lesion if entry.attribute == _NUMBER]
        present = [entry for entry in readings if entry.attribute == PRESENCE and entry.value == "yes"]
        kidney.readings += [entry for entry in readings if entry not in of_lesion] + number
        of_lesion = [entry for entry in of_lesion if entry.attribute != _NUMBER]
        several = [entry for entry in number if entry.value != "one" and not entry.negated]
        sizes = [entry for entry in of_lesion if entry.size_mm is not None]
        if present or several or sizes or (of_lesion and kidney.lesions and REFERS.search(clause.text)):
            indefinite = bool(present or several) and REFERS.match(clause.text) is None
            kidney.lesion_of(clause, indefinite, list(diameters(clause.text)) if sizes else []).readings += of_lesion
        else:
            kidney.loose += of_lesion

    def _place(self, unsided: list[Reading], kidneys: dict[str, ReportedKidney]) -> None:
        """What names no side: of a lesion if only one kidney has one, of both kidneys if it is denied."""
        diseased = [side for side in SIDES if kidneys[side].lesions]
        for entry in unsided:
            if self.schema[entry.attribute].level == "lesion":
                if len(diseased) == 1 and entry.attribute != _NUMBER:
                    kidneys[diseased[0]].loose.append(entry)
            elif entry.negated:
                for side in SIDES:
                    kidneys[side].readings.append(entry)

    def _of_kidney(self, report: Report, side: str, kidney: ReportedKidney) -> Iterator[Statement]:
        pool = list(kidney.readings)
        amended = [entry for entry in pool if entry.clause.part == "addendum" and entry.attribute == PRESENCE]
        if amended and all(entry.value == "no" for entry in amended):  # what was said of a lesion is taken back
            pool = [entry for entry in pool if self.schema[entry.attribute].level != "lesion"]
            kidney = ReportedKidney(readings=pool)
        if kidney.lesions:
            pool += kidney.main.readings + kidney.loose
            pool += _presence(kidney) + _further(kidney)
        pool += list(self.matcher.implied(pool))
        for attribute in self.schema.attributes:
            candidates = [entry for entry in pool if entry.attribute == attribute.name]
            if candidates and (attribute.level == "kidney" or kidney.lesions):
                yield self._statement(report, side, candidates)

    def _statement(self, report: Report, side: str, candidates: list[Reading]) -> Statement:
        attribute = self.schema[candidates[0].attribute]
        order = {name: place for place, name in enumerate(attribute.class_names)}
        firsts: dict[int, int] = {}
        for place, entry in enumerate(candidates):
            firsts.setdefault(id(entry.clause), place)
        chosen = min(
            enumerate(candidates),
            key=lambda pair: (
                pair[1].clause.part != "addendum",
                pair[1].implied,
                attribute.name == PRESENCE and pair[1].value != "yes",
                pair[1].clause.part != "findings",
                pair[1].negated,
                -order[pair[1].value] if attribute.ordinal else 0,
                pair[1].uncertain,
                firsts[id(pair[1].clause)],
                -(pair[1].size_mm or 0.0) if _LISTED.search(pair[1].clause.text) else 0.0,
                pair[0],
            ),
        )[1]
        stated = [entry for entry in candidates if not entry.implied and not entry.uncertain]
        contradicted = any(entry.value != chosen.value for entry in stated)
        text = chosen.clause.text
        start = chosen.clause.start + len(text) - len(text.lstrip(" ,;"))
        begin, end = report.span(start, chosen.clause.start + len(text.rstrip(" ,;")))
        confidence = _HEDGED if chosen.uncertain else 1.0
        confidence *= 1.0 if chosen.clause.sure else _CARRIED
        confidence *= _CONTRADICTED if contradicted else 1.0
        confidence *= _IMPLIED if chosen.implied else 1.0
        return Statement(
            side,
            chosen.attribute,
            chosen.value,
            begin,
            end,
            report.text[begin:end],
            round(confidence, 3),
            chosen.uncertain,
        )


def _presence(kidney: ReportedKidney) -> list[Reading]:
    """That there is a lesion, from its first mention, where no noun has said so."""
    first = next(
        (entry for lesion in kidney.lesions for entry in lesion.readings if LESION.search(entry.clause.text)), None
    )
    if first is None:
        first = next((entry for lesion in kidney.lesions for entry in lesion.readings), None)
    return [] if first is None else [replace(first, attribute=PRESENCE, value="yes", negated=False, size_mm=None)]


def _further(kidney: ReportedKidney) -> list[Reading]:
    """That there are several lesions, from one that the report adds with a size of its own; an addendum adds none."""
    added = [lesion for lesion in kidney.lesions[1:] if lesion.readings and not lesion.largest]
    if any(entry.clause.part == "addendum" for lesion in kidney.lesions for entry in lesion.readings):
        return []
    return [
        replace(lesion.readings[0], attribute=_NUMBER, value="several", implied=True, uncertain=False)
        for lesion in added
    ]


def _names_both_apart(clause: Clause) -> bool:
    return {name for _, _, name in side_mentions(clause.text)} >= set(SIDES)


def _is_of_side(clause: Clause, entry: Reading, side: str) -> bool:
    """Whether a reading in a clause that names both sides one by one stands nearest to this side."""
    if not _names_both_apart(clause):
        return True
    mentions = [mention for mention in side_mentions(clause.text) if mention[2] in SIDES]
    for begin, _, name in mentions:
        # "a stone in the right kidney and a cyst in the left": the side that a preposition ties to it.
        if begin >= entry.end and _TIED.fullmatch(clause.text[entry.end : begin]):
            return name == side
    nearest = min(mentions, key=lambda mention: max(mention[0] - entry.end, entry.start - mention[1], 0))
    return nearest[2] == side
