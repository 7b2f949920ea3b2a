"""Leaks, folds, and label fractions that are nested and stratified."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.splits import (
    FRACTIONS,
    assign_folds,
    assign_splits,
    check_splits,
    label_fraction,
    label_order,
    split_hash,
    split_of_fold,
)


def _patients(count: int, seed: int = 0, centers: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "patient_id": [f"p{number:04d}" for number in rng.permutation(count)],
            "center": [f"c{number}" for number in rng.integers(centers, size=count)],
            "malignancy": (rng.random(count) < 0.75).astype(int),
        }
    )


@settings(max_examples=30, deadline=None)
@given(count=st.integers(60, 400), seed=st.integers(0, 1000))
def test_fractions_are_nested_prefixes_stratified_by_outcome(count: int, seed: int) -> None:
    patients = _patients(count, seed)
    outcomes = patients["malignancy"].astype(str).tolist()
    order = label_order(patients["patient_id"].tolist(), outcomes, patients["center"].tolist(), seed, "malignancy")
    by_id = dict(zip(patients["patient_id"], outcomes, strict=True))
    assert sorted(order) == sorted(patients["patient_id"])
    share = outcomes.count("1") / count
    smaller: list[str] = []
    for fraction in FRACTIONS:
        try:
            chosen = label_fraction(order, by_id, fraction)
        except DataError:
            continue
        assert chosen[: len(smaller)] == smaller
        positives = sum(by_id[patient] == "1" for patient in chosen)
        assert abs(positives - share * len(chosen)) <= 2
        smaller = chosen
    assert len(smaller) == count


def test_order_ignores_row_order_and_depends_on_seed_and_task() -> None:
    patients = _patients(200)
    shuffled = patients.sample(frac=1, random_state=3)

    def order(frame: pd.DataFrame, seed: int, task: str) -> list[str]:
        outcomes = frame["malignancy"].astype(str).tolist()
        return label_order(frame["patient_id"].tolist(), outcomes, frame["center"].tolist(), seed, task)

    assert order(patients, 42, "malignancy") == order(shuffled, 42, "malignancy")
    assert order(patients, 42, "malignancy") != order(patients, 43, "malignancy")
    assert order(patients, 42, "malignancy") != order(patients, 42, "aggressiveness")


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="expected a share of the labels"):
        label_fraction(["a", "b"], {"a": "0", "b": "1"}, fraction)


def test_too_small_fraction_names_the_smallest_that_works() -> None:
    order = [f"p{number}" for number in range(100)]
    outcomes = {patient: "1" if number % 10 == 9 else "0" for number, patient in enumerate(order)}
    with pytest.raises(DataError, match=r"smallest fraction that works is 0\.4"):
        label_fraction(order, outcomes, 0.1)
    assert len(label_fraction(order, outcomes, 0.4)) == 40
    with pytest.raises(DataError, match=r"at least 5 events.*works is 0\.8"):
        label_fraction(order, outcomes, 0.2, survival=True)


def test_one_class_is_refused_at_every_fraction() -> None:
    with pytest.raises(DataError, match=r"expected at least 3 patients of each class"):
        label_fraction(["a", "b", "c"], dict.fromkeys("abc", "1"), 1.0)


def test_roles_are_split_by_centre_and_balanced() -> None:
    patients = _patients(600)
    centers = pd.DataFrame(
        {"center": ["c0", "c1", "c2", "c3"], "role": ["pretrain", "internal", "internal", "external"]}
    )
    splits = assign_splits(patients, centers, "malignancy", seed=1)
    joined = patients.merge(centers).merge(splits)
    assert set(joined.loc[joined["role"] == "pretrain", "split"]) == {"train", "val"}
    assert set(joined.loc[joined["role"] == "external", "split"]) == {"test"}
    internal = joined[joined["role"] == "internal"]
    rates = internal.groupby("split")["malignancy"].mean()
    assert rates.max() - rates.min() < 0.05
    again = assign_splits(patients.sample(frac=1, random_state=0), centers, "malignancy", seed=1)
    assert split_hash(again) == split_hash(splits)


def test_folds_keep_sites_whole_and_test_everyone_once() -> None:
    patients = _patients(300, centers=40)
    folds = assign_folds(patients, patients["center"], "malignancy", seed=0)
    joined = patients.merge(folds)
    assert joined.groupby("center")["fold"].nunique().max() == 1
    tested = []
    for fold in range(5):
        split = split_of_fold(joined, fold, "malignancy", seed=0)
        assert joined.assign(split=split).groupby("center")["split"].nunique().max() == 1
        assert set(split) == {"train", "val", "test"}
        tested += joined.loc[(split == "test").to_numpy(bool), "patient_id"].tolist()
    assert sorted(tested) == sorted(joined["patient_id"])
    alone = split_of_fold(joined.assign(center="one"), 0, "malignancy", seed=0)
    assert set(alone) == {"train", "val", "test"}
    with pytest.raises(DataError, match="the cohort has folds"):
        split_of_fold(joined, 9, "malignancy", seed=0)
    with pytest.raises(DataError, match="expected at least 5"):
        assign_folds(patients, pd.Series(["a"] * 300), "malignancy", seed=0)


def _tables(rows: list[tuple[str, str]]) -> dict[str, pd.DataFrame]:
    splits = pd.DataFrame(rows, columns=["patient_id", "split"]).astype("string")
    splits["fold"] = pd.array([pd.NA] * len(splits), dtype="Int64")
    return {
        "centers": pd.DataFrame({"center": ["I", "E"], "role": ["internal", "external"]}, dtype="string"),
        "patients": pd.DataFrame({"patient_id": ["a", "b", "c"], "center": ["I", "I", "E"]}, dtype="string"),
        "splits": splits,
    }


def test_leaks_and_gaps_are_named() -> None:
    good = _tables([("a", "train"), ("b", "test"), ("c", "test")])
    assert check_splits(good, "roles", split_hash(good["splits"])) == []
    leak = _tables([("a", "train"), ("a", "test"), ("b", "test"), ("c", "test")])
    assert any("patient a is in several splits (train, test)" in f.what for f in check_splits(leak, "roles", None))
    wrong = _tables([("a", "train"), ("b", "test"), ("c", "train")])
    assert any("patient c of external centre E has split train" in f.what for f in check_splits(wrong, "roles", None))
    absent = _tables([("a", "train"), ("c", "test")])
    assert any("patient b" in f.what for f in check_splits(absent, "roles", None))
    empty = _tables([("a", "train"), ("b", "test"), ("c", "test")])
    empty["centers"] = pd.concat([empty["centers"], pd.DataFrame({"center": ["Z"], "role": ["external"]})])
    assert any("centre Z has no patients" in f.what for f in check_splits(empty, "roles", None))
    edited = check_splits(good, "roles", "000000000000")
    assert [finding.level for finding in edited] == ["FAIL"]
