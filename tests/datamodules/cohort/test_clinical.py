from __future__ import annotations

import pytest

from datamodules.cohort.clinical import Pathology, aggressiveness, months, parse_grade, parse_stage
from datamodules.errors import DataError


@pytest.mark.parametrize(
    "sign",
    [
        {"isup_grade": 3},
        {"isup_grade": 4},
        {"stage_pt": "3"},
        {"stage_pt": "3a"},
        {"stage_pt": "4"},
        {"stage_pn": "1"},
        {"stage_pm": "1"},
        {"necrosis": True},
        {"sarcomatoid": True},
        {"rhabdoid": True},
    ],
)
def test_each_sign_alone_makes_a_malignant_tumour_aggressive(sign: dict[str, object]) -> None:
    indolent = {"isup_grade": 2, "stage_pt": "1a", "stage_pn": "0", "stage_pm": "0", "necrosis": False}
    assert aggressiveness(Pathology(malignant=True, **(indolent | sign))) == 1  # type: ignore[arg-type]
    assert aggressiveness(Pathology(malignant=False, **(indolent | sign))) == 0  # type: ignore[arg-type]
    assert aggressiveness(Pathology(malignant=None, **(indolent | sign))) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("stages", [{}, {"stage_pt": "X", "stage_pn": "X", "stage_pm": "X"}])
def test_malignancy_without_any_pathology_says_nothing_of_aggressiveness(stages: dict[str, str]) -> None:
    assert aggressiveness(Pathology(malignant=True, **stages)) is None  # type: ignore[arg-type]
    assert aggressiveness(Pathology(malignant=False, **stages)) == 0  # type: ignore[arg-type]


def test_not_assessed_counts_as_not_present() -> None:
    assert aggressiveness(Pathology(malignant=True, stage_pt="1a", stage_pn="X", stage_pm="X")) == 0


@pytest.mark.parametrize(
    ("text", "letter", "expected"),
    [
        ("pT3a", "t", "3a"),
        ("T1B", "t", "1b"),
        ("2", "t", "2"),
        ("x", "n", "X"),
        ("pNX", "n", "X"),
        ("N1", "n", "1"),
        ("cM0", "m", "0"),
        ("na", "t", None),
        (None, "m", None),
        ("", "n", None),
    ],
)
def test_stages_are_read_however_they_are_written(text: object, letter: str, expected: str | None) -> None:
    assert parse_stage(text, letter) == expected  # type: ignore[arg-type]


def test_impossible_values_are_refused_in_words() -> None:
    with pytest.raises(DataError, match="T stage '5'"):
        parse_stage("5", "t")
    with pytest.raises(DataError, match="ISUP grade 'high'"):
        parse_grade("high")
    with pytest.raises(DataError, match="-1 days"):
        months(-1)
    with pytest.raises(DataError, match="nan days"):
        months(float("nan"))


def test_grades_and_months() -> None:
    assert [parse_grade(text) for text in ("1", "G4", 3, "na", None)] == [1, 4, 3, None, None]
    assert (months(0), months(30.4375), months(365.25)) == (0.0, 1.0, 12.0)
