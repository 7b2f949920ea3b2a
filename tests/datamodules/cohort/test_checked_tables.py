"""Tables that were checked when they were written are read as they are, each when asked for; others are checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.attributes import attribute_codes
from datamodules.augmentation import AugmentationConfig
from datamodules.base import SINGLE_PHASE_ORDER
from datamodules.batch import MISSING
from datamodules.cohort import checked_tables, cohort
from datamodules.cohort.checked_tables import CHECKED, tables_are_checked
from datamodules.cohort.cohort import Cohort, CohortInfo
from datamodules.cohort.labels import Label
from datamodules.cohort.study_times import before_treatment, study_times
from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet
from datamodules.reports.schema import load_schema
from datamodules.tasks import RoiDataModule
from tests.tiny import CONTRACT


@pytest.fixture
def copied(tiny_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_root, tmp_path / "cohort"))


def _refuse(*_: Any) -> list[Any]:
    raise AssertionError("checked again")


def test_what_was_checked_is_read_and_not_checked(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tables_are_checked(copied)
    checked, findings = Cohort.inspect(copied)
    assert checked is not None
    assert not findings
    monkeypatch.setattr(cohort, "check_table", _refuse)
    monkeypatch.setattr(cohort, "check_links", _refuse)
    trusted = Cohort.load(copied)
    assert list(trusted.tables) == list(checked.tables)
    for name, frame in checked.tables.items():
        pd.testing.assert_frame_equal(trusted[name], frame)
    assert trusted.table_hash == checked.table_hash
    assert trusted.split_hash == checked.split_hash


def test_a_table_is_read_when_it_is_asked_for(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(checked_tables, "read_parquet", lambda path: read.append(path.stem) or read_parquet(path))
    loaded = Cohort.load(copied)
    assert read == []
    assert "series" in loaded.tables
    _ = loaded["kidneys"], loaded.patients(), loaded["kidneys"]
    assert read == ["kidneys", "patients", "centers", "splits"]
    with pytest.raises(DataError, match="has no table 'truth'"):
        _ = loaded["truth"]


def test_a_table_that_changed_since_is_checked(copied: Path) -> None:
    frame, header = read_parquet(copied / "patients.parquet")
    frame.loc[0, "age_years"] = 900.0
    write_parquet(copied / "patients.parquet", frame, header)
    assert not tables_are_checked(copied)
    with pytest.raises(DataError, match=r"patients\.parquet, row 0, column age_years: value 900\.0"):
        Cohort.load(copied)


@pytest.mark.parametrize("how", ["damaged", "absent", "older", "one less"])
def test_without_a_whole_stamp_everything_is_checked(copied: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "damaged":
        (copied / CHECKED).write_text("{")
    elif how == "absent":
        (copied / CHECKED).unlink()
    elif how == "older":
        monkeypatch.setattr(checked_tables, "_schema", lambda: "another")
    else:
        (copied / "kidneys.parquet").unlink()
    assert not tables_are_checked(copied)
    if how == "one less":
        with pytest.raises(DataError, match=r"kidneys\.parquet"):
            Cohort.load(copied)
        return
    assert isinstance(Cohort.load(copied).tables, dict)
    Cohort.recheck(copied)
    assert tables_are_checked(copied)


@pytest.mark.parametrize("phases", ["random", "single"])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_visits_are_those_of_a_loop_over_kidneys(tiny_root: Path, phases: str, part: str) -> None:
    label = Label("malignancy", "malignancy", [0, 1], ["benign", "malignant"])
    module = RoiDataModule(
        tiny_root, label, contract=CONTRACT, augmentation=AugmentationConfig(crop=(8, 10, 10)), phases=phases
    )  # type: ignore[arg-type]
    plan, keys = module.plan, ["patient_id", "study_id", "side"]
    # Positions in any order, a kidney without volumes, and a series of a phase twice.
    shuffled = plan.volumes.index.sample(frac=1.0, random_state=3)
    plan.volumes.index = shuffled[shuffled["patient_id"] != shuffled["patient_id"].iloc[0]]
    phase = plan.volumes.index.set_index("position")["phase"]
    kidneys, volumes = [], []
    for row in plan.kidneys.index[plan.kidneys["part"] == part]:
        own = (plan.volumes.index[keys] == plan.kidneys.loc[row, keys]).all(axis=1)
        found = sorted(plan.volumes.index.loc[own, "position"].astype(int))
        if phases == "single" and found:
            found = [min(found, key=lambda position: SINGLE_PHASE_ORDER.index(phase[position]))]
        if found:
            kidneys.append(int(row))
            volumes.append(found)
    visits = module.visits(part)
    assert visits.kidney == kidneys
    assert visits.volumes == volumes


def test_times_of_studies_are_those_of_a_loop_over_patients() -> None:
    rng = np.random.default_rng(5)
    names = [f"p{number}" for number in range(60)]
    rows = [(name, f"{name}-{study}") for name in names for study in range(int(rng.integers(1, 4)))]
    keys = pd.DataFrame(rows, columns=["patient_id", "study_id"]).astype("string")
    days = pd.array(rng.integers(-50, 50, len(keys)), dtype="Int64")
    days[rng.random(len(keys)) < 0.4] = pd.NA
    treated = pd.array(rng.integers(-20, 40, len(names)), dtype="Int64")
    treated[rng.random(len(names)) < 0.5] = pd.NA
    tables = {
        "series": keys,
        "kidneys": keys,
        "studies": keys.assign(days_from_origin=days).sample(frac=1.0, random_state=1),
        "patients": pd.DataFrame({"patient_id": names, "treatment_days": treated}).astype({"patient_id": "string"}),
    }
    found = study_times(Cohort(Path(), CohortInfo("c", "roles", "acquired", "a test"), tables))
    last = dict(zip(names, treated, strict=True))
    for name, group in found.groupby("patient_id"):
        known = {
            study: None if pd.isna(day) else int(day)
            for study, day in zip(group["study_id"], group["days_from_origin"], strict=True)
        }
        expected = before_treatment(known, None if pd.isna(last[name]) else int(last[name]))
        assert set(group.loc[group["before"], "study_id"]) == expected
    assert found["before"].nunique() == 2


def test_codes_of_attributes_are_those_of_a_loop_over_rows() -> None:
    schema, rng = load_schema(), np.random.default_rng(2)
    names = list(schema.names[:4])
    kidneys = pd.DataFrame({"patient_id": ["a", "a", "b", "c"], "study_id": "s", "side": ["left", "right"] * 2})
    rows = [
        (patient, "s", side, name, str(rng.choice(schema.classes[name])))
        for patient in ("a", "b", "d") for side in ("left", "right") for name in names if rng.random() < 0.7
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["patient_id", "study_id", "side", "attribute", "value"]).astype("string")
    codes = attribute_codes(table.assign(uncertain=False), kidneys, schema, names)
    expected = np.full((4, 4), MISSING)
    for row, key in enumerate(kidneys.itertuples(index=False, name=None)):
        for *own, name, value in rows:
            if tuple(own) == key:
                expected[row, names.index(name)] = schema.classes[name].index(value)
    assert codes.tolist() == expected.tolist()
    assert (codes != MISSING).any()
