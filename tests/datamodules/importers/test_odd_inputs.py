"""Kinds of odd scans and tables that changed numbers without a word: each is read right, refused or noted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.importers.dicom.dicom_source import DicomSource
from datamodules.importers.dicom.index import files_below
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.plan import CohortPlan
from datamodules.importers.records import PatientRecord, SkipPatient
from tests.datamodules.importers import odd_dicom
from tests.datamodules.importers.dicom_phantom import Scan, segmentation
from tests.datamodules.importers.hostile import run_odd
from tests.datamodules.importers.nifti_phantom import labels, save, scan_hu
from tests.datamodules.importers.outcomes import CONTRACT

MANIFEST = "patient_id,study_id,series_id,center,phase,image,mask\np1,e1,s1,c,venous,ct.nii.gz,mask.nii.gz\n"


def nifti(folder: Path, scan: np.ndarray, mask: np.ndarray) -> PatientRecord:
    save(folder / "ct.nii.gz", scan)
    save(folder / "mask.nii.gz", mask)
    (folder / "manifest.csv").write_text(MANIFEST)
    return ManifestSource(folder / "manifest.csv", CohortPlan("odd")).load("p1", CONTRACT)


def dicom(folder: Path, kind: odd_dicom.Kind, seed: int) -> PatientRecord:
    Scan().write(folder / "in")
    segmentation(Scan()).save_as(folder / "in" / "seg", enforce_file_format=True)
    kind(folder / "in", np.random.default_rng(seed))
    source = DicomSource(folder / "in", CohortPlan("odd"), folder / "out")
    return source.load(source.patient_ids()[0], CONTRACT)


@pytest.mark.slow
def test_no_kind_is_silent_and_none_ends_in_a_trace() -> None:
    outcomes = run_odd(seed=23)
    assert [text for kind, text in outcomes if kind in ("silent", "trace")] == []
    assert len(outcomes) == 78
    assert sum(kind == "right" for kind, _ in outcomes) >= 20


@pytest.mark.parametrize("codes", [(2, 1, 2), (1, 2, 1)])
def test_a_kidney_under_the_code_of_a_tumour_is_no_lesion_of_the_other_kidney(
    tmp_path: Path, codes: tuple[int, int, int]
) -> None:
    with pytest.raises(DataError, match=r"ml that the mask calls tumour or cyst lie \d+ mm from the nearest kidney"):
        nifti(tmp_path, scan_hu(), labels(*codes))


def test_a_mask_of_one_kidney_is_said(tmp_path: Path) -> None:
    record = nifti(tmp_path, scan_hu(), labels(1, 0, 2))
    assert any("the mask shows one kidney, the left one" in note for note in record.notes)


def test_planes_that_repeat_or_are_blank_are_noted(tmp_path: Path) -> None:
    twice, blank = scan_hu(), scan_hu()
    twice[:, :, 9] = twice[:, :, 8]
    blank[:, :, 9:11] = 40
    assert any("1 planes repeat the one before" in note for note in nifti(tmp_path / "a", twice, labels()).notes)
    notes = nifti(tmp_path / "b", blank, labels()).notes
    assert any("2 planes inside the scan hold one value, the first at 9" in note for note in notes)
    assert not nifti(tmp_path / "c", scan_hu(), labels()).notes


def test_planes_denser_than_any_body_are_refused(tmp_path: Path) -> None:
    spoiled = scan_hu()
    spoiled[:, :, 3] = spoiled[:, :, 3].byteswap()
    with pytest.raises(DataError, match=r"of values above 3071 HU"):
        nifti(tmp_path, spoiled, labels())


def test_a_scan_without_air_is_noted(tmp_path: Path) -> None:
    scan = scan_hu().astype(np.float32)
    record = nifti(tmp_path, (scan - scan.mean()) / scan.std() * 100, labels())
    assert any("shows no air" in note for note in record.notes)


@pytest.mark.parametrize("kind", [odd_dicom.other_intercept_of_some, odd_dicom.other_slope_of_some])
def test_a_scale_that_the_pixels_do_not_follow_is_refused(tmp_path: Path, kind: odd_dicom.Kind) -> None:
    for seed in range(4):
        with pytest.raises(DataError, match=r"fit one scale only|air is at|Hounsfield|of values above"):
            dicom(tmp_path / str(seed), kind, seed)


def test_slices_with_scales_of_their_own_are_read(tmp_path: Path) -> None:
    record = dicom(tmp_path, odd_dicom.a_scale_of_its_own_in_each, 0)
    assert len(record.volumes) == 2


def test_missing_first_slices_and_two_scans_between_each_other_are_noted(tmp_path: Path) -> None:
    paths = Scan().write(tmp_path / "a" / "in")
    segmentation(Scan()).save_as(tmp_path / "a" / "in" / "seg", enforce_file_format=True)
    paths[0].unlink()
    source = DicomSource(tmp_path / "a" / "in", CohortPlan("odd"), tmp_path / "a" / "out")
    record = source.load(source.patient_ids()[0], CONTRACT)
    assert any("its instance numbers begin at 2" in note for note in record.notes)

    def half_a_step_away(folder: Path, _: np.random.Generator) -> None:
        Scan(seed=7, center_z_mm=5.0).write(folder / "other")

    record = dicom(tmp_path / "b", half_a_step_away, 0)
    assert any("two sets of slices that lie between each other" in note for note in record.notes)


def test_a_pipe_among_the_files_does_not_hold_up_the_import(tmp_path: Path) -> None:
    record = dicom(tmp_path, odd_dicom.things_that_are_no_files, 0)
    assert len(record.volumes) == 2
    assert tmp_path / "in" / "pipe" in list(files_below(tmp_path / "in"))


def test_an_empty_table_and_a_cut_one_are_said(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    source = ManifestSource(tmp_path / "manifest.csv", CohortPlan("odd"))
    for text, said in (
        ("patient_id,age_years\n", "patients.csv holds no row below its header."),
        ("patient_id,age_years\np1,6", "patients.csv does not end with the end of a line: its last row may"),
    ):
        (tmp_path / "patients.csv").write_text(text)
        source = ManifestSource(tmp_path / "manifest.csv", CohortPlan("odd"))
        entry = source.patient_ids()[-1]
        with pytest.raises(SkipPatient, match=said):
            source.load(entry, CONTRACT)
