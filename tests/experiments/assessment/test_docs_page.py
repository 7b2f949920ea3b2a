"""The assessment of a generated patient that the documentation links is what the command writes now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.assessment.assessment_page import TEMPLATES
from experiments.assessment.assessor import SCHEMA

PAGE = Path(__file__).parents[3] / "docs" / "assessment.html"
MOST_BYTES = 1_500_000


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def header_rows(text: str) -> list[tuple[str, ...]]:
    """The header of every table, in order."""
    return [
        tuple(re.findall(r'<th scope="col">([^<]*)</th>', row)) for row in re.findall(r"<thead>(.*?)</thead>", text)
    ]


def test_it_has_the_schema_style_and_tables_of_the_command(page: str) -> None:
    assert f"<p>{SCHEMA}." in page
    assert (TEMPLATES / "assessment.css").read_text(encoding="utf-8").strip() in page
    known = header_rows((TEMPLATES / "assessment.html").read_text(encoding="utf-8"))
    found = header_rows(page)
    assert len(found) == len(set(found)) == len(known)  # every table of the page, once
    assert set(found) == set(known)
    assert re.findall(r"<h3>([^<]*)</h3>", page) == [
        "Nephrometry",
        "Tumour",
        "Course, if the tumour is malignant",
        "What the answer rests on: maps that passed their test",
        "Draft of the findings, to be checked by a reader",
        "Most alike of the pretraining centres",
    ]


def test_it_is_small_says_what_it_is_of_and_names_nobody(page: str) -> None:
    assert len(page.encode()) < MOST_BYTES
    assert "Phantom results" in page
    assert "no medical device" in page
    assert not re.search(r"\b(E\d|PUB)-\d{4}\b", page)
    assert not re.search(r"(/tmp|/home|/work|/root|file:)", re.sub(r"base64,[^\"]+", "", page))
    sources = re.findall(r'(?:src|href)="([^"]{0,22})', page)
    assert sources
    assert set(sources) == {"data:image/png;base64,"}
    assert page.count('src="data:') == len(re.findall(r'<img [^>]*alt="[^"]+', page))
