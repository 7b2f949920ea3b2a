from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.anatomy.tissues import LESION
from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.importers.builder import build_cohort
from datamodules.importers.kits23.kits23_source import Kits23Source
from datamodules.importers.records import SkipPatient
from datamodules.volumes.contract import PreprocessingContract
from tests.datamodules.importers.kits_phantom import TUMOR, abdomen, scan, write_case, write_records

CONTRACT = PreprocessingContract(grid=(20, 24, 24))


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good cases, the first with its image."""
    folder = tmp_path_factory.mktemp("kits") / "dataset"
    labels = abdomen("left")
    write_case(folder, "case_00000", labels, scan(labels))
    write_case(folder, "case_00001", abdomen("right"))
    write_case(folder, "case_00400", labels)
    dead = {"vital_status": "dead", "vital_days_after_surgery": 365.25}
    benign = {"malignant": False, "pathology_t_stage": "na", "pathology_n_stage": "na", "pathology_m_stage": "na"}
    write_records(folder, {"case_00000": {}, "case_00001": dead, "case_00400": benign | {"tumor_isup_grade": "na"}})
    return folder


def broken(folder: Path, **changes: Any) -> Kits23Source:
    """A download of one case that differs from a good one."""
    labels = abdomen("left")
    write_case(folder, "case_00000", labels, changes.pop("image", None), changes.pop("image_shape_cut", 0))
    write_records(folder, {"case_00000": changes})
    return Kits23Source(folder)


def test_tables_of_a_case(download: Path) -> None:
    record = Kits23Source(download).load("case_00001", CONTRACT)
    (patient,) = record.rows["patients"]
    assert patient["tumor_size_mm"] == pytest.approx(24.0)
    assert (patient["os_months"], patient["os_event"], patient["time_origin"]) == (12.0, True, "surgery")
    assert (patient["malignancy"], patient["aggressiveness"], patient["isup_grade"]) == (1, 1, 3)
    assert (patient["stage_pt"], patient["stage_pn"], patient["stage_pm"]) == ("1a", "X", "0")
    assert patient["rhabdoid"] is None
    assert not {"rfs_months", "dss_months"} & set(patient)
    (series,) = record.rows["series"]
    assert (series["phase"], series["intensity"]) == ("arterial", "rendered")
    assert "corticomedullary" in series["phase_evidence"]
    left, right = record.rows["kidneys"]
    assert (left["side"], left["is_index"], left["has_lesion"]) == ("left", False, False)
    assert (right["side"], right["is_index"], right["lesion_count"]) == ("right", True, 1)
    assert right["tumor_volume_ml"] == pytest.approx(4 / 3 * np.pi * 12**3 / 1000, rel=0.05)
    assert "renal_r" not in left
    assert (right["renal_a"], right["sinus_source"], right["renal_r"]) == ("anterior", "approximated", 1)
    offset = [right[f"lesion_offset_{axis}_mm"] for axis in "dhw"]
    assert offset == pytest.approx([TUMOR[0], TUMOR[1], -TUMOR[2]], abs=6.0)


def test_regions_are_patient_axes_centred_on_the_kidney(download: Path) -> None:
    record = Kits23Source(download).load("case_00000", CONTRACT)
    assert [(volume.side, volume.image.dtype, volume.image.shape) for volume in record.volumes] == [
        (side, np.dtype("int16"), CONTRACT.grid) for side in ("left", "right")
    ]
    mask = record.masks[0].labels
    lesion = np.argwhere(np.isin(mask, LESION)).mean(axis=0)
    organ = np.argwhere(mask > 0)
    middle = (organ.min(axis=0) + organ.max(axis=0)) / 2.0
    shift = (lesion - middle) * CONTRACT.spacing_mm
    assert shift == pytest.approx(np.array(TUMOR), abs=8.0)
    assert middle == pytest.approx((np.array(CONTRACT.grid) - 1) / 2.0, abs=1.0)
    # The scan, which was acquired, shows the tumour darker than the kidney where the mask has it.
    hu = record.volumes[0].image
    assert hu[mask == 2].mean() == pytest.approx(90.0, abs=30.0)
    assert hu[mask == 1].mean() == pytest.approx(170.0, abs=40.0)


def test_lesion_centred_regions(download: Path) -> None:
    contract = PreprocessingContract(grid=CONTRACT.grid, region="lesion")
    record = Kits23Source(download).load("case_00000", contract)
    lesion = np.argwhere(np.isin(record.masks[0].labels, LESION)).mean(axis=0)
    assert lesion == pytest.approx((np.array(CONTRACT.grid) - 1) / 2.0, abs=1.0)


def test_mask_of_a_region_holds_one_kidney_only(download: Path) -> None:
    wide = PreprocessingContract(extent_mm=(160.0, 140.0, 400.0), grid=(20, 24, 60))
    record = Kits23Source(download).load("case_00000", wide)
    left, right = (mask.labels for mask in record.masks)
    assert np.isin(left, LESION).any()
    assert not np.isin(right, LESION).any()
    columns = np.flatnonzero((right > 0).any(axis=(0, 1)))
    assert np.ptp(columns) * wide.spacing_mm[2] < 80.0


def test_rendered_voxels_depend_on_the_mask_and_the_case_alone(download: Path, tmp_path: Path) -> None:
    source = Kits23Source(download)
    expected = source.load("case_00001", CONTRACT)
    write_case(tmp_path, "case_00001", abdomen("right"))
    other = {"malignant": False, "tumor_histologic_subtype": "oncocytoma", "gender": "female", "bmi": 40.0}
    write_records(tmp_path, {"case_00001": other | {"tumor_isup_grade": "na", "radiographic_size": 9.0}})
    (tmp_path / "sites.csv").write_text("case,site_id\ncase_00001,7\n")
    changed = Kits23Source(tmp_path, tmp_path / "sites.csv").load("case_00001", CONTRACT)
    assert changed.rows["patients"][0]["malignancy"] == 0
    assert changed.rows["patients"][0]["center"] == "site-7"
    for before, after in zip(expected.volumes, changed.volumes, strict=True):
        assert np.array_equal(before.image, after.image)
    reseeded = Kits23Source(download, seed=1).load("case_00001", CONTRACT)
    assert not np.array_equal(reseeded.volumes[0].image, expected.volumes[0].image)


def test_no_border_shows_where_the_mask_file_ended(download: Path) -> None:
    source = Kits23Source(download)
    for volume in source.load("case_00001", CONTRACT).volumes:
        assert volume.image.min() > -400


def test_case_added_in_2023_says_that_its_phase_is_assumed(download: Path) -> None:
    record = Kits23Source(download).load("case_00400", CONTRACT)
    assert record.rows["series"][0]["phase_evidence"].startswith("assumed")
    assert record.rows["patients"][0]["stage_pt"] is None


def test_every_case_is_accounted_for(download: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    for number in range(5):
        write_case(folder, f"case_{number:05d}", abdomen("left" if number % 2 else "right"))
    write_case(folder, "case_00050", abdomen())
    write_case(folder, "case_00051", np.where(abdomen() == 1, 1, 0).astype(np.uint8))
    records: dict[str, dict[str, Any]] = {f"case_{number:05d}": {"malignant": number % 2 == 0} for number in range(5)}
    records |= {"case_00051": {}, "case_00060": {}, "case_00002": {"vital_days_after_surgery": -3}}
    write_records(folder, records)
    cohort, report = build_cohort(Kits23Source(folder, folds=3), tmp_path / "cohort", CONTRACT, workers=1)
    reasons: dict[str, str] = dict(zip(report.rows["patient_id"], report.rows["reason"], strict=True))
    assert report.counts == {"imported": 4, "skipped": 3, "failed": 1}
    assert "without an entry in kits23.json" in reasons["case_00050"]
    assert "no lesion" in reasons["case_00051"]
    assert "without segmentation.nii.gz" in reasons["case_00060"]
    assert "case_00002" in reasons["case_00002"]
    assert "-3 days" in reasons["case_00002"]
    assert Cohort.load(cohort.root)["splits"]["fold"].nunique() == 3
    assert cohort.info.intensity == "rendered"
    assert cohort.info.evaluation == "folds"


def test_sites_become_centres_and_stay_whole(download: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    for number in range(6):
        write_case(folder, f"case_{number:05d}", abdomen())
    write_records(folder, {f"case_{number:05d}": {"malignant": number % 2 == 0} for number in range(6)})
    lines = [f"case_{number:05d},{number // 2}" for number in range(6)]
    (tmp_path / "sites.csv").write_text("\n".join(["case,site_id", *lines[:5]]))
    source = Kits23Source(folder, tmp_path / "sites.csv", folds=3)
    with pytest.raises(SkipPatient, match=r"case_00005: sites\.csv names no site"):
        source.load("case_00005", CONTRACT)
    (tmp_path / "sites.csv").write_text("\n".join(["case,site_id", *lines]))
    cohort, _ = build_cohort(source, tmp_path / "cohort", CONTRACT, workers=1)
    patients = cohort.patients()
    assert set(patients["center"]) == {"site-0", "site-1", "site-2"}
    assert set(patients["role"]) == {"internal"}
    assert (patients.groupby("center")["fold"].nunique() == 1).all()


def test_fingerprint_follows_the_files(download: Path, tmp_path: Path) -> None:
    source = broken(tmp_path)
    before = source.fingerprint
    assert Kits23Source(tmp_path).fingerprint == before
    assert Kits23Source(tmp_path, seed=7).fingerprint != before
    labels = tmp_path / "case_00000" / "segmentation.nii.gz"
    labels.write_bytes(labels.read_bytes() + b" ")
    assert source.fingerprint != before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vital_days_after_surgery": -1}, "-1 days"),
        ({"vital_status": "lost"}, "vital_status 'lost'"),
        ({"bmi": 300.0}, "bmi_kg_m2"),
        ({"age_at_nephrectomy": "old"}, "age_at_nephrectomy 'old'"),
        ({"pathology_t_stage": "7"}, "T stage '7'"),
        ({"tumor_isup_grade": "5"}, "ISUP grade '5'"),
        ({"malignant": "yes"}, "malignant 'yes'"),
    ],
)
def test_impossible_record_is_refused_by_case_and_value(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=r"kits23\.json, case_00000") as error:
        broken(tmp_path, **changes).load("case_00000", CONTRACT)
    assert words in str(error.value)
    assert str(tmp_path) not in str(error.value)


def nan_scan() -> np.ndarray:
    image = scan(abdomen())
    image[5, 5, 5] = np.nan
    return image


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": nan_scan()}, "1 voxels are NaN"),
        ({"image": np.full(abdomen().shape, 40.0, dtype=np.float32)}, "every voxel is 40"),
        ({"image": scan(abdomen()), "image_shape_cut": 3}, "expected the same voxels in both"),
    ],
)
def test_damaged_image_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        broken(tmp_path, **changes).load("case_00000", CONTRACT)
    assert "case_00000" in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_damaged_mask_is_refused_by_name(tmp_path: Path) -> None:
    source = broken(tmp_path)
    mask = tmp_path / "case_00000" / "segmentation.nii.gz"
    content = mask.read_bytes()
    mask.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"case_00000/segmentation\.nii\.gz: the file is damaged"):
        source.load("case_00000", CONTRACT)
    mask.write_bytes(gzip.compress(b"no NIfTI at all"))
    with pytest.raises(DataError, match=r"case_00000/segmentation\.nii\.gz"):
        source.load("case_00000", CONTRACT)


def test_unknown_label_is_refused(tmp_path: Path) -> None:
    labels = abdomen()
    labels[0, 0, 0] = 9
    write_case(tmp_path, "case_00000", labels)
    write_records(tmp_path, {"case_00000": {}})
    with pytest.raises(DataError, match=r"codes \[9\]"):
        Kits23Source(tmp_path).load("case_00000", CONTRACT)


def test_folder_that_is_no_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        Kits23Source(tmp_path / "nowhere").patient_ids()
    with pytest.raises(DataError, match=r"no kits23\.json"):
        Kits23Source(tmp_path).patient_ids()
    (tmp_path / "kits23.json").write_text("[{")
    with pytest.raises(DataError, match="not valid JSON"):
        Kits23Source(tmp_path).patient_ids()
    (tmp_path / "kits23.json").write_text(json.dumps([{"case_id": "case_00000"}] * 2))
    with pytest.raises(DataError, match="twice"):
        Kits23Source(tmp_path).patient_ids()
