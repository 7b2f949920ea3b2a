"""What a sentence says of today's examination: requests, earlier states and comparisons are blanked before it is read.

Every attribute is read from the same blanked text, so that none needs to know of requests, of change over time or of
the other side. A blanked stretch keeps its length, so that offsets hold, and reads as one word that nothing matches.
Triggers and scopes follow ConText (Harkema et al., J Biomed Inform 2009;42:839).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from datamodules.reports.reader.organs import LESION, places, words

_DEGREE = (
    r"(?:marked|mild|slight|minimal|minor|moderate|severe|massive|gross|significant|substantial|considerabl[ey]|great"
    r"|large|strong|pronounced|notabl[ey]|striking|dramatic|clear|much|huge|subtle|small|appreciabl[ey])(?:ly)?"
)
_CHANGED = (
    r"(?:de|in)creas\w*|improv\w*|reduc\w*|regress\w*|progress\w*|diminish\w*|lessen\w*|worsen\w*|resol\w*"
    r"|shr[aiu]nk\w*"
)
_COMPARED = r"less|smaller|better|worse|bigger|lower|higher"
_LENGTH = r"\d+(?:[.,]\d+)?(?: ?x ?\d+(?:[.,]\d+)?)* ?[cm]m\b"
_SIDE = (
    r"(?:(?:that|those) )?(?:(?:in|on|of|at) )?(?:the )?(?:left|right|contra-?lateral|opposite|other)"
    r"(?:[- ]?sided?)?(?: (?:side|kidney|adrenal(?: gland)?|ureter|collecting system|renal pelvis|gland)s?)?"
    r"(?! ones?\b)"
)

_REQUEST = words(
    r"(?:please|kindly)(?: \w+)?",
    r"(?:to )?(?:evaluat(?:e|ion)|assess(?:ment)?|check|look(?:ing)?|search(?:ing)?|screen(?:ing)?) (?:for|if|whether)",
    r"(?:to )?(?:evaluate|assess|exclude|confirm|characteri[sz]e|differentiate)(?! \w+ is)",
    r"(?:to )?(?:rule|ruling) out|r/o|query|\?+|for (?:the )?(?:evaluation|assessment|exclusion"
    r"|characteri[sz]ation) of",
    r"(?:clinical )?question(?: of)?:?|reason for \w+|indication",
    r"(?:is|are|does|do|has|have|can|could|was|were)(?= .*\?)",
)
"""A request, where a sentence or a part of one begins with it."""
_PURPOSE = re.compile(
    r"(?<!small )(?<!tiny )(?<!difficult )(?<!hard )(?<!able )(?<!possible )(?<!early )(?<!not )(?<!failed )"
    r"(?<!limited )"
    r"\bto (?:(?:better|further|formally|definitively|reliably) )?(?:exclude|rule out|r/o|look for|search for|check for"
    r"|screen for|evaluate|assess|confirm|characteri[sz]e|differentiate|distinguish|clarify)\b",
    re.IGNORECASE,
)
"""What something is done for: "MRI may be obtained to exclude a mass"."""
_MARK = re.compile(r"(?<![\w)])\?+ ?(?=\w)")
"""A question mark before what is asked."""
_EARLIER = words(
    r"(?:(?:ultrasound|ultrasonography|sonography|US|MRI|outside \w+|(?:previous|prior|earlier|last) \w+)) (?:had )?"
    r"(?:suggested|showed|shown|demonstrated|revealed|raised|described|reported)"
)
_ENDS = re.compile(r"[;.](?= |$)|, (?=(?:but|however|there|now|the|a|an|no)\b)")
"""Where the scope of a request ends."""

_COURSE = (
    re.compile(rf"\b{_DEGREE}(?= (?:interval )?(?:{_CHANGED}))", re.IGNORECASE),
    re.compile(rf"(?<=has |ave ){_DEGREE}(?= (?:enlarged|grown|widened))", re.IGNORECASE),
    re.compile(rf"(?:(?<=\bis )|(?<=\bare )){_DEGREE}(?= (?:{_COMPARED})\b)", re.IGNORECASE),
    re.compile(rf"\b(?:{_CHANGED}) (?P<blank>{_DEGREE})(?= ?(?:[.,;]|$|in size|since|compar|from))", re.IGNORECASE),
    re.compile(r"\bfrom (?P<blank>[\w-]+)(?= to \w)(?<!\d)", re.IGNORECASE),
    re.compile(rf"\b(?:previously|formerly|initially|earlier|then) (?P<blank>{_DEGREE})\b", re.IGNORECASE),
    re.compile(
        rf"\b(?:grown|gr[eo]wn?|enlarged|longer|larger|smaller|thicker|wider|{_CHANGED})(?: \w+){{0,3}} by (?:\w+ )?"
        rf"(?P<blank>{_LENGTH})",
        re.IGNORECASE,
    ),
    re.compile(
        rf"{_LENGTH}(?= (?:larger|smaller|longer|shorter|wider|thicker|thinner|lower|higher|more|less)\b)",
        re.IGNORECASE,
    ),
    re.compile(rf"{_LENGTH}(?= ?(?:-+>|=+>|→))", re.IGNORECASE),
)
"""Words of a change, which are no degree of the finding, and values of an earlier examination."""
_COMPARISON = re.compile(
    rf"\b(?:than|unlike|like|(?:as )?(?:opposed|contrary|compared|relative|similar|equal|in contrast|in comparison)"
    rf" (?:to|with)|versus|vs\.?) {_SIDE}\b",
    re.IGNORECASE,
)
_BOTH = re.compile(
    r"\b(?:left|right)(?: side)? ?(?P<blank>(?:>+|greater|more|worse|larger)(?: \w+)?(?: than)?(?: on)?)(?: the)?"
    r" (?:left|right)\b",
    re.IGNORECASE,
)
"""Both sides have it, one more than the other: "left greater than right"."""


def today(text: str) -> str:
    """A sentence with what is not said of today's examination blanked; it keeps its length.

    Args:
        text: The sentence, with line breaks as blanks.
    """
    for start, end in _requests(text):
        text = blank(text, start, end)
    text = _blanked(text, _BOTH)
    text = _blanked(text, _COMPARISON)
    for pattern in _COURSE:
        text = _blanked(text, pattern)
    return text


def blank(text: str, start: int, end: int) -> str:
    """The text with a stretch as one word without meaning; blanks and commas at its ends stay."""
    stretch = text[start:end]
    left = len(stretch) - len(stretch.lstrip(" ,"))
    right = len(stretch.rstrip(" ,.;"))
    return text[: start + left] + "q" * max(right - left, 0) + text[start + max(right, left) :]


def _blanked(text: str, pattern: re.Pattern[str]) -> str:
    group = "blank" if "blank" in pattern.groupindex else 0
    for match in pattern.finditer(text):
        text = blank(text, *match.span(group))
    return text


def _requests(text: str) -> Iterator[tuple[int, int]]:
    begin = len(text) - len(text.lstrip(" -*•,:"))
    starts = [begin] if _REQUEST.match(text, begin) else []
    starts += [match.start() for match in _PURPOSE.finditer(text)]
    starts += [match.start() for match in _EARLIER.finditer(text)]
    # "a lesion, ?cyst" doubts what a finding is; "flank pain, ?stone" asks for one.
    starts += [
        match.start()
        for match in _MARK.finditer(text)
        if not LESION.search(text, 0, match.start()) and not places(text[: match.start()])
    ]
    for start in starts:
        end = _ENDS.search(text, start + 1)
        yield start, end.start() if end else len(text)
