"""What is withheld: what contradicts measurements or another statement, and what is of a lesion where none is."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.reports.schema import load_schema
from experiments.aligned.one_scan.scan import stated
from experiments.doubt.statements import Said, check_statements, sphere_ml
from experiments.registry import TASKS, task_label

LARGE = Said("renal_r", "3", 1.0, {"size_class": "from_7_cm"}, "R.E.N.A.L. radius: 7 cm or more")


def reasons(said: list[Said], measures: dict | None = None, score: float | None = 0.9) -> dict[str, str]:
    found = check_statements(said, measures or {}, score)
    assert {one.question for one in found.kept} | {one.question for one in found.withheld} == {
        one.question for one in said
    }
    return {one.question: one.reason for one in found.withheld}


def test_a_lesion_larger_than_its_kidney_is_withheld_with_both_volumes() -> None:
    assert sphere_ml(70.0) == pytest.approx(179.6, abs=0.1)
    found = reasons([LARGE], {"kidney_volume_ml": 99.0})
    assert "7 cm or more is withheld: the kidney in the mask has 99 ml" in found["renal_r"]
    assert "180 ml" in found["renal_r"]
    assert not reasons([LARGE], {"kidney_volume_ml": 90.0, "tumor_volume_ml": 150.0})
    assert not reasons([Said("size_class", "4_to_7_cm", 1.0)], {"kidney_volume_ml": 99.0})
    assert reasons([Said("size_class", "4_to_7_cm", 1.0)], {"kidney_volume_ml": 30.0})


def test_the_mask_is_believed_where_it_measured_the_lesion() -> None:
    measures = {
        "has_lesion": True,
        "renal_r_mm": 31.0,
        "renal_e_fraction": 0.6,
        "renal_n_mm": 2.0,
        "renal_a": "anterior",
    }
    wrong = [
        LARGE,
        Said("exophytic", "endophytic", 1.0),
        Said("collecting_nearness", "distant", 1.0),
        Said("face", "x", 1.0),
    ]
    found = reasons(wrong, measures)
    assert set(found) == {"renal_r", "exophytic", "collecting_nearness", "face"}
    assert "31 mm" in found["renal_r"]
    right = [Said("size_class", "to_4_cm", 1.0), Said("exophytic", "mostly", 1.0), Said("face", "anterior", 1.0)]
    assert not reasons(right, measures)


def test_without_a_lesion_nothing_is_said_of_one_and_the_kidney_keeps_its_own() -> None:
    said = [LARGE, Said("malignancy", "malignant", 0.9), Said("margin", "smooth", 0.8), Said("stones", "no", 0.9)]
    by_score = reasons(said, score=0.12)
    assert set(by_score) == {"renal_r", "malignancy", "margin"}
    assert "0.12" in by_score["margin"]
    assert set(reasons(said, {"has_lesion": False}, score=0.99)) == set(by_score)
    assert not reasons(said, {"has_lesion": True, "renal_r_mm": 80.0}, score=0.12)
    assert check_statements(said, {}, None).lesion is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LARGE, Said("size_class", "to_4_cm", 0.7)),
        (Said("malignancy", "benign", 0.8), Said("perirenal", "invasion", 0.9)),
        (Said("malignancy", "benign", 0.8), Said("aggressiveness", "aggressive", 0.9)),
        (Said("aggressiveness", "indolent", 0.8), Said("venous_thrombus", "vena_cava", 0.9)),
        (Said("enhancement_degree", "none", 0.8), Said("enhancement_pattern", "nodular", 0.9)),
        (Said("enhancement_degree", "none", 0.8), Said("washout", "yes", 0.9)),
    ],
)
def test_of_two_statements_that_exclude_each_other_neither_is_made(one: Said, other: Said) -> None:
    for pair in ([one, other], [other, one]):
        found = reasons(pair)
        assert set(found) == {one.question, other.question}
        assert all("it contradicts" in text for text in found.values())
    assert not reasons([one])
    assert not reasons([other])


def test_bosniak_is_said_of_cystic_lesions_alone_and_takes_nothing_with_it() -> None:
    assert set(reasons([Said("composition", "solid", 0.9), Said("bosniak", "III", 0.5)])) == {"bosniak"}
    assert not reasons([Said("composition", "cystic", 0.9), Said("bosniak", "III", 0.5)])


def test_every_point_of_nephrometry_is_held_against_the_attribute_of_the_same_question() -> None:
    """A point of the zero-shot classes and the attribute that states another one are both withheld."""
    schema = load_schema()
    for task, name in (("renal_r", "size_class"), ("renal_e", "exophytic"), ("renal_n", "collecting_nearness")):
        label = task_label(task)
        for number, answer in enumerate(label.class_names):
            scores = dict(zip(label.class_names, np.eye(3)[number], strict=True))
            for place, value in enumerate(schema[name].class_names):
                attribute = {"value": value, "scores": {value: 1.0}}
                entry = {"title": TASKS[task].title, "scores": scores}
                found = stated({}, {name: attribute}, {task: entry})
                assert bool(found["withheld"]) == (place != number), (task, answer, value)
