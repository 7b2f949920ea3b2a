"""Banks of phrasings: many ways to state each value, and sentences that must not state one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.attributes.rules import RuleExtractor
from datamodules.attributes.statements import check_statement

OPENING = "There is a mass in the left kidney. "
RULES = RuleExtractor()
LEVELS = {attribute.name: attribute.level for attribute in RULES.schema.attributes}
LEAST_SHARES = {"phrasings_first": 0.98, "phrasings_second": 0.98, "phrasings_third": 0.98, "phrasings_fourth": 0.96}
"""Bank: share that is read rightly; the rest is known to be missed and kept. The fourth was not fitted to."""
NEAR_MISSES = "near_misses"


def _bank(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def _found(attribute: str, sentence: str) -> str | None:
    report = (OPENING if LEVELS[attribute] == "lesion" else "") + sentence
    statements = RULES.extract([report])[0]
    for entry in statements:
        check_statement(entry, report, RULES.schema.classes)
    return next((e.value for e in statements if (e.side, e.attribute) == ("left", attribute)), None)


def _phrasings(name: str) -> Iterator[tuple[str, str, str]]:
    for attribute, classes in _bank(name).items():
        if attribute != NEAR_MISSES:
            yield from ((attribute, value, text) for value, texts in classes.items() for text in texts)


@pytest.mark.parametrize("name", LEAST_SHARES)
def test_a_bank_covers_every_class(name: str) -> None:
    covered = {(attribute, value) for attribute, value, _ in _phrasings(name)}
    assert covered == {(entry.name, value) for entry in RULES.schema.attributes for value in entry.class_names}


@pytest.mark.parametrize("name", LEAST_SHARES)
def test_phrasings_are_read(name: str) -> None:
    phrasings = list(_phrasings(name))
    wrong = [(*entry, value) for entry in phrasings if (value := _found(entry[0], entry[2])) != entry[1]]
    assert len(wrong) <= (1 - LEAST_SHARES[name]) * len(phrasings), wrong


NEAR = [
    (attribute, text)
    for name in LEAST_SHARES
    for attribute, texts in _bank(name).get(NEAR_MISSES, {}).items()
    for text in texts
]


@pytest.mark.parametrize(("attribute", "sentence"), NEAR)
def test_a_near_miss_states_nothing(attribute: str, sentence: str) -> None:
    assert _found(attribute, sentence) is None
