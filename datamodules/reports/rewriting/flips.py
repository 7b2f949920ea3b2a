"""One fact of a report turned round by rules: hard negatives for reports of any source.

An edit is kept only if the rule reader then reads exactly that one fact otherwise, so that nothing else has changed
as far as the reader can tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from datamodules.cohort.columns import SIDES
from datamodules.errors import DataError
from datamodules.reports.reader.clauses import read_report
from datamodules.reports.reader.measurements import Measurement, diameters
from datamodules.reports.reader.organs import opposite
from datamodules.reports.reader.rules import RuleExtractor

SIDE, SIZE, MALIGNANCY = "side", "size", "malignancy"
_LARGE_MM, _SMALL_MM, _BETWEEN_MM = 80.0, 30.0, 55.0
_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "composition": (("solid", "cystic"),),
    "exophytic": (("exophytic", "endophytic"),),
    "margin": (
        ("smooth", "irregular"),
        ("well-defined", "ill-defined"),
        ("well defined", "ill defined"),
        ("well-circumscribed", "poorly marginated"),
        ("sharp", "indistinct"),
    ),
    "homogeneity": (("homogeneous", "heterogeneous"), ("homogeneously", "heterogeneously")),
    "pole": (("upper pole", "lower pole"), ("superior pole", "inferior pole")),
    "face": (("anterior", "posterior"), ("anteriorly", "posteriorly"), ("ventral", "dorsal")),
    "density": (("hypodense", "hyperdense"), ("low attenuation", "high attenuation")),
    "hydronephrosis": (("mild", "marked"), ("mildly", "severely")),
    "enhancement_degree": (("mild", "avid"), ("mildly", "avidly"), ("weak", "marked")),
    MALIGNANCY: (("benign", "malignant"),),
}
"""Words and their opposites, by what they change."""
_THROMBUS = (
    (r"is patent\b", "contains thrombus"),
    (r"are patent\b", "contain thrombus"),
    (r"contains (?:a )?thrombus\b", "is patent"),
    (r"\bis filled by thrombus\b", "is patent"),
    (r"free of thrombus\b", "filled by thrombus"),
)
_NEGATIVE = re.compile(r"(?:there (?:is|are) |with )?no (?:evidence of |definite |sign of )?|without ", re.IGNORECASE)
_POSITIVE = re.compile(r"there (?:is|are) (?:an? )?(?!no\b)", re.IGNORECASE)
_SEEN = re.compile(r" (?:is|are) (?:seen|present|noted|identified)(?=[ .;]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class TextFlip:
    """A text with one fact turned round.

    Args:
        kind: `side`, `size`, `malignancy`, or the attribute that reads otherwise now.
        text: The text.
    """

    kind: str
    text: str


def text_flips(text: str, reader: RuleExtractor) -> list[TextFlip]:
    """The texts that differ from a report, or from the part on one kidney, in one fact.

    Turned round are the side, the size (a lesion of 3 cm becomes one of 8 cm and the other way), findings that are
    affirmed or denied, thrombus, words with an opposite (solid, cystic), and benign against malignant where the text
    says so. All mentions of a fact change together.

    Args:
        text: The report.
        reader: Reads the facts before and after.

    Returns:
        At most one text a kind, in a fixed order; none where nothing can be turned round.

    Raises:
        DataError: if the text is empty.
    """
    if not text.strip():
        raise DataError("An empty report has no fact to turn round; leave it out.")
    before = _reading(reader, text)
    found: dict[str, str] = {}
    for edited in dict.fromkeys(_edits(text)):
        kind = _changed_fact(text, edited, before, _reading(reader, edited))
        if kind is not None:
            found.setdefault(kind, edited)
    return [TextFlip(kind, edited) for kind, edited in found.items()]


def _reading(reader: RuleExtractor, text: str) -> dict[tuple[str, str], str]:
    return {(entry.side, entry.attribute): entry.value for entry in reader.extract([text])[0]}


def _changed_fact(
    text: str, edited: str, before: dict[tuple[str, str], str], after: dict[tuple[str, str], str]
) -> str | None:
    """The one fact that an edit has changed; None where it changed none, several, or left one unstated."""
    if edited == text:
        return None
    if edited == other_side(text):
        swapped = {(opposite(side), name): value for (side, name), value in after.items()}
        return SIDE if swapped == before and after != before else None
    if edited in _with_words(text, MALIGNANCY):
        return MALIGNANCY if after == before else None
    changed = {name for name in before if after.get(name) != before[name]}
    if before.keys() != after.keys() or len(changed) != 1:
        return None
    attribute = changed.pop()[1]
    return SIZE if attribute == "size_class" else attribute


def _edits(text: str) -> Iterator[str]:
    yield other_side(text)
    yield _other_size(text)
    for kind in _WORDS:
        yield from _with_words(text, kind)
    for pattern, other in _THROMBUS:
        yield re.sub(pattern, other, text)
    yield from _denied_or_affirmed(text)


def other_side(text: str) -> str:
    """Every left as right and every right as left."""
    return re.sub(rf"\b(?:{'|'.join(SIDES)})", lambda m: _like(m[0], opposite(m[0].lower())), text, flags=re.IGNORECASE)


def _other_size(text: str) -> str:
    """The diameter of the largest lesion as 3 or 8 cm wherever it stands, its other diameters in proportion."""
    report = read_report(text)
    found: list[tuple[int, int, Measurement]] = []
    for clause in report.clauses:
        if clause.part != "aside":
            found += [
                (*report.span(clause.start + entry.start, clause.start + entry.end), entry)
                for entry in diameters(clause.text)
                if not entry.vague
            ]
    if not found:
        return text
    largest = max(entry.largest for *_, entry in found)
    factor = (_SMALL_MM if largest > _BETWEEN_MM else _LARGE_MM) / largest
    for start, end, entry in sorted(found, key=lambda item: item[0], reverse=True):
        if entry.largest == largest:
            text = text[:start] + _scaled(text[start:end], factor) + text[end:]
    return text


def _scaled(numbers: str, factor: float) -> str:
    def scale(match: re.Match[str]) -> str:
        digits = len(match[0].replace(",", ".").partition(".")[2])
        written = f"{float(match[0].replace(',', '.')) * factor:.{digits}f}"
        return written.replace(".", ",") if "," in match[0] else written

    return re.sub(r"\d+(?:[.,]\d+)?", scale, numbers)


def _with_words(text: str, kind: str) -> list[str]:
    """The text with a word's opposite, for every pair of a kind of which it holds one alone."""
    found = []
    for pair in _WORDS[kind]:
        for word, other in (pair, pair[::-1]):
            pattern = re.compile(rf"(?<![\w-]){re.escape(word)}(?!\w)", re.IGNORECASE)
            if pattern.search(text) and not re.search(rf"\b{re.escape(other)}\b", text, re.IGNORECASE):
                found.append(pattern.sub(lambda match, other=other: _like(match[0], other), text))  # type: ignore[misc]
    return found


def _denied_or_affirmed(text: str) -> Iterator[str]:
    """The text with one sentence denied that it affirms, or affirmed that it denies."""
    report = read_report(text)
    for span in report.sentences:
        start, end = report.span(*span)
        sentence = text[start:end]
        negative, positive, seen = _NEGATIVE.match(sentence), _POSITIVE.match(sentence), _SEEN.search(sentence)
        if negative:
            verb = "are" if " are " in negative[0] else "is"
            other = f"There {verb} {sentence[negative.end() :]}"
        elif positive:
            other = f"There is no {sentence[positive.end() :]}"
        elif seen:
            bare = re.sub(r"^(?:an?|the) ", "", sentence[: seen.start()], flags=re.IGNORECASE)
            other = f"There is no {bare[:1].lower()}{bare[1:]}{sentence[seen.end() :]}"
        else:
            continue
        yield text[:start] + other + text[end:]


def _like(word: str, other: str) -> str:
    """Another word in the same capitals."""
    if word.isupper():
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other
