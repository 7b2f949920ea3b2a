from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from datamodules.anatomy.tissues import Tissue
from datamodules.cohort.splits import check_splits
from datamodules.cohort.table_checks import check_links, check_table
from datamodules.cohort.tables import TABLES
from datamodules.phantoms.facts import Patient
from datamodules.phantoms.pathology import DAYS_PER_MONTH, follow
from datamodules.phantoms.phantom_source import DemoSource
from experiments.cohorts.trivial_predictors import image_statistics, trivial_predictors

pytestmark = pytest.mark.slow  # the study, and the patients, that all of them read

Tables = dict[str, pd.DataFrame]


def test_every_row_passes_the_schema(tables: Tables) -> None:
    for name, table in TABLES.items():
        assert table.derived or check_table(tables[name], table, name) == []
    assert check_links(tables) == []
    assert check_splits(tables, "roles", None) == []


def test_rows_are_plain_data(source: DemoSource) -> None:
    rows = source.rows(source.patient("E4-0007"))
    assert json.loads(json.dumps(rows)) == rows


def test_truth_has_one_row_per_kidney(tables: Tables) -> None:
    keys = ["patient_id", "study_id", "side"]
    assert tables["truth"][keys].equals(tables["kidneys"][keys])
    assert tables["truth"]["subtype"].notna().sum() == len(tables["patients"])


def test_events_and_times_are_in_order(tables: Tables) -> None:
    patients = tables["patients"]
    dss = patients[patients["dss_event"].notna()]
    assert (dss["dss_event"].astype(bool) <= dss["os_event"].astype(bool)).all()
    assert (dss["dss_months"] == dss["os_months"]).all()
    rfs = patients[patients["rfs_event"].notna()]
    assert (rfs["rfs_months"] <= rfs["dss_months"]).all()
    assert (rfs["dss_event"].astype(bool) <= rfs["rfs_event"].astype(bool)).all()
    assert patients.loc[patients["stage_pm"] == "1", "rfs_months"].isna().all()
    assert patients.loc[patients["malignancy"] == 0, ["rfs_months", "dss_months"]].isna().all(axis=None)
    assert 0.2 < rfs["rfs_event"].mean() < 0.4
    days = patients["os_months"].dropna() * DAYS_PER_MONTH
    np.testing.assert_allclose(days, days.round(), atol=1e-6)


def test_a_very_high_risk_keeps_times_finite() -> None:
    endpoints = follow(np.random.default_rng(0), 40.0, 90.0, False, 0.0)
    assert all(endpoint is not None and endpoint[0] >= 0.0 for endpoint in endpoints.values())


def test_labels_follow_their_definitions(tables: Tables) -> None:
    patients = tables["patients"]
    aggressive = (
        patients["isup_grade"].ge(3)
        | patients["stage_pt"].str[0].isin(["3", "4"])
        | patients["stage_pn"].isin(["1", "2"])
        | patients["stage_pm"].eq("1")
        | patients[["necrosis", "sarcomatoid", "rhabdoid"]].eq(True).any(axis=1)
    )
    assert (patients["aggressiveness"] == (aggressive & (patients["malignancy"] == 1))).all()
    benign = patients["histology"].isin(
        ["oncocytoma", "angiomyolipoma", "angiomyolipoma without visible fat", "benign cyst"]
    )
    assert (patients["malignancy"] == ~benign).all()
    assert patients.loc[benign, ["isup_grade", "stage_pt"]].isna().all(axis=None)
    assert 0.74 < patients["malignancy"].mean() < 0.81
    local = patients[patients["stage_pt"].isin(["1a", "1b", "2a", "2b"])]
    limits = {"1a": (0, 40.05), "1b": (39.95, 70.05), "2a": (69.95, 100.05), "2b": (99.95, 400)}
    for stage, (low, high) in limits.items():
        assert local.loc[local["stage_pt"] == stage, "tumor_size_mm"].between(low, high).all()


def test_prevalence_does_not_depend_on_the_centre(tables: Tables) -> None:
    prevalence = tables["patients"].groupby("center")["malignancy"].mean()
    assert prevalence.max() - prevalence.min() < 0.08


def test_the_public_like_centre_has_another_population(tables: Tables) -> None:
    patients = tables["patients"]
    clear = patients["histology"] == "clear cell renal cell carcinoma"
    public = patients["center"] == "PUB"
    assert clear[public].mean() > clear[~public].mean() + 0.05


def test_enhancement_is_that_of_the_subtypes_and_overlaps(patients: list[Patient]) -> None:
    frame = pd.DataFrame(
        [(patient.clinical.subtype, *patient.anatomy.tissues[Tissue.TUMOR].hu) for patient in patients],
        columns=["subtype", "non_contrast", "arterial", "venous", "delayed"],
    )
    means = frame.groupby("subtype").mean()
    clear, papillary = "clear cell renal cell carcinoma", "papillary renal cell carcinoma"
    assert means.loc[clear, "arterial"] > means.loc[papillary, "arterial"] + 40
    assert means.loc[clear, "arterial"] > means.loc[clear, "delayed"] + 30
    assert means.loc["angiomyolipoma without visible fat", "non_contrast"] > means.loc[clear, "non_contrast"] + 5
    oncocytoma = frame.loc[frame["subtype"] == "oncocytoma", "arterial"]
    inside = frame.loc[frame["subtype"] == clear, "arterial"].between(oncocytoma.min(), oncocytoma.max())
    assert inside.mean() > 0.6


def test_trivial_predictors_lie_in_the_wanted_ranges(tables: Tables) -> None:
    result = trivial_predictors(tables, tables["truth"], bootstraps=10).set_index(["outcome", "role", "predictor"])[
        "value"
    ]
    for role in ("pretrain", "internal", "external"):
        assert 0.58 <= result["malignancy", role, "size"] <= 0.70
        assert result["malignancy", role, "centre"] <= 0.55
        assert result["malignancy", role, "noise"] <= 0.55
        assert result["malignancy", role, "truth"] >= 0.90
    assert 0.60 <= result["malignancy", "all", "size"] <= 0.70
    assert 0.75 <= result["rfs", "all", "true risk"] <= 0.80
    assert result["rfs", "all", "size"] <= 0.65
    assert result["rfs", "all", "visible risk"] < result["rfs", "all", "true risk"] - 0.02


def test_image_statistics_measure_noise() -> None:
    noise = np.random.default_rng(0).normal(40.0, 11.0, size=(20, 40, 40)).astype(np.int16)
    row = image_statistics("a", noise)
    assert row["image_noise_hu"] == pytest.approx(11.0, rel=0.05)
    assert sum(value for name, value in row.items() if name.startswith("histogram_")) == pytest.approx(1.0)
