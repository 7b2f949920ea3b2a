"""Reports of shared sentences say what was planned, once, of the right side."""

from __future__ import annotations

import numpy as np

from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.schema import load_schema
from experiments.generation.facts import largest_mm
from experiments.generation.sentence_bank import SHARED_BY, SentenceBank, sentence_bank
from experiments.generation.template import worded

SCHEMA = load_schema()
RULES = RuleExtractor(SCHEMA)
SHARED = (
    "A 3.1 x 2.8 cm solid mass arises from the upper pole of the left kidney. No calcification. The margin is sharp."
)
LONELY = "The lesion, known to her since her journey to Lisbon, is lobulated."


def bank(*further: str) -> SentenceBank:
    texts = [f"{SHARED} {' '.join(further)}"] * SHARED_BY
    return sentence_bank(texts, ["left"] * SHARED_BY, [f"p{number}" for number in range(SHARED_BY)], RULES, SCHEMA)


def states(text: str, side: str) -> dict[str, str]:
    return {entry.attribute: entry.value for entry in RULES.extract([text])[0] if entry.side == side}


PLANNED = {
    "lesion_present": "yes",
    "pole": "upper",
    "size_class": "4_to_7_cm",
    "composition": "solid",
    "margin": "smooth",
    "calcification": "no",
}


def test_a_report_is_made_of_sentences_of_others_with_its_own_side_and_size() -> None:
    text = bank().report(PLANNED, "right", 52.4)
    assert text == (
        "A 5.2 cm solid mass arises from the upper pole of the right kidney. The margin is sharp. No calcification."
    )
    assert states(text, "right") == PLANNED
    assert not states(text, "left")
    assert largest_mm(text) == 52


def test_a_sentence_that_says_more_than_was_planned_is_not_taken() -> None:
    planned = {name: value for name, value in PLANNED.items() if name != "composition"}
    text = bank().report(planned, "left", 52.4)
    assert "arises from" not in text
    assert states(text, "left") == planned


def test_what_fewer_than_three_patients_share_is_never_said_of_another() -> None:
    texts = [f"{SHARED} {LONELY}"] * SHARED_BY
    patients = ["p", *["q"] * (SHARED_BY - 1)]
    found = sentence_bank(texts, ["left"] * SHARED_BY, patients, RULES, SCHEMA)
    assert not found.sentences
    text = found.report({**PLANNED, "outline": "lobulated"}, "left", 52.4)
    assert "Lisbon" not in text
    assert states(text, "left") == {**PLANNED, "outline": "lobulated"}
    everyone = sentence_bank(texts, ["left"] * SHARED_BY, [f"p{n}" for n in range(SHARED_BY)], RULES, SCHEMA)
    assert "Lisbon" in everyone.report({**PLANNED, "outline": "lobulated"}, "left", 52.4)


def test_every_plan_is_read_back_once_and_of_its_side() -> None:
    rng = np.random.default_rng(0)
    found = bank("There is no lymphadenopathy.", "The lesion is cystic.", "No hydronephrosis of the left kidney.")
    for number in range(60):
        diseased = number % 4 > 0
        planned = {"lesion_present": "yes" if diseased else "no"}
        for entry in SCHEMA.attributes:
            free = entry.name not in ("lesion_present", "bosniak", "composition")
            if free and (diseased or entry.level != "lesion") and rng.random() < 0.5:
                planned[entry.name] = str(rng.choice(entry.class_names))
        side = ("left", "right")[number % 2]
        text = found.report(planned, side, 52.4)
        assert states(text, side) == planned or text == worded(planned, side, SCHEMA)
        sentences = [part for part in text.split(". ") if part]
        assert len(sentences) == len(set(sentences))
