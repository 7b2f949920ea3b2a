"""What an import must not do without a word: mix two scans, two scales or two patients, or leave a part out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset

from datamodules.errors import DataError
from datamodules.importers.dicom.dicom_source import DicomSource
from datamodules.importers.dicom.pixels import read_stack
from datamodules.importers.dicom.segmentation import read_seg
from datamodules.importers.dicom.series import split_series
from datamodules.importers.dicom.slice_refusals import fault, refusal
from datamodules.importers.dicom.stack_geometry import Stack
from datamodules.importers.plan import CohortPlan
from datamodules.importers.records import PatientRecord
from datamodules.volumes.contract import PreprocessingContract
from tests.datamodules.importers.dicom.test_as_exported import different, headers_of, write
from tests.datamodules.importers.dicom_phantom import RAW_ID, Scan, enhanced, segmentation

CONTRACT = PreprocessingContract(grid=(10, 14, 14))
OTHER_STUDY = {"study": "1.2.826.0.1.3680043.8.498.2", "series": "1.2.826.0.1.3680043.8.498.2.1"}


def patient_of(folder: Path) -> PatientRecord:
    source = DicomSource(folder / "in", CohortPlan("mine"), folder / "out")
    (patient,) = source.patient_ids()
    return source.load(patient, CONTRACT)


def only(stacks: list[Stack]) -> Stack:
    (stack,) = stacks
    return stack


@pytest.mark.parametrize("names", [("RescaleIntercept",), ("RescaleSlope", "RescaleIntercept")])
def test_slices_of_two_scales_are_no_volume(tmp_path: Path, names: tuple[str, ...]) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        for name in names if index == 5 else ():
            delattr(dataset, name)

    stack = only(split_series(write(tmp_path, Scan(), change), different))
    with pytest.raises(DataError, match="1 of 12 slices state no rescale slope or intercept"):
        read_stack(stack, tmp_path, "series s-1", 10)


def test_values_without_a_scale_are_said_to_be_taken_for_hu(tmp_path: Path) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept

    stack = only(split_series(write(tmp_path, Scan(intercept=0.0), change), different))
    image, notes = read_stack(stack, tmp_path, "series s-1", 10)
    assert "stored values were taken for HU" in notes[0]
    assert -1010 < float(image.data.min()) < -990


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"RescaleType": "ED"}, "in other units than HU (ED, electron density)"),
        ({"RescaleType": "MGML"}, "in other units than HU (MGML, mg/ml)"),
        ({"ModalityLUTSequence": [Dataset()]}, "in place of a slope"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 DE IODINE"]}, "a map of a material"),
        ({"ImageType": ["DERIVED", "PRIMARY", "VOLUME", "MATERIAL_FRACTIONAL"]}, "a map of a material"),
        ({"SeriesDescription": "ABD Iodine(Water)"}, "a map of a material"),
        ({"SeriesDescription": "VENOUS Z_eff"}, "a map of a material"),
    ],
)
def test_maps_that_are_no_attenuation_are_left_out(tmp_path: Path, tags: dict[str, object], reason: str) -> None:
    header = write(tmp_path, Scan(count=1, tags=tags))[0]
    assert reason in str(refusal(header))


@pytest.mark.parametrize(
    "tags", [{"RescaleType": "HU"}, {"RescaleType": "US"}, {"SeriesDescription": "ABD VENOUS 100 ml iodine contrast"}]
)
def test_other_words_of_contrast_and_units_refuse_nothing(tmp_path: Path, tags: dict[str, object]) -> None:
    assert refusal(write(tmp_path, Scan(count=1, tags=tags))[0]) is None


@pytest.mark.parametrize("frames", [10, 13])
def test_a_file_that_does_not_describe_all_its_frames_is_no_volume(tmp_path: Path, frames: int) -> None:
    dataset = enhanced(Scan())
    groups = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [*groups, groups[-1]][:frames]
    dataset.save_as(tmp_path / "scan", enforce_file_format=True)
    for header in headers_of(tmp_path):
        assert fault(header) == f"of a file that describes {frames} of its 12 frames"


@pytest.mark.parametrize("frames", [7, 10])
def test_a_segmentation_that_does_not_describe_all_its_frames_is_left_out(tmp_path: Path, frames: int) -> None:
    dataset = segmentation(Scan())
    groups = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [*groups, groups[-1]][:frames]
    dataset.save_as(tmp_path / "seg", enforce_file_format=True)
    with pytest.raises(DataError, match=f"describes {frames} frames and holds 9"):
        read_seg(tmp_path / "seg", "segmentation s-1", {})


def described(words: tuple[str, str], *, interleaved: bool) -> Scan:
    """A scan of 24 slices, half of which are called otherwise."""

    class Described(Scan):
        def slice(self, index: int) -> FileDataset:
            dataset = super().slice(index)
            dataset.SeriesDescription = words[index % 2 if interleaved else index // 12]
            return dataset

    return Described(count=24, step_mm=5.0)


@pytest.mark.parametrize("interleaved", [True, False])
def test_two_series_under_one_uid_are_told_apart_by_their_descriptions(tmp_path: Path, interleaved: bool) -> None:
    scan = described(("ABD ARTERIAL", "ABD VENOUS"), interleaved=interleaved)
    stacks = split_series(write(tmp_path, scan), different)
    assert sorted({header.description for header in stack.slices}.pop() for stack in stacks) == [
        "ABD ARTERIAL",
        "ABD VENOUS",
    ]
    assert [len(stack.slices) for stack in stacks] == [12, 12]


def test_two_phases_at_the_same_places_are_told_apart_by_their_descriptions(tmp_path: Path) -> None:
    write(tmp_path / "a", Scan())
    headers = write(tmp_path / "b", Scan(description="ABD ARTERIAL"))
    stacks = split_series([*headers_of(tmp_path / "a"), *headers], different)
    assert [len({header.description for header in stack.slices}) for stack in stacks] == [1, 1]


def test_acquisitions_that_follow_one_another_are_noted(tmp_path: Path) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        dataset.AcquisitionNumber = 1 + index // 6

    stack = only(split_series(write(tmp_path, Scan(), change), different))
    assert stack.notes == ("2 acquisitions that follow one another were read as one volume",)


def test_slices_that_the_files_count_and_that_are_not_there_are_noted(tmp_path: Path) -> None:
    every = write(tmp_path / "all", Scan(count=24, step_mm=5.0))
    stack = only(split_series(every[::2], different))
    assert stack.notes == ("its instance numbers rise by 2, so that the slices between may be missing",)
    short = write(tmp_path / "short", Scan(tags={"ImagesInAcquisition": 15}))
    stack = only(split_series(short, different))
    assert stack.notes == ("its files say that the acquisition gave 15 slices, and 12 are here",)
    assert only(split_series(every, different)).notes == ()


def test_two_sexes_under_one_number_are_noted_and_neither_is_taken(tmp_path: Path) -> None:
    for name, scan in (
        ("a", Scan()),
        ("b", Scan(**OTHER_STUDY, seed=3, tags={"PatientSex": "M", "PatientAge": "069Y"})),
    ):
        scan.write(tmp_path / "in" / name)
        segmentation(scan).save_as(tmp_path / "in" / name / "seg", enforce_file_format=True)
    record = patient_of(tmp_path)
    (row,) = record.rows["patients"]
    assert "sex" not in row
    assert row["age_years"] == 66.0
    assert any("two sexes" in note for note in record.notes)


@pytest.mark.parametrize("sex", ["f", "F ", "FEMALE"])
def test_sex_is_read_in_its_common_spellings(tmp_path: Path, sex: str) -> None:
    assert write(tmp_path, Scan(count=1, tags={"PatientSex": sex}))[0].sex == "female"


def test_who_left_is_forgotten_by_the_index_and_found_again(tmp_path: Path) -> None:
    for name in ("1", "2"):
        uid = f"1.2.826.0.1.3680043.8.498.{name}"
        Scan(patient=f"{RAW_ID}{name}", study=uid, series=f"{uid}.1").write(tmp_path / "in" / name)

    def traces(who: str) -> list[str]:
        files = [path for path in (tmp_path / "out.private").rglob("*") if path.is_file()]
        return [path.name for path in files if who in path.read_text() or f"{uids[who]}." in path.read_text()]

    first = DicomSource(tmp_path / "in", CohortPlan("mine"), tmp_path / "out")
    leaver, stays = first.patient_ids()
    uids = {one: first._index.headers(one)[0].study_uid for one in (leaver, stays)}
    assert traces(leaver)
    without = DicomSource(tmp_path / "in", CohortPlan("mine"), tmp_path / "out", withdrawn=(leaver,))
    assert without.patient_ids() == [stays]
    assert traces(leaver) == []
    assert traces(stays)
    assert DicomSource(tmp_path / "in", CohortPlan("mine"), tmp_path / "out").patient_ids() == [leaver, stays]
    place = tmp_path / "in" / "1"
    (own,) = [one for one, uid in uids.items() if pydicom.dcmread(place / "I0000").StudyInstanceUID == uid]
    shutil.rmtree(place)
    DicomSource(tmp_path / "in", CohortPlan("mine"), tmp_path / "out").patient_ids()
    assert traces(own) == []
    assert len(list((tmp_path / "out.private").glob("index-*"))) == 1
