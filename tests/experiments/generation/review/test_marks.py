"""Which words of a report are marked, and as what."""

from __future__ import annotations

import pytest

from datamodules.reports.reader.rules import RuleExtractor
from experiments.generation.facts import ComparedFact, fact_lists, named_side
from experiments.generation.review.marks import located, pieces, reference_spans, report_spans

REFERENCE = "Left kidney: There is a solid mass of 3.5 cm in the upper pole. The margin is sharp. No hydronephrosis."
GENERATED = "There is a solid mass of 3.5 cm\n in the lower pole.\tNo  hydronephrosis. Normal adrenal gland."


@pytest.fixture(scope="module")
def facts() -> list[ComparedFact]:
    extractor = RuleExtractor()
    return fact_lists([GENERATED], [REFERENCE], ["left"], extractor, extractor.schema)[0]


@pytest.mark.parametrize(
    "text", ["  A  mass\n\nof 3 cm. ", "The left kidney\thas a mass.", "mass", "Right kidney:  no mass ."]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_words_are_found_where_they_were_written(text: str, side: str) -> None:
    compared = named_side(text, side)
    front = len(compared) - len(" ".join(text.split()))
    for start in range(len(compared)):
        for end in range(start + 1, len(compared) + 1):
            place = located(text, side, (start, end))
            if end <= front:
                assert place is None
                continue
            assert place is not None
            wanted = compared[max(start, front) : end]
            assert " ".join(text[slice(*place)].split()) == " ".join(wanted.split())


def test_every_sentence_is_marked_as_what_it_is(facts: list[ComparedFact]) -> None:
    found = pieces(GENERATED, report_spans(GENERATED, "left", facts))
    assert "".join(piece.text for piece in found) == GENERATED
    marked = {" ".join(piece.text.split()): piece for piece in found if piece.verdict}
    mass = marked["There is a solid mass of 3.5 cm in the lower pole."]
    assert mass.verdict == "wrong"  # the worst of what it states
    assert mass.badges == ("✗✓3",)
    assert "pole: lower (reference: upper), wrong: the reference says otherwise" in mass.labels
    assert marked["No hydronephrosis."].verdict == "right"
    assert marked["Normal adrenal gland."].verdict == "invented"


def test_the_reference_names_the_reports_that_leave_something_out(facts: list[ComparedFact]) -> None:
    silent = [ComparedFact(fact.attribute, None, fact.true, None, fact.true_evidence) for fact in facts if fact.true]
    spans = reference_spans(REFERENCE, "left", {"A": facts, "B": silent})
    found = pieces(REFERENCE, spans)
    assert "".join(piece.text for piece in found) == REFERENCE
    badges = {piece.text: piece.badges for piece in found if piece.badges}
    assert badges["The margin is sharp."] == ("○AB",)
    assert badges["No hydronephrosis."] == ("○B",)
    assert badges["There is a solid mass of 3.5 cm in the upper pole."] == ("○B",)


def test_a_report_without_facts_is_one_piece() -> None:
    assert [piece.text for piece in pieces("No comment.", [])] == ["No comment."]
    assert pieces("", []) == []
