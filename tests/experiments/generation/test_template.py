"""Every sentence of the template says to the rules what it was written for."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.schema import load_schema
from experiments.generation import template
from experiments.generation.template import check_sentences, stated_attributes, template_reports, worded

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


def test_what_is_usually_stated_is_worded_with_its_likeliest_value() -> None:
    names = list(SCHEMA.names)
    codes = np.full((4, len(names)), -100)
    codes[:, names.index("lesion_present")] = [0, 0, 1, 1]
    codes[:2, names.index("pole")] = 1
    codes[:1, names.index("washout")] = 0
    codes[2:, names.index("stones")] = 1
    stated = stated_attributes(codes, SCHEMA)
    assert stated == {"yes": ["lesion_present", "pole", "washout"], "no": ["lesion_present", "stones"]}
    probabilities = {
        "lesion_present": np.array([[0.9, 0.1], [0.2, 0.8]]),
        "pole": np.array([[0.1, 0.2, 0.7], [0.4, 0.3, 0.3]]),
        "stones": np.array([[0.5, 0.4], [0.9, 0.1]]),
    }
    classes = {name: list(SCHEMA.classes[name]) for name in probabilities}
    reports = template_reports(probabilities, classes, ["left", "right"], stated, SCHEMA)
    assert reports == [
        "There is a renal mass in the left kidney. The mass is located in the lower pole.",
        "There is no focal lesion in the right kidney. There is a stone in the right kidney.",
    ]
