"""Reports with one fact turned round: exactly one, as the rule reader reads it, wherever the text mentions it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.rewriting.flips import text_flips

READER = RuleExtractor()
REPORT = (
    "The left kidney shows a mostly exophytic, well-defined solid mass at the upper pole measuring 3.2 x 2.1 cm. "
    "There is mild enhancement. No calcification. There is a central scar. The renal vein is patent. "
    "A stone is seen in a calyx of the left kidney. There are no enlarged lymph nodes. "
    "Impression: solid mass of 3.2 cm in the left kidney, probably benign."
)


def _facts(text: str) -> dict[tuple[str, str], str]:
    return {(entry.side, entry.attribute): entry.value for entry in READER.extract([text])[0]}


def _flips(text: str) -> dict[str, str]:
    return {flip.kind: flip.text for flip in text_flips(text, READER)}


def test_each_kind_changes_exactly_its_own_fact() -> None:
    before, flips = _facts(REPORT), _flips(REPORT)
    for kind, text in flips.items():
        after = _facts(text)
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if kind == "side":
            assert {("right", name): value for (_, name), value in before.items() if name != "lymph_nodes"} == {
                key: value for key, value in after.items() if key[1] != "lymph_nodes"
            }
        elif kind == "malignancy":
            assert changed == set()
        else:
            assert changed == {("left", "size_class" if kind == "size" else kind)}
    wanted = {"side", "size", "exophytic", "margin", "composition", "pole", "enhancement_degree", "calcification"}
    assert wanted | {"central_scar", "venous_thrombus", "stones", "malignancy"} <= flips.keys()


def test_all_mentions_change_together() -> None:
    flips = _flips(REPORT)
    assert "left" not in flips["side"].lower()
    assert flips["size"].count("8.0") == 2
    assert "8.0 x 5.2 cm" in flips["size"]
    assert "cystic" in flips["composition"]
    assert "solid" not in flips["composition"]


@pytest.mark.parametrize(
    ("sentence", "kind", "expected"),
    [
        ("No thrombus in the renal vein or IVC.", "venous_thrombus", "There is thrombus in the renal vein or IVC."),
        ("There is thrombus in the renal vein.", "venous_thrombus", "There is no thrombus in the renal vein."),
        ("There are no calcifications.", "calcification", "There are calcifications."),
        ("Without calcification.", "calcification", "There is calcification."),
        ("A central scar is seen.", "central_scar", "There is no central scar."),
        ("It measures 81 mm.", "size", "It measures 30 mm."),
    ],
)
def test_sentences_are_denied_or_affirmed(sentence: str, kind: str, expected: str) -> None:
    start = "There is a mass of the right kidney. "
    assert _flips(start + sentence)[kind] == start + expected


def test_every_flip_can_be_turned_back() -> None:
    for kind, text in _flips(REPORT).items():
        assert _facts(_flips(text)[kind]).keys() == _facts(REPORT).keys()


def test_a_text_without_facts_has_no_flip_and_an_empty_one_is_refused() -> None:
    assert text_flips("Thank you for the referral.", READER) == []
    with pytest.raises(DataError, match="empty"):
        text_flips(" \n", READER)


@pytest.mark.real_data
def test_real_reports_are_turned_round_in_one_fact(real_data: Path) -> None:
    reports = pd.read_csv(real_data / "reports/ct_rate_reports.csv")["report_text"]
    renal = reports[reports.str.contains("kidney|renal", case=False)].head(25)
    kinds: Counter[str] = Counter()
    for text in renal:
        before = _facts(text)
        for kind, other in _flips(text).items():
            kinds[kind] += 1
            after = _facts(other)
            changed = {name for name in before if before[name] != after.get(name)}
            assert len(changed) == 1 or kind in ("side", "malignancy")
    assert sum(kinds.values()) > 0
