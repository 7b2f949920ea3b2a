"""Tables with a column a side, and addenda that correct what stands above them."""

from __future__ import annotations

import pytest

from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.reader.side_tables import spread
from tests.datamodules.reports.reader.said import said

YES, NO, NONE, MILD = "yes", "no", "none", "mild"
SPACED = """KIDNEYS
                 Right            Left
Mass             none             3.2 cm, solid
Hydronephrosis   mild             none
Stones           none             4 mm

Liver normal.
"""
BARS = """| | Right kidney | Left kidney |
|---|---|---|
| Mass | none | 3.2 cm, solid |
| Hydronephrosis | mild | none |
| Stones | none | 4 mm |
"""
TABS = "Finding\tRight\tLeft\nMass\tnone\t3.2 cm, solid\nHydronephrosis\tmild\tnone\nStones\tnone\t4 mm"
BESIDE = """Right kidney:             Left kidney:
No mass.                  3.2 cm solid mass.
Mild hydronephrosis.      No hydronephrosis.
No stones.                Stone of 4 mm.
"""


@pytest.mark.parametrize("text", [SPACED, BARS, TABS, BESIDE])
def test_a_table_gives_each_side_its_own(rules: RuleExtractor, text: str) -> None:
    expected = {
        "right lesion_present": NO, "left lesion_present": YES, "left size_class": "to_4_cm",
        "left composition": "solid", "right hydronephrosis": MILD, "left hydronephrosis": NONE,
        "right stones": NO, "left stones": YES,
    }  # fmt: skip
    assert said(rules, text) == expected
    swapped = text.replace("Right", "Wrong").replace("Left", "Right").replace("Wrong", "Left")
    other = {"left": "right", "right": "left"}
    assert said(rules, swapped) == {
        f"{other[key.split()[0]]} {key.split()[1]}": value for key, value in expected.items()
    }


def test_what_follows_a_table_has_no_side_of_it(rules: RuleExtractor) -> None:
    assert said(rules, "Right   Left\n10.2 cm   11 cm\n\nLiver: cyst.") == {}
    assert said(rules, "        Right   Left\nSize   10.2 cm   11.3 x 5 cm\n\nLiver: cyst.") == {}


@pytest.mark.parametrize(
    "text",
    [
        "The right  kidney is normal.\nThe left  kidney has a 3 cm mass.",
        "Right   Left\n",
        "Right kidney: normal.\nLeft kidney: normal.",
        "Left renal mass | right kidney normal | liver",
        "",
    ],
)
def test_what_is_no_table_stays_as_it_is(text: str) -> None:
    letters = spread(text)
    assert "".join(letter for letter, _ in letters) == text
    assert [place for _, place in letters] == list(range(len(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: Left renal mass of 3.2 cm. Right kidney normal.\nADDENDUM: The left renal mass measures 5.2 cm.",
         {"left size_class": "4_to_7_cm", "left lesion_number": "", "right lesion_present": NO}),
        ("Findings: Left kidney: 4 cm mass. No hydronephrosis.\nAddendum: There is mild left hydronephrosis.",
         {"left hydronephrosis": MILD, "left size_class": "to_4_cm"}),
        ("FINDINGS: Right kidney: no mass. Left kidney: 3 cm mass.\nCORRECTION: Mass in the right kidney; the left "
         "kidney is normal.", {"right lesion_present": YES, "left lesion_present": NO, "left size_class": ""}),
        ("ADDENDUM 1: There is a 4 mm stone in the left kidney.\nFINDINGS: No renal stones. Kidneys normal.",
         {"left stones": YES, "right stones": NO}),
        ("FINDINGS: No renal mass.\nADDENDUM (03/04/2020): 2 cm cyst of the right kidney.",
         {"right lesion_present": YES, "left lesion_present": NO}),
        ("FINDINGS: Left renal mass of 3 cm.\nAddendum: Discussed with the referring doctor. MRI should be considered.",
         {"left lesion_present": YES, "left size_class": "to_4_cm"}),
    ],
)  # fmt: skip
def test_an_addendum_goes_before_what_it_corrects(rules: RuleExtractor, text: str, expected: dict[str, str]) -> None:
    found = said(rules, text)
    assert {key: found.get(key, "") for key in expected} == expected


@pytest.mark.parametrize(
    "addendum",
    ["The report should read right kidney instead of left kidney.", "The mass is on the right, not the left.",
     "The laterality above is wrong.", "The size was stated incorrectly."],
)  # fmt: skip
def test_nothing_is_read_where_an_addendum_takes_back_a_side(rules: RuleExtractor, addendum: str) -> None:
    assert said(rules, f"Findings: 4 cm mass in the left kidney. Right kidney normal.\nAddendum: {addendum}") == {}


def test_kidneys_behind_their_heading(rules: RuleExtractor) -> None:
    found = said(rules, "FINDINGS:\nKIDNEYS: unremarkable\nLIVER: normal")
    assert found == {"left lesion_present": NO, "right lesion_present": NO}
