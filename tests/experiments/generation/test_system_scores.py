"""Words against the reference implementations, facts against what was changed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sacrebleu.metrics.bleu import BLEU

from datamodules.errors import DataError
from datamodules.reports.reader.rules import RuleExtractor
from experiments.generation.facts import fact_lists, fact_scores, named_side
from experiments.generation.records import read_generated, write_generated
from experiments.generation.system_scores import (
    ScoredReports,
    attribute_table,
    differences_table,
    repeats_itself,
    scored_groups,
    scores_table,
)
from experiments.generation.word_overlap import corpus_bleu, word_scores, words

REFERENCES = [
    "The left kidney has a mass of 3.2 cm in the upper pole.",
    "No abnormality in the right kidney.",
    "The right kidney contains a simple cyst and no solid mass.",
    "A 5 cm mass in the lower pole of the left kidney shows washout and no macroscopic fat.",
    "The left kidney is normal.",
]
GENERATED = [
    "The left kidney has a mass of 4 cm in the lower pole.",
    "The right kidney is normal.",
    "The right kidney contains a simple cyst.",
    "A 5 cm mass in the lower pole of the left kidney shows no washout and no macroscopic fat.",
    "The left kidney is normal.",
]
SIDES = ["left", "right", "right", "left", "left"]
COCO_BLEU = (0.8275685648666277, 0.7899518119363195, 0.7534029674126863, 0.7106295832669486)
COCO_CIDER = (5.04468657, 1.30427667, 6.05194018, 8.6054666, 10.0)
"""Of the COCO caption tools, pycocoevalcap 1.2, on the same words."""


@pytest.fixture(scope="module")
def rules() -> RuleExtractor:
    return RuleExtractor()


def test_bleu_and_cider_are_those_of_the_coco_tools() -> None:
    scores = word_scores(GENERATED, REFERENCES)
    ones = np.ones((1, len(GENERATED)))
    for order, expected in enumerate(COCO_BLEU, start=1):
        assert corpus_bleu(scores, ones, order)[0] == pytest.approx(expected, abs=1e-8)
    np.testing.assert_allclose(scores.cider, COCO_CIDER, atol=1e-7)


def test_weighted_bleu_is_sacrebleus_of_the_corpus_drawn() -> None:
    scores = word_scores(GENERATED, REFERENCES)
    weights = np.array([[2.0, 0, 1, 1, 1]])
    drawn = [0, 0, 2, 3, 4]
    said = [" ".join(words(GENERATED[row])) for row in drawn]
    meant = [" ".join(words(REFERENCES[row])) for row in drawn]
    expected = BLEU(tokenize="none", smooth_method="none", force=True).corpus_score(said, [meant]).score / 100
    assert corpus_bleu(scores, weights, 4)[0] == pytest.approx(expected)


def test_an_empty_report_scores_nothing_and_an_empty_reference_is_refused() -> None:
    scores = word_scores(["", *GENERATED[1:]], REFERENCES)
    assert scores.meteor[0] == scores.rouge_l[0] == scores.cider[0] == scores.lengths[0] == 0
    with pytest.raises(DataError, match="1 of 5 reference reports have no word"):
        word_scores(GENERATED, ["...", *REFERENCES[1:]])


def test_verdicts_of_facts(rules: RuleExtractor) -> None:
    lists = fact_lists(GENERATED, REFERENCES, SIDES, rules, rules.schema)
    verdicts = [{fact.attribute: fact.verdict for fact in facts} for facts in lists]
    assert verdicts[0]["lesion_present"] == "right"
    assert verdicts[0]["pole"] == "wrong"
    assert verdicts[3]["washout"] == "wrong"
    assert verdicts[3]["macroscopic_fat"] == "right"
    assert set(verdicts[4].values()) == {"right"}
    for text, facts in zip(GENERATED, lists, strict=True):
        for fact in facts:
            assert fact.evidence is None or text[slice(*fact.evidence)] in text


def test_a_text_without_a_side_speaks_of_its_kidney(rules: RuleExtractor) -> None:
    assert named_side("A 3 cm mass.", "left") == "Left kidney: A 3 cm mass."
    assert named_side("The right kidney is normal.", "left") == "The right kidney is normal."
    facts = fact_lists(["There is a 3 cm mass."], ["The left kidney has a 3 cm mass."], ["left"], rules, rules.schema)
    assert {fact.attribute: fact.verdict for fact in facts[0]}["lesion_present"] == "right"


def _frame(texts: list[str], system: str) -> pd.DataFrame:
    rows = [
        {"patient_id": f"p{number // 2}", "study_id": "s", "side": side, "center": "east", "role": "external"}
        | {"system": system, "text": text, "truncated": False}
        for number, (text, side) in enumerate(zip(texts, ["left", "right"] * 3, strict=False))
    ]
    return pd.DataFrame(rows)


PAIRS = [
    "The left kidney has a mass of 3.2 cm in the upper pole with washout.",
    "The right kidney contains a simple cyst.",
    "The left kidney is normal.",
    "A 5 cm mass in the lower pole of the right kidney shows washout and necrosis.",
]


def _scored(rules: RuleExtractor, meant: list[str] = PAIRS, **systems: list[str]) -> dict[str, ScoredReports]:
    references = _frame(meant, "reference")[["patient_id", "study_id", "side", "text"]]
    generated = pd.concat([_frame(texts, name) for name, texts in systems.items()])
    found = dict(scored_groups(generated, references, rules, rules.schema))
    return found["external east"]


def test_a_copy_is_perfect_and_a_negated_copy_keeps_its_words_and_loses_its_facts(rules: RuleExtractor) -> None:
    told = [
        "There is a solid mass in the left kidney. There is hydronephrosis of the left kidney with calculi.",
        "There is a simple cyst in the right kidney. There is perirenal fat stranding on the right.",
        "There is a solid mass in the left kidney. There is thrombus in the left renal vein.",
        "There is a solid mass in the right kidney. There is hydronephrosis of the right kidney.",
    ]
    negated = [text.replace("There is a ", "There is no ").replace("There is ", "There is no ") for text in told]
    negated = [text.replace("no no", "no").replace(" with calculi", " and no calculi") for text in negated]
    scored = _scored(rules, told, copy=told, negated=negated)
    whole = scores_table(scored, replicates=50).set_index(["system", "measure"])
    table = whole["value"]
    # Two patients whose reports are copied say little of others, and a loss without an end nothing.
    perfect = whole.loc["copy"].loc[["fact_micro_f1", "exact", "bleu_1", "bleu_4", "rouge_l", "cider", "hallucination"]]
    assert (perfect["high"] - perfect["low"] > 0.7).all()
    assert perfect["interval"].eq("Clopper-Pearson").all()
    assert not whole["low"].eq(whole["high"]).any()
    for measure in ("fact_micro_f1", "fact_macro_f1", "exact", "bleu_1", "bleu_4", "rouge_l"):
        assert table["copy", measure] == pytest.approx(1.0)
    assert table["copy", "cider"] == pytest.approx(10.0)
    for measure in ("hallucination", "omission", "other_side", "empty", "truncated"):
        assert table["copy", measure] == 0
    assert table["negated", "bleu_1"] > 0.8
    assert table["negated", "fact_micro_f1"] < 0.2
    differences = differences_table(scored, "copy", replicates=50)
    row = differences.set_index("measure").loc["fact_micro_f1"]
    assert row["difference"] == pytest.approx(table["negated", "fact_micro_f1"] - 1)
    tested = differences.dropna(subset=["p"])
    assert (tested["p_holm"] >= tested["p"]).all()
    same = differences_table(_scored(rules, told, copy=told, again=told), "copy", replicates=50).dropna(subset=["low"])
    assert same["difference"].eq(0).all()
    assert (same["high"] > same["low"]).all()
    assert same["p"].eq(1).all()


def test_scores_by_hand(rules: RuleExtractor) -> None:
    texts = ["The left kidney has a mass of 4.5 cm in the upper pole with washout.", "", PAIRS[2], PAIRS[3]]
    scored = _scored(rules, model=texts)
    entry = scored["model"]
    table = scores_table(scored, replicates=50).set_index("measure")
    assert table.loc["empty", "value"] == 0.25
    assert table.loc["size_error_mm", "value"] == pytest.approx((13 + 0) / 2)
    assert table.loc["size_wrong", "value"] == 0.5
    right, wrong, invented, missed = (
        int(getattr(entry.facts, name).sum()) for name in ("right", "wrong", "invented", "missed")
    )
    assert wrong >= 1  # the size class
    assert missed >= 1  # the empty report
    assert table.loc["fact_micro_f1", "value"] == pytest.approx(2 * right / (2 * right + 2 * wrong + invented + missed))
    assert table.loc["hallucination", "value"] == pytest.approx((wrong + invented) / (right + wrong + invented))
    assert table.loc["omission", "value"] == pytest.approx(missed / (right + wrong + missed))
    assert (table["n"] == 2).all()
    assert (table["kidneys"] == 4).all()
    by_attribute = attribute_table(scored)
    assert int(by_attribute["right"].sum()) == right


def test_scores_do_not_depend_on_the_order_of_rows(rules: RuleExtractor) -> None:
    references = _frame(PAIRS, "reference")[["patient_id", "study_id", "side", "text"]]
    generated = _frame(["The left kidney is normal.", *PAIRS[1:]], "model")
    tables = [
        scores_table(dict(scored_groups(rows, references, rules, rules.schema))["external east"], replicates=50)
        for rows in (generated, generated.sample(frac=1, random_state=0))
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_only_kidneys_of_every_system_are_compared(rules: RuleExtractor) -> None:
    scored = _scored(rules, copy=PAIRS, few=PAIRS[:2])
    assert {len(entry.texts) for entry in scored.values()} == {2}
    with pytest.raises(DataError, match="No kidney has a reference"):
        list(scored_groups(_frame(PAIRS, "model").iloc[:0], _frame(PAIRS, "reference"), rules, rules.schema))


def test_repetition_is_seen() -> None:
    assert repeats_itself("no stone in the kidney " * 3)
    assert not repeats_itself(" ".join(REFERENCES))


def test_a_table_is_written_and_read_and_a_second_report_refused(tmp_path: Path) -> None:
    rows = _frame(PAIRS, "model")
    write_generated(tmp_path / "generated.parquet", rows)
    assert read_generated(tmp_path / "generated.parquet")["text"].tolist() == PAIRS
    with pytest.raises(DataError, match="more than one report by the same system"):
        write_generated(tmp_path / "generated.parquet", pd.concat([rows, rows]))
    with pytest.raises(DataError, match="make generate"):
        read_generated(tmp_path / "nothing.parquet")


def test_what_counts_for_both_sides_speaks_of_neither_alone(rules: RuleExtractor) -> None:
    texts = [
        "The left kidney is normal. No enlarged retroperitoneal lymph nodes.",
        "The left kidney is normal. The right kidney is normal.",
        "The right kidney has a mass of 4 cm.",
        "A mass of 4 cm in the upper pole.",
    ]
    found = fact_scores(texts, ["The left kidney is normal."] * 4, ["left"] * 4, rules, rules.schema)
    assert found.other_side.tolist() == [False, True, True, False]
