"""Banks of phrasings: many ways to state each value, and sentences that must not state one."""

from __future__ import annotations

import pytest

from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.reader.statements import check_statement
from datamodules.reports.rewriting.phrasings import BANKS, NEAR_MISSES, phrasings, read_bank

OPENING = "There is a mass in the left kidney. "
RULES = RuleExtractor()
LEVELS = {attribute.name: attribute.level for attribute in RULES.schema.attributes}
LEAST_SHARES = {"first": 0.98, "second": 0.98, "third": 0.98, "fourth": 0.96}
"""Bank: share that is read rightly; the rest is known to be missed and kept. The fourth was not fitted to."""


def _found(attribute: str, sentence: str) -> str | None:
    report = (OPENING if LEVELS[attribute] == "lesion" else "") + sentence
    statements = RULES.extract([report])[0]
    for entry in statements:
        check_statement(entry, report, RULES.schema.classes)
    return next((e.value for e in statements if (e.side, e.attribute) == ("left", attribute)), None)


def test_every_bank_is_tested() -> None:
    assert set(LEAST_SHARES) == set(BANKS)


@pytest.mark.parametrize("name", LEAST_SHARES)
def test_a_bank_covers_every_class(name: str) -> None:
    covered = {(attribute, value) for attribute, value, _ in phrasings([name])}
    assert covered == {(entry.name, value) for entry in RULES.schema.attributes for value in entry.class_names}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST_SHARES)
def test_phrasings_are_read(name: str) -> None:
    bank = phrasings([name])
    wrong = [(*entry, value) for entry in bank if (value := _found(entry.attribute, entry.text)) != entry.value]
    assert len(wrong) <= (1 - LEAST_SHARES[name]) * len(bank), wrong


NEAR = [
    (attribute, text)
    for name in LEAST_SHARES
    for attribute, texts in read_bank(name).get(NEAR_MISSES, {}).items()
    for text in texts
]


@pytest.mark.parametrize(("attribute", "sentence"), NEAR)
def test_a_near_miss_states_nothing(attribute: str, sentence: str) -> None:
    assert _found(attribute, sentence) is None
