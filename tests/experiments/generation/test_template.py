"""Every sentence of the template says to the rules what it was written for."""

from __future__ import annotations

import pytest

from datamodules.errors import DataError
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.schema import load_schema
from experiments.generation import template
from experiments.generation.template import check_sentences, worded

SCHEMA = load_schema()
RULES = RuleExtractor(SCHEMA)
VALUES = [(a.name, value) for a in SCHEMA.attributes for value in a.class_names]


@pytest.mark.parametrize(("name", "value"), VALUES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_rules_read_every_value_back(name: str, value: str, side: str) -> None:
    values = {"lesion_present": "yes", name: value}
    text = worded(values, side, SCHEMA)
    found = {entry.attribute: entry.value for entry in RULES.extract([text])[0] if entry.side == side}
    assert found.get(name) == value, text


def test_a_normal_kidney_has_no_lesion_to_describe() -> None:
    text = worded({"lesion_present": "no", "pole": "upper", "stones": "no"}, "left", SCHEMA)
    assert text == "There is no focal lesion in the left kidney. There is no stone in the left kidney."


def test_a_missing_sentence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sentences(SCHEMA)
    monkeypatch.setattr(template, "_sentences", lambda: {})
    with pytest.raises(DataError, match="lesion_present = yes"):
        check_sentences(SCHEMA)
