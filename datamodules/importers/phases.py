"""The contrast phase of a series, guessed from what the scanner's operator wrote, with the evidence kept.

The four phases are those of the suite's schema. A corticomedullary scan is arterial, a nephrographic one venous, an
excretory one delayed; the delays after injection are those of Yuh and Cohan, AJR 1999;173:747-755: corticomedullary
25 to 70 s, nephrographic 80 to 180 s, excretory from 180 s on.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.cohort.columns import PHASES, Column, Table
from datamodules.errors import DataError
from datamodules.importers.delimited import read_table, records

ARTERIAL_S, VENOUS_S, DELAYED_S = 15.0, 70.0, 180.0
"""First second after injection of each phase; the end of the last is an hour."""

# Whole examinations are named so, whatever the series shows; removed before the words are read.
_EXAMINATION = re.compile(
    r"\bw(?:ith)?\s*(?:/|&|\+|and)?\s*(?:w\s*/?\s*o|without)\b|\bw(?:/?o|ithout)\s*(?:/|&|\+|and)\s*w(?:ith)?\b"
    r"|\bc-\s*/?\s*c\+|\bpre\s*(?:/|&|\+|and)\s*post\b|\b(?:\d|two|three|four|tri|multi)\s*-?\s*(?:phas|faz)"
)
# Words and stems of a closed vocabulary, so that a name typed into a description can never reach the evidence.
# English first, then German, French, Spanish, Italian, Dutch, Polish and Chinese protocols, accents removed.
_VOCABULARY: dict[str, tuple[str, ...]] = {
    "non_contrast": (
        r"w\s*/\s*o\b|wo\b|without\b|pre\b(?!\s*-?\s*op)|pre[\s-]*con|non?[\s-]*contr|non?[\s-]*(?:con|ce)\b",
        r"non?[\s-]*enh|un-?enhanced|nc\b|nce\b|ncct\b|nect\b|plain\b|c-(?![\w+-])",
        r"nativ|ohne\b|sans\b|sin\b|senza\b|basale\b|blanco\b|bez\b|平扫",
    ),
    "arterial": (r"art\b|arteri|cortico\s*-?\s*medul|cmp\b", r"tetnicz|动脉|皮髓质"),
    "venous": (
        r"venous\b|ven\b|portal|port\b|pvp?\b|nephro\b|nephrogra|nephrogenic|parenchym",
        r"venos|venoes|veneu|zyln|wrotn|静脉|门脉|实质",
    ),
    "delayed": (
        r"delay|late\b|excret|equilibrium|urographic\b",
        r"spat\b|spate\b|tardi|escret|opozn|wydziel|延迟|排泄|分泌",
    ),
}
_LATE = ("late", "spat", "spate")
"""Words that qualify another phase (late arterial) where there is one."""
# Named after the examination as often as after the phase: read only where nothing else speaks.
_WEAK: dict[str, tuple[str, ...]] = {"delayed": (r"uro(?:gram|graphy)\b|ivp\b",)}
_MINUTES = re.compile(r"\b(\d{1,2})\s*-?\s*min(?:ute)?s?\b")
_SECONDS = re.compile(r"\b(\d{2,3})\s*-?\s*(?:s|sec|secs|seconds|sek)\b")


@dataclass(frozen=True)
class PhaseGuess:
    """A phase and what it was read from.

    Args:
        phase: One of the schema's phases, or None when it cannot be told.
        evidence: The tag and the words of the closed vocabulary that were found; never the description itself, in
            which operators type names.
    """

    phase: str | None
    evidence: str


def guess_phase(description: str, protocol: str = "", delay_s: float | None = None) -> PhaseGuess:
    """Guess the contrast phase of a series.

    The words of the description come first, then its minutes or seconds, then the delay between injection and
    acquisition, then the protocol's words. Contradicting words are no evidence: `ART/VEN` stays unknown.

    Args:
        description: SeriesDescription.
        protocol: ProtocolName.
        delay_s: Seconds from ContrastBolusStartTime to AcquisitionTime, where both are known.
    """
    said = _plain(description)
    phases = _find(said, _VOCABULARY)
    if len(phases) == 1:
        ((only, word),) = phases.items()
        return PhaseGuess(only, f"SeriesDescription: {word}")
    ambiguous = ", ".join(sorted(phases.values()))
    timed = _written_delay(said)
    if not phases and timed is not None and (phase := phase_of_delay(timed)) is not None:
        return PhaseGuess(phase, f"SeriesDescription: {timed:g} s")
    if delay_s is not None and (phase := phase_of_delay(delay_s)) is not None:
        return PhaseGuess(phase, f"contrast timing: {delay_s:.0f} s after injection")
    if phases:
        return PhaseGuess(None, f"SeriesDescription names several phases ({ambiguous})")
    for tag, text, vocabulary in (
        ("ProtocolName", protocol, _VOCABULARY),
        ("SeriesDescription", description, _WEAK),
    ):
        found = _find(_plain(text), vocabulary)
        if len(found) == 1:
            ((only, matched),) = found.items()
            return PhaseGuess(only, f"{tag}: {matched}")
    return PhaseGuess(None, "neither description, protocol nor contrast timing names a phase")


def phase_of_delay(delay_s: float) -> str | None:
    """Phase of a scan that starts `delay_s` seconds after the injection; None outside (0, 3600] and before 15 s."""
    if not ARTERIAL_S <= delay_s <= 3600.0:
        return None
    if delay_s < VENOUS_S:
        return "arterial"
    return "venous" if delay_s < DELAYED_S else "delayed"


def _plain(text: str) -> str:
    """Lower case without accents, words apart: `3FazyOpoznione_ADULT` becomes `3 fazy opoznione adult`."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=\d)(?=[A-Z][a-z])", " ", text.replace("ł", "l").replace("Ł", "L"))
    text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return re.sub(r"[_,;:()\[\]]+", " ", text.lower())


def _find(text: str, vocabulary: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Phases that a text names, each with its first word."""
    text = _EXAMINATION.sub(" ", text)
    found: dict[str, str] = {}
    for phase, words in vocabulary.items():
        # A Chinese word needs no border: nothing separates it from its neighbours.
        if match := re.search(r"(?:(?<![a-z])|(?=[^\x00-\x7f]))(?:" + "|".join(words) + ")", text):
            found[phase] = match.group().strip()
    if found.get("delayed") in _LATE and len(found) > 1:
        del found["delayed"]
    return found


def _written_delay(text: str) -> float | None:
    if match := _MINUTES.search(text):
        return 60.0 * float(match.group(1))
    if match := _SECONDS.search(text):
        return float(match.group(1))
    return None


_RULES = Table(
    "phases",
    ("series_uid", "stack", "description"),
    (
        Column("series_uid", "string", "SeriesInstanceUID of one series."),
        Column("stack", "integer", "Number of the stack, where one series holds several.", low=1),
        Column("description", "string", "Pattern with * and ? that a SeriesDescription must match, any case."),
        Column("phase", "string", "Phase of the series.", nullable=False, choices=PHASES),
    ),
)


@dataclass(frozen=True)
class PhaseRule:
    """One row of `phases.csv`."""

    phase: str
    line: int
    series_uid: str | None = None
    stack: int | None = None
    description: str | None = None


def read_phase_rules(path: Path) -> list[PhaseRule]:
    """Read the user's own phases.

    Args:
        path: CSV with the column `phase` and `series_uid` (and `stack`) or `description`.

    Raises:
        DataError: naming file, row and column of the first bad cells.
    """
    frame = read_table(path, _RULES)
    rules = [PhaseRule(line=int(line), **row) for line, row in zip(frame.index, records(frame), strict=True)]
    for rule in rules:
        if (rule.series_uid is None) == (rule.description is None):
            raise DataError(f"{path.name}, row {rule.line}: expected either series_uid or description; fill in one.")
    return rules


def ruled_phase(rules: Sequence[PhaseRule], series_uid: str, stack: int, description: str) -> PhaseGuess | None:
    """The phase that the user gives a series; a rule for its UID comes before one for its description."""
    for rule in rules:
        if rule.series_uid == series_uid and rule.stack in (None, stack):
            return PhaseGuess(rule.phase, f"phases table, row {rule.line}")
    for rule in rules:
        if rule.description is not None and fnmatch.fnmatch(description.lower(), rule.description.lower()):
            return PhaseGuess(rule.phase, f"phases table, row {rule.line}")
    return None
