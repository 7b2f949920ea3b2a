"""Requests, templates, change over time, comparisons, lists and sides: what is said today, of which organ and side."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.reports.reader.clauses import kidney_text, read_report
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.reader.sections import LONGEST
from datamodules.reports.reader.today import today

RULES = RuleExtractor()
BANK: dict[str, dict[str, list[dict[str, Any]]]] = yaml.safe_load(
    Path(__file__).with_name("contexts.yaml").read_text(encoding="utf-8")
)
LEAST = {"development": 0.97, "counted": 0.91}
"""Half: share of facts that are read rightly; the rest is known to be missed and kept."""


def _wrong(entry: dict[str, Any]) -> list[str]:
    found = {f"{one.side} {one.attribute}": one.value for one in RULES.extract([entry["text"]])[0]}
    facts: dict[str, str] = entry["facts"]
    return [
        f"{entry['text']!r}: {key} = {found.get(key, '-')}, right {value}"
        for key, value in facts.items()
        if found.get(key, "-") not in value.split("|")
    ]


def test_both_halves_are_tested() -> None:
    assert set(LEAST) == set(BANK)


@pytest.mark.parametrize("half", LEAST)
def test_contexts(half: str) -> None:
    entries = [entry for kind in BANK[half].values() for entry in kind]
    wrong = [fault for entry in entries for fault in _wrong(entry)]
    assert len(wrong) <= (1 - LEAST[half]) * sum(len(entry["facts"]) for entry in entries), wrong


@pytest.mark.parametrize(
    "text",
    [
        "Rule out left renal mass.",
        "The left kidney is larger than the right kidney, which is normal.",
        "Markedly decreased hydronephrosis, from 3.1 cm -> 2 cm, left > right.",
        "",
    ],
)
def test_blanking_keeps_the_length(text: str) -> None:
    assert len(today(text)) == len(text)


def test_the_text_of_a_kidney_is_not_blanked() -> None:
    report = "Both kidneys and the left adrenal gland are normal, larger than the right."
    assert kidney_text(report, "left") == report
    assert kidney_text("Markedly decreased left hydronephrosis.", "left") == "Markedly decreased left hydronephrosis."


def test_evidence_is_quoted_from_the_report_itself() -> None:
    report = "Liver, spleen, both kidneys and the left adrenal gland are normal."
    assert {entry.evidence for entry in RULES.extract([report])[0]} == {report}


RUN_ONS = ("{} ", "{}, ", "{}-", "{} and ")
WORDS = "the left kidney has a mass of 3 cm no stone in the right kidney mild hydronephrosis with perirenal stranding "


@pytest.mark.parametrize("run_on", RUN_ONS)
def test_a_text_without_a_full_stop_takes_time_in_proportion(run_on: str) -> None:
    # Distinct words, so that nothing is remembered; in one run, so that the machine's speed cancels out.
    def seconds(copies: int, first: int) -> float:
        text = "".join(run_on.format(f"{WORDS.strip()} {first + number}") for number in range(copies))
        begun = time.process_time()
        RuleExtractor().extract([text])
        return time.process_time() - begun

    seconds(2, 0)
    short = min(seconds(10, 100), seconds(10, 200))
    assert seconds(80, 1000) < 3 * 8 * short


def test_no_sentence_is_longer_than_what_is_read_at_once() -> None:
    for text in ("a-" * 3_000, "left " * 1_000, "mass, " * 1_000):
        spans = read_report(text).sentences
        assert max(end - start for start, end in spans) <= LONGEST
        assert "".join(text[start:end] for start, end in spans).replace(" ", "") == text.replace(" ", "")
