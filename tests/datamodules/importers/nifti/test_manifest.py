"""Import of NIfTI scans from a manifest: masks, boxes, tables beside it, and every refusal named."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import write_parquet
from datamodules.importers.builder import build_cohort
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.plan import CohortPlan
from datamodules.importers.records import PatientRecord, SkipPatient
from datamodules.volumes.contract import PreprocessingContract
from tests.datamodules.importers.dicom_phantom import KIDNEYS_RAS_MM
from tests.datamodules.importers.nifti_phantom import AFFINE, SHAPE, kidney, labels, save, scan_hu, tumor

CONTRACT = PreprocessingContract(grid=(20, 20, 20))
Make = Callable[..., ManifestSource]
ROW = {"patient_id": "p1", "study_id": "e1", "series_id": "s1", "center": "A", "phase": "venous", "image": "ct.nii.gz"}


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Makes a source of rows; a scan and its mask lie beside the manifest."""
    save(tmp_path / "ct.nii.gz", scan_hu())
    save(tmp_path / "mask.nii.gz", labels())

    def make(*rows: dict[str, object], **options: object) -> ManifestSource:
        pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
        return ManifestSource(tmp_path / "manifest.csv", CohortPlan("hospital"), **options)  # type: ignore[arg-type]

    return make


def load(source: ManifestSource) -> PatientRecord:
    return source.load(source.patient_ids()[0], CONTRACT)


def test_a_label_map_gives_both_kidneys_and_their_measures(made: Make) -> None:
    record = load(made(ROW | {"mask": "mask.nii.gz"}))
    left, right = record.rows["kidneys"]
    assert (left["side"], left["is_index"], left["has_lesion"]) == ("left", True, True)
    assert (right["side"], right["is_index"], right["has_lesion"]) == ("right", False, False)
    assert left["tumor_volume_ml"] == pytest.approx(tumor().sum() * 0.512)
    assert left["kidney_volume_ml"] == pytest.approx((kidney("left") & ~tumor()).sum() * 0.512)
    assert left["lesion_offset_w_mm"] < 0
    for volume, mask in zip(record.volumes, record.masks, strict=True):
        assert volume.image.shape == CONTRACT.grid
        assert mask.labels[10, 10, 10] == 1
        assert abs(int(volume.image[10, 10, 10]) - 120) < 20
        # The other kidney is 112 mm away and is not in this kidney's mask, although a corner of it may be in the box.
        assert (mask.labels > 0).sum() * np.prod(CONTRACT.spacing_mm) / 1000 == pytest.approx(
            kidney(volume.side).sum() * 0.512, rel=0.25
        )


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAL", "PIR"])
@pytest.mark.parametrize("mask_axes", ["RAS", "LPS"])
def test_orientation_makes_no_difference(made: Make, tmp_path: Path, axes: str, mask_axes: str) -> None:
    reference = load(made(ROW | {"mask": "mask.nii.gz"}))
    save(tmp_path / "ct.nii.gz", scan_hu(), axes=axes)
    save(tmp_path / "mask.nii.gz", labels(), axes=mask_axes)
    turned = load(made(ROW | {"mask": "mask.nii.gz"}))
    assert turned.rows["kidneys"] == reference.rows["kidneys"]
    for one, other in zip(reference.volumes, turned.volumes, strict=True):
        np.testing.assert_allclose(one.image, other.image, atol=1)
    for one, other in zip(reference.masks, turned.masks, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)


def test_separate_masks_equal_a_label_map(made: Make, tmp_path: Path) -> None:
    reference = load(made(ROW | {"mask": "mask.nii.gz"}))
    columns = {}
    for name, array in {"kidney_left": kidney("left"), "kidney_right": kidney("right"), "tumor": tumor()}.items():
        save(tmp_path / f"{name}.nii.gz", array.astype(np.uint8))
        columns[f"{name}_mask"] = f"{name}.nii.gz"
    record = load(made(ROW | columns))
    assert record.rows["kidneys"] == reference.rows["kidneys"]


@pytest.mark.parametrize("unit", ["ras_mm", "voxel"])
def test_a_box_gives_the_same_region_and_no_measures(made: Make, unit: str) -> None:
    x, y, z = KIDNEYS_RAS_MM["right"]
    corners = np.array([[x - 16, y - 16, z - 30], [x + 16, y + 16, z + 30]])
    if unit == "voxel":
        corners = (corners - AFFINE[:3, 3]) / 8.0 + 0.5
    text = " ".join(f"{value:g}" for value in corners.ravel())
    record = load(made(ROW | {f"right_box_{unit}": text}))
    (row,) = record.rows["kidneys"]
    assert row == {"patient_id": "p1", "study_id": "e1", "side": "right", "is_index": False}
    with_mask = load(made(ROW | {"mask": "mask.nii.gz"}))
    right = next(volume for volume in with_mask.volumes if volume.side == "right")
    assert np.abs(record.volumes[0].image.astype(int) - right.image).mean() < 40
    assert any("index_side" in note for note in record.notes)


def test_a_series_without_a_mask_takes_the_kidneys_of_its_study(made: Make, tmp_path: Path) -> None:
    save(tmp_path / "art.nii.gz", scan_hu(1))
    second = ROW | {"series_id": "s2", "phase": "arterial", "image": "art.nii.gz"}
    other_study = second | {"study_id": "e2", "series_id": "s3"}
    record = load(made(second, ROW | {"mask": "mask.nii.gz"}, other_study))
    assert {(volume.series_id, volume.side) for volume in record.volumes} == {
        (series, side) for series in ("s1", "s2") for side in ("left", "right")
    }
    assert len(record.masks) == 2
    assert any("manifest.csv, row 4: no kidney mask or box" in note for note in record.notes)


def test_the_phase_is_guessed_from_a_description_or_the_series_is_skipped(made: Make) -> None:
    row = {name: value for name, value in ROW.items() if name != "phase"} | {"mask": "mask.nii.gz"}
    series = load(made(row | {"description": "ABD PORTAL VENOUS"})).rows["series"]
    assert (series[0]["phase"], series[0]["phase_evidence"]) == ("venous", "SeriesDescription: portal")
    with pytest.raises(SkipPatient, match="row 2: the contrast phase is unknown"):
        load(made(row))


def test_a_lesion_centred_region(made: Make) -> None:
    source = made(ROW | {"mask": "mask.nii.gz"})
    record = source.load("p1", PreprocessingContract(grid=(20, 20, 20), region="lesion"))
    left = next(mask for mask in record.masks if mask.side == "left")
    assert left.labels[10, 10, 10] == 2


def test_tables_beside_the_manifest(made: Make, tmp_path: Path) -> None:
    columns, values = "patient_id,age_years,malignancy,stage_pt,os_months,os_event", "p1,61,1,3a,12.5,no"
    (tmp_path / "patients.csv").write_text(f"{columns}\n{values}\n")
    (tmp_path / "reports.csv").write_text("study_id,side,text\ne1,left,A solid mass.\ne1,,Both kidneys are seen.\n")
    record = load(made(ROW | {"mask": "mask.nii.gz"}))
    (patient,) = record.rows["patients"]
    assert patient["aggressiveness"] == 1
    assert (patient["age_years"], patient["os_event"]) == (61.0, False)
    assert [row["text"] for row in record.rows["reports"]] == ["A solid mass.", "Both kidneys are seen."]
    assert len({row["report_id"] for row in record.rows["reports"]}) == 2


def test_pseudonyms_on_request(made: Make, tmp_path: Path) -> None:
    source = made(ROW | {"mask": "mask.nii.gz"}, private=tmp_path / "private", out=tmp_path / "out")
    record = load(source)
    assert record.patient_id.startswith("p-")
    assert all(row["patient_id"] == record.patient_id for rows in record.rows.values() for row in rows)
    assert not {"p1", "e1", "s1"} & {
        str(value) for rows in record.rows.values() for row in rows for value in row.values()
    }
    assert pickle.loads(pickle.dumps(source)).load(record.patient_id, CONTRACT).patient_id == record.patient_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phase": "portal"}, r"manifest.csv, row 2, column phase: value 'portal'; expected one of non_contrast"),
        ({"role": "train"}, r"row 2, column role: value 'train'; expected one of pretrain, internal, external"),
        ({"image": ""}, r"row 2, column image: value missing"),
        ({"slice_thickness_mm": "thin"}, r"row 2, column slice_thickness_mm: value 'thin'; expected number in"),
        ({"hospital": "X"}, r"manifest.csv: unknown column 'hospital'"),
    ],
)
def test_bad_cells_are_named(made: Make, change: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(ROW | change).patient_ids()


def test_contradictions_are_named(made: Make) -> None:
    with pytest.raises(DataError, match=r"rows 2, 3, column center: different values were found for one patient_id"):
        made(ROW, ROW | {"series_id": "s2", "center": "B"}).patient_ids()
    with pytest.raises(DataError, match=r"rows 2, 3, column role: different values were found for one center"):
        made(ROW | {"role": "internal"}, ROW | {"patient_id": "p2", "study_id": "e2", "role": "external"}).patient_ids()
    with pytest.raises(
        DataError, match=r"rows 2, 3, columns patient_id, study_id, series_id: the same key; expected one row"
    ):
        made(ROW, ROW).patient_ids()


def test_a_bad_clinical_table_is_refused_before_any_scan_is_read(made: Make, tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text("patient_id,age_years\np1,old\n")
    with pytest.raises(
        DataError, match=r"patients.csv, row 2, column age_years: value 'old'; expected number in \[0, 120\]"
    ):
        made(ROW).patient_ids()
    (tmp_path / "patients.csv").write_text("patient_id,surgery_date\np1,2019-04-17\n")
    with pytest.raises(DataError, match="unknown column 'surgery_date'"):
        made(ROW).patient_ids()


def test_one_bad_series_does_not_cost_the_others(made: Make, tmp_path: Path) -> None:
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "ct.nii.gz").read_bytes()[:-3000])
    record = load(
        made(ROW | {"mask": "mask.nii.gz"}, ROW | {"series_id": "s2", "image": "cut.nii.gz", "mask": "mask.nii.gz"})
    )
    assert {volume.series_id for volume in record.volumes} == {"s1"}
    assert any("manifest.csv, row 3, column image: the file is damaged" in note for note in record.notes)


BAD_SCANS: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "nan": (lambda: np.where(tumor(), np.nan, scan_hu()).astype(np.float32), r"\d+ voxels are NaN"),
    "constant": (lambda: np.full(SHAPE, -1000, np.int16), "every voxel is -1000"),
    "mr": (lambda: np.abs(scan_hu()), "not Hounsfield units"),
    "normalised": (lambda: scan_hu().astype(np.float32) / 1000, "not Hounsfield units"),
    "two volumes": (lambda: np.stack([scan_hu(), scan_hu()], axis=-1), "expected one 3D volume"),
}


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_a_scan_that_is_no_ct_is_refused(made: Make, tmp_path: Path, kind: str) -> None:
    array, message = BAD_SCANS[kind]
    image = nibabel.Nifti1Image(array(), AFFINE)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    with pytest.raises(DataError, match=f"manifest.csv, row 2, column image: .*{message}") as caught:
        load(made(ROW | {"mask": "mask.nii.gz"}))
    assert str(tmp_path) not in str(caught.value)


def test_geometry_that_cannot_be_trusted_is_refused(made: Make, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(scan_hu(), AFFINE)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    with pytest.raises(DataError, match="does not state its orientation"):
        load(made(ROW | {"mask": "mask.nii.gz"}))
    save(tmp_path / "ct.nii.gz", scan_hu(), np.diag([80.0, 8.0, 8.0, 1.0]))
    with pytest.raises(DataError, match="voxels of 80 x 8 x 8 mm were found"):
        load(made(ROW | {"mask": "mask.nii.gz"}))


def test_a_cohort_is_built_with_roles_and_with_folds(made: Make, tmp_path: Path) -> None:
    roles = {"A": "internal", "B": "external", "C": "pretrain"}
    rows = [
        ROW | {"patient_id": f"p{n}", "study_id": f"e{n}", "center": name, "role": roles[name], "mask": "mask.nii.gz"}
        for n, name in enumerate("ABCABC")
    ]
    source = made(*rows, {**ROW, "patient_id": "p9", "study_id": "e9", "image": "none.nii.gz", "role": "internal"})
    cohort, report = build_cohort(source, tmp_path / "roles", CONTRACT, workers=1)
    assert report.counts == {"imported": 6, "skipped": 0, "failed": 1}
    assert dict(cohort["centers"].itertuples(index=False, name=None)) == roles
    source.plan = CohortPlan("hospital", evaluation="folds", folds=3)
    folds, _ = build_cohort(source, tmp_path / "folds", CONTRACT, workers=1)
    by_center = folds.patients().groupby("center")["fold"].nunique()
    assert by_center.eq(1).all()
    assert Cohort.load(tmp_path / "folds").info.evaluation == "folds"


def _followed(tmp_path: Path, times: dict[str, dict[str, object]]) -> list[dict[str, object]]:
    """Two studies: the second, after surgery, shows a larger lesion in the other kidney."""
    save(tmp_path / "later.nii.gz", np.where(labels()[::-1] > 0, labels()[::-1], 0).astype(np.uint8))
    first = ROW | {"mask": "mask.nii.gz"} | times["e1"]
    return [first, ROW | {"study_id": "e2", "series_id": "s2", "mask": "later.nii.gz"} | times["e2"]]


@pytest.mark.parametrize("stated", ["days", "dates"])
def test_a_study_after_surgery_is_follow_up(made: Make, tmp_path: Path, stated: str) -> None:
    days: dict[str, dict[str, object]] = {"e1": {"days_from_origin": -12}, "e2": {"days_from_origin": 101}}
    if stated == "dates":
        days = {"e1": {"study_date": "2019-04-05"}, "e2": {"study_date": "20190727"}}
        (tmp_path / "patients.csv").write_text("patient_id,time_origin,origin_date\np1,surgery,2019-04-17\n")
    record = load(made(*_followed(tmp_path, days)))
    assert [row["days_from_origin"] for row in record.rows["studies"]] == [-12, 101]
    index = [(row["study_id"], row["side"]) for row in record.rows["kidneys"] if row["is_index"]]
    assert index == [("e1", "left")]
    assert len(record.rows["kidneys"]) == 4
    assert any("1 of 2 studies are not before treatment" in note for note in record.notes)
    assert "2019" not in repr(record.rows)


def test_without_times_both_studies_are_index(made: Make, tmp_path: Path) -> None:
    record = load(made(*_followed(tmp_path, {"e1": {}, "e2": {}})))
    assert "studies" not in record.rows
    assert {row["study_id"] for row in record.rows["kidneys"] if row["is_index"]} == {"e1", "e2"}


def test_dates_that_are_none_are_refused_without_quoting_them(made: Make, tmp_path: Path) -> None:
    source = made(ROW | {"mask": "mask.nii.gz", "study_date": "17.4.19"})
    with pytest.raises(
        DataError, match=r"manifest\.csv, row 2, column study_date: no date; expected YYYY-MM-DD"
    ) as seen:
        source.patient_ids()
    assert "2019" not in str(seen.value)
    (tmp_path / "patients.csv").write_text("patient_id,origin_date\np1,April 2019\n")
    with pytest.raises(DataError, match=r"patients\.csv, row 2, column origin_date: no date") as seen:
        made(ROW | {"mask": "mask.nii.gz"}).patient_ids()
    assert "2019" not in str(seen.value)
    (tmp_path / "patients.csv").unlink()
    rows = [
        ROW | {"mask": "mask.nii.gz", "series_id": name, "days_from_origin": day} for name, day in (("a", 1), ("b", 2))
    ]
    with pytest.raises(DataError, match="column days_from_origin: different values were found for one study_id"):
        made(*rows).patient_ids()


@pytest.mark.parametrize("evaluation", ["roles", "folds"])
def test_an_earlier_cohort_hands_its_assignment_on(tmp_path: Path, evaluation: str) -> None:
    centers = [f"c{number % 12}" for number in range(120)]
    patients = pd.DataFrame({"patient_id": [f"p{number}" for number in range(120)], "center": centers})
    patients["malignancy"] = [int(number % 5 > 0) for number in range(120)]
    plan = CohortPlan("hospital", evaluation=evaluation)  # type: ignore[arg-type]
    earlier = plan.finish({"patients": patients[patients["center"] < "c5"].iloc[:50]})["splits"]
    earlier.loc[earlier["split"] == "val", "split"] = "test"  # as an earlier version may have drawn it
    write_parquet(tmp_path / "earlier" / "splits.parquet", earlier)
    grown = replace(plan, earlier=tmp_path / "earlier").finish({"patients": patients})["splits"]
    both = earlier.merge(grown, on="patient_id")
    column = {"roles": "split", "folds": "fold"}[evaluation]
    assert len(both) == 50
    assert (both[f"{column}_x"] == both[f"{column}_y"]).all()
    assert "earlier" not in plan.settings
    with pytest.raises(DataError, match=r"none holds no splits\.parquet"):
        replace(plan, earlier=tmp_path / "none").finish({"patients": patients})


def test_the_fingerprint_follows_the_inputs(made: Make, tmp_path: Path) -> None:
    row = ROW | {"mask": "mask.nii.gz"}
    source = made(row)
    first = source.fingerprint
    assert ManifestSource(source.manifest, source.plan).fingerprint == first
    assert ManifestSource(source.manifest, source.plan, labels="totalsegmentator").fingerprint != first
    os.utime(tmp_path / "mask.nii.gz", ns=(1, 1))
    assert source.fingerprint != first


@pytest.mark.real_data
def test_a_real_ct_with_its_masks(tmp_path: Path) -> None:
    data = os.environ.get("RENAL_DATA")
    if data is None:
        pytest.skip("RENAL_DATA does not name the folder with ct_samples/")
    for path in Path(data, "ct_samples").glob("*.nii.gz"):
        shutil.copy(path, tmp_path)
    row = ROW | {"image": "ct_with_kidneys_3mm.nii.gz", "phase": "non_contrast"}
    row |= {f"kidney_{side}_mask": f"kidney_{side}.nii.gz" for side in ("left", "right")}
    pd.DataFrame([row]).to_csv(tmp_path / "manifest.csv", index=False)
    source = ManifestSource(tmp_path / "manifest.csv", CohortPlan("real"))
    record = source.load("p1", PreprocessingContract(grid=(40, 48, 48)))
    left, right = record.rows["kidneys"]
    assert (left["side"], right["side"]) == ("left", "right")
    assert left["kidney_volume_ml"] == pytest.approx(99.25, abs=0.1)
    assert right["kidney_volume_ml"] == pytest.approx(107.89, abs=0.1)
    assert not any("sides" in note or "believed" in note for note in record.notes), "names and positions agree"
    for volume, mask in zip(record.volumes, record.masks, strict=True):
        inside = volume.image[mask.labels == 1]
        assert 0 < np.median(inside) < 40, "unenhanced kidney under the mask"
        points = np.argwhere(mask.labels == 1)
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        assert np.abs(middle - (19.5, 23.5, 23.5)).max() <= 1.0, "the kidney is in the middle"
    assert sum("the edge of the scan cuts" in note for note in record.notes) == 2, "the scan ends within both kidneys"


PHASES_OF_A_STUDY = (
    {**ROW, "mask": "mask.nii.gz"},
    {**ROW, "series_id": "s2", "phase": "arterial", "image": "ct2.nii.gz", "mask": "mask2.nii.gz"},
)


def by_series(record: PatientRecord) -> dict[tuple[str, str], np.ndarray]:
    return {(volume.series_id, volume.side): volume.image for volume in record.volumes}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_masks_that_differ_in_what_they_draw_cut_all_phases_at_one_place(
    made: Make, tmp_path: Path, order: tuple[int, int]
) -> None:
    save(tmp_path / "ct2.nii.gz", scan_hu())
    drawn = labels()
    drawn[tumor()] = 0  # the other phase shows no tumour, so that its left kidney has another middle
    save(tmp_path / "mask2.nii.gz", drawn)
    rows = [PHASES_OF_A_STUDY[place] for place in order]
    record = made(*rows).load("p1", CONTRACT)
    volumes = by_series(record)
    for side in ("left", "right"):
        np.testing.assert_array_equal(volumes["s2", side], volumes["s1", side])
    alone = made(PHASES_OF_A_STUDY[0]).load("p1", CONTRACT)
    np.testing.assert_array_equal(volumes["s1", "left"], by_series(alone)["s1", "left"])
    assert {mask.side: mask.labels.tolist() for mask in record.masks} == {
        mask.side: mask.labels.tolist() for mask in alone.masks
    }


def test_a_kidney_that_moved_between_two_breaths_is_followed_with_a_note(made: Make, tmp_path: Path) -> None:
    save(tmp_path / "ct2.nii.gz", np.roll(scan_hu(), 2, axis=2))
    save(tmp_path / "mask2.nii.gz", np.roll(labels(), 2, axis=2))
    record = made(*PHASES_OF_A_STUDY).load("p1", CONTRACT)
    volumes = by_series(record)
    inner = np.s_[4:16, 4:16, 4:16]
    for side in ("left", "right"):
        np.testing.assert_array_equal(volumes["s2", side][inner], volumes["s1", side][inner])
        assert f"manifest.csv, row 3: the {side} kidney lies 16 mm from its place" in " ".join(record.notes)


def test_a_kidney_that_one_mask_leaves_out_is_cut_in_its_phase_too(made: Make, tmp_path: Path) -> None:
    save(tmp_path / "ct2.nii.gz", scan_hu())
    save(tmp_path / "mask2.nii.gz", labels(right=0))
    record = made(*PHASES_OF_A_STUDY).load("p1", CONTRACT)
    assert set(by_series(record)) == {("s1", "left"), ("s1", "right"), ("s2", "left"), ("s2", "right")}
    first = made(*reversed(PHASES_OF_A_STUDY)).load("p1", CONTRACT)
    assert {row["side"] for row in first.rows["kidneys"]} == {"left", "right"}
    assert set(by_series(first)) == set(by_series(record))


def test_a_pair_of_header_and_voxels_is_refused_by_its_name(made: Make, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(scan_hu(), AFFINE), tmp_path / "ct.img")
    source = made({**ROW, "image": "ct.hdr", "mask": "mask.nii.gz"})
    with pytest.raises(DataError, match=r"one of a pair \(.hdr and .img\)"):
        source.load("p1", CONTRACT)


@pytest.mark.parametrize(("slope", "level"), [(2.0, "-1975"), (0.5, "-475")])
def test_a_scan_of_another_scale_is_told_by_its_air(made: Make, tmp_path: Path, slope: float, level: str) -> None:
    save(tmp_path / "ct.nii.gz", (scan_hu() * slope).astype(np.int16))
    with pytest.raises(DataError, match=f"its air is at {level} HU; expected about -1000"):
        load(made(ROW | {"mask": "mask.nii.gz"}))


def test_what_lies_outside_the_circle_of_the_scanner_is_no_air(made: Make, tmp_path: Path) -> None:
    hu = scan_hu()
    hu[:3] = hu[-3:] = -3024
    save(tmp_path / "ct.nii.gz", hu)
    assert len(load(made(ROW | {"mask": "mask.nii.gz"})).volumes) == 2


def test_a_scan_that_was_clipped_to_a_window_is_noted(made: Make, tmp_path: Path) -> None:
    save(tmp_path / "ct.nii.gz", np.clip(scan_hu(), -150, 100))
    notes = load(made(ROW | {"mask": "mask.nii.gz"})).notes
    assert "manifest.csv, row 2, column image: values below -150 and above 100 HU were clipped before" in notes[0]
    save(tmp_path / "ct.nii.gz", np.clip(scan_hu(), -1000, 3071))
    assert not any("clipped" in note for note in load(made(ROW | {"mask": "mask.nii.gz"})).notes)


def test_one_scan_under_two_phases_is_noted(made: Make) -> None:
    rows = [ROW | {"mask": "mask.nii.gz"}, ROW | {"series_id": "s2", "phase": "arterial"}]
    notes = made(*rows).load("p1", CONTRACT).notes
    assert "series s1 (venous) and s2 (arterial) hold the same scan; leave one of them out." in notes
