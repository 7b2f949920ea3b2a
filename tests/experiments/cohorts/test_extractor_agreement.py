"""Agreement and accuracy: equal to scikit-learn, statsmodels' Wilson, and what a hand counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from datamodules.errors import DataError
from datamodules.reports.attribute_table import KIDNEY, NOT_STATED
from experiments.cohorts.extractor_accuracy import EVERY, accuracy, macro_f1_of, stated_truth
from experiments.cohorts.extractor_agreement import (
    agreement,
    bootstrap,
    disagreements,
    kappa_of,
    reported_kidneys,
    values_of,
    wilson,
)
from tests.datamodules.reports.small import SCHEMA

PATIENTS = 40


def _kidneys(patients: int = PATIENTS) -> pd.DataFrame:
    rows = [(f"p{number:02d}", f"s{number:02d}", side) for number in range(patients) for side in ("left", "right")]
    return pd.DataFrame(rows, columns=KIDNEY)


def _table(kidneys: pd.DataFrame, values: dict[str, list[str]]) -> pd.DataFrame:
    """Rows for values that are stated; the evidence quotes the value."""
    parts = [
        kidneys.assign(attribute=name, value=entries, evidence=[f"says {value}" for value in entries])
        for name, entries in values.items()
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame[frame["value"] != NOT_STATED].reset_index(drop=True)


def _random(seed: int, kidneys: pd.DataFrame) -> dict[str, list[str]]:
    rng = np.random.default_rng(seed)
    return {
        entry.name: rng.choice([*entry.class_names, NOT_STATED], len(kidneys)).tolist() for entry in SCHEMA.attributes
    }


def test_kappa_is_scikit_learns() -> None:
    kidneys = _kidneys()
    one, two = _random(0, kidneys), _random(1, kidneys)
    for name in one:  # a reader who mostly agrees
        two[name] = [a if number % 3 else b for number, (a, b) in enumerate(zip(one[name], two[name], strict=True))]
    table = agreement(_table(kidneys, one), _table(kidneys, two), kidneys, SCHEMA).set_index("attribute")
    for name in SCHEMA.names:
        row = table.loc[name]
        assert row["kappa"] == pytest.approx(cohen_kappa_score(one[name], two[name]), abs=1e-12)
        assert row["kappa_low"] < row["kappa"] < row["kappa_high"]
        assert (row["n"], row["patients"]) == (2 * PATIENTS, PATIENTS)
        both = sum(NOT_STATED not in pair for pair in zip(one[name], two[name], strict=True))
        assert row["stated_both"] == both


def test_kappa_of_cross_tables_is_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    second = np.where(rng.random(60) < 0.6, first, second)
    table = np.zeros((4, 4))
    np.add.at(table, (first, second), 1)
    assert kappa_of(table[None])[0] == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    f1 = f1_score(first, second, labels=[0, 1, 2], average="macro")
    assert macro_f1_of(table[None], [0, 1, 2])[0] == pytest.approx(f1, abs=1e-12)


def test_kappa_is_undefined_where_nobody_ever_says_anything_else() -> None:
    kidneys = _kidneys(3)
    silent = _table(kidneys, {"pole": [NOT_STATED] * 6})
    row = agreement(silent, silent, kidneys, SCHEMA).set_index("attribute").loc["pole"]
    assert row["same"] == 1.0
    assert np.isnan(row[["kappa", "kappa_low", "kappa_high"]].astype(float)).all()


def test_the_interval_draws_patients_and_not_kidneys() -> None:
    """Kidneys of a patient that are copies of each other add nothing: the interval stays as wide."""
    rng = np.random.default_rng(3)
    first = rng.integers(0, 2, PATIENTS)
    second = np.where(rng.random(PATIENTS) < 0.8, first, 1 - first)
    patients = np.array([f"p{number}" for number in range(PATIENTS)], dtype=object)
    once = bootstrap(first, second, patients, 2, kappa_of)
    twice = bootstrap(*(np.repeat(values, 2) for values in (first, second, patients)), 2, kappa_of)  # type: ignore[arg-type]
    assert once[:2] == pytest.approx(twice[:2])
    assert once == bootstrap(first, second, patients, 2, kappa_of)


def test_wilson_is_the_published_interval() -> None:
    """Newcombe, Statistics in Medicine 1998, table I: 81 of 263 and 0 of 20."""
    assert wilson(81, 263)[:2] == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20)[:2] == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert np.isnan(wilson(0, 0).low)


def test_disagreements_quote_both() -> None:
    kidneys = _kidneys(1)
    one = _table(kidneys, {"pole": ["upper", "lower"], "stones": ["no", NOT_STATED]})
    two = _table(kidneys, {"pole": ["upper", "upper"], "stones": ["no", "yes"]})
    found = disagreements(one, two, kidneys, SCHEMA)
    assert found.to_dict("records") == [
        {
            "patient_id": "p00",
            "study_id": "s00",
            "side": "right",
            "attribute": name,
            "value_first": first,
            "evidence_first": "" if first == NOT_STATED else f"says {first}",
            "value_second": second,
            "evidence_second": f"says {second}",
        }
        for name, first, second in (("stones", NOT_STATED, "yes"), ("pole", "lower", "upper"))
    ]
    assert disagreements(one, one, kidneys, SCHEMA).empty


def test_reports_of_one_side_speak_of_one_kidney() -> None:
    reports = pd.DataFrame(
        {"patient_id": ["a", "b", "b"], "study_id": ["s", "t", "t"], "side": pd.array([None, "left", "left"])}
    )
    assert reported_kidneys(reports)["side"].tolist() == ["left", "right", "left"]


def test_values_are_in_the_order_of_the_kidneys() -> None:
    kidneys = _kidneys(2)
    table = _table(kidneys, {"pole": ["upper", NOT_STATED, "lower", "upper"]}).sample(frac=1, random_state=0)
    assert values_of(table, kidneys, "pole").tolist() == ["upper", NOT_STATED, "lower", "upper"]


def test_accuracy_counts_every_kind_of_error() -> None:
    kidneys = _kidneys(3)
    said = ["upper", "upper", "lower", NOT_STATED, NOT_STATED, "interpolar"]
    found = ["upper", "lower", NOT_STATED, "upper", NOT_STATED, "interpolar"]
    first_two = kidneys["patient_id"].isin(["p00"]).to_numpy()
    groups = {EVERY: np.ones(6, dtype=bool), "first": first_two}
    table = accuracy(_table(kidneys, {"pole": found}), _table(kidneys, {"pole": said}), kidneys, groups, SCHEMA)
    rows = table.set_index(["group", "attribute", "class"])
    row = rows.loc[(EVERY, "pole", EVERY)]
    assert row[["n", "stated", "found", "right", "wrong", "missed", "invented"]].tolist() == [6, 4, 4, 2, 1, 1, 1]
    assert row["macro_f1"] == pytest.approx(
        f1_score(said, found, labels=["upper", "interpolar", "lower"], average="macro", zero_division=0)
    )
    assert (row["recall"], row["precision"], row["silence"]) == (0.5, 0.5, 0.5)
    assert (row["recall_low"], row["recall_high"]) == pytest.approx(wilson(2, 4)[:2])
    upper = rows.loc[(EVERY, "pole", "upper")]
    assert (upper["stated"], upper["found"], upper["right"]) == (2, 2, 1)
    assert rows.loc[("first", "pole", EVERY), ["n", "patients", "right"]].tolist() == [2, 1, 1]
    assert rows.loc[(EVERY, EVERY, EVERY), "right"] == 2


def test_a_perfect_reader_is_perfect() -> None:
    kidneys = _kidneys()
    truth = _table(kidneys, _random(4, kidneys))
    table = accuracy(truth, truth, kidneys, {EVERY: np.ones(len(kidneys), dtype=bool)}, SCHEMA)
    whole = table[table["class"] == EVERY]
    assert (whole[["macro_f1", "recall", "precision", "silence"]] == 1.0).all(axis=None)
    own = whole[whole["attribute"] != EVERY]
    assert own["macro_f1_interval"].eq("Clopper-Pearson").all()
    np.testing.assert_allclose(own["macro_f1_low"], 0.025 ** (1 / kidneys["patient_id"].nunique()))


def test_readers_who_always_agree_may_yet_disagree_on_others() -> None:
    """One table twice: every resample has a kappa of 1."""
    kidneys = _kidneys()
    table = _table(kidneys, _random(4, kidneys))
    found = agreement(table, table, kidneys, SCHEMA)
    assert (found["kappa"] == 1.0).all()
    assert (found["kappa_low"] < 0.95).all()
    assert found["kappa_interval"].eq("Clopper-Pearson").all()


def test_the_truth_is_what_the_report_states() -> None:
    truth = pd.DataFrame(
        {
            "patient_id": ["a", "a", "b"],
            "study_id": ["s", "s", "t"],
            "side": ["left", "right", "left"],
            "pole": ["upper", None, "lower"],
            "size_class": ["4_to_7_cm", None, "to_4_cm"],
            "stones": ["no", "yes", "no"],
            "stated": ["pole;size_class;other", "stones", ""],
            "stated_size_mm": [40.0, None, None],
        }
    )
    found = stated_truth(truth, SCHEMA)
    # The lesion measures 40.2 mm, the report says 4.0 cm: a reader can only take it for up to 4 cm.
    assert found[["attribute", "value"]].to_numpy().tolist() == [
        ["pole", "upper"],
        ["size_class", "to_4_cm"],
        ["stones", "yes"],
    ]
    with pytest.raises(DataError, match="pole = apex"):
        stated_truth(truth.assign(pole="apex"), SCHEMA)
