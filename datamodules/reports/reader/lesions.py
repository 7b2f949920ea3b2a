"""Which lesion a clause speaks of: the lesions of one kidney are kept apart, so that the largest can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.reports.reader.clauses import Clause
from datamodules.reports.reader.measurements import Measurement
from datamodules.reports.reader.organs import words

FURTHER = words(
    r"(?:some|one|several|few) of (?:them|(?:the|these)(?: \w+){0,2} (?:lesions|cysts|masses|nodules|tumou?rs))",
    r"(?:further|additional|second|third|another|other|smaller|smallest|satellite|accompanying|remaining|extra)"
    r"(?: (?!of\b|part\b|portion\b|half\b|share\b|component\b)[\w/.-]+){0,3} (?:lesions?|mass(?:es)?|tumou?rs?"
    r"|neoplasms?|nodules?"
    r"|cysts?|foc(?:us|i)|formations?|ones?|growths?|abnormalit(?:y|ies))",
)
LARGEST = words(
    r"(?:larg|bigg|great)est(?: (?:one|lesion|mass|cyst|tumou?r|of \w+))?|(?:main|dominant|index"
    r"|principal) (?:\w+ )?(?:lesion"
    r"|mass|tumou?r|cyst)"
)
_LARGEST_DIMENSION = words(
    r"(?:larg|bigg|great)est (?:\w+ )?(?:diameter|dimension|extent|size|extension|axis|measurement|cross|part"
    r"|portion|axial)\w*"
)
REFERS = words(r"it|its|this|these|the (?:[\w-]+ ){0,2}(?:lesion|mass|tumou?r|cyst|nodule|finding|process|focus)")
_SAME_MM = 2.0
_SAME_SHARE = 0.08
"""Two sizes are of one lesion within 2 mm or 8 %: an impression often rounds."""


@dataclass(frozen=True)
class Reading:
    """One value that a clause states.

    Args:
        attribute: Name of the attribute.
        value: Its class.
        clause: Where it stands.
        start: Where the deciding words begin, in the clause.
        end: Where they end.
        negated: Whether it follows from a negation.
        uncertain: Whether it is hedged.
        implied: Whether it follows from another attribute's value.
        size_mm: The diameter that it follows from.
    """

    attribute: str
    value: str
    clause: Clause
    start: int
    end: int
    negated: bool = False
    uncertain: bool = False
    implied: bool = False
    size_mm: float | None = None


@dataclass(eq=False)
class ReportedLesion:
    """One lesion of a kidney with what is said of it."""

    further: bool = False
    largest: bool = False
    readings: list[Reading] = field(default_factory=list)

    @property
    def size_mm(self) -> float | None:
        """Largest diameter, of the findings where they give one."""
        sizes = [
            entry for entry in self.readings if entry.size_mm is not None and entry.clause.part == "findings"
        ] or self.readings
        return max((entry.size_mm for entry in sizes if entry.size_mm is not None), default=None)


@dataclass(eq=False)
class ReportedKidney:
    """One kidney while its report is read.

    Args:
        readings: What is said of the kidney itself.
        lesions: In the order of mention.
        loose: What is said of a lesion without naming one: it is taken as said of the largest.
    """

    readings: list[Reading] = field(default_factory=list)
    lesions: list[ReportedLesion] = field(default_factory=list)
    loose: list[Reading] = field(default_factory=list)

    def lesion_of(self, clause: Clause, indefinite: bool, sizes: Sequence[Measurement]) -> ReportedLesion:
        """The lesion that a clause speaks of, a new one where it brings one in.

        Args:
            clause: The clause.
            indefinite: Whether it names a lesion without "the" or "this".
            sizes: The diameters that it gives.
        """
        if not self.lesions:
            return self._new(further=False)
        size = max((entry.largest for entry in sizes if not entry.vague), default=None)
        if clause.part == "impression" and size is not None:
            return next((lesion for lesion in self.lesions if _same(lesion.size_mm, size)), self.main)
        if FURTHER.search(clause.text) and indefinite:
            return self._new(further=True)
        known = [lesion for lesion in self.lesions if size is not None and _same(lesion.size_mm, size)]
        if known:
            return known[-1]  # said again
        if (
            size is not None
            and LARGEST.search(_LARGEST_DIMENSION.sub(" ", clause.text))
            and not REFERS.match(clause.text)
        ):
            if self.lesions[-1].size_mm is None:
                self.lesions[-1].largest = True
                return self.lesions[-1]
            return self._new(further=False, largest=True)
        if clause.part == "impression":
            return self.main
        if indefinite and size is not None and self.lesions[-1].size_mm is not None:
            return self.lesions[-1] if REFERS.match(clause.text) else self._new(further=False)
        return self.lesions[-1]

    def _new(self, further: bool, largest: bool = False) -> ReportedLesion:
        self.lesions.append(ReportedLesion(further, largest))
        return self.lesions[-1]

    @property
    def main(self) -> ReportedLesion:
        """The largest lesion: called so, else by size; one without a size before those that are called further."""
        called = [lesion for lesion in self.lesions if lesion.largest]
        if called:
            return called[0]
        first = self.lesions[0]
        sized = [lesion for lesion in self.lesions if lesion.size_mm is not None]
        if not sized or (first.size_mm is None and all(lesion.further for lesion in sized)):
            return first
        return max(sized, key=lambda lesion: lesion.size_mm or 0.0)


def _same(one: float | None, two: float) -> bool:
    return one is not None and abs(one - two) <= max(_SAME_MM, _SAME_SHARE * one)
