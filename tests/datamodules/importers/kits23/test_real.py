"""The importer on the 300 real patients; skipped where RENAL_DATA does not name them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score

from datamodules.anatomy.nephrometry import Kidney, Nephrometry, score
from datamodules.anatomy.nephrometry.mask_geometry import axial_diameter_mm
from datamodules.anatomy.nephrometry.measures import measures
from datamodules.anatomy.nephrometry.organ import measure_organ
from datamodules.anatomy.tissues import TUMOR
from datamodules.cohort.splits import assign_folds
from datamodules.importers.kits23.clinical_records import patient_row, read_records, read_sites
from datamodules.importers.kits23.kidney_positions import locate
from datamodules.importers.kits23.kits23_source import Kits23Source
from datamodules.importers.masks import read_mask
from datamodules.volumes.contract import PreprocessingContract
from tests.datamodules.anatomy.nephrometry.test_reference import itk_axial_diameter_mm, itk_distance_mm
from tests.datamodules.reports.test_measured import expected, read

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def dataset(real_data: Path) -> Path:
    folder = real_data / "kits23" / "dataset"
    if not folder.is_dir():
        pytest.skip("RENAL_DATA holds no kits23/dataset")
    return folder


@pytest.fixture(scope="module")
def patients(dataset: Path) -> pd.DataFrame:
    """The patient table with `tumor_ml`, all tumour voxels of the mask."""
    rows = []
    for case, record in read_records(dataset).items():
        mask = read_mask(dataset / case / "segmentation.nii.gz", case).labels
        volume = float(np.isin(mask.data.numpy(), TUMOR).sum() * np.prod(mask.spacing)) / 1000.0
        rows.append({**patient_row(record, "kits23"), "tumor_ml": volume})
    return pd.DataFrame(rows).convert_dtypes()


def test_labels_of_all_patients(dataset: Path, patients: pd.DataFrame) -> None:
    assert Kits23Source(dataset).patient_ids() == sorted(patients["patient_id"])
    assert len(patients) == 300
    malignant = patients[patients["malignancy"] == 1]
    assert (len(malignant), int((patients["malignancy"] == 0).sum())) == (275, 25)
    assert (int(patients["os_event"].sum()), int(malignant["os_event"].sum())) == (42, 41)
    assert int(patients["aggressiveness"].sum()) == 135
    assert int((patients["os_months"] == 0).sum()) == 3
    grade = malignant["isup_grade"]
    assert [int((grade >= 3).sum()), int((grade < 3).sum()), int(grade.isna().sum())] == [89, 150, 36]
    unknown = {name: malignant[name].fillna("X") == "X" for name in ("stage_pn", "stage_pm")}
    assert {name: int(rows.sum()) for name, rows in unknown.items()} == {"stage_pn": 157, "stage_pm": 130}


def test_tumour_volume_alone_gives_the_known_floors(patients: pd.DataFrame) -> None:
    malignant = patients[patients["malignancy"] == 1]
    auc = roc_auc_score(patients["malignancy"].to_numpy(int), patients["tumor_ml"].to_numpy(float))
    index = concordance_index(
        malignant["os_months"].to_numpy(float),
        -malignant["tumor_ml"].to_numpy(float),
        malignant["os_event"].to_numpy(bool),
    )
    assert auc == pytest.approx(0.602, abs=0.002)
    assert index == pytest.approx(0.658, abs=0.002)


def test_folds_keep_sites_whole_and_balance_the_benign(dataset: Path, patients: pd.DataFrame) -> None:
    sites = patients["patient_id"].map(read_sites(dataset.parent / "sites.csv"))
    folds = assign_folds(patients, sites, "malignancy", seed=42)
    joined = patients.assign(site=sites).merge(folds, on="patient_id")
    assert joined.groupby("site")["fold"].agg(lambda fold: len(set(fold))).max() == 1
    assert joined[joined["malignancy"] == 0].groupby("fold").size().tolist() == [5] * 5


@pytest.fixture(scope="module")
def scored(dataset: Path) -> list[tuple[Kidney, Nephrometry, bool]]:
    """Every kidney with a lesion, its score, and whether it holds the patient's index lesion."""
    rows = []
    for case in read_records(dataset):
        kidneys = [found.kidney for found in locate(read_mask(dataset / case / "segmentation.nii.gz", case).labels)]
        diseased = [kidney for kidney in kidneys if kidney.lesions]
        index = max(diseased, key=lambda one: (one.lesions[0].kind == "tumor", one.lesions[0].volume_ml))
        for kidney in diseased:
            rows.append((kidney, score(kidney.labels, kidney.spacing_mm, kidney.side), kidney is index))
    return rows


def test_points_of_all_patients(scored: list[tuple[Kidney, Nephrometry, bool]]) -> None:
    """The distribution that the importer's documentation tables."""
    index = [found for _, found, is_index in scored if is_index]
    counts = {name: [[getattr(one, name) for one in index].count(points) for points in (1, 2, 3)] for name in "renl"}
    assert counts == {"r": [126, 108, 66], "e": [159, 122, 19], "n": [129, 33, 138], "l": [78, 79, 143]}
    assert sum(one.n_mm == 0.0 for one in index) == 97


def test_reports_of_all_lesions_say_what_the_points_say(scored: list[tuple[Kidney, Nephrometry, bool]]) -> None:
    rows = [{**measures(kidney), **found.row(), "side": kidney.side} for kidney, found, _ in scored]
    assert len(rows) == 409
    for row, found in zip(rows, read(rows), strict=True):
        assert found == expected(row)


def test_diameters_and_distances_agree_with_simpleitk(scored: list[tuple[Kidney, Nephrometry, bool]]) -> None:
    for kidney, found, _ in scored[::20]:
        lesion, spacing = kidney.lesions[0].mask, kidney.spacing_mm
        difference = found.r_mm - itk_axial_diameter_mm(lesion, spacing)
        assert 0.0 <= difference <= np.hypot(*spacing[1:]) + 1e-3
        sinus = measure_organ(kidney.labels, spacing, kidney.side).sinus
        gap = itk_distance_mm(sinus, lesion, spacing)
        assert -1e-3 <= gap - found.n_mm <= np.linalg.norm(spacing) + 1e-3


def test_every_thirtieth_case_from_end_to_end(dataset: Path) -> None:
    source = Kits23Source(dataset, dataset.parent / "sites.csv")
    contract = PreprocessingContract(grid=(20, 24, 24))
    for case in source.patient_ids()[::30]:
        record = source.load(case, contract)
        (index,) = [row for row in record.rows["kidneys"] if row["is_index"]]
        assert len(record.volumes) == len(record.masks) == len(record.rows["kidneys"])
        assert record.rows["patients"][0]["tumor_size_mm"] == pytest.approx(index["renal_r_mm"], rel=0.35, abs=10.0)
        assert index["renal_r"] in (1, 2, 3)
        assert index["sinus_source"] == "approximated"


@pytest.mark.parametrize("case", ["case_00003", "case_00075"])
def test_native_and_resampled_masks_measure_the_same(dataset: Path, case: str) -> None:
    found = []
    for folder in (dataset.parent / "native", dataset):
        kidneys = locate(read_mask(folder / case / "segmentation.nii.gz", case).labels)
        index = max(
            (item.kidney for item in kidneys if item.kidney.lesions), key=lambda kidney: kidney.lesions[0].volume_ml
        )
        lesion = index.lesions[0]
        found.append((index.side, lesion.volume_ml, axial_diameter_mm(lesion.mask, index.spacing_mm), index))
    (side, volume, diameter, fine), (other_side, other_volume, other_diameter, coarse) = found
    assert side == other_side
    assert volume == pytest.approx(other_volume, rel=0.05)
    assert diameter == pytest.approx(other_diameter, abs=4.0)
    scores = [score(kidney.labels, kidney.spacing_mm, kidney.side) for kidney in (fine, coarse)]
    assert scores[0].e_fraction == pytest.approx(scores[1].e_fraction, abs=0.15)
