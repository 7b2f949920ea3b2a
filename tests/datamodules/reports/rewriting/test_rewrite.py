"""Reports in other words state the same, and changed ones differ in one fact, as the rules read them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.rewriting.contrast_batches import kept_kidneys
from datamodules.reports.rewriting.flips import SIDE, SIZE, other_side
from datamodules.reports.rewriting.phrasings import Phrasing
from datamodules.reports.rewriting.rewrite import Rewriter

TEXTS = {
    "left": [
        "A 3.2 x 2.1 cm solid mass is seen in the left kidney. No calcification. It enhances avidly. "
        "The margin is smooth.",
        "Left renal mass of 51 mm. The lesion is cystic. There are calcifications. There is washout.",
    ],
    "right": [
        "The right kidney contains a mass of 6.0 cm. The lesion is solid. There are no calcifications. "
        "The margins are irregular.",
        "A 2.4 cm lesion is seen in the right kidney. It is a solid lesion. Calcifications are seen. No washout.",
    ],
}


@pytest.fixture(scope="module")
def rewriter() -> Rewriter:
    return Rewriter([side for side in TEXTS for _ in TEXTS[side]], [text for side in TEXTS for text in TEXTS[side]])


def read(text: str, side: str) -> dict[str, str]:
    return {entry.attribute: entry.value for entry in RuleExtractor().extract([text])[0] if entry.side == side}


def size_mm(text: str) -> float:
    found = re.search(r"(\d+(?:\.\d+)?)(?:(?: x | by )[\d.]+)? (cm|mm)", text)
    assert found is not None
    return float(found[1]) * (10 if found[2] == "cm" else 1)


@pytest.mark.parametrize("number", range(4))
def test_other_words_state_the_same_and_changes_one_fact(rewriter: Rewriter, number: int) -> None:
    side = rewriter.sides[number]
    own_words = {sentence for text in rewriter.texts for sentence in text.split(". ")}
    assert own_words
    changed_kinds = set()
    for seed in range(12):
        made = rewriter(number, seed, 4)
        assert made is not None
        before, after = read(made.own, side), read(made.other, side)
        assert before == after
        assert {fact.attribute: fact.value for fact in made.facts}.items() <= after.items()
        for kind, text in made.changed:
            changed_kinds.add(kind)
            if kind == SIDE:
                assert text == other_side(made.other)
            elif kind == SIZE:
                ratio = size_mm(text) / size_mm(made.other)
                assert ratio <= 0.62 or ratio >= 1.55
                assert len(text.split()) == len(made.other.split())
            else:
                found = read(text, side)
                assert {name for name in after if found.get(name) != after[name]} == {kind}
    assert {SIDE, SIZE, "calcification"} <= changed_kinds


def test_all_words_are_those_of_the_given_texts(rewriter: Rewriter) -> None:
    known = set(re.findall(r"[a-z]+", " ".join(rewriter.texts).lower())) | {"by", "x", "cm", "mm"}
    for seed in range(20):
        made = rewriter(seed % 4, seed, 3)
        assert made is not None
        for text in (made.own, made.other, *(text for _, text in made.changed)):
            assert set(re.findall(r"[a-z]+", text.lower())) <= known


def test_what_is_drawn_depends_on_the_seed_alone(rewriter: Rewriter) -> None:
    assert rewriter(0, 3, 3) == rewriter(0, 3, 3)
    assert len({rewriter(0, seed, 3).other for seed in range(10)}) > 3  # type: ignore[union-attr]
    short = rewriter(0, 5, 3, longest=2)
    assert short is not None
    assert short.own.count(". ") <= 1


def test_a_text_that_states_nothing_is_not_rewritten() -> None:
    assert Rewriter(["left"], ["The left kidney is not described."])(0, 1, 3) is None


def test_few_kidneys_without_a_lesion_are_kept() -> None:
    lesion = np.array([True] * 20 + [False] * 30)
    texts = [f"kidney {number}" for number in range(50)]
    kept = kept_kidneys(texts, lesion, 0.1, 3)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert lesion[kept].sum() == 20
    assert len(kept) == 22
    assert len(kept_kidneys(texts[:5], np.zeros(5, dtype=bool), 0.1, 3)) == 5


BANK = [
    Phrasing("margin", "smooth", "Sharply delineated from the parenchyma."),
    Phrasing("margin", "irregular", "It is sharply marginated."),
    Phrasing("calcification", "no", "Free of calcium."),
    Phrasing("composition", "solid", "Entirely solid."),
    Phrasing("size_class", "to_4_cm", "Its diameter is 2.2 cm."),
    Phrasing("size_class", "to_4_cm", "Small lesion of 1.1 cm."),
]


def test_words_of_a_bank_are_used_where_the_rules_read_them_so() -> None:
    texts = TEXTS["left"]
    rewriter = Rewriter(["left"] * 2, texts, BANK)
    said = {sentence for seed in range(60) for sentence in _sentences(rewriter, seed)}
    assert "Sharply delineated from the parenchyma" in said
    assert "Free of calcium" in said
    assert any(sentence.startswith("Its diameter is 3") for sentence in said)
    assert not any("marginated" in sentence or sentence.startswith("Small lesion") for sentence in said)


def _sentences(rewriter: Rewriter, seed: int) -> list[str]:
    made = rewriter(0, seed, 3)
    if made is None:
        return []
    opening = "There is a mass in the left kidney. "
    assert read(opening + made.own, "left") == read(opening + made.other, "left")
    return made.other.rstrip(".").split(". ")
