"""The structured report: every number of the assessment, coded, tied to a segment, and nothing of the patient."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from datamodules.phantoms.phantom_source import DemoSource
from experiments.assessment.dicom_report import REPORT, SCHEME
from experiments.cli import main
from tests.datamodules.importers.dicom_phantom import NAME, RAW_ID, SCANNED
from tests.datamodules.importers.phantom_study import write_study
from tests.experiments.assessment.place import STEP_MM, Place

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "study"
    write_study(DemoSource().patient("E1-0001"), folder, STEP_MM, phases=2)
    return folder


def assessed(place: Place, study: Path, out: Path, *more: str) -> dict[str, Any]:
    where = [f"--source={study}", f"--out={out}", f"--data={place.data}", f"--runs={place.runs}"]
    assert main(["assess", *where, "--outside_training=true", "--cases=false", "--dicom=true", *more]) == 0
    content: dict[str, Any] = json.loads((out / "assessment.json").read_text())
    return content


@pytest.fixture(scope="module")
def written(place: Place, study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("sr") / "out"
    return out, assessed(place, study, out)


def test_every_measure_is_in_the_report_and_tied_to_its_segment(
    written: tuple[Path, dict[str, Any]], study: Path
) -> None:
    out, content = written
    report = hd.sr.srread(out / REPORT)
    groups = report.content.get_volumetric_roi_measurement_groups()
    lesions = [(kidney, lesion) for kidney in content["kidneys"] for lesion in kidney["lesions"]]
    assert len(groups) == len(lesions) > 0
    assert any("renal" in lesion for _, lesion in lesions)
    source = pydicom.dcmread(study / "0/I0000")
    for group, (kidney, lesion) in zip(groups, lesions, strict=True):
        (site,) = group.finding_sites
        assert site.topographical_modifier is None
        assert site.laterality == (codes.SCT.Left if kidney["side"] == "left" else codes.SCT.Right)
        by_code: dict[str, list[float]] = {}
        for one in group.get_measurements():
            by_code.setdefault(one.name.value, []).append(one.value)
        assert by_code["118565006"] == [pytest.approx(lesion["volume_ml"])]
        assert by_code["L0JK"] == [pytest.approx(lesion["diameter_mm"])]
        assert by_code["103339001"] == [pytest.approx(lesion["axial_diameter_mm"])]
        expected = [hu[name] for hu in lesion["hu"].values() for name in ("mean_hu", "sd_hu")]
        assert by_code["112031"] == pytest.approx(expected)
        assert set(lesion["hu"]) == set(content["phases"])
        if "renal" in lesion:
            assert by_code["RENAL"] == [lesion["renal"]["total"]]
            assert [by_code[f"RENAL_{name}"][0] for name in "RENL"] == [lesion["renal"][name] for name in "renl"]
            assert by_code["RENAL_E_MEASURED"] == [pytest.approx(100 * lesion["renal"]["e_fraction"])]
            (face,) = (one for one in group.get_qualitative_evaluations() if one.name.scheme_designator == SCHEME)
            assert face.value.meaning.lower() in (lesion["renal"]["a"], "neither")
        # The segment is there, under the same tracking identity, and as large as the report says.
        drawn = hd.seg.segread(out / f"lesions_{kidney['side']}.dcm")
        segment = group.reference_segment if hasattr(group, "reference_segment") else group.referenced_segment
        assert segment.referenced_sop_instance_uid == drawn.SOPInstanceUID
        described = drawn.get_segment_description(lesion["number"])
        assert (described.tracking_uid, described.tracking_id) == (group.tracking_uid, group.tracking_identifier)
        assert drawn.FrameOfReferenceUID == source.FrameOfReferenceUID
        volume = drawn.get_volume(segment_numbers=[lesion["number"]], combine_segments=True)
        voxels = (np.asarray(volume.array) > 0).sum() * np.prod(volume.spacing) / 1000
        assert voxels == pytest.approx(lesion["volume_ml"], rel=1e-3)
    evidence = {
        str(one.ReferencedSOPInstanceUID)
        for study_ in report.CurrentRequestedProcedureEvidenceSequence
        for series in study_.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert {str(pydicom.dcmread(path).SOPInstanceUID) for path in out.glob("lesions_*.dcm")} <= evidence


def test_the_outline_lies_where_the_mask_draws_it(written: tuple[Path, dict[str, Any]], study: Path) -> None:
    import nibabel

    out, content = written
    mask = nibabel.load(study / "mask.nii.gz")
    labels = np.asarray(mask.dataobj)
    (kidney,) = [kidney for kidney in content["kidneys"] if kidney["index"]]
    drawn = hd.seg.segread(out / f"lesions_{kidney['side']}.dcm")
    volume = drawn.get_volume(segment_numbers=[1], combine_segments=True)
    stored = np.argwhere(np.asarray(volume.array) > 0)
    ras = (volume.affine @ np.c_[stored, np.ones(len(stored))].T)[:3].T * (-1, -1, 1)
    index = np.rint((np.linalg.inv(mask.affine) @ np.c_[ras, np.ones(len(ras))].T)[:3]).astype(int)
    assert (labels[tuple(index)] >= 2).all()


def test_nothing_tells_who_the_patient_is_unless_asked(
    place: Place, study: Path, written: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    files = sorted(written[0].glob("*.dcm"))
    assert {path.stem.split("_")[0] for path in files} >= {"lesions", "measurements", "regions"}
    for path in files:
        for secret in (NAME, RAW_ID, SCANNED):
            assert secret.encode() not in path.read_bytes(), path.name
        found = pydicom.dcmread(path)
        assert not any(
            str(found.get(name, "")) for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate")
        )
    assessed(place, study, tmp_path / "out", "--identified=true")
    source = pydicom.dcmread(study / "0/I0000")
    for path in (tmp_path / "out").glob("*.dcm"):
        named = pydicom.dcmread(path)
        assert (named.PatientID, named.PatientName) == (source.PatientID, source.PatientName)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
def test_the_standards_validator_finds_no_error(written: tuple[Path, dict[str, Any]]) -> None:
    for path in sorted(written[0].glob("*.dcm")):
        found = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        said = found.stdout + found.stderr
        assert found.returncode == 0, f"{path.name}: {said}"
        assert "Error" not in said, f"{path.name}: {said}"
