"""Import of a DICOM folder from end to end: every patient accounted for, and no name, date or path anywhere."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.importers.builder import build_cohort
from datamodules.importers.dicom import index as dicom_index
from datamodules.importers.dicom.dicom_source import DAMAGED_FILES, EMPTY_FOLDERS, OTHER_FILES, DicomSource
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.plan import CohortPlan
from datamodules.importers.pseudonyms import Pseudonyms
from datamodules.importers.records import PatientRecord, SkipPatient
from datamodules.volumes.contract import PreprocessingContract
from tests.datamodules.importers.dicom_phantom import (
    AXIAL,
    BIRTH,
    KIDNEYS_RAS_MM,
    NAME,
    PLACE,
    RAW_ID,
    SCANNED,
    Scan,
    base,
    segmentation,
    set_pixels,
)

CONTRACT = PreprocessingContract(grid=(10, 14, 14))
ROOT = "1.2.826.0.1.3680043.8.498."


def scan_of(patient: int, series: int = 1, **settings: object) -> Scan:
    study = f"{ROOT}{patient}"
    made = Scan(patient=f"{RAW_ID}-{patient}", study=study, series=f"{study}.{series}", seed=10 * patient + series)
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def save_seg(scan: Scan, path: Path, *, reference: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation(scan, reference=reference).save_as(path, enforce_file_format=True)


def source_of(tmp_path: Path, **options: object) -> DicomSource:
    return DicomSource(tmp_path / "in", CohortPlan("hospital"), tmp_path / "out", **options)  # type: ignore[arg-type]


def load_only(source: DicomSource) -> PatientRecord:
    (patient,) = source.patient_ids()
    return source.load(patient, CONTRACT)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """A folder with one patient for every trouble; returns it and the pseudonym of each patient."""
    root = tmp_path_factory.mktemp(NAME.replace("^", "_"))
    folder = root / "in"
    whole = scan_of(1)
    whole.write(folder / "a" / "deep" / "down", order=np.random.default_rng(0).permutation(12).tolist())
    second_series_in_that_folder = scan_of(1, 2, description="ABD ARTERIAL")
    second_series_in_that_folder.write(folder / "a" / "deep" / "down", ending="b")
    save_seg(whole, folder / "a" / "seg.dcm")
    gap = scan_of(2)
    gap.write(folder / "gap")[4].unlink()
    save_seg(gap, folder / "gap" / "seg")
    twice = scan_of(3)
    first = twice.write(folder / "twice")[0]
    (folder / "twice" / "copy").write_bytes(first.read_bytes())
    save_seg(twice, folder / "twice" / "seg")
    scan_of(4, modality="MR", sop_class="1.2.840.10008.5.1.4.1.1.4").write(folder / "mr")
    cut = scan_of(5)
    cut.write(folder / "cut")[3].write_bytes((folder / "cut" / "I0003").read_bytes()[:-100])
    save_seg(cut, folder / "cut" / "seg")
    scan_of(6).write(folder / "no mask")
    (folder / "empty").mkdir()
    (folder / "broken").write_bytes((folder / "mr" / "I0000").read_bytes()[:300])
    (folder / "notes.txt").write_text("not DICOM")
    save_seg(scan_of(7), folder / "seg only")
    names = Pseudonyms.load(root / "out.private", root / "out")
    return root, {number: names.patient(f"{RAW_ID}-{number}") for number in range(1, 8)}


@pytest.fixture(scope="module")
def report(ward: tuple[Path, dict[int, str]]) -> pd.DataFrame:
    _, built = build_cohort(source_of(ward[0]), ward[0] / "out", CONTRACT, workers=1)
    return built.rows.set_index("patient_id")


@pytest.mark.parametrize(
    ("patient", "status", "words"),
    [
        (1, "imported", ""),
        (2, "failed", "1 of 12 slices are missing, the first after slice 4"),
        (3, "imported", "1 duplicated slices were dropped"),
        (4, "skipped", "12 of 12 objects are MR instead of CT"),
        (5, "failed", "1 of 12 files are truncated"),
        (6, "skipped", "no kidney mask or box belongs to it"),
        (7, "skipped", "no usable series"),
    ],
)
def test_every_patient_is_accounted_for(
    report: pd.DataFrame, ward: tuple[Path, dict[int, str]], patient: int, status: str, words: str
) -> None:
    row = report.loc[ward[1][patient]]
    assert row["status"] == status
    assert words in row["reason"]


def test_what_belongs_to_no_patient_is_accounted_for(report: pd.DataFrame) -> None:
    assert report.loc[EMPTY_FOLDERS, "status"] == "skipped"
    assert report.loc[EMPTY_FOLDERS, "reason"] == "1 empty folders."
    assert report.loc[DAMAGED_FILES, "status"] == "failed"
    assert len(report) == 10


def test_every_file_is_accounted_for(report: pd.DataFrame, ward: tuple[Path, dict[int, str]]) -> None:
    """What was used and what was left out is all that the folder holds."""
    assert report.loc[OTHER_FILES, "reason"] == "1 of 91 files are no DICOM files."
    assert (
        "damaged DICOM files do not name their patient: 1 are a damaged DICOM file"
        in report.loc[DAMAGED_FILES, "reason"]
    )
    assert sum(path.is_file() for path in (ward[0] / "in").rglob("*")) == 91
    assert "1 of 14 files were not used" in report.loc[ward[1][3], "reason"]


def test_no_name_identifier_date_or_path_leaves_the_hospital(
    report: pd.DataFrame, ward: tuple[Path, dict[int, str]]
) -> None:
    root = ward[0]
    secrets = [NAME, "Doe", "Jane", RAW_ID, BIRTH, SCANNED, PLACE, ROOT, root.name, "no mask", "I0003"]
    for path in (root / "out").rglob("*"):
        assert not any(secret in path.name for secret in secrets)
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path.name
    cohort = Cohort.load(root / "out")
    text = " ".join(frame.to_csv() for frame in (*cohort.tables.values(), report))
    assert not [secret for secret in secrets if secret in text]


def test_the_cohort_is_right_and_a_rerun_keeps_it(report: pd.DataFrame, ward: tuple[Path, dict[int, str]]) -> None:
    root, names = ward
    cohort = Cohort.load(root / "out")
    assert set(cohort["patients"]["patient_id"]) == {names[1], names[3]}
    assert sorted(cohort["series"]["phase"]) == ["arterial", "venous", "venous"]
    assert set(cohort["series"]["phase_evidence"]) == {"SeriesDescription: arteri", "SeriesDescription: venous"}
    index = cohort["kidneys"][cohort["kidneys"]["is_index"]]
    assert set(index["side"]) == {"left"}
    assert cohort["patients"]["age_years"].tolist() == [66.0, 66.0]
    with pytest.raises(DataError, match="finished cohort made from another source"):
        build_cohort(source_of(root, minimum_slices=5), root / "out", CONTRACT, workers=1)


@pytest.mark.parametrize("told", ["by dates", "by the archive", "not at all"])
def test_a_study_after_surgery_is_follow_up_and_its_date_is_not_kept(tmp_path: Path, told: str) -> None:
    event = {"LongitudinalTemporalEventType": "SURGERY"}
    tags: list[dict[str, object]] = [{}, {"StudyDate": "20200101"}]
    if told == "by the archive":
        tags = [
            {**event, "LongitudinalTemporalOffsetFromEvent": -4.0},
            {**event, "LongitudinalTemporalOffsetFromEvent": 255.0},
        ]
    for number, extra in enumerate(tags):
        scan = replace(scan_of(1, tags=extra), study=f"{ROOT}77.{number}", series=f"{ROOT}77.{number}.1")
        scan.write(tmp_path / "in" / str(number))
        save_seg(scan, tmp_path / "in" / str(number) / "seg")
    dates = {"by dates": ",2019-04-21"}.get(told, ",")
    (tmp_path / "patients.csv").write_text(f"patient_id,time_origin,origin_date\n{RAW_ID}-1,surgery{dates}\n")
    cohort, _ = build_cohort(
        source_of(tmp_path, patients=tmp_path / "patients.csv"), tmp_path / "out", CONTRACT, workers=1
    )
    index = cohort["kidneys"][cohort["kidneys"]["is_index"]]
    if told == "not at all":
        assert "studies" not in cohort.tables
        assert len(index) == 2
        return
    days = dict(cohort["studies"][["study_id", "days_from_origin"]].itertuples(index=False, name=None))
    assert sorted(days.values()) == [-4, 255]
    assert [days[study] for study in index["study_id"]] == [-4]
    for path in [*(tmp_path / "out").rglob("*"), *(tmp_path / "out.private").rglob("*")]:
        if path.is_file():
            assert not any(date in path.read_bytes() for date in (b"20190417", b"2019-04", b"20200101", b"2020-01")), (
                path
            )


def test_the_region_is_cut_around_each_kidney(tmp_path: Path) -> None:
    scan = scan_of(1)
    scan.write(tmp_path / "in")
    save_seg(scan, tmp_path / "in" / "seg")
    record = load_only(source_of(tmp_path))
    assert {volume.side for volume in record.volumes} == {"left", "right"}
    for volume in record.volumes:
        depth, height, width = (size // 2 for size in CONTRACT.grid)
        assert abs(int(volume.image[depth, height, width]) - (60 if volume.side == "left" else 120)) < 70
    for mask in record.masks:
        assert set(np.unique(mask.labels)) == ({0, 1, 2} if mask.side == "left" else {0, 1})
        assert np.isin(mask.labels[5], (1, 2)).any()
    left = next(row for row in record.rows["kidneys"] if row["side"] == "left")
    assert left["tumor_volume_ml"] == pytest.approx(10.24, rel=0.01)
    assert left["lesion_offset_w_mm"] < 0 < left["lesion_diameter_mm"]


def test_a_segmentation_without_a_reference_is_found_by_its_coordinate_system(tmp_path: Path) -> None:
    scan = scan_of(1)
    scan.write(tmp_path / "in")
    save_seg(scan, tmp_path / "in" / "seg", reference=False)
    assert len(load_only(source_of(tmp_path)).volumes) == 2


def test_an_unknown_phase_is_skipped_unless_the_user_states_it(tmp_path: Path) -> None:
    scan = scan_of(1, description="ABD 3 PHASE")
    scan.write(tmp_path / "in")
    save_seg(scan, tmp_path / "in" / "seg")
    with pytest.raises(SkipPatient, match="the contrast phase is unknown"):
        load_only(source_of(tmp_path))
    rules = tmp_path / "phases.csv"
    rules.write_text("series_uid,description,phase\n,*3 phase*,delayed\n")
    assert load_only(source_of(tmp_path, phases=rules)).rows["series"][0]["phase"] == "delayed"
    rules.write_text(f"series_uid,description,phase\n,*3 phase*,delayed\n{scan.series},,venous\n")
    row = load_only(source_of(tmp_path, phases=rules)).rows["series"][0]
    assert (row["phase"], row["phase_evidence"]) == ("venous", "phases table, row 3")


def test_the_delay_after_injection_is_evidence(tmp_path: Path) -> None:
    scan = scan_of(1, description="ABD")
    scan.tags = {"ContrastBolusStartTime": "101500", "AcquisitionTime": "101630.5"}
    scan.write(tmp_path / "in")
    save_seg(scan, tmp_path / "in" / "seg")
    row = load_only(source_of(tmp_path)).rows["series"][0]
    assert (row["phase"], row["phase_evidence"]) == ("venous", "contrast timing: 90 s after injection")


def test_boxes_and_the_clinical_table_are_found_by_raw_identifiers(tmp_path: Path) -> None:
    scan = scan_of(1)
    scan.write(tmp_path / "in")
    boxes, patients, reports = tmp_path / "boxes.csv", tmp_path / "patients.csv", tmp_path / "reports.csv"
    x, y, z = KIDNEYS_RAS_MM["right"]
    box = f"{x - 20} {y - 20} {z - 30} {x + 20} {y + 20} {z + 30}"
    boxes.write_text(f"series_uid,side,box_ras_mm\n{scan.series},right,{box}\n")
    patients.write_text(f"patient_id,center,malignancy,index_side,age_years\n{scan.patient},north,1,right,50\n")
    reports.write_text(f"study_id,side,text\n{scan.study},right,A mass in the right kidney.\n")
    source = source_of(tmp_path, boxes=boxes, patients=patients, reports=reports)
    record = load_only(source)
    assert list(record.masks) == []
    (patient,) = record.rows["patients"]
    assert (patient["center"], patient["malignancy"], patient["age_years"]) == ("north", 1, 50)
    (kidney,) = record.rows["kidneys"]
    assert (kidney["side"], kidney["is_index"]) == ("right", True)
    assert "tumor_volume_ml" not in kidney
    (text,) = record.rows["reports"]
    assert text["study_id"] == kidney["study_id"] != scan.study
    assert int(record.volumes[0].image[5, 7, 7]) > 80


def test_a_refused_table_names_rows_and_no_patient(tmp_path: Path) -> None:
    scan_of(1).write(tmp_path / "in")
    patients = tmp_path / "patients.csv"
    patients.write_text(f"patient_id,sex\n{RAW_ID},female\n{RAW_ID},male\n")
    with pytest.raises(DataError, match=r"patients.csv, rows 2, 3, columns patient_id: the same key") as caught:
        source_of(tmp_path, patients=patients).patient_ids()
    assert RAW_ID not in str(caught.value)


def test_a_source_travels_to_workers_with_its_index_and_without_tables(tmp_path: Path) -> None:
    scan = scan_of(1)
    scan.write(tmp_path / "in")
    save_seg(scan, tmp_path / "in" / "seg")
    source = source_of(tmp_path)
    (patient,) = source.patient_ids()
    sent = pickle.dumps(source)
    assert len(sent) < 4000
    assert len(pickle.loads(sent).load(patient, CONTRACT).volumes) == 2


def test_the_reading_of_headers_is_counted_once_and_stays_in_this_process(tmp_path: Path) -> None:
    scan_of(1, count=60).write(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("not DICOM")
    calls: list[tuple[int, int]] = []
    source = source_of(tmp_path)
    source.progress = lambda done, total: calls.append((done, total))
    pickle.loads(pickle.dumps(source)).patient_ids()
    assert calls == []
    shutil.rmtree(tmp_path / "out.private")
    source = source_of(tmp_path)
    source.progress = lambda done, total: calls.append((done, total))
    source.patient_ids()
    assert calls == [(50, 61), (61, 61)]
    assert source.fingerprint
    again = source_of(tmp_path)
    again.progress = source.progress
    again.patient_ids()
    assert len(calls) == 2
    assert pickle.loads(pickle.dumps(source)).progress is None


@pytest.mark.parametrize("kind", ["dicom", "tcia"])
def test_progress_is_no_option_of_an_import(tmp_path: Path, kind: str) -> None:
    from experiments.cohorts.sources import make_source

    (tmp_path / "in").mkdir()
    options = {"plan": {"name": "mine"}} | ({"collection": "TCGA-KIRC"} if kind == "tcia" else {})
    assert make_source(kind, tmp_path / "in", tmp_path / "out", options).progress is None  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="progress"):
        make_source(kind, tmp_path / "in", tmp_path / "out", options | {"progress": None})


@pytest.mark.slow
def test_several_processes_give_the_same_index(
    ward: tuple[Path, dict[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Pseudonyms.load(ward[0] / "out.private", ward[0] / "out")
    monkeypatch.setattr(dicom_index, "_WORTH_A_POOL", 0)
    calls: list[tuple[int, int]] = []
    for workers in (1, 3):
        store = tmp_path / str(workers)
        dicom_index.build_index(ward[0] / "in", store, names, workers, lambda *counts: calls.append(counts))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "13")
    assert one == two
    assert calls[: len(calls) // 2] == calls[len(calls) // 2 :]
    assert calls[-1][0] == calls[-1][1] > 50


def test_the_private_folder_must_lie_outside_the_cohort(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lies inside the cohort"):
        source_of(tmp_path, private=tmp_path / "out" / "secret")


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "empty").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("text")
    with pytest.raises(DataError, match=r"No DICOM file was found \(1 other files, 1 empty folders"):
        source_of(tmp_path).patient_ids()


@pytest.mark.slow
def test_two_workers_give_the_same_cohort(ward: tuple[Path, dict[int, str]], report: pd.DataFrame) -> None:
    root = ward[0]
    source = DicomSource(root / "in", CohortPlan("hospital"), root / "second", private=root / "out.private")
    cohort, built = build_cohort(source, root / "second", CONTRACT, workers=2)
    pd.testing.assert_frame_equal(built.rows.set_index("patient_id"), report)
    for name, frame in Cohort.load(root / "out").tables.items():
        pd.testing.assert_frame_equal(cohort[name], frame)


@pytest.mark.real_data
def test_a_real_ct_as_dicom_equals_the_same_ct_as_nifti(tmp_path: Path) -> None:
    data = os.environ.get("RENAL_DATA")
    if data is None:
        pytest.skip("RENAL_DATA does not name the folder with ct_samples/")
    samples = Path(data, "ct_samples")
    scan = scan_of(1, description="ABD W/O")
    write_nifti_as_dicom(samples / "ct_with_kidneys_3mm.nii.gz", scan, tmp_path / "in")
    for side in ("left", "right"):
        target = tmp_path / "masks" / scan.series / f"kidney_{side}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(samples / f"kidney_{side}.nii.gz", target)
    record = load_only(source_of(tmp_path, masks=tmp_path / "masks"))
    row = {"patient_id": "p", "study_id": "e", "series_id": "s", "center": "A", "phase": "non_contrast"}
    row |= {"image": str(samples / "ct_with_kidneys_3mm.nii.gz")}
    row |= {f"kidney_{side}_mask": str(samples / f"kidney_{side}.nii.gz") for side in ("left", "right")}
    pd.DataFrame([row]).to_csv(tmp_path / "manifest.csv", index=False)
    reference = ManifestSource(tmp_path / "manifest.csv", CohortPlan("real")).load("p", CONTRACT)
    for one, other in zip(record.volumes, reference.volumes, strict=True):
        assert one.side == other.side
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
    for mine, theirs in zip(record.masks, reference.masks, strict=True):
        np.testing.assert_array_equal(mine.labels, theirs.labels)


def write_nifti_as_dicom(path: Path, scan: Scan, folder: Path) -> None:
    """Write a NIfTI scan with RAS axes as axial slices, as a scanner stores them: L, P, S."""
    folder.mkdir(parents=True)
    stored = nibabel.load(path)
    data = np.asanyarray(stored.dataobj)[::-1, ::-1]
    corner = stored.affine @ [data.shape[0] - 1, data.shape[1] - 1, 0, 1]
    step = np.abs(np.diag(stored.affine))
    for index in range(data.shape[2]):
        dataset = base(scan)
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [-corner[0], -corner[1], corner[2] + index * step[2]]
        dataset.ImageOrientationPatient, dataset.PixelSpacing = list(AXIAL), [step[1], step[0]]
        dataset.SliceThickness, dataset.RescaleSlope, dataset.RescaleIntercept = step[2], 1, 0
        set_pixels(dataset, data[:, :, index].T, "jpeg2000")
        dataset.save_as(folder / f"{index}", enforce_file_format=True)


@pytest.mark.parametrize("value", ["YES", "yes ", "NO", ""])
def test_images_with_burned_in_text_are_refused_unless_they_are_asked_for(tmp_path: Path, value: str) -> None:
    scan = scan_of(1, tags={"BurnedInAnnotation": value})
    scan.write(tmp_path / "in")
    save_seg(scan, tmp_path / "in" / "seg")
    other = scan_of(2)
    other.write(tmp_path / "in" / "other")
    save_seg(other, tmp_path / "in" / "other" / "seg")
    source = source_of(tmp_path)
    _, report = build_cohort(source, tmp_path / "out", CONTRACT, workers=1)
    refused = value.strip().upper() == "YES"
    assert report.counts == {"imported": 1 if refused else 2, "skipped": int(refused), "failed": 0}
    if refused:
        (reason,) = report.rows.loc[report.rows["status"] == "skipped", "reason"]
        assert "12 of 12 objects are marked as showing burned-in text" in reason
        asked_for = source_of(tmp_path, burned_in=True)
        assert asked_for.fingerprint != source.fingerprint
        patient = report.rows.loc[report.rows["status"] == "skipped", "patient_id"].item()
        assert len(asked_for.load(patient, CONTRACT).volumes) == 2


def test_an_index_that_the_disk_refuses_is_one_sentence_and_the_next_import_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_of(1).write(tmp_path / "in")
    save_seg(scan_of(1), tmp_path / "in" / "seg")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dicom_index._Lines, "add", full)
    with pytest.raises(DataError, match=r"index of DICOM files could not be written.*No space left") as error:
        build_cohort(source_of(tmp_path), tmp_path / "out", CONTRACT, workers=1)
    assert str(tmp_path) not in str(error.value)
    monkeypatch.undo()
    _, report = build_cohort(source_of(tmp_path), tmp_path / "out", CONTRACT, workers=1)
    assert report.counts["imported"] == 1


@pytest.mark.parametrize("how", ["a line less", "a digit", "lost", "no JSON", "another JSON", "lost lines"])
def test_a_damaged_index_is_made_again(how: str, tmp_path: Path) -> None:
    """A line less is a slice less, of which no reader of volumes knows."""
    scan_of(1).write(tmp_path / "in")
    naming = Pseudonyms.load(tmp_path / "out.private", tmp_path / "out")
    store = tmp_path / "out.private" / "index"
    index = dicom_index.build_index(tmp_path / "in", store, naming)
    ((patient, name),) = index.summary["patients"].items()
    expected, summary = index.headers(patient), index.summary
    content = (store / name).read_text()
    if how == "a line less":
        (store / name).write_text("".join(content.splitlines(keepends=True)[:-1]))
    elif how == "a digit":
        (store / name).write_text(content.replace("0.0", "0.5", 1))
    elif how == "lost":
        (store / name).unlink()
    elif how == "lost lines":
        (store / name).write_bytes(b"")
    else:
        (store / "complete.json").write_text("[" if how == "no JSON" else "[]")
    assert (store / name).is_file() == (how != "lost")
    again = dicom_index.build_index(tmp_path / "in", store, naming)
    assert (again.headers(patient), again.summary) == (expected, summary)


def test_a_folder_that_cannot_be_read_is_not_left_out_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan_of(1).write(tmp_path / "in" / "one")
    scan_of(2).write(tmp_path / "in" / RAW_ID)
    listing = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith(RAW_ID):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)") as error:
        source_of(tmp_path).patient_ids()
    assert RAW_ID not in str(error.value)


def test_kidney_and_mass_in_two_objects_are_both_used(tmp_path: Path) -> None:
    scan = scan_of(1)
    scan.write(tmp_path / "in" / "ct")
    for number in (1, 2):
        dataset = segmentation(scan)
        own = [
            place
            for place, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence)
            if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        ]
        frames = dataset.pixel_array[own]
        dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[place] for place in own]
        dataset.SegmentSequence = [dataset.SegmentSequence[number - 1]]
        dataset.NumberOfFrames = len(own)
        dataset.PixelData = pydicom.pixels.pack_bits(frames.astype(np.uint8))
        dataset.SeriesInstanceUID = f"{scan.series}.{number}7"
        dataset.save_as(tmp_path / "in" / f"seg{number}", enforce_file_format=True)
    record = load_only(source_of(tmp_path))
    assert {row["side"]: row.get("tumor_volume_ml", 0.0) > 0 for row in record.rows["kidneys"]} == {
        "left": True,
        "right": False,
    }


def test_a_slice_without_a_place_leaves_no_volume_of_the_others(tmp_path: Path) -> None:
    scan = scan_of(1)
    scan.write(tmp_path / "in")
    save_seg(scan, tmp_path / "in" / "seg")
    for number in range(0, 12, 2):
        path = tmp_path / "in" / f"I{number:04d}"
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient
        dataset.save_as(path)
    with pytest.raises(DataError, match=r"6 of its slices cannot be used, so that the other 6 are no whole volume"):
        load_only(source_of(tmp_path))


def test_a_series_whose_uids_are_blank_is_imported(tmp_path: Path) -> None:
    scan = scan_of(1, syntax="jpeg2000")
    for path in scan.write(tmp_path / "in" / "ct"):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = dataset.StudyInstanceUID = dataset.SeriesInstanceUID = ""
        dataset.save_as(path)
    dataset = segmentation(scan, reference=False)
    dataset.StudyInstanceUID = ""
    dataset.save_as(tmp_path / "in" / "seg", enforce_file_format=True)
    record = load_only(source_of(tmp_path))
    assert len(record.rows["series"]) == 1
    assert len(record.volumes) == 2
    assert "12 files name no series and were put together by their folder" in " ".join(record.notes)
