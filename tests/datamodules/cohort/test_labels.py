"""Targets of the tasks: who is eligible, what is known, and the smallest fraction that works."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from datamodules.augmentation import AugmentationConfig
from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.labels import Label, of_no_class, survival_arrays, targets, time_grid
from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet
from datamodules.quality.cohort_checks import check_cohort
from datamodules.tasks import RoiDataModule
from experiments.registry import TASKS, axis_file
from tests.tiny import CONTRACT


def _label(task: str) -> Label:
    content = yaml.safe_load(axis_file("task", task).read_text())
    return Label(**content["data"]["init_args"]["label"])


def _module(root: Path, label: Label, **options: object) -> RoiDataModule:
    settings = {"contract": CONTRACT, "augmentation": AugmentationConfig(crop=(8, 10, 10)), "batch_size": 8}
    return RoiDataModule(root, label, **{**settings, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_targets_of_its_kind(task: str, tiny_root: Path) -> None:
    label = _label(task)
    assert label.kind == TASKS[task].kind
    frame = targets(Cohort.load(tiny_root), label)
    assert frame["patient_id"].is_unique
    assert set(frame["target"]) - {MISSING} == set(range(len(label.classes) or 2))


@pytest.mark.parametrize("task", ["renal_r", "renal_e", "renal_n", "renal_a", "renal_l"])
def test_nephrometry_is_that_of_the_index_kidney(task: str, tiny_root: Path) -> None:
    cohort, label = Cohort.load(tiny_root), _label(task)
    kidneys = cohort["kidneys"]
    of_index = kidneys[kidneys["is_index"]].set_index("patient_id")[task]
    frame = targets(cohort, label)
    assert [label.classes[code] for code in frame["target"]] == of_index.loc[frame["patient_id"]].tolist()
    assert len(label.classes) == 3


def test_survival_is_of_malignant_tumours_and_rfs_of_those_without_metastases(tiny_root: Path) -> None:
    cohort = Cohort.load(tiny_root)
    frame = targets(cohort, _label("rfs"))
    assert set(frame["malignancy"]) == {1}
    metastatic = frame["stage_pm"] == "1"
    assert metastatic.any()
    assert frame.loc[metastatic, "rfs_months"].notna().all()  # stated, and still not an endpoint
    assert not frame.loc[metastatic, "rfs_known"].any()
    assert frame.loc[metastatic, "os_known"].all()
    assert (frame.loc[metastatic, "target"] == MISSING).all()
    assert frame.loc[~metastatic, "rfs_known"].all()


def test_unknown_endpoints_are_masked_and_day_0_is_kept(tiny_root: Path) -> None:
    frame = targets(Cohort.load(tiny_root), _label("dss"))
    arrays = survival_arrays(frame)
    assert arrays["time_months"].dtype == np.float32
    assert all(values.shape == (len(frame), 3) for values in arrays.values())
    unknown = ~arrays["known"]
    assert unknown[:, 1].any()
    assert not unknown[:, 2].any()
    assert (arrays["time_months"][unknown] == 0).all()
    assert not arrays["event"][unknown].any()
    day_0 = arrays["known"][:, 0] & (arrays["time_months"][:, 0] == 0)
    assert arrays["event"][day_0, 0].any()
    assert np.isfinite(arrays["time_months"]).all()


def test_training_and_selection_need_the_endpoint_and_a_test_needs_any(tiny_root: Path) -> None:
    module = _module(tiny_root, _label("rfs"))
    patients = module.plan.patients
    assert patients.loc[patients["part"].isin(["train", "val"]), "rfs_known"].all()
    tested = patients[patients["part"] == "test"]
    assert not tested["rfs_known"].all()
    assert tested["os_known"].all()
    batch = next(iter(module.train_dataloader()))
    assert {"time_months", "event", "known"} <= set(batch)
    assert "target" not in batch
    assert batch["known"][:, 0].all()
    train = patients[patients["part"] == "train"]
    assert module.class_counts == [(train["target"] == 0).sum(), (train["target"] == 1).sum()]
    assert module.outcome["endpoint"] == "rfs"
    assert max(module.outcome["cuts"]) <= survival_arrays(train)["time_months"][:, 0].max()


def test_a_fraction_without_five_events_names_the_smallest_that_works(tiny_root: Path) -> None:
    with pytest.raises(DataError, match=r"expected at least 5 events\. The smallest fraction that works is (0\.\d|1)"):
        _module(tiny_root, _label("rfs"), fraction=0.1).setup("fit")
    with pytest.raises(DataError, match=r"expected at least 3 of each class\. The smallest fraction that works is"):
        _module(tiny_root, _label("renal_a"), fraction=0.1).setup("fit")


def test_fractions_are_nested_and_keep_events_in_proportion(tiny_root: Path) -> None:
    label = _label("os")
    chosen = []
    for fraction in (0.8, 1.0):
        patients = _module(tiny_root, label, fraction=fraction).plan.patients
        train = patients[patients["part"] == "train"]
        chosen.append(set(train["patient_id"]))
        share = (train["target"] == 1).mean()
    assert chosen[0] < chosen[1]
    small = patients[patients["patient_id"].isin(chosen[0])]
    assert abs((small["target"] == 1).mean() - share) < 0.15


def test_a_class_that_nobody_in_training_has_is_refused(tiny_copy: Path) -> None:
    frame, header = read_parquet(tiny_copy / "kidneys.parquet")
    frame["renal_a"] = frame["renal_a"].where(frame["renal_a"] != "x", "posterior")
    write_parquet(tiny_copy / "kidneys.parquet", frame, header)
    with pytest.raises(DataError, match="nobody in the training split has renal_a = x"):
        _module(tiny_copy, _label("renal_a")).setup("fit")


def test_data_check_counts_a_class_that_is_too_small_in_plain_numbers(tiny_copy: Path) -> None:
    frame, header = read_parquet(tiny_copy / "patients.parquet")
    frame["aggressiveness"] = pd.array([0] * len(frame), dtype=frame["aggressiveness"].dtype)
    write_parquet(tiny_copy / "patients.parquet", frame, header)
    patients = Cohort.load(tiny_copy).patients()
    trained = ((patients["role"] == "internal") & (patients["split"] == "train")).sum()
    found = [one.what for one in check_cohort(tiny_copy, verify=False) if one.what.startswith("aggressiveness")]
    assert found == [f"aggressiveness: {trained} of class 0 are among the internal training patients"]


def test_a_column_of_true_and_false_has_the_classes_0_and_1(tiny_copy: Path) -> None:
    frame, header = read_parquet(tiny_copy / "patients.parquet")
    stated = pd.Series([True, False, None] * len(frame), dtype="boolean")[: len(frame)]
    frame["necrosis"] = stated.to_numpy()
    frame["necrosis"] = frame["necrosis"].astype("boolean")
    write_parquet(tiny_copy / "patients.parquet", frame, header)
    found = targets(Cohort.load(tiny_copy), Label("necrosis", "necrosis", [0, 1], ["none", "necrosis"]))
    own = frame.set_index("patient_id")["necrosis"].loc[found["patient_id"]]
    assert own.notna().all()
    assert found["target"].tolist() == own.astype(int).tolist()


def test_folds_of_a_survival_task(tiny_folds_root: Path) -> None:
    patients = _module(tiny_folds_root, _label("os"), fold=1).plan.patients
    assert set(patients["part"]) == {"train", "val", "test"}
    assert set(patients["malignancy"]) == {1}


def test_a_cohort_without_the_endpoint_is_refused(tiny_copy: Path) -> None:
    frame, header = read_parquet(tiny_copy / "patients.parquet")
    frame["rfs_event"] = pd.array([pd.NA] * len(frame), dtype="boolean")
    write_parquet(tiny_copy / "patients.parquet", frame, header)
    with pytest.raises(DataError, match="no patient of cohort tiny has the endpoint rfs among those eligible"):
        _module(tiny_copy, _label("rfs")).setup("fit")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"endpoint": "pfs"}, "one endpoint of rfs, dss, os"),
        ({"column": "os_event"}, "no column and no classes"),
        ({"intervals": 1}, "expected at least 2"),
    ],
)
def test_bad_survival_labels_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Label(**{"name": "x", "kind": "survival", "endpoint": "os", **options})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="only survival tasks have one"):
        Label("x", "malignancy", [0, 1], ["a", "b"], endpoint="os")


def test_the_grid_takes_tied_times() -> None:
    months = np.array([0, 0, 3, 3, 3, 9], dtype=np.float32)
    cuts = time_grid(months, np.array([True, True, True, False, True, True]), 10)
    assert cuts[0] == 0.0
    assert cuts == sorted(set(cuts))
    assert set(cuts) <= {0.0, 3.0, 9.0}


def test_groups_join_the_words_of_several_sources_and_count_who_is_in_none(tiny_copy: Path) -> None:
    frame, header = read_parquet(tiny_copy / "patients.parquet")
    frame.loc[:5, "histology"] = "Clear-cell adenocarcinoma, NOS"
    frame.loc[6:8, "histology"] = "transitional_cell_carcinoma"
    frame.loc[9, "histology"] = pd.NA
    write_parquet(tiny_copy / "patients.parquet", frame, header)
    cohort, label = Cohort.load(tiny_copy), _label("subtype")
    found = targets(cohort, label).set_index("patient_id")["target"]
    assert set(found[frame.loc[:5, "patient_id"]]) == {0}
    assert not set(frame.loc[6:9, "patient_id"]) & set(found.index)
    assert of_no_class(cohort, label) == {"transitional_cell_carcinoma": 3}
    graded = targets(cohort, _label("isup"))
    assert (graded["target"] == (graded["isup_grade"] >= 3)).all()
    assert of_no_class(cohort, _label("renal_a")) == {}
    with pytest.raises(DataError, match="clear cell stands in two groups"):
        replace(label, groups={**label.groups, "papillary": ["Clear_Cell"]})
    with pytest.raises(DataError, match="groups name"):
        replace(label, groups={"papillary": ["papillary"]})
