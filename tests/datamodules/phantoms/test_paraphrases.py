"""Paraphrases of phantoms: the facts and nothing else, and one changed fact changes its own words alone."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.phantoms.paraphrases import (
    ENHANCEMENT,
    SIDE,
    SIZE,
    Bank,
    KidneyFacts,
    flipped,
    kidney_facts,
    write_kidney,
)
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.reports.lint import lint_report
from datamodules.reports.reader.organs import opposite
from datamodules.reports.reader.rules import RuleExtractor

READER = RuleExtractor()
BANKS: tuple[Bank, ...] = ("development", "heldout")


@pytest.fixture(scope="module")
def truth() -> pd.DataFrame:
    source = DemoSource(100, 7)
    rows = [row for patient in source.patient_ids()[:40] for row in source.rows(source.patient(patient))["truth"]]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def kidneys(truth: pd.DataFrame) -> list[KidneyFacts]:
    return [kidney_facts(row) for row in truth[truth["lesion_present"] == "yes"].to_dict("records")]


def _read(text: str) -> dict[tuple[str, str], str]:
    return {(entry.side, entry.attribute): entry.value for entry in READER.extract([text])[0]}


def test_the_reader_finds_the_facts_and_invents_none(kidneys: list[KidneyFacts]) -> None:
    right = wrong = wanted = 0
    for seed, facts in enumerate(kidneys):
        found = {name: value for (side, name), value in _read(write_kidney(facts, "development", seed)).items()}
        wanted += len(facts.values)
        right += sum(found.get(name) == value for name, value in facts.values.items())
        implied = {"lesion_present", "size_class", "composition", "enhancement_pattern", "enhancement_degree"}
        wrong += len(found.keys() - facts.values.keys() - implied)
    assert right / wanted > 0.97
    assert wrong == 0


def test_a_flip_changes_the_words_of_one_fact_alone(kidneys: list[KidneyFacts]) -> None:
    kinds = set()
    for seed, facts in enumerate(kidneys):
        for bank in BANKS:
            text = write_kidney(facts, bank, seed)
            for kind, other in flipped(facts):
                kinds.add(kind)
                changed = write_kidney(other, bank, seed)
                assert changed != text
                before, after = text.split(". "), changed.split(". ")
                assert len(before) == len(after)
                if kind == SIDE:
                    swapped = re.sub(r"\b(left|right)", lambda match: opposite(match[0]), text.lower())
                    assert changed.lower() == swapped
                else:
                    stated = {"enhancement_degree", "enhancement_pattern"} & facts.values.keys()
                    expected = len(stated) if kind == ENHANCEMENT else 1
                    assert sum(one != two for one, two in zip(before, after, strict=True)) == expected
    assert {SIDE, SIZE, ENHANCEMENT, "venous_thrombus", "composition", "exophytic"} <= kinds


@pytest.mark.slow
def test_flips_read_as_one_other_value(kidneys: list[KidneyFacts]) -> None:
    tried = right = 0
    for seed, facts in enumerate(kidneys[:25]):
        before = _read(write_kidney(facts, "development", seed))
        for kind, other in flipped(facts):
            after = _read(write_kidney(other, "development", seed))
            if kind == SIDE:
                after = {(opposite(side), name): value for (side, name), value in after.items()}
            changed = {
                name
                for side, name in before.keys() | after.keys()
                if before.get((side, name)) != after.get((side, name))
            }
            expected = {SIDE: set(), SIZE: {"size_class"}, ENHANCEMENT: {"enhancement_degree", "enhancement_pattern"}}
            tried += 1
            right += changed == expected.get(kind, {kind})
    assert tried > 200
    assert right / tried > 0.93


def test_texts_depend_on_seed_and_bank_and_give_nothing_away(kidneys: list[KidneyFacts]) -> None:
    for facts in kidneys[:10]:
        texts = {write_kidney(facts, bank, seed) for bank in BANKS for seed in range(5)}
        assert len(texts) == 10
        assert write_kidney(facts, "heldout", 3) == write_kidney(facts, "heldout", 3)
        assert [lint_report(text) for text in texts] == [[]] * 10


def test_facts_that_others_would_contradict_are_left_alone() -> None:
    cyst = KidneyFacts("left", {"composition": "cystic", "bosniak": "III", "enhancement_degree": "moderate"})
    assert [kind for kind, _ in flipped(cyst)] == [SIDE]


def test_a_kidney_without_lesion_is_refused(truth: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="no lesion"):
        kidney_facts(truth[truth["lesion_present"] == "no"].iloc[0].to_dict())
