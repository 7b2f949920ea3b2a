"""Lengths and percentages in a clause, in mm and %, and what they measure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from datamodules.reports.reader.organs import LESION, words

_NUMBER = r"\d+(?:[.,]\d+)?"
_UNIT = r"(?:mms?|cms?|milli-?met(?:er|re)s?|centi-?met(?:er|re)s?)(?!\w|\d)"
_ONE = rf"{_NUMBER}(?:[ -]?{_UNIT})?"
_LENGTH = re.compile(
    rf"(?<![\w.,])(?:between {_ONE} and {_ONE}|{_ONE}(?: ?(?:x|X|\*|/|by|-|to) ?{_ONE}){{0,3}})", re.IGNORECASE
)
_VALUE = re.compile(rf"(?P<number>{_NUMBER})[ -]?(?P<unit>{_UNIT})?", re.IGNORECASE)
_RANGE = re.compile(rf"(?:{_UNIT}|\d) ?(?:-|to|and) ?\d", re.IGNORECASE)
_TIMES = re.compile(r" ?(?:x|\*|/|by) ?\d", re.IGNORECASE)
_PERCENT = re.compile(rf"(?<![\w.,])({_NUMBER})(?: ?(?:-|to) ?({_NUMBER}))? ?(?:%|percent|per cent)", re.IGNORECASE)
_HU = re.compile(
    rf"(?<![\w.,])(-?{_NUMBER})(?: ?(?:HU|to|-|and) ?({_NUMBER}))? ?(?:HU|Hounsfield)(?!\w)", re.IGNORECASE
)
_NATIVE = words(r"unenhanced|native|plain|(?:non|pre)-?contrast|(?:before|without) (?:\w+ )?contrast")
_RISE = words(r"enhancement|enhances?|rise|rises|increas\w+|gain|difference")
_RISE_OF = re.compile(
    r"\b(?:enhanc\w+|rises?|increas\w+|gains?|differ\w+|change\w*)(?: \w+){0,4} (?:by|of|is|was"
    r"|:) ?(?:\w+ ){0,3}[<>]? ?$",
    re.IGNORECASE,
)
_FAT_HU = -15.0
_LARGEST_MM = 400.0
"""No lesion of a kidney is larger: "310 cm" is a slip of the pen, of which nobody knows what was meant."""
_CORRECTED = re.compile(r"\b(?:not|instead of|rather than) $", re.IGNORECASE)
_INSIDE = re.compile(
    r"[^.;,]{0,40}(?:endophytic|intra-?parenchymal|intra-?renal|inside|within the|buried|embedded|deep to)",
    re.IGNORECASE,
)
_INSIDE_BEFORE = re.compile(
    r"(?:endophytic|intra-?parenchymal|intra-?renal)(?: (?:part|portion|share|fraction|component|percentage))?:?"
    r"(?: (?:of|is|about|only|roughly|approximately|under|over|below|above|more than|less than))* ?[<>]? ?$",
    re.IGNORECASE,
)
_OUTSIDE = re.compile(r"[^.;,]{0,40}(?:exophytic|extra-?renal|outside)", re.IGNORECASE)
_SMALL = words(r"milli-?metri(?:c|cal)|sub-?centimet\w+|mm-?sized")
_MORE = re.compile(
    r"(?:(?:more|greater|larger|bigger|wider|farther|further) than|over|above|exceed\w*|beyond|upwards of"
    r"|in excess of|>)"
    r"(?: \w+)? ?$",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"\b(?:not?|never) (?:\w+ )?(?:more|greater|larger|less|smaller|fewer|closer|nearer|farther|further) than$",
    re.IGNORECASE,
)
"""No more than, no less than: the bound itself belongs to the range."""
_LESS = re.compile(r"(?:(?:less|smaller|fewer|closer|nearer) than|under|below|short of|<)(?: \w+)? ?$", re.IGNORECASE)
_BEFORE_PAST = re.compile(
    r"(?:previous\w*|prior|formerly|earlier|had been|measured (?:then|before)|compared (?:with|to)|old|last"
    r"|initial\w*"
    r"|at that time|in \d{4}:?)[^.;,]{0,45}$",
    re.IGNORECASE,
)
_GROWN = re.compile(r"\bfrom (?:\w+ )?$", re.IGNORECASE)
_WAS = re.compile(r"\d ?[cm]m\b[ ,;(]*(?:(?:it |which )?(?:was|were)|versus|vs\.?) ?$", re.IGNORECASE)
"""After the size of today: "3 cm, was 5 cm", "3 cm vs. 5 cm"."""
_NOW = re.compile(
    r"now|current\w*|today|and (?:is|measures)|to $|at present|increas\w*|decreas\w*|unchanged", re.IGNORECASE
)
_AFTER_PAST = re.compile(
    r"[ ,(]*(?:in (?:19|20)\d\d\b|(?:previous\w*|formerly|earlier|at that time|in (?:the )?(?:previous|prior"
    r"|last|old)|on (?:the )?(?:previous|prior"
    rf"|last))(?![^;)]{{0,25}}\d ?{_UNIT}))",
    re.IGNORECASE,
)
_DISTANCE = words(
    r"distan\w+|away|apart|within|clear of|separat\w+|gap|interval|closer?|comes|remote|far|remains|proximity"
    r"|near\w*|from the"
    r"|between the|lies|margin of|nearest|shortest|interpos\w+|bridge|layer|to the|approach\w*|clearance|spac\w+"
)
_AWAY = re.compile(
    r" ?(?:or more |or less )?(?:away|apart|from|distan\w+|or more|off|clear|to the|short of|shy of|removed)(?!\w)"
    r"| ?(?:of |wide |thick )*(?:\w+ )?(?:clearance|gap|distance|interval|separation|bridge|rim|strip"
    r"|parenchyma)(?!\w)",
    re.IGNORECASE,
)
_BETWEEN = words(r"separat\w+|between|interpos\w+|remains?|lies?")
_TARGET = words(
    r"(?:renal )?sinus\w*|collecting \w+|cal[yi]\w+|pelvi\w*|pyelo\w*|infundib\w*|hil\w+|vessels?|capsule"
    r"|urothel\w+|excretory"
    r" \w+|urinary \w+"
)
_NO_LESION = words(
    r"(?:parenchym\w+|cortical|cortex|wall|septa\w*|mural|slice|section) (?:thickness|is|are|width)"
    r"|thick(?:ness)?|short axis"
    r"|nodes?|lymph\w*|lymphad\w*|stones?|calcul\w+|concrement\w*|nephrolith\w*|(?:long|cranio-?caudal"
    r"|bipolar) (?:axis|length) of the"
    r"|ureter\w*|AP diameter|adrenal\w*|thromb\w+|septum|septa|wall|scar|length of the \w* ?kidney"
    r"|kidney length|renal length|has a length"
    r"|stent|catheter|calcifications?|(?:veins?|arter(?:y|ies)|aorta|cava) (?:has|is|of|with|measur\w+)"
)
_KIDNEY = words(
    r"kidneys?(?: (?:size|length|dimension)s?)? (?:measur\w+|is|are|has|length|size)|size of the \w* ?kidney"
)
_OF_KIDNEY = re.compile(r"\bkidneys?,? $", re.IGNORECASE)
"""A number behind the kidney itself is its length: "left kidney 11 cm, no mass"."""
_SIZE = words(r"measur\w+|diameters?|sizes?|sized|dimensions?|largest|max\w*|up to|across|large|big|extent")
_ADJECTIVES = re.compile(
    r"(?: (?:in|of) (?:\w+ )?(?:diameter|size|length))?"
    r"(?:[ -]?,? ?(?!(?:with|without|beside|near|and|next|in|of|from|at|on|is|are|was|were|to|no|x)\b)[\w-]+){0,6}",
    re.IGNORECASE,
)
"""What may stand between a number and the noun that it measures."""
_BARE = re.compile(r"\W*(?:(?:small|tiny|large|huge|big|about|approximately|ca|roughly)\W+)?", re.IGNORECASE)
"""What stands beside a size that is a sentence of its own."""
_REFERENCE = words(r"it|its|this|which|the (?:larg|bigg|great)est|of which|one|ones|each|larger|the other")


@dataclass(frozen=True)
class Measurement:
    """A number with its unit.

    Args:
        start: Where it stands in the clause.
        end: Where it ends.
        values: In mm, or in %, in the order of the text; the two ends of a range.
        ranged: Whether the values are the ends of a range.
        past: Whether it is of an earlier examination.
        vague: Whether it stands for a word such as "millimetric".
    """

    start: int
    end: int
    values: tuple[float, ...]
    ranged: bool = False
    past: bool = False
    vague: bool = False

    @property
    def largest(self) -> float:
        """Largest of the values: the largest diameter."""
        return max(self.values)

    @property
    def middle(self) -> float:
        """Middle of a range."""
        return sum(self.values) / len(self.values)


def lengths(text: str) -> list[Measurement]:
    """All lengths of a clause that have a unit, in mm."""
    found = [entry for match in _LENGTH.finditer(text) if (entry := _length(text, match)) is not None]
    small = [Measurement(match.start(), match.end(), (5.0,), vague=True) for match in _SMALL.finditer(text)]
    return found or small


def _length(text: str, match: re.Match[str]) -> Measurement | None:
    start, end = match.span()
    pairs = [(float(entry["number"].replace(",", ".")), entry["unit"]) for entry in _VALUE.finditer(match.group())]
    units = [unit for _, unit in pairs]
    if not any(units):
        return None
    values, unit = [], next(unit for unit in reversed(units) if unit)
    for number, own in reversed(pairs):
        # "4.2 x 3.1 cm": a number without a unit has that of the next one.
        unit = own or unit
        values.append(number * (10.0 if unit.lower().startswith("c") else 1.0))
    if _GROWN.search(text[:start]) and len(values) == 2:
        # "from 3.1 to 4.2 cm": the second is of today.
        return Measurement(start, end, (values[0],))
    ranged = _RANGE.search(match.group()) is not None and _TIMES.search(match.group()) is None
    values = _bounded(text[:start], values[::-1])
    before = len(values) == 1 and _GROWN.search(text[:start]) is not None  # "to 3.1 from 4.2 cm"
    return Measurement(start, end, tuple(values), ranged, before or _is_past(text, start, end))


def _bounded(before: str, values: list[float]) -> list[float]:
    """Values just beyond a bound where the text says more or less than it."""
    if _BOUND.search(before.rstrip()):
        return values
    if _MORE.search(before):
        return [value + 0.01 for value in values]
    return [value - 0.01 for value in values] if _LESS.search(before) else values


def _is_past(text: str, start: int, end: int) -> bool:
    before = _BEFORE_PAST.search(text[:start])
    if before is not None and _NOW.search(before.group()) is None:
        return True
    if _WAS.search(text[:start]):
        return True
    return _AFTER_PAST.match(text[end:]) is not None


def diameters(text: str) -> Iterator[Measurement]:
    """Diameters of a lesion on this examination."""
    for entry in lengths(text):
        slip = entry.largest > _LARGEST_MM or _CORRECTED.search(text[: entry.start])
        if not entry.past and not slip and not _is_distance(text, entry) and _is_of_lesion(text, entry):
            yield entry


def _is_distance(text: str, entry: Measurement) -> bool:
    """Whether a length is a distance: words of distance stand nearer before it than words of size."""
    if _TARGET.search(text) is None:
        return False
    before = text[max(0, entry.start - 60) : entry.start]
    after = text[entry.end : entry.end + 30]
    distances = [match.start() for match in _DISTANCE.finditer(before)]
    sizes = [match.start() for match in _SIZE.finditer(before)]
    if _AWAY.match(after):
        return True
    if not distances and not sizes and _BETWEEN.search(text[entry.end : entry.end + 45]):
        return LESION.match(after.lstrip(" -")) is None
    return bool(distances) and distances[-1] > (sizes[-1] if sizes else -1) and LESION.search(after[:25]) is None


def _is_of_lesion(text: str, entry: Measurement) -> bool:
    before, after = text[: entry.start], text[entry.end :]
    near = _ADJECTIVES.match(after).group()  # type: ignore[union-attr]  # it may be empty, but it always fits
    noun, foreign = LESION.search(near), _NO_LESION.search(near)
    if noun and (not foreign or noun.start() < foreign.start()):
        return True
    if foreign and foreign.start() < 12 and (not noun or foreign.start() < noun.start()) and foreign.group() != "wall":
        return False
    nouns = [match.start() for match in LESION.finditer(before)] + [m.start() for m in _REFERENCE.finditer(before)]
    foreigns = [match.start() for match in _NO_LESION.finditer(before)]
    if nouns:
        return not foreigns or max(nouns) > max(foreigns)
    return bool(
        not foreigns
        and _KIDNEY.search(before) is None
        and _OF_KIDNEY.search(before) is None
        and (_SIZE.search(text) is not None or LESION.search(after) is not None or _BARE.fullmatch(before + after))
    )


def distances(text: str) -> Iterator[Measurement]:
    """Distances, whatever they lead to."""
    for entry in lengths(text):
        if not entry.past and _is_distance(text, entry):
            yield entry


def percentages(text: str) -> Iterator[Measurement]:
    """Percentages, the part inside the kidney turned into the part outside."""
    for match in _PERCENT.finditer(text):
        values = [float(value.replace(",", ".")) for value in match.groups() if value]
        values = _bounded(text[: match.start()], values)
        before, after = text[: match.start()], text[match.end() :]
        inside = _INSIDE.match(after) or (_INSIDE_BEFORE.search(before) and not _OUTSIDE.match(after))
        if inside:
            values = [100.0 - value for value in values]
        yield Measurement(match.start(), match.end(), tuple(values), len(values) > 1)


def unenhanced_hu(text: str) -> Iterator[Measurement]:
    """Attenuation in HU without contrast; negative values are of fat and say nothing of the whole."""
    for entry in _hounsfield(text):
        if _NATIVE.search(text) and not _RISE.search(text) and entry.middle > _FAT_HU:
            yield entry


def enhancement_hu(text: str) -> Iterator[Measurement]:
    """Rise of the attenuation by contrast in HU: "by 30 HU", "an increase of 30 HU", "from 30 to 90 HU"."""
    for entry in _hounsfield(text):
        before = text[: entry.start]
        if entry.ranged and _GROWN.search(before):
            yield Measurement(entry.start, entry.end, (max(entry.values[1] - entry.values[0], 0.0),))
        elif _RISE_OF.search(before) and entry.middle >= 0.0:
            yield entry


def _hounsfield(text: str) -> Iterator[Measurement]:
    for match in _HU.finditer(text):
        values = [float(value.replace(",", ".")) for value in match.groups() if value]
        values = _bounded(text[: match.start()], values)
        yield Measurement(match.start(), match.end(), tuple(values), len(values) > 1)
