"""Leaks, folds, and label fractions that are nested and stratified."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.cohort.keyed_order import keyed_choice, keyed_order, keyed_units
from datamodules.cohort.label_fractions import FRACTIONS, label_fraction, label_order
from datamodules.cohort.splits import SHARES, assign_folds, assign_splits, check_splits, split_hash, split_of_fold
from datamodules.errors import DataError

CENTERS = pd.DataFrame({"center": ["c0", "c1", "c2", "c3"], "role": ["pretrain", "internal", "internal", "external"]})


def _patients(count: int, seed: int = 0, centers: int = 4, start: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "patient_id": [f"p{start + number:04d}" for number in rng.permutation(count)],
            "center": [f"c{number}" for number in rng.integers(centers, size=count)],
            "malignancy": (rng.random(count) < 0.75).astype(int),
        }
    )


def _moved(before: pd.DataFrame, after: pd.DataFrame, column: str = "split") -> list[str]:
    both = before.merge(after, on="patient_id", how="left")
    changed = both[f"{column}_x"].astype("string").fillna("") != both[f"{column}_y"].astype("string").fillna("")
    return both.loc[changed.to_numpy(bool), "patient_id"].tolist()


def test_a_keyed_order_belongs_to_the_names() -> None:
    names = [f"p{number}" for number in range(2000)]
    units = keyed_units(names, 1, "split")
    assert units.min() >= 0
    assert units.max() < 1
    assert np.histogram(units, 10, (0, 1))[0].min() > 150
    others = (keyed_units(names, 2, "split"), keyed_units(names, 1, "other"))
    assert all(abs(np.corrcoef(units, other)[0, 1]) < 0.06 for other in others)
    more = [*names[:1000], "new", *names[1000:]]
    order = [more[place] for place in keyed_order(more, 1, "split")]
    assert [name for name in order if name != "new"] == [names[place] for place in keyed_order(names, 1, "split")]
    lost = keyed_choice(names, 50, 1, "split") - keyed_choice(more, 50, 1, "split")
    assert len(lost) <= 1
    assert keyed_choice(names[::-1], 50, 1, "split") == keyed_choice(names, 50, 1, "split")


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_nobody_moves_when_a_cohort_is_drawn_anew_with_more(data: st.DataObject, seed: int) -> None:
    sizes = [data.draw(st.integers(100, 300)) for _ in range(4)]
    rows = [(f"c{center}", f"c{center}-{number}") for center, size in enumerate(sizes) for number in range(size)]
    everyone = pd.DataFrame(rows, columns=["center", "patient_id"])
    fewer = pd.concat(group.head(data.draw(st.integers(100, len(group)))) for _, group in everyone.groupby("center"))
    dropped = data.draw(st.sampled_from(["none", "c0", "c1", "c2", "c3"]))
    fewer = fewer[fewer["center"] != dropped]
    before = assign_splits(fewer, CENTERS[CENTERS["center"] != dropped], seed)
    after = assign_splits(everyone.sample(frac=1, random_state=seed), CENTERS, seed)
    assert _moved(before, after) == []


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 200), more=st.integers(0, 200), seed=st.integers(0, 1000))
def test_nobody_moves_when_a_stored_cohort_grows(count: int, more: int, seed: int) -> None:
    first, second = _patients(count, seed), _patients(more, seed + 1, start=count)
    stored = assign_splits(first, CENTERS, seed)
    # Those of an earlier version, assigned by another rule, are kept as well.
    stored.loc[:: max(3, count // 7), "split"] = "test"
    stored = stored[~stored["patient_id"].isin(first.loc[first["center"] == "c0", "patient_id"])]
    grown = assign_splits(pd.concat([first, second]), CENTERS, seed, stored)
    assert _moved(stored, grown) == []
    assert set(grown["patient_id"]) == set(first["patient_id"]) | set(second["patient_id"])


def test_relabelled_patients_stay_where_they_are() -> None:
    patients = _patients(300)
    relabelled = patients.assign(malignancy=1 - patients["malignancy"])
    before, after = (assign_splits(table, CENTERS, 3) for table in (patients, relabelled))
    assert split_hash(before) == split_hash(after)


@pytest.mark.parametrize("role", ["pretrain", "internal"])
@pytest.mark.parametrize("size", [7, 20, 60])
def test_a_small_centre_has_every_part(role: str, size: int) -> None:
    centers = pd.DataFrame({"center": ["only"], "role": [role]})
    used = 0
    for seed in range(100):
        patients = pd.DataFrame({"patient_id": [f"{seed}-{number}" for number in range(size)], "center": "only"})
        split = assign_splits(patients, centers, seed)["split"]
        assert set(split) == set(SHARES[role])
        used += int((split.value_counts() == 1).any())
    assert used < 100


def test_parts_hold_their_shares_and_the_outcome_over_many_cohorts() -> None:
    found, test = [], []
    for seed in range(100):
        patients = _patients(400, seed, start=1000 * seed)
        joined = patients.merge(CENTERS).merge(assign_splits(patients, CENTERS, seed))
        internal = joined[joined["role"] == "internal"]
        found.append(internal["split"].value_counts(normalize=True))
        test.append(internal.loc[internal["split"] == "test", "malignancy"].mean() - internal["malignancy"].mean())
    shares = pd.DataFrame(found)
    for part, share in SHARES["internal"].items():
        assert shares[part].mean() == pytest.approx(share, abs=0.01)
        assert shares[part].std() == pytest.approx(np.sqrt(share * (1 - share) / 200), rel=0.25)
    assert abs(np.mean(test)) < 0.02
    assert np.std(test) < 0.07


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


def test_roles_are_split_by_centre_whatever_the_order_of_rows() -> None:
    patients = _patients(600)
    splits = assign_splits(patients, CENTERS, seed=1)
    joined = patients.merge(CENTERS).merge(splits)
    assert set(joined.loc[joined["role"] == "pretrain", "split"]) == {"train", "val"}
    assert set(joined.loc[joined["role"] == "external", "split"]) == {"test"}
    again = assign_splits(patients.sample(frac=1, random_state=0), CENTERS, seed=1)
    assert split_hash(again) == split_hash(splits)


def test_the_order_within_an_outcome_and_centre_is_nobody_elses_matter() -> None:
    everyone = _patients(400, 5)
    fewer = everyone[(everyone["center"] != "c3") & (everyone["patient_id"] < "p0300")]

    def orders(frame: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        arguments = frame["patient_id"].tolist(), frame["malignancy"].astype(str).tolist(), frame["center"].tolist()
        order = label_order(*arguments, 42, "malignancy")
        return order, frame.set_index("patient_id").loc[order].reset_index()

    before, after = orders(fewer)[1], orders(everyone)[1]
    for _, rows in before.groupby(["malignancy", "center"]):
        kept = set(rows["patient_id"])
        assert [name for name in after["patient_id"] if name in kept] == rows["patient_id"].tolist()
    # A centre more reorders nobody of an outcome.
    without = everyone[everyone["center"] != "c3"]
    for outcome, rows in orders(without)[1].groupby("malignancy"):
        kept = set(rows["patient_id"])
        new = orders(everyone)[1]
        assert [name for name in new["patient_id"] if name in kept] == rows["patient_id"].tolist(), outcome


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.4])
def test_one_further_patient_changes_hardly_anyone_of_a_fraction(fraction: float) -> None:
    left = []
    for seed in range(20):
        everyone = _patients(200, seed)
        chosen = []
        for frame in (everyone[everyone["patient_id"] != "p0057"], everyone):
            outcomes = frame["malignancy"].astype(str).tolist()
            order = label_order(frame["patient_id"].tolist(), outcomes, frame["center"].tolist(), seed, "malignancy")
            chosen.append(set(order[: int(np.ceil(round(fraction * len(order), 9)))]))
        left.append(len(chosen[0] - chosen[1]))
    assert max(left) <= 3
    assert np.mean(left) < 1.5


def test_folds_keep_sites_whole_and_test_everyone_once() -> None:
    patients = _patients(300, centers=40)
    folds = assign_folds(patients, patients["center"], "malignancy", seed=0)
    joined = patients.merge(folds)
    assert joined.groupby("center")["fold"].nunique().max() == 1
    counts = joined.groupby("fold")["malignancy"].agg(["size", "sum"])
    assert np.ptp(counts["size"]) <= 6
    assert np.ptp(counts["sum"]) <= 6
    tested = []
    for fold in range(5):
        split = split_of_fold(joined, fold)
        assert joined.assign(split=split).groupby("center")["split"].nunique().max() == 1
        assert split.value_counts().to_dict() == pytest.approx({"train": 180, "val": 60, "test": 60}, abs=10)
        tested += joined.loc[(split == "test").to_numpy(bool), "patient_id"].tolist()
    assert sorted(tested) == sorted(joined["patient_id"])
    again = assign_folds(patients.iloc[::-1], patients["center"].iloc[::-1], "malignancy", seed=0)
    assert split_hash(again) == split_hash(folds)
    assert split_hash(assign_folds(patients, patients["center"], "malignancy", seed=1)) != split_hash(folds)


def test_folds_that_cannot_be_are_refused() -> None:
    patients = _patients(300, centers=40)
    joined = patients.merge(assign_folds(patients, patients["center"], "malignancy", seed=0))
    with pytest.raises(DataError, match="the cohort has folds"):
        split_of_fold(joined, 9)
    with pytest.raises(DataError, match="three folds at least"):
        split_of_fold(joined[joined["fold"] < 2], 0)
    with pytest.raises(DataError, match="expected at least 5"):
        assign_folds(patients, pd.Series(["a"] * 300), "malignancy", seed=0)
    with pytest.raises(DataError, match="expected at least 3"):
        assign_folds(patients, patients["center"], "malignancy", seed=0, folds=2)
    torn = joined.assign(fold=range(300))
    with pytest.raises(DataError, match="Stored folds divide 40 sites"):
        assign_folds(patients, patients["center"], "malignancy", seed=0, stored=torn)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(sites=st.integers(6, 60), more=st.integers(0, 30), seed=st.integers(0, 1000), alone=st.booleans())
def test_no_site_moves_when_folds_are_handed_on(sites: int, more: int, seed: int, alone: bool) -> None:
    everyone = _patients(8 * (sites + more), seed, centers=sites + more)
    first = everyone[everyone["center"].isin([f"c{number}" for number in range(sites)])]
    first = first[(first["patient_id"] != "p0001").to_numpy()]
    groups = [table["patient_id"] if alone else table["center"] for table in (first, everyone)]
    if groups[0].nunique() < 5:
        return
    stored = assign_folds(first, groups[0], "malignancy", seed)
    grown = assign_folds(everyone, groups[1], "malignancy", seed, stored=stored)
    assert _moved(stored, grown, "fold") == []
    assert everyone.merge(grown).groupby(groups[1].to_numpy())["fold"].nunique().max() == 1
    parts = [first.merge(stored), everyone.merge(grown)]
    for fold in range(5):
        before, after = (table.assign(split=split_of_fold(table, fold)) for table in parts)
        assert _moved(before[["patient_id", "split"]], after[["patient_id", "split"]]) == []


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
