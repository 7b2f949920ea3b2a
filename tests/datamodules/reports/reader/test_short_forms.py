"""Sides in short, markup, and sizes that are none: what a report of a busy hospital holds."""

from __future__ import annotations

import pytest

from datamodules.reports.reader.clauses import kidney_text, read_report
from datamodules.reports.reader.rules import RuleExtractor
from tests.datamodules.reports.reader.said import said

MILD, NONE = "mild", "none"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(R) kidney: mild hydronephrosis. (L) kidney: no hydronephrosis.",
         {"right hydronephrosis": MILD, "left hydronephrosis": NONE}),
        ("Lt. kidney shows a 45 mm mass. Rt. kidney normal.",
         {"left size_class": "4_to_7_cm", "right lesion_present": "no"}),
        ("Lt kidney: calculus 4 mm.", {"left stones": "yes", "right stones": ""}),
        ("LT KIDNEY: 3 CM MASS.", {"left size_class": "to_4_cm"}),
        ("B/L mild hydronephrosis.", {"left hydronephrosis": MILD, "right hydronephrosis": MILD}),
        ("Bilat. renal cysts.", {"left lesion_present": "yes", "right lesion_present": "yes"}),
        ("R renal mass 5.2 cm.", {"right size_class": "4_to_7_cm", "left lesion_present": ""}),
        ("RK 10.5 cm with 8 cm mass. LK 11 cm, no mass.",
         {"right size_class": "from_7_cm", "left lesion_present": "no", "left size_class": ""}),
        ("Wedge fracture of L1. R kidney normal.", {"right lesion_present": "no", "left lesion_present": ""}),
        ("Mass of the L kidney at the L2 level, 3 cm.", {"left size_class": "to_4_cm", "right lesion_present": ""}),
    ],
)  # fmt: skip
def test_sides_are_read_in_their_short_forms(rules: RuleExtractor, text: str, expected: dict[str, str]) -> None:
    found = said(rules, text)
    assert {key: found.get(key, "") for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Left renal mass of 3 cm.<br>No hydronephrosis.<br/>Right kidney: normal.",
         {"left hydronephrosis": NONE, "right lesion_present": "no"}),
        ("Left kidney&nbsp;shows a 3&nbsp;cm mass.", {"left size_class": "to_4_cm"}),
        ("Left renal mass &gt; 7 cm.", {"left size_class": "from_7_cm"}),
        ("<p>Left renal mass, <b>3 cm</b>._x000D_\nNo stone.</p>", {"left size_class": "to_4_cm"}),
        ("-Left kidney: simple cyst, Bosniak I -Right kidney: no mass -Liver: mass 4 cm",
         {"left lesion_present": "yes", "right lesion_present": "no", "right size_class": ""}),
    ],
)  # fmt: skip
def test_markup_is_no_part_of_a_text(rules: RuleExtractor, text: str, expected: dict[str, str]) -> None:
    found = said(rules, text)
    assert {key: found.get(key, "") for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Left renal mass 310 cm.", ""),
        ("Left renal mass of 3.5 cm, not 7.5 cm.", "to_4_cm"),
        ("Left kidney: 2 masses, 3 cm and 5 cm.", "4_to_7_cm"),
        ("The left renal mass decreased to 3.5 cm from 7.5 cm.", "to_4_cm"),
        ("Left renal mass of 3.5 cm (was 7.5 cm).", "to_4_cm"),
        ("Left renal mass of 3.5 cm vs. 7.5 cm in May.", "to_4_cm"),
        ("Left renal mass which was 3.5 cm.", "to_4_cm"),
        ("Left kidney 11 cm, no mass.", ""),
        ("Left kidney 11 cm, with a cyst of 2 cm.", "to_4_cm"),
    ],
)
def test_a_size_is_that_of_the_largest_lesion_and_of_nothing_else(rules: RuleExtractor, text: str, value: str) -> None:
    assert said(rules, text).get("left size_class", "") == value


@pytest.mark.parametrize(
    "text",
    ["Cannot exclude a small left renal mass.", "CT is unable to exclude a left renal mass.",
     "The study does not exclude a left renal mass."],
)  # fmt: skip
def test_what_is_not_excluded_is_possible(rules: RuleExtractor, text: str) -> None:
    (found,) = rules.extract([text])
    (presence,) = [one for one in found if one.attribute == "lesion_present"]
    assert (presence.side, presence.value, presence.uncertain) == ("left", "yes", True)


def test_what_is_written_out_keeps_its_place(rules: RuleExtractor) -> None:
    text = "Lt.  kidney &lt;b&gt; normal,\tRK  normal"
    report = read_report(text)
    assert report.plain == "Lt. kidney <b> normal, right kidney normal"
    start = report.plain.index("right kidney")
    begin, end = report.span(start, start + len("right kidney"))
    assert text[begin:end] == "RK"
    assert kidney_text("RK: cyst. LK: normal.", "left") == "Normal."
