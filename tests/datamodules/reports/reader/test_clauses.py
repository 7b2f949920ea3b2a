"""Reports taken apart: sections, sentences, organs, sides, and the text of one kidney."""

from __future__ import annotations

import pytest

from datamodules.reports.reader.clauses import Clause, kidney_text, read_report


def _sentences(text: str) -> list[str]:
    report = read_report(text)
    return [text[slice(*report.span(start, end))] for start, end in report.sentences]


def _clause(text: str, words: str) -> Clause:
    return next(clause for clause in read_report(text).clauses if words in clause.text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A mass of 3.2 cm. It is solid.", ["A mass of 3.2 cm.", "It is solid."]),
        ("A mass, e.g. a cyst. Solid.", ["A mass, e.g. a cyst.", "Solid."]),
        ("1. A mass. 2. A cyst.", ["A mass.", "A cyst."]),
        ("1) A mass\n2) A cyst", ["A mass", "A cyst"]),
        ("- A mass\n- A cyst", ["A mass", "A cyst"]),
        ("7.5 x 7.2 cm mass. 2.1 cm cyst.", ["7.5 x 7.2 cm mass.", "2.1 cm cyst."]),
        ("A mass of approx. 3 cm.", ["A mass of approx. 3 cm."]),
        ("Is it solid? It is.", ["Is it solid?", "It is."]),
        ("A mass measuring\n4.2 cm in size.", ["A mass measuring\n4.2 cm in size."]),
        ("A mass in the\nleft kidney.", ["A mass in the\nleft kidney."]),
        ("Kidney normal.Liver normal.", ["Kidney normal.", "Liver normal."]),
        ('" Cyst in the left kidney " Hiatal hernia', ["Cyst in the left kidney", "Hiatal hernia"]),
        ("Left mass\nRight cyst", ["Left mass", "Right cyst"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert _sentences(text) == expected


def test_offsets_survive_blanks_and_typographic_signs() -> None:
    text = "Findings:\t A  4.2\u00a0×\u00a03.1 cm   mass – solid.\r\n It   enhances."
    assert _sentences(text) == ["A  4.2\u00a0×\u00a03.1 cm   mass – solid.", "It   enhances."]
    assert "4.2 x 3.1 cm" in read_report(text).plain


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("FINDINGS: X mass.\nIMPRESSION: cyst.", "findings"),
        ("Impression: X mass.\nFindings: cyst.", "impression"),
        ("CONCLUSION\nX mass.", "impression"),
        ("Summary: X mass.", "impression"),
        ("Technique: X mass.", "aside"),
        ("Comparison: X mass.", "aside"),
        ("Clinical information: X mass.", "aside"),
        ("Findings: none. Impression: X mass.", "impression"),
        ("X mass.", "findings"),
        ("Comparison: CT.\nLeft kidney: X mass.", "findings"),
    ],
)
def test_parts(text: str, part: str) -> None:
    assert _clause(text, "X mass").part == part


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("X mass in the left kidney.", ["left"]),
        ("Right kidney: X mass.", ["right"]),
        ("KIDNEY, LEFT:\nX mass.", ["left"]),
        ("Left renal stone. X mass.", ["left"]),
        ("Both kidneys show X mass.", ["left", "right"]),
        ("Bilateral renal X mass.", ["left", "right"]),
        ("Neither kidney shows X mass.", ["left", "right"]),
        ("The kidneys show X mass.", ["left", "right"]),
        ("Right renal cyst. Contralateral kidney without X mass.", ["left"]),
        ("The right kidney is normal, the left kidney shows X mass.", ["left"]),
        ("The left kidney is normal while the right contains X mass.", ["right"]),
        ("Left renal cyst. The liver is normal. X mass.", []),
        ("X mass.", []),
    ],
)
def test_sides(text: str, sides: list[str]) -> None:
    assert sorted(_clause(text, "X mass").sides) == sides


@pytest.mark.parametrize(
    ("text", "organs"),
    [
        ("X in the left kidney.", {"kidney"}),
        ("X in the liver.", {"elsewhere"}),
        ("X in the left adrenal gland.", {"adrenal"}),
        ("X lymph nodes at the left renal hilum.", {"nodes"}),
        ("Enlarged mediastinal lymph nodes. X node.", {"chest"}),
        ("The lungs are clear. The kidneys are normal. X lymph nodes.", {"nodes"}),
        ("The left kidney is normal. X mass.", {"kidney"}),
        ("A left renal mass, X abutting the spleen.", {"kidney"}),
        ("Spleen and left kidney with X.", {"kidney"}),
    ],
)
def test_organs(text: str, organs: set[str]) -> None:
    assert _clause(text, "X").organs == organs


REPORT = (
    "Technique: CT of the left kidney.\nFindings:\nRight kidney: A 4.2 cm mass. It enhances.\nLeft kidney: Normal.\n"
    "Other findings: The liver is normal. No lymphadenopathy. The left adrenal shows a nodule.\n"
    "Impression: Mass of the right kidney."
)


def test_the_text_of_a_kidney_is_its_own() -> None:
    right, left = kidney_text(REPORT, "right"), kidney_text(REPORT, "left")
    assert right == "A 4.2 cm mass. It enhances. No lymphadenopathy. Mass of the right kidney."
    assert left == "Normal. No lymphadenopathy. The left adrenal shows a nodule."


@pytest.mark.parametrize("report", ["", "The lungs are clear.", "Comparison: the left kidney was normal."])
def test_a_kidney_that_is_not_described_is_said_to_be_so(report: str) -> None:
    assert kidney_text(report, "left") == "The left kidney is not described."
