from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from datamodules.anatomy.nephrometry.points import r_points
from datamodules.errors import DataError
from datamodules.phantoms import reporting
from datamodules.phantoms.centers import CENTERS
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.phantoms.reporting import load_bank, placeholders
from datamodules.phantoms.stated_attributes import ATTRIBUTES
from datamodules.reports.lint import lint_report
from datamodules.reports.schema import load_schema

Tables = dict[str, pd.DataFrame]


def sentences(bank: dict[str, Any]) -> set[str]:
    """Every fixed sentence of a bank: those without a place to fill in."""
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, str):
            found.add(node)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(child)

    walk(bank["sentences"])
    return {text for text in found if "{" not in text}


@pytest.mark.parametrize("name", ["development", "heldout"])
def test_a_bank_words_every_value_of_every_attribute_several_ways(name: str, tables: Tables) -> None:
    bank = load_bank(name)
    for attribute in set(ATTRIBUTES) - {"lesion_present", "size_class"}:
        for value in tables["truth"][attribute].dropna().unique():
            assert bank["sentences"][attribute][value], (attribute, value)
    positive = [len(texts) for values in bank["sentences"].values() for texts in values.values()]
    assert sum(positive) / len(positive) >= 1.8


def test_the_held_out_centres_have_sentences_of_their_own() -> None:
    assert not sentences(load_bank("development")) & sentences(load_bank("heldout"))
    for name in ("openings", "further", "normal", "chatter", "technique"):
        one, two = ([str(entry) for entry in load_bank(bank)[name]] for bank in ("development", "heldout"))
        assert not set(one) & set(two)


def test_centres_use_the_bank_of_their_role(tables: Tables) -> None:
    assert all((center.bank == "heldout") == (center.role == "external") for center in CENTERS)
    reports = tables["reports"].merge(tables["patients"][["patient_id", "center"]], on="patient_id")
    external = reports["center"].isin([center.name for center in CENTERS if center.role == "external"])
    for bank, mine in (("development", ~external), ("heldout", external)):
        texts = " ".join(reports.loc[mine, "text"])
        foreign = " ".join(reports.loc[~mine, "text"])
        used = [text for text in sentences(load_bank(bank)) if text in texts]
        assert len(used) > 100
        # Short ones such as 'Bosniak II.' may be part of a longer sentence elsewhere.
        assert not [text for text in used if len(text) > 20 and text in foreign]


def test_every_report_passes_the_linter(tables: Tables) -> None:
    assert [text for text in tables["reports"]["text"] if lint_report(text)] == []
    assert (tables["reports"]["text"].str.len() > 120).all()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Findings suggest renal cell carcinoma.", "histology"),
        ("Typical AML of the left kidney.", "histology"),
        ("ccRCC is likely.", "histology"),
        ("ISUP 3.", "grade"),
        ("High grade lesion.", "grade"),
        ("Suspected pT3a.", "stage"),
        ("cT1b N0 M0.", "stage"),
        ("Suspicious for malignancy.", "malignancy"),
        ("Benign lesion.", "malignancy"),
        ("Metastasis-free survival is expected.", "outcome"),
    ],
)
def test_the_linter_refuses_what_imaging_cannot_say(text: str, kind: str) -> None:
    assert any(found.startswith(kind) for found in lint_report(text))


def test_the_linter_lets_imaging_words_pass() -> None:
    assert (
        lint_report("Bosniak III mass of 4.1 cm at T12, thrombus in the renal vein, pathologically enlarged nodes.")
        == []
    )


def test_a_report_with_a_forbidden_word_is_refused(source: DemoSource, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = load_bank("development") | {"chatter": ["The tumour is malignant."]}
    monkeypatch.setattr(reporting, "load_bank", lambda name: bank)
    with pytest.raises(DataError, match="imaging findings only"):
        source.rows(source.patient("I1-0003"))


def test_stated_attributes_are_in_the_text(source: DemoSource, tables: Tables) -> None:
    """A stated calcification is worded as present or absent; one not stated is not spoken of."""
    truth = tables["truth"].merge(tables["reports"][["study_id", "text"]], on="study_id")
    for _, row in truth[truth["is_lesion"] if "is_lesion" in truth else truth["margin"].notna()].iterrows():
        spoken = re.search(r"calcifi|chalky|calcific", row["text"].replace("calcified plaques", ""), re.IGNORECASE)
        both = truth[truth["study_id"] == row["study_id"]]["stated"].str.contains("calcification").any()
        assert bool(spoken) == bool(both), row["patient_id"]


def test_the_truth_takes_the_same_values_as_implied_as_the_schema() -> None:
    implied = {
        (attribute.name, entry.name): set(entry.implies)
        for attribute in load_schema().attributes
        for entry in attribute.classes
        if entry.implies
    }
    assert {key: set(names) for key, names in reporting._IMPLIED.items()} == implied


def test_implied_values_are_true_of_the_phantom(tables: Tables) -> None:
    """What the schema takes a stated value to imply is what the kidney has, so that the truth never contradicts it."""
    schema = load_schema()
    rows = tables["truth"][tables["truth"]["margin"].notna()]
    seen = 0
    for attribute in schema.attributes:
        for entry in attribute.classes:
            for name, value in entry.implies.items():
                found = rows.loc[rows[attribute.name] == entry.name, name]
                seen += len(found)
                assert (found == value).all(), (attribute.name, entry.name, name)
    assert seen > 0


def test_findings_are_omitted_hedged_and_denied(tables: Tables) -> None:
    lesions = tables["truth"][tables["truth"]["margin"].notna()]
    stated = lesions["stated"].str.split(";")
    for attribute in ("margin", "exophytic", "necrosis", "venous_thrombus"):
        share = stated.map(lambda names, attribute=attribute: attribute in names).mean()
        assert 0.2 < share < 0.95, attribute
    denied = stated.map(lambda names: "necrosis" in names) & (lesions["necrosis"] == "no")
    assert denied.mean() > 0.1
    assert (tables["truth"]["hedged"] != "").mean() > 0.05


def test_stated_sizes_are_the_true_ones_rounded(tables: Tables) -> None:
    rows = tables["truth"].dropna(subset=["stated_size_mm"])
    difference = (rows["stated_size_mm"] - rows["size_mm"]).abs()
    # Where whole millimetres would have other points for R, the other neighbour is stated.
    assert (difference <= 0.51).mean() > 0.97
    assert (difference < 1.0).all()
    assert (rows["stated_size_mm"].map(r_points) == rows["size_mm"].map(r_points)).all()


def test_only_a_lesion_at_the_sinus_is_said_to_touch_it(tables: Tables) -> None:
    rows = tables["kidneys"].merge(tables["reports"][["study_id", "text"]], on="study_id")
    touching = [text for name in ("development", "heldout") for text in load_bank(name)["touching"]]
    said = rows["text"].map(lambda text: any(entry in text for entry in touching))
    nearest = rows.groupby("study_id")["renal_n_mm"].transform("min")
    assert said.sum() > 100
    assert (nearest[said] == 0.0).all()


def test_every_placeholder_is_known() -> None:
    known = {"side", "size", *ATTRIBUTES, "phases", "prior_date", "prior_size", "a", "b", "c", "unit"}
    for name in ("development", "heldout"):
        bank = load_bank(name)
        templates = [*bank["openings"], *bank["further"], *bank["technique"], *bank["impression"]["lesion"]]
        assert set().union(*map(placeholders, templates)) <= known


@pytest.mark.slow
def test_reports_do_not_depend_on_the_order_of_sets() -> None:
    # Python draws the order of texts in a set anew in every process, unless PYTHONHASHSEED fixes it.
    program = (
        "from datamodules.phantoms.phantom_source import DemoSource\n"
        "source = DemoSource(48, 7)\n"
        "rows = [source.rows(source.patient(name))['reports'] for name in source.patient_ids()]\n"
        "print([row['text'] for part in rows for row in part])\n"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    assert "kidney" in texts.pop()
