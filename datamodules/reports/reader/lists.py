"""Lists of organs and of findings: each organ of "both kidneys and left adrenal gland are normal" on its own side.

A list of bare organs shares its finding, so it is read once for the kidney and once for the adrenal gland, with the
other members blanked. Items that bring findings of their own ("fatty liver, left renal stone") are clauses apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from datamodules.reports.reader.organs import PLACES, PLURAL, Place, places, words
from datamodules.reports.reader.today import blank

_KIDNEY = r"kidneys?|ureters?"
_ADRENAL = r"adrenals?(?: (?:glands?|tracts?))?|(?:supra|sur)renals?(?: glands?)?"
_OTHER = (
    r"liver|spleen|pancreas|gall ?bladder|stomach|duodenum|bowels?|(?:urinary )?bladder|colon|intestin\w+|bile ducts?"
    r"|prostate|uterus|ovar(?:y|ies)|aorta|lungs?|heart|thyroid|biliary \w+|vessels|mediastinum|oesophagus|esophagus"
    r"|bones?|muscles?|diaphragm|retroperitoneum|peritoneum|mesentery|appendix"
)
_LEAD = r"(?:(?:in|of|at|within|the|both|bilateral|left|right|either|each|neither|two|its) )*"
_BETWEEN = r"(?:,? (?:and|or|nor|as well as|and/or|&) |, ?|/| )"


def _listed(members: str) -> str:
    return rf"(?<!\w){_LEAD}(?:{members})(?!\w)(?:{_BETWEEN}{_LEAD}(?:{members})(?!\w))+"


_LIST = re.compile(
    rf"{_listed(f'{_KIDNEY}|{_ADRENAL}|{_OTHER}')}|{_listed('renal|adrenal|hepatic|splenic|pancreatic|biliary')}",
    re.IGNORECASE,
)
"""Organs in a row ("liver, both kidneys and left adrenal"), or their adjectives ("renal and adrenal masses")."""
_ONE = re.compile(
    rf"(?<!\w)(?P<lead>{_LEAD})(?:(?P<kidney>{_KIDNEY}|renal)|(?P<adrenal>{_ADRENAL})"
    rf"|(?P<elsewhere>{_OTHER}|hepatic|splenic|pancreatic|biliary))(?!\w)",
    re.IGNORECASE,
)
_SIDED = words(r"left|right|both|bilateral|either|each|neither|two")
_ITEM = re.compile(r", (?:and |with )?| and |(?<=\w) - (?=\w)")
_SMALL = words(
    r"the|an?|both|bilateral|left|right|either|each|of|in|at|and|or|to|gland|glands|is|are|was|were|side|sided|organs?"
)
_NOT_NEW = re.compile(
    r"(?:in|of|on|at|near|to|from|with(?:out)?|within|beside|between|into|over|under|by|for|than|which|that|it|its|also)\b|\w+ing\b",
    re.IGNORECASE,
)
_PAIR = re.compile(r"\bbetween (?:[\w-]+ ){0,4}[\w-]+$", re.IGNORECASE)
_NEGATED = words(r"no|not|non|without|neither|nor|none|free|absence|absent|negative|nothing|never|\w+n't")


def list_spans(text: str) -> list[tuple[int, int]]:
    """Where bare organs of several kinds stand in a row."""
    return [
        match.span()
        for match in _LIST.finditer(text)
        if len(_kinds(match.group())) > 1 and not text[: match.start()].lower().endswith("between ")
    ]


def readings_of_lists(text: str) -> list[str]:
    """A clause once for every organ of its lists that is a kidney or an adrenal gland, the others blanked."""
    spans = list_spans(text)
    wanted = [kind for kind in ("kidney", "adrenal") if any(kind in _kinds(text[start:end]) for start, end in spans)]
    return [_only(text, spans, kind) for kind in wanted] or [text]


def item_borders(text: str) -> Iterator[int]:
    """Where an item begins that names another organ than what goes before, with a finding of its own."""
    lists = list_spans(text)
    first = 0
    marks = [mark for mark in _ITEM.finditer(text) if not any(start <= mark.start() < end for start, end in lists)]
    for place, mark in enumerate(marks):
        following = text[mark.end() : marks[place + 1].start() if place + 1 < len(marks) else len(text)]
        before = text[first : mark.start()]
        if _NOT_NEW.match(following) or _NEGATED.search(before) or _PAIR.search(before):
            continue
        one, two = places(before), places(following)
        of_ours = (one | two) & {"kidney", "adrenal"}
        if one and two and of_ours and not one & two and _has_finding(before) and _has_finding(following):
            yield mark.end()
            first = mark.end()


def _kinds(text: str) -> set[str]:
    return {str(match.lastgroup) for match in _ONE.finditer(text)}


def _only(text: str, spans: list[tuple[int, int]], kind: str) -> str:
    """The text with the members of its lists that are of another kind blanked, sides kept where they are shared."""
    for start, end in spans:
        members = list(_ONE.finditer(text, start, end))
        if kind not in {member.lastgroup for member in members}:
            continue
        shared = ""
        for place, member in enumerate(members):
            lead = member["lead"]
            own = _SIDED.search(lead) is not None
            if own:
                shared = lead
            keeps = (
                place + 1 < len(members) and members[place + 1].lastgroup == kind and not _is_sided(members[place + 1])
            )
            if member.lastgroup == kind:
                continue
            begin = member.end("lead") if own and shared and keeps else member.start()
            text = blank(text, begin, member.end())
    return text


def _is_sided(member: re.Match[str]) -> bool:
    return (
        _SIDED.search(member["lead"]) is not None or PLURAL.fullmatch(member.group()[len(member["lead"]) :]) is not None
    )


def _has_finding(text: str) -> bool:
    """Whether a text says more than the name and the side of an organ."""
    names: tuple[Place, ...] = tuple(PLACES)
    rest = _SMALL.sub(" ", text)
    compound = re.search(r"\w+(?:iasis|osis|megaly|itis|opathy|ectasi[sa]|stones?|pathies)\b", text, re.IGNORECASE)
    for name in names:
        rest = PLACES[name].sub(" ", rest)
    return compound is not None or any(letter.isalnum() for letter in rest)
