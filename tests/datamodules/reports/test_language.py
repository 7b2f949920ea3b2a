"""Languages are told apart by script and function words; English and what cannot be told are left alone."""

from __future__ import annotations

import pytest

from datamodules.errors import DataError
from datamodules.reports.language import check_english, foreign_reports, language
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.rewriting.phrasings import BANKS, phrasings

FOREIGN = [
    ("Die linke Niere zeigt eine 3 cm große Raumforderung. Kein Harnstau.", "German"),
    ("Beide Nieren unauffällig.", "German"),
    ("Masse de 3 cm du rein gauche, sans dilatation des cavités.", "French"),
    ("Riñón izquierdo con masa de 4 cm, sin hidronefrosis.", "Spanish"),
    ("Formazione solida del rene sinistro, non idronefrosi.", "Italian"),
    ("De linker nier heeft een massa van 3 cm, geen stenen.", "Dutch"),
    ("Rim esquerdo com massa de 4 cm, não há cálculos.", "Portuguese"),
    ("Sol böbrek üst polünde 3 cm kitle izlendi.", "Turkish"),
    ("Guz nerki lewej o średnicy 3 cm, bez zastoju.", "Polish"),
    ("Expansivitet i vänster njure, ingen hydronefros.", "Swedish"),
    ("左肾上极见3cm肿块,未见肾积水。", "Chinese"),
    ("左腎に3cmの腫瘤を認めます。", "Japanese"),
    ("좌측 신장에 3cm 종괴가 있습니다.", "Korean"),
    ("Образование левой почки 3 см.", "Russian"),
    ("كتلة في الكلية اليسرى.", "Arabic"),
    ("Μάζα στον αριστερό νεφρό.", "Greek"),
]


@pytest.mark.parametrize(("text", "name"), FOREIGN)
def test_a_foreign_report_is_named(text: str, name: str) -> None:
    assert str(language(text)).startswith(name)
    with pytest.raises(DataError, match=f"1 in {name}.*report 2.*EXTRACTOR=llm"):
        RuleExtractor().check(["Normal kidneys.", text])


def test_no_english_phrasing_is_called_foreign() -> None:
    assert foreign_reports([entry.text for entry in phrasings(BANKS)]) == {}


@pytest.mark.parametrize(
    "text", ["", "Bosniak III.", "RCC, 35 HU, µ = 3, Gerota.", "β-blocker stopped; kidneys normal."]
)
def test_what_tells_nothing_is_left_alone(text: str) -> None:
    assert language(text) in (None, "English")
    check_english([text])


def test_a_name_in_an_english_report_changes_nothing() -> None:
    assert language("Seen by Müller and Şahin: the left kidney shows a mass of 3 cm.") == "English"
