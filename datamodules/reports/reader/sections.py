"""The text of a report: plain signs with their origin, sections under headings, and sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from datamodules.reports.reader.organs import LESION, places
from datamodules.reports.reader.side_tables import spread

Part = Literal["findings", "impression", "addendum", "aside"]

_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(rf"\b(?:{pattern})", re.IGNORECASE))
    for kind, pattern in {
        "addendum": r"addend|amendment|corrigend|errat",
        "aside": r"techni|protocol|procedure|method|compar|prior|previous|earlier|indication|history"
        r"|clinical (?!impr)|reason"
        r"|contrast|acquisition|exam|study|referr|background|recommend|modality|scan parameters",
        "other": r"other|rest\b|remain|elsewhere|additional|further|incidental|extra|outside|non-?renal"
        r"|surround|neighbou?r"
        r"|associated|miscell|varia\b|abdom|retroperi|adrenal|suprarenal|organs|everything else|ancillary",
        "impression": r"impress|conclu|opinion|summar|assess|interpret|diagnos|evaluat|apprais|judg|synops"
        r"|comment|overall|key"
        r"|bottom line|in short|in brief|result(?!s)",
        "left": r"left|lt\b|l\.? kidney|kidney,? \(?l\b|LK\b",
        "right": r"right|rt\b|r\.? kidney|kidney,? \(?r\b|RK\b",
        "findings": r"finding|report|descri|observ|results|body|imaging|kidneys|CT\b|details",
    }.items()
)
"""Kinds of sections by a word of their heading; the first that fits counts."""
_ADDENDUM = re.compile(r"(?:addend|amend|corrig|correct|errat)\w*(?: reports?)?[ \d/(),-]*", re.IGNORECASE)
_FINDINGS = re.compile(
    r"\bfindings?\b(?<!other findings)(?<!additional findings)(?<!incidental findings)", re.IGNORECASE
)
_OF_KIDNEYS = {"findings", "impression", "addendum", "left", "right", "other"}
_LINE_HEADING = re.compile(
    r"^[ \d.)*#\u2022>-]*(?P<name>[A-Za-z(][\w()/&,' -]{0,48}?)(?P<colon> ?:|(?=\n|$))", re.MULTILINE
)
_INLINE_HEADING = re.compile(
    r"(?<=[.;!?] )(?P<name>(?:CT )?(?:techniques?|comparison|indication|clinical (?:information|history"
    r"|details)|history|findings?"
    r"|impressions?|conclusions?|opinion|summary|(?:the )?(?:right|left) kidney|other findings"
    r"|recommendations?))(?P<colon> ?:)",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(
    r"(?:^|\W)(?:e\.?g|i\.?e|approx|ca|cf|vs|dr|fig|max|min|resp|incl|lat|prof|cat|diam|seq|im|ser|ant|post|sup"
    r"|inf|dd|d/d|St|No(?= \d)"
    r"|no(?= \d)|v|a|p)$",
    re.IGNORECASE,
)
_LABELS = re.compile(
    r"\b(?:enhanc|uptake|wash-?out|margins?|borders?|fat\b|lesions?|mass|tumou?r|cysts?|invasi|infiltrat|thromb|calcif|necro"
    r"|ha?emorrh|bleed|stones?|calcul|hydroneph|dilat|atroph|size|stranding|collecting|sinus\b|veins?\b|vessels|shape|contour"
    r"|density|attenuation|texture|structure|scar\b|pattern|diameter|location|position|growth|share|distance)",
    re.IGNORECASE,
)
"""Labels of a template whose value follows the colon: part of the text, no heading of a section."""
_IS_TEXT = re.compile(
    r"\b(?:is|are|was|were|no|without|normal|unremarkable|seen|measur\w+|with|shows?)\b|\d", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?:[.!]|(?<=[\w)\"”’'])\?)[.!?]*[\"”']?(?=\s|$|[A-Z(])|\n+|(?<=\s)[\"“”•·](?=\s)")
_ITEM = re.compile(
    r"(?<=[\w.)”\"]) (?:[-*>] (?=[A-Z\d])|[-*](?=[A-Z][a-z]+(?: [a-z]+){0,2}:)|\(?\d{1,2}[.)] (?=[A-Z]))"
)
"""An item of a list that runs on in one line: "- ... - ...", "1. ... 2. ..."."""
_RUN_ON = re.compile(r"(?<=[a-z)]{2}) (?=[A-Z][a-z]+(?: |$))")
_NAME = re.compile(
    r"(?:Bosniak|Gerota|Hounsfield|Fuhrman|Furhman|Toldt|Zuckerkandl|Denonvilliers|Morison|Foley|Bertin|Schmorl|Chilaiditi"
    r"|Morgagni|Bochdalek|Hodgkin|Crohn|Wilms|Covid|Doppler|Paget|Cushing|Conn|Riedel|Glenn|Fontan|January|February|March"
    r"|April|May|June|July|August|September|October|November|December|Dr|Prof|Mr|Mrs|Ms|Lt|Rt|Type|Grade|Class)\b"
)
"""Names and months, whose capital begins no item."""
_TITLE = 200
LONGEST = 600
"""Most characters that are read as one sentence: the work grows faster than a sentence does."""
_GOES_ON = re.compile(r" *(?:[a-z]|\d+(?:[.,]\d+)? ?(?:mm|cm|x))")
"""How a line begins that goes on with the sentence of the line before."""
_LIST_NUMBER = re.compile(r"\s*(?:\(?\d{1,2}[.)](?!\d)|[-*•·>–\"“”])\s*")
"""The mark of an item; "7.5 x 7.2 cm" begins with none."""

_NOUN = (
    r"(?:kidneys?|renal|adrenals?|ureter\w*|hydro\w*|nephr\w*|pelvi-?cal\w+|collecting|flank|upper pole|lower pole"
    r"|mid ?pole)"
)
_SIDES = {"l": "left", "r": "right"}
_SHORT: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"&nbsp;|&#160;|_x000D_|</?(?!(?:br|p|div|li|tr)\b)[a-z]\w{0,9} ?/?>", re.IGNORECASE), lambda _: " "),
    (re.compile(r"</?(?:br|p|div|li|tr)\b ?/?>", re.IGNORECASE), lambda _: "\n"),
    (re.compile(r"&(lt|gt|amp|quot);"), lambda match: {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}[match[1]]),
    (re.compile(r"(?<![\w/])(?:b/l|bilat)\b\.?(?=[ -])", re.IGNORECASE), lambda _: "bilateral"),
    (re.compile(rf"(?<![\w/])([lr])t\b\.?(?=[ -]?(?:sided|{_NOUN})\b)", re.IGNORECASE), lambda m: _side(m[1])),
    (re.compile(r"(?<![\w/])([LR])t\b\.?(?= [a-z])"), lambda match: _side(match[1])),
    (re.compile(rf"(?<![\w/.-])([LR])\b\.?(?= {_NOUN}\b)"), lambda match: _side(match[1])),
    (re.compile(rf"\(([LR])\)(?= {_NOUN}\b)"), lambda match: _side(match[1])),
    (re.compile(r"(?<=idney )\(([LR])\)"), lambda match: _side(match[1])),
    (re.compile(r"(?<![\w/])([LR])/?K\b(?![/.-])"), lambda match: f"{_side(match[1])} kidney"),
)
"""Short forms of sides, and what markup leaves of signs and line ends."""


def _side(letter: str) -> str:
    return _SIDES[letter.lower()]


_PLAIN = str.maketrans(
    {"×": "x", "–": "-", "—": "-", "‑": "-", "−": "-", "’": "'", "\u00a0": " ", "\t": " ", "\r": " "}
)


def plain_text(text: str) -> tuple[str, tuple[int, ...]]:
    """A report with runs of blanks as one, typographic signs as plain ones, tables and short forms of sides written
    out, and where every character stood."""
    kept: list[str] = []
    origin: list[int] = []
    letters = spread(text)
    written = _written_out("".join(letter for letter, _ in letters).translate(_PLAIN))
    for letter, place in written:
        position = letters[place][1]
        if letter == " " and (not kept or kept[-1] in " \n"):
            continue
        if letter == "\n" and kept and kept[-1] == " ":
            kept.pop()
            origin.pop()
        kept.append(letter)
        origin.append(position)
    return "".join(kept), (*origin, len(text))


def _written_out(text: str) -> list[tuple[str, int]]:
    """The characters of a text with short forms written out, each with where it, or its short form, stands."""
    found: dict[int, tuple[int, str]] = {}
    for pattern, full in _SHORT:
        for match in pattern.finditer(text):
            if not any(start < match.end() and match.start() < end for start, (end, _) in found.items()):
                found[match.start()] = (match.end(), full(match))
    letters: list[tuple[str, int]] = []
    position = 0
    for start, (end, full_form) in sorted(found.items()):
        letters += [(text[at], at) for at in range(position, start)]
        # Every letter of the long form stands somewhere in the short one, the last of all at its end.
        last = len(full_form) - 1
        letters += [
            (letter, end - 1 if at == last else min(start + at, end - 1)) for at, letter in enumerate(full_form)
        ]
        position = end
    return letters + [(text[at], at) for at in range(position, len(text))]


def sections(plain: str) -> Iterator[tuple[Part, str | None, int, int]]:
    """Part, side (or `other`, or None) and extent of every section; headings themselves are left out."""
    section: str | None = None
    position = 0
    headings = _headings(plain)
    kinds = [name for _, name in headings]
    first = next((place for place, (match, _) in enumerate(headings) if _FINDINGS.search(match["name"])), len(kinds))
    # What stands before the heading of the findings is the request.
    part: Part = "aside" if first < len(kinds) and not set(kinds[:first]) & _OF_KIDNEYS else "findings"
    for place, (match, name) in enumerate(headings):
        yield part, section, position, match.start()
        if name in ("aside", "impression", "findings", "addendum"):
            part, section = name, None  # type: ignore[assignment]
        else:
            part, section = "findings" if part == "aside" else part, name
        position = match.end() if _stands_apart(plain, match, name) else match.start("name")
        if part == "aside" and not set(kinds[place + 1 :]) & _OF_KIDNEYS:
            # Nothing says where the request ends: with its line, or with its sentence if there is one line only.
            end = _aside_end(
                plain, position, headings[place + 1][0].start() if place + 1 < len(headings) else len(plain)
            )
            yield part, section, position, end
            part, position = "findings", end
    yield part, section, position, len(plain)


def _aside_end(plain: str, start: int, end: int) -> int:
    line = plain.find("\n", start + 1, end)
    if line >= 0 and plain[start:line].strip() and plain[line:end].strip():
        return line
    sentence = re.compile(r"[.!?](?= |$)").search(plain, start, end)
    return end if sentence is None or line >= 0 else sentence.end()


def _headings(plain: str) -> list[tuple[re.Match[str], str]]:
    """Headings in order, each with its kind."""
    found = [(match, kind) for match in _LINE_HEADING.finditer(plain) if (kind := _kind(match))]
    found += [(match, kind) for match in _INLINE_HEADING.finditer(plain) if (kind := _kind(match))]
    return sorted(found, key=lambda entry: entry[0].start())


def _kind(heading: re.Match[str]) -> str | None:
    """The kind of a heading, None for text; without a colon only one or two words or capitals are one."""
    name = heading["name"].strip()
    if heading["colon"] and _ADDENDUM.fullmatch(name):
        return "addendum"
    count = len(name.split())
    if count > 6 or (not heading["colon"] and count > 2 and not name.isupper()) or _IS_TEXT.search(name):
        return None
    kind = next((kind for kind, pattern in _KINDS if pattern.search(name)), None)
    if heading["colon"] and kind not in ("impression", "findings") and _LABELS.search(name):
        return None
    if kind in ("left", "right") and (places(name) - {"kidney"} or LESION.search(name) or count > 3):
        return None
    return kind if heading["colon"] or kind is None or name[0].isupper() else None


def _stands_apart(plain: str, heading: re.Match[str], name: str) -> bool:
    """Whether a heading is no part of its text; "Adrenals: normal" needs its first word."""
    first = re.split(r"[.\n]", plain[heading.end() :].lstrip(), maxsplit=1)[0]
    own = places(heading["name"])
    return name not in ("other", "findings") or not own or bool(places(first))


def sentences(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Extents of the sentences between two offsets, without list numbers and outer blanks.

    Items that run on in one line are sentences, too; a sentence of more than `LONGEST` characters is cut at a blank.
    """
    first = start
    for at, stop, item in _ends(plain, start, end):
        if _LIST_NUMBER.fullmatch(plain[first:stop].strip() or "x"):
            continue
        if plain[at] == "\n":
            if _GOES_ON.match(plain, stop, end) and not re.search(r"[.;:!?]\s*$", plain[max(first, at - 3) : at]):
                continue
        elif not item and _ABBREVIATION.search(plain[max(first, at - 12) : at]):
            continue
        yield from _pieces(plain, first, stop)
        first = stop
    yield from _pieces(plain, first, end)


def _ends(plain: str, start: int, end: int) -> list[tuple[int, int, bool]]:
    """Where sentences may end: offset, where the next begins, and whether an item of a list begins there."""
    found = [(match.start(), match.end(), False) for match in _SENTENCE_END.finditer(plain, start, end)]
    found += [(match.start(), match.end(), True) for match in _ITEM.finditer(plain, start, end)]
    found += [
        (match.start(), match.end(), True) for match in _RUN_ON.finditer(plain, start, end) if _runs_on(plain, match)
    ]
    return sorted(set(found))


def _runs_on(plain: str, match: re.Match[str]) -> bool:
    """Whether a capital within a line begins an item, and no name and no word of a title."""
    line = plain[plain.rfind("\n", 0, match.start()) + 1 : match.start()][-_TITLE:]
    words = re.findall(r"[A-Za-z]{4,}", line)
    capitals = sum(word[0].isupper() for word in words)
    return len(words) >= 2 and capitals <= len(words) / 2 and _NAME.match(plain, match.end()) is None


def _pieces(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > LONGEST:
        window = plain[start + LONGEST // 2 : start + LONGEST]
        cut = max(window.rfind(", "), window.rfind("; "))
        cut = cut if cut >= 0 else max(window.rfind(" "), window.rfind("\n"))
        middle = start + LONGEST if cut < 0 else start + LONGEST // 2 + cut + 1
        yield from _trimmed(plain, start, middle)
        start = middle
    yield from _trimmed(plain, start, end)


def _trimmed(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    number = _LIST_NUMBER.match(plain[start:end])
    start += number.end() if number else 0
    text = plain[start:end]
    if any(letter.isalnum() for letter in text):
        yield start + len(text) - len(text.lstrip()), start + len(text.rstrip(' \n"“”•·'))
