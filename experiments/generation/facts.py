"""Facts of generated reports against those of their references, as the rules of the attributes read both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.errors import DataError
from datamodules.reports.reader.clauses import read_report
from datamodules.reports.reader.measurements import diameters
from datamodules.reports.reader.organs import opposite, side_mentions
from datamodules.reports.reader.statements import Extractor, Statement
from datamodules.reports.schema import AttributeSchema

RIGHT, WRONG, INVENTED, MISSED = "right", "wrong", "invented", "missed"
VERDICTS = (RIGHT, WRONG, INVENTED, MISSED)


@dataclass(frozen=True)
class ComparedFact:
    """One attribute of one kidney as the generated report and the reference state it.

    Args:
        attribute: Name of the attribute.
        stated: Value in the generated report; None where it is not stated.
        true: Value in the reference; None where it is not stated.
        evidence: Start and end of the words in the text that was compared; None where it is not stated.
        true_evidence: The same in the reference.
    """

    attribute: str
    stated: str | None
    true: str | None
    evidence: tuple[int, int] | None = None
    true_evidence: tuple[int, int] | None = None

    @property
    def verdict(self) -> str:
        """right, wrong (another value), invented (the reference is silent) or missed (the generated one is)."""
        if self.stated is None:
            return MISSED
        if self.true is None:
            return INVENTED
        return RIGHT if self.stated == self.true else WRONG


@dataclass(frozen=True)
class FactScores:
    """Facts of many reports, a row per report.

    Args:
        attributes: Names of the attributes, in the schema's order.
        right: bool [N, A], stated with the reference's value.
        wrong: bool [N, A], stated with another value.
        invented: bool [N, A], stated where the reference is silent.
        missed: bool [N, A], not stated where the reference states it.
        other_side: bool [N], whether something is said of the other kidney alone; what counts for both sides, as of
            lymph nodes without a side, is not.
        size_error_mm: float [N], absolute difference of the largest diameters; NaN where either gives none.
    """

    attributes: tuple[str, ...]
    right: np.ndarray
    wrong: np.ndarray
    invented: np.ndarray
    missed: np.ndarray
    other_side: np.ndarray
    size_error_mm: np.ndarray


def named_side(text: str, side: str) -> str:
    """The text with its kidney named in front where it names no side, since the reader of one kidney knows it."""
    plain = " ".join(text.split())
    return plain if not plain or side_mentions(plain) else f"{side.capitalize()} kidney: {plain}"


def fact_lists(
    generated: Sequence[str],
    references: Sequence[str],
    sides: Sequence[str],
    extractor: Extractor,
    schema: AttributeSchema,
) -> list[list[ComparedFact]]:
    """The facts of every kidney that either report states, in the schema's order.

    Args:
        generated: Generated reports of one kidney each.
        references: Reference of each.
        sides: left or right, the kidney of each.
        extractor: Reads statements out of both.
        schema: The attributes that are compared.

    Raises:
        DataError: if their numbers differ.
    """
    said, meant = _both(generated, references, sides, extractor)
    return [_facts(a, b, side, schema) for a, b, side in zip(said, meant, sides, strict=True)]


def fact_scores(
    generated: Sequence[str],
    references: Sequence[str],
    sides: Sequence[str],
    extractor: Extractor,
    schema: AttributeSchema,
) -> FactScores:
    """Facts of every kidney as arrays.

    Args and errors as of `fact_lists`.
    """
    said, meant = _both(generated, references, sides, extractor)
    names = tuple(schema.names)
    place = {name: column for column, name in enumerate(names)}
    verdicts = {name: np.zeros((len(said), len(names)), dtype=bool) for name in VERDICTS}
    for row, (first, second, side) in enumerate(zip(said, meant, sides, strict=True)):
        for fact in _facts(first, second, side, schema):
            verdicts[fact.verdict][row, place[fact.attribute]] = True
    other = [_speaks_of_other(found, side) for found, side in zip(said, sides, strict=True)]
    sizes = [[largest_mm(text) for text in texts] for texts in (generated, references)]
    error = np.abs(np.array(sizes[0], dtype=float) - np.array(sizes[1], dtype=float))
    return FactScores(attributes=names, other_side=np.array(other, dtype=bool), size_error_mm=error, **verdicts)


def _speaks_of_other(said: list[Statement], side: str) -> bool:
    own = {(entry.attribute, entry.value, entry.start, entry.end) for entry in said if entry.side == side}
    others = (entry for entry in said if entry.side == opposite(side))
    return any((entry.attribute, entry.value, entry.start, entry.end) not in own for entry in others)


def _both(
    generated: Sequence[str], references: Sequence[str], sides: Sequence[str], extractor: Extractor
) -> tuple[list[list[Statement]], list[list[Statement]]]:
    """The statements of the generated reports and of their references."""
    if not len(generated) == len(references) == len(sides):
        raise DataError(
            f"{len(generated)} generated reports, {len(references)} references and {len(sides)} sides were given; "
            "expected one of each."
        )
    return _statements(generated, sides, extractor), _statements(references, sides, extractor)


def _statements(texts: Sequence[str], sides: Sequence[str], extractor: Extractor) -> list[list[Statement]]:
    return extractor.extract([named_side(text, side) for text, side in zip(texts, sides, strict=True)])


def _facts(said: list[Statement], meant: list[Statement], side: str, schema: AttributeSchema) -> list[ComparedFact]:
    first = {entry.attribute: entry for entry in said if entry.side == side}
    second = {entry.attribute: entry for entry in meant if entry.side == side}
    facts = []
    for name in schema.names:
        if name in first or name in second:
            a, b = first.get(name), second.get(name)
            facts.append(
                ComparedFact(
                    name,
                    None if a is None else a.value,
                    None if b is None else b.value,
                    None if a is None else (a.start, a.end),
                    None if b is None else (b.start, b.end),
                )
            )
    return facts


def largest_mm(text: str) -> float:
    """Largest diameter of a lesion that a text states, in mm; NaN where there is none."""
    found = [max(size.values) for clause in read_report(text).clauses for size in diameters(clause.text)]
    return max(found, default=float("nan"))


class Remembering:
    """An extractor that reads every text once, however often it is asked: groups of centres share their kidneys.

    Args:
        extractor: Reads statements.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self._known: dict[str, list[Statement]] = {}

    @property
    def name(self) -> str:
        """That of the extractor."""
        return self.extractor.name

    @property
    def fingerprint(self) -> str:
        """That of the extractor."""
        return self.extractor.fingerprint

    def extract(self, reports: Sequence[str]) -> list[list[Statement]]:
        """The statements of every report, in the order of the reports."""
        new = [text for text in dict.fromkeys(reports) if text not in self._known]
        self._known.update(zip(new, self.extractor.extract(new), strict=True))
        return [self._known[text] for text in reports]
