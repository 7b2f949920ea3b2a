"""Contrast phases guessed from what operators write."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.importers.phases import guess_phase, phase_of_delay, read_phase_rules, ruled_phase

DESCRIPTIONS = {
    "non_contrast": (
        "ABD W/O", "C-", "ABDOMEN NC", "NON-CON", "noncontrast 5.0", "UNENHANCED", "PRE CONTRAST", "NCCT", "CT WITHOUT",
        "Nativ 5.0", "sin contraste", "SANS INJECTION", "bez kontrastu", "平扫", "Non Enhanced", "PLAIN", "UROGRAM NC",
    ),
    "arterial": (
        "ART", "ARTERIAL 1.25", "CORTICOMEDULLARY", "Late arterial", "abdomen_art_thin", "arteriell", "faza tętnicza",
        "动脉期", "KIDNEY 25s", "3phase ART", "ABD ART 1.0 B31f", "Cortico-medullary phase",
    ),
    "venous": (
        "PORTAL VENOUS", "NEPHRO 90s", "NEPHROGRAPHIC", "PV 5.0", "PVP", "VENOUS PHASE", "portalvenös", "faza żylna",
        "静脉期", "C+ 70s", "parenchymal", "ABD 100 SEC", "Ven. abd",
    ),
    "delayed": (
        "delay 5min", "excretory", "DELAYED", "EXCRETORY 8MIN", "abd 10 min", "tardif", "spät", "延迟期", "UROGRAM",
        "AbdomenJamaBrzuszna3FazyOpoznione Adult", "LATE",
    ),
}  # fmt: skip
UNKNOWN = (
    "KIDNEY 3 PHASE", "ART/VEN", "W/WO CONTRAST", "ABDOMEN W&WO", "WITH AND WITHOUT", "C-/C+", "threephaseabdomen",
    "C+", "W/O & W", "PRE/POST", "AXIAL 5mm", "METAL ARTIFACT", "SMART PREP", "nephrostomy", "TAC DEL ABDOMEN",
    "PREOP", "",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "phase"),
    [(text, phase) for phase, texts in DESCRIPTIONS.items() for text in texts],
    ids=lambda value: value,
)
def test_real_world_descriptions(text: str, phase: str) -> None:
    guess = guess_phase(text)
    assert guess.phase == phase
    assert guess.evidence.startswith("SeriesDescription: ")


@pytest.mark.parametrize("text", UNKNOWN)
def test_what_names_no_single_phase_stays_unknown(text: str) -> None:
    assert guess_phase(text).phase is None


@pytest.mark.parametrize(
    "text", ["ART Doe Jane", "Doe_arterial_Jane", "DELAYED 17.04.2019 Jane Doe", "portalDoe 19521103"]
)
def test_the_evidence_never_repeats_what_an_operator_typed(text: str) -> None:
    evidence = guess_phase(text).evidence
    assert guess_phase(text).phase is not None
    assert not any(secret in evidence.lower() for secret in ("doe", "jane", "2019", "1952"))


def test_evidence_has_an_order() -> None:
    assert guess_phase("ABD", "KIDNEY ART").phase == "arterial"
    assert guess_phase("VENOUS", "KIDNEY ART", 30).phase == "venous"
    assert guess_phase("ABD", "KIDNEY ART", 200).phase == "delayed"
    assert guess_phase("ART VEN", "KIDNEY ART", 30).evidence == "contrast timing: 30 s after injection"
    assert guess_phase("ART VEN", "KIDNEY ART").phase is None


@pytest.mark.parametrize(
    ("delay", "phase"),
    [(5, None), (15, "arterial"), (69, "arterial"), (70, "venous"), (179, "venous"), (180, "delayed"), (4000, None)],
)
def test_delays_after_injection(delay: float, phase: str | None) -> None:
    assert phase_of_delay(delay) == phase


def test_rules_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "phases.csv"
    path.write_text("series_uid,stack,description,phase\n1.2,2,,delayed\n1.2,,,arterial\n,,ABD *thin*,venous\n")
    rules = read_phase_rules(path)
    assert [
        guess.phase if (guess := ruled_phase(rules, uid, stack, text)) else None
        for uid, stack, text in [("1.2", 2, ""), ("1.2", 1, ""), ("1.3", 1, "abd 1.0 THIN art"), ("1.3", 1, "abd")]
    ] == ["delayed", "arterial", "venous", None]


def test_a_wrong_rule_is_named(tmp_path: Path) -> None:
    path = tmp_path / "phases.csv"
    path.write_text("series_uid,phase\n1.2,portal\n")
    with pytest.raises(
        DataError, match=r"phases.csv, row 2, column phase: value 'portal'; expected one of non_contrast"
    ):
        read_phase_rules(path)
    path.write_text("series_uid,description,phase\n,,venous\n")
    with pytest.raises(DataError, match="row 2: expected either series_uid or description"):
        read_phase_rules(path)
