"""Every prompt file is good, and the linter finds what is not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from datamodules.errors import DataError
from experiments.aligned.zero_shot.prompt_sets import (
    PROMPTS,
    PromptSet,
    available,
    check_lengths,
    fill,
    lint,
    load_prompts,
)
from experiments.registry import CONFIGS

TASKS = ("aggressiveness", "malignancy", "renal_a", "renal_e", "renal_l", "renal_n", "renal_r")


def test_prompts_are_those_of_a_task_with_its_classes() -> None:
    assert available() == sorted(TASKS)
    for name in TASKS:
        classes = yaml.safe_load((CONFIGS / f"task/{name}.yaml").read_text())["data"]["init_args"]["label"]["classes"]
        assert [entry.value for entry in load_prompts(name).ordered(classes).classes] == classes


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_clean(task: str) -> None:
    prompts = load_prompts(task)
    assert lint(prompts) == []
    texts, code = prompts.prompts()
    assert len(texts) == len(set(texts)) == sum(len(c.descriptions) for c in prompts.classes) * len(prompts.templates)
    assert np.bincount(code).tolist() == [len(c.descriptions) * len(prompts.templates) for c in prompts.classes]
    assert all(text[0].isupper() and "{" not in text for text in texts)


@pytest.fixture
def good() -> PromptSet:
    return load_prompts("malignancy")


def changed(prompts: PromptSet, number: int, **fields: object) -> PromptSet:
    classes = list(prompts.classes)
    classes[number] = replace(classes[number], **fields)
    return replace(prompts, classes=tuple(classes))


def test_a_name_of_another_class_is_a_leak(good: PromptSet) -> None:
    texts = (*good.classes[0].descriptions, "a mass without signs of malignancy")
    assert any("names class 1" in finding for finding in lint(changed(good, 0, descriptions=texts)))


def test_a_name_in_a_template_is_a_leak(good: PromptSet) -> None:
    found = lint(replace(good, templates=(*good.templates, "A benign kidney with {}.")))
    assert any("template" in finding and "names class 0" in finding for finding in found)


def test_a_class_that_is_not_named_or_hardly_described_is_found(good: PromptSet) -> None:
    assert any("no description names" in finding for finding in lint(changed(good, 1, names=("sinister",))))
    assert any(
        "4 descriptions" in finding for finding in lint(changed(good, 1, descriptions=("a malignant mass",) * 4))
    )
    assert any("neither names nor states" in finding for finding in lint(changed(good, 1, names=())))
    assert any("not a text" in finding for finding in lint(changed(good, 1, descriptions=("", *"abcde"))))


def test_duplicates_and_long_prompts_are_found(good: PromptSet) -> None:
    texts = good.classes[0].descriptions
    assert any("stands 2 times" in f for f in lint(changed(good, 0, descriptions=(*texts, f"{texts[0]}"))))
    assert any("words; expected" in f for f in lint(changed(good, 0, descriptions=(*texts, "a very" + " very" * 40))))


def test_templates_need_one_slot_and_there_are_twenty(good: PromptSet) -> None:
    found = lint(replace(good, templates=("There is a mass.", "{} and {}.")))
    assert len([finding for finding in found if "needs one" in finding]) == 2
    assert any("2 templates" in finding for finding in found)


def test_a_description_that_states_another_class_is_found_by_reading_it() -> None:
    prompts = load_prompts("renal_e")
    texts = (*prompts.classes[0].descriptions, "a completely endophytic mass of 3 cm")
    found = lint(changed(prompts, 0, descriptions=texts))
    assert any("states exophytic = endophytic, expected mostly" in finding for finding in found)
    assert any("not in the attribute schema" in f for f in lint(changed(prompts, 0, states={"exophytic": "hardly"})))


def test_classes_follow_the_label_or_are_refused(good: PromptSet) -> None:
    assert [entry.value for entry in good.ordered([1, 0]).classes] == [1, 0]
    with pytest.raises(DataError, match=r"describe the classes \[0, 1\]; the task has \[1, 2, 3\]"):
        good.ordered([1, 2, 3])


def test_bad_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PROMPTS, tmp_path / "prompts"))
    with pytest.raises(DataError, match="Task rfs has no prompts; there are prompts for aggressiveness, malignancy"):
        load_prompts("rfs", folder)
    (folder / "malignancy.yaml").write_text("task: malignancy\nclasses: [{value: 0, nmes: [benign]}]")
    with pytest.raises(DataError, match=r"malignancy.yaml: .*nmes"):
        load_prompts("malignancy", folder)
    (folder / "malignancy.yaml").write_text((folder / "renal_r.yaml").read_text())
    with pytest.raises(DataError, match="the file says task renal_r"):
        load_prompts("malignancy", folder)
    (folder / "malignancy.yaml").write_text("{")
    with pytest.raises(DataError, match="is not plain YAML"):
        load_prompts("malignancy", folder)


def test_sentences_begin_with_a_capital_letter() -> None:
    assert fill("{} is seen.", "a mass") == "A mass is seen."
    assert fill("There is {}.", "a mass") == "There is a mass."


def test_prompts_that_would_be_cut_off_are_refused() -> None:
    check_lengths(["short"], np.array([7]), 8)
    with pytest.raises(DataError, match="1 prompts reach the text encoder's 8 tokens"):
        check_lengths(["short", "long"], np.array([7, 8]), 8)
