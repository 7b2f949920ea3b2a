"""Subgroups: who is in which, their metric against scikit-learn, heterogeneity, and what is too small."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from sklearn.metrics import roc_auc_score

from datamodules.cohort.cohort import Cohort
from experiments.studies.compare import pooled_seeds
from experiments.studies.report.subgroups import FEWEST, Subgroup, subgroup_table, subgroups_of
from tests.experiments.studies.report.made import vary

PATIENTS = [f"P{number:03d}" for number in range(90)]
HALVES = [
    Subgroup("Half", "first", frozenset(PATIENTS[:45])),
    Subgroup("Half", "second", frozenset(PATIENTS[45:])),
    Subgroup("Overlap", "most", frozenset(PATIENTS[:80]), apart=False),
    Subgroup("Overlap", "all", frozenset(PATIENTS), apart=False),
    Subgroup("Few", "nine", frozenset(PATIENTS[:9])),
    Subgroup("Few", "the rest", frozenset(PATIENTS[9:])),
    Subgroup("Nobody", "of another cohort", frozenset({"X"})),
    Subgroup("Class", "benign alone", frozenset(PATIENTS[::2])),
]


def _predictions(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    target = np.arange(90) % 2
    score = 1 / (1 + np.exp(-rng.normal(0, 1, 90) - target * np.where(np.arange(90) < 45, 2.0, 0.0)))
    frame = pd.DataFrame({"patient_id": PATIENTS, "center": "I1", "role": "internal", "part": "test"})
    return frame.assign(target=target, score_benign=1 - score, score_malignant=score)


def _row(table: pd.DataFrame, variable: str, level: str) -> pd.Series:
    return table[(table["variable"] == variable) & (table["level"] == level)].iloc[0]


def test_each_subgroup_has_scikit_learns_auc_of_its_patients() -> None:
    tables = [_predictions(0), _predictions(1)]
    table = subgroup_table(tables, HALVES, replicates=200)
    assert table["level"].iloc[0] == "all patients"
    for part in [Subgroup("All", "all patients", frozenset(PATIENTS)), *HALVES[:4]]:
        own = [frame[frame["patient_id"].isin(list(part.patients))] for frame in tables]
        expected = np.mean([roc_auc_score(rows["target"], rows["score_malignant"]) for rows in own])
        row = _row(table, part.variable, part.level)
        assert row["auroc"] == pytest.approx(expected)
        assert row["low"] < row["auroc"] < row["high"]
        assert (row["n"], row["positives"]) == (len(own[0]), own[0]["target"].sum())


def test_heterogeneity_is_tested_where_parts_share_nobody() -> None:
    tables = [_predictions(0)]
    table = subgroup_table(tables, HALVES, replicates=500)
    values, errors = [], []
    for part in HALVES[:2]:
        pooled = pooled_seeds(tables, sorted(part.patients), "", 500)
        values.append(pooled.estimate.value)
        errors.append(pooled.values.std(ddof=1))
    q = (values[0] - values[1]) ** 2 / (errors[0] ** 2 + errors[1] ** 2)
    assert _row(table, "Half", "first")["p"] == _row(table, "Half", "second")["p"] == pytest.approx(chi2.sf(q, 1))
    assert chi2.sf(q, 1) < 0.05  # the score tells the first half apart and not the second
    assert np.isnan(_row(table, "Overlap", "most")["p"])
    assert np.isnan(_row(table, "Few", "the rest")["p"])  # alone once the nine are too few
    assert np.isnan(_row(table, "All", "all patients")["p"])


def test_what_is_too_small_is_listed_without_a_metric() -> None:
    table = subgroup_table([_predictions()], HALVES, replicates=50)
    few = _row(table, "Few", "nine")
    assert few["n"] == 9 < FEWEST
    assert np.isnan(few[["auroc", "low", "high"]].astype(float)).all()
    assert np.isnan(_row(table, "Class", "benign alone")["auroc"])
    assert _row(table, "Class", "benign alone")["positives"] == 0
    assert "Nobody" not in set(table["variable"])
    assert np.isfinite(_row(subgroup_table([_predictions()], HALVES, 9, 50), "Few", "nine")["auroc"])


def test_order_of_patients_does_not_matter() -> None:
    plain = subgroup_table([_predictions()], HALVES[:2], replicates=20)
    mixed = subgroup_table([_predictions().sample(frac=1, random_state=0)], HALVES[:2], replicates=20)
    columns = ["level", "n", "positives", "auroc"]
    pd.testing.assert_frame_equal(plain[columns], mixed[columns])


def test_who_is_in_which_subgroup(tiny_root: Path, tmp_path: Path) -> None:
    root = vary(Path(shutil.copytree(tiny_root, tmp_path / "tiny")))
    path = root / "patients.parquet"
    patients = pd.read_parquet(path)
    kidneys = pd.read_parquet(root / "kidneys.parquet")
    own = (kidneys["patient_id"] == patients["patient_id"].iloc[2]) & kidneys["is_index"]
    kidneys.loc[own, "lesion_diameter_mm"] = 55.0
    kidneys.to_parquet(root / "kidneys.parquet")
    patients.loc[0, ["tumor_size_mm", "age_years", "sex"]] = [40.0, 50.0, pd.NA]
    patients.loc[1, ["tumor_size_mm", "age_years"]] = [40.1, pd.NA]
    patients.loc[2, ["tumor_size_mm", "age_years"]] = [pd.NA, 65.0]
    patients.to_parquet(path)
    cohort = Cohort.load(root)
    found = {(part.variable, part.level): part for part in subgroups_of(cohort)}
    first, second, third = patients["patient_id"].iloc[:3]
    assert first in found["Tumour size", "4 cm or less"].patients
    assert second in found["Tumour size", "more than 4, up to 7 cm"].patients
    # What the images say, where the source says nothing.
    assert third in found["Tumour size", "more than 4, up to 7 cm"].patients
    assert first in found["Age", "50 to 64 years"].patients
    assert third in found["Age", "65 years or older"].patients
    members = {name: [part.patients for part in found.values() if part.variable == name] for name in ("Sex", "Age")}
    assert not any(first in part for part in members["Sex"])
    assert not any(second in part for part in members["Age"])
    for variable in ("Centre", "Tumour size", "Sex", "Age"):
        own = [part for part in found.values() if part.variable == variable]
        assert all(part.apart for part in own)
        assert sum(len(part.patients) for part in own) == len(frozenset().union(*(part.patients for part in own)))
    assert not any(part.apart for part in found.values() if part.variable == "Phase")
    centers = frozenset().union(*(part.patients for part in found.values() if part.variable == "Centre"))
    assert centers == set(cohort["patients"]["patient_id"])
