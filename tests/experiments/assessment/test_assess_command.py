"""`assess` from the command line: one patient, a folder of patients, and what is refused in a sentence."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from datamodules.errors import WriteError
from datamodules.importers.one_scan import Place as Shown
from datamodules.importers.one_scan import read_scan
from datamodules.phantoms.phantom_source import DemoSource
from experiments.assessment import assessment_job
from experiments.assessment.assessor import Assessed, Assessor
from experiments.assessment.lesion_outlines import grid_affine
from experiments.assessment.own_outlines import painted
from experiments.cli import main
from tests.datamodules.importers.phantom_study import write_study
from tests.experiments.assessment.place import STEP_MM, Place, reference
from tests.experiments.assessment.refused_studies import REFUSED
from tests.tiny import CONTRACT

pytestmark = pytest.mark.slow


def run(place: Place, source: Path, out: Path, *more: str) -> int:
    where = [f"--source={source}", f"--out={out}", f"--data={place.data}", f"--runs={place.runs}"]
    return main(["assess", *where, "--outside_training=true", *more])


class _Page(HTMLParser):
    """Tags that stay open, addresses that a browser would fetch, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        values = dict(attrs)
        self.fetched += [str(values[name]) for name in ("src", "href") if name in values]
        assert tag != "img" or values.get("alt")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_one_patient_gives_a_file_and_a_page_that_needs_nothing_else(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(place, place.files / "E1-0001", out) == 0
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "assessment.html", "assessment.json", "input.json",
    ]  # fmt: skip
    content = json.loads((out / "assessment.json").read_text())
    page = _Page()
    page.feed((out / "assessment.html").read_text())
    assert page.open == []
    assert page.fetched
    assert all(address.startswith("data:image/png;base64,") for address in page.fetched)
    index = next(kidney for kidney in content["kidneys"] if kidney["index"])
    assert index["lesions"][0]["renal"]["text"] in page.text
    assert f"{index['tasks']['malignancy']['scores']['malignant']:.2f} malignant" in page.text
    assert "no medical device" in page.text
    for text in (page.text, json.dumps(content)):
        assert "E1-0001" not in text
        assert str(tmp_path) not in text
        calibrated = text.count("the probability of each, calibrated on held-out kidneys")
        assert text.count("probability of") == calibrated
    before = (out / "assessment.json").stat().st_mtime_ns
    assert run(place, place.files / "E1-0001", out) == 0  # the same again is kept
    assert (out / "assessment.json").stat().st_mtime_ns == before
    capsys.readouterr()
    assert run(place, place.files / "E1-0002", out) == 2
    assert "holds the assessment of another scan" in capsys.readouterr().err


def test_a_name_is_told_where_it_is_asked_for(place: Place, tmp_path: Path) -> None:
    assert run(place, place.files / "E1-0003", tmp_path / "out", "--identified=true", "--cases=false") == 0
    assert json.loads((tmp_path / "out/assessment.json").read_text())["identified"] == {"folder": "E1-0003"}
    assert "E1-0003" in (tmp_path / "out/assessment.html").read_text()


@pytest.fixture
def patients(place: Place, tmp_path: Path) -> Path:
    """Three patients: one good, one as DICOM, one whose mask is empty."""
    folder = tmp_path / "patients"
    shutil.copytree(place.files / "E1-0001", folder / "alpha")
    write_study(DemoSource().patient("E1-0002"), folder / "gamma", STEP_MM, phases=2)
    shutil.copytree(place.files / "E1-0003", folder / "beta")
    mask = nibabel.load(folder / "beta/mask.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), folder / "beta/mask.nii.gz")
    return folder


def test_a_folder_of_patients_gives_a_row_each_and_goes_on(
    place: Place, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(place, patients, out, "--cases=false") == 1
    table = pd.read_parquet(out / "assessments.parquet")
    assert table["status"].tolist() == ["assessed", "refused", "assessed"]  # alpha, beta, gamma
    assert table["patient"].str.fullmatch(r"p-[0-9a-f]{16}").all()
    assert "mask holds no kidney" in table["reason"][1]
    assert table.loc[[0, 2], ["score_malignancy_malignant", "risk_os", "renal_total", "c_index"]].notna().all(axis=None)
    assert pd.read_csv(out / "assessments.csv")["patient"].tolist() == table["patient"].tolist()
    assert pd.read_csv(out / "failures.csv")["patient"].tolist() == [table["patient"][1]]
    assert not re.search(r"\b(alpha|beta|gamma)\b", (out / "assessments.csv").read_text())
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/assessment.json")}
    assert len(written) == 2
    # Goes on where it stopped: a patient that is mended is read, the others are kept.
    shutil.copy(place.files / "E1-0003/mask.nii.gz", patients / "beta/mask.nii.gz")
    capsys.readouterr()
    assert run(place, patients, out, "--cases=false") == 0
    assert capsys.readouterr().out.count("Assessed in") == 1
    assert {path: path.stat().st_mtime_ns for path in written} == written
    again = pd.read_parquet(out / "assessments.parquet")
    assert again["status"].tolist() == ["assessed"] * 3
    assert again["patient"].tolist() == table["patient"].tolist()
    assert pd.read_csv(out / "failures.csv").empty


@pytest.mark.parametrize("content", ["", "[]", "{}", "another number"])
def test_damaged_results_of_an_earlier_call_are_made_again(place: Place, tmp_path: Path, content: str) -> None:
    source, out = tmp_path / "patients", tmp_path / "out"
    for name in ("E1-0001", "E1-0002"):
        shutil.copytree(place.files / name, source / name)
    (source / "E1-0003").mkdir()
    assert run(place, source, out, "--cases=false") == 1
    expected = {path: path.read_bytes() for path in sorted(out.glob("*/assessment.json"))}
    table = pd.read_parquet(out / "assessments.parquet")
    for pattern in ("*/assessment.json", "*/input.json", "*/refused.json"):
        damaged = sorted(out.glob(pattern))[-1]
        other = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), damaged.read_text(), count=1)
        damaged.write_text(other if content == "another number" else content)
        assert run(place, source, out, "--cases=false") == 1
        assert {path: path.read_bytes() for path in sorted(out.glob("*/assessment.json"))} == expected
        pd.testing.assert_frame_equal(pd.read_parquet(out / "assessments.parquet"), table)


def test_a_full_disk_stops_a_batch_and_is_nobodys_refusal(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A patient that was once refused is not read again; the disk is no reason to refuse one."""
    source, out = tmp_path / "patients", tmp_path / "out"
    for name in ("E1-0001", "E1-0002"):
        shutil.copytree(place.files / name, source / name)
    writing = assessment_job.write_page

    def full(path: Path, *rest: Any) -> None:
        if len(list(out.glob("*/assessment.json"))):
            raise WriteError("assessment.html could not be written: No space left on device.") from OSError(28, "full")
        writing(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(assessment_job, "write_page", full)
        assert run(place, source, out, "--cases=false") == 1
    assert "error: assessment.html could not be written" in capsys.readouterr().err
    assert not list(out.glob("*/refused.json"))
    assert pd.read_parquet(out / "assessments.parquet")["status"].tolist() == ["assessed"]
    assert run(place, source, out, "--cases=false") == 0
    assert pd.read_parquet(out / "assessments.parquet")["status"].tolist() == ["assessed"] * 2


def test_an_unforeseen_error_costs_its_patient_alone_and_is_tried_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "patients", tmp_path / "out"
    for name in ("E1-0001", "E1-0002"):
        shutil.copytree(place.files / name, source / name)
    reading = Assessor.__call__

    def read(self: Assessor, image: Any, *rest: Any) -> Assessed:
        if "E1-0001" in str(image):
            raise IndexError("/secret/path")
        return reading(self, image, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Assessor, "__call__", read)
        assert run(place, source, out, "--cases=false") == 1
    table = pd.read_parquet(out / "assessments.parquet")
    assert sorted(table["status"]) == ["assessed", "refused"]
    reason = table.loc[table["status"] == "refused", "reason"].item()
    assert "IndexError" in reason
    assert "secret" not in reason
    assert run(place, source, out, "--cases=false") == 0


@pytest.mark.parametrize("file", ["results.csv", "predictions.parquet"])
def test_a_probe_of_which_a_part_is_left_is_refused(
    place: Place, tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a row of a table is a row, and half a number a number."""
    runs = tmp_path / "runs"
    shutil.copytree(place.runs, runs)
    path = runs / "renal/few/malignancy/stage1-probe-f1-s42" / file
    path.write_bytes(path.read_bytes()[:-3])
    where = [f"--source={place.files / 'E1-0001'}", f"--out={tmp_path / 'out'}", f"--data={place.data}"]
    assert main(["assess", *where, f"--runs={runs}", "--cases=false"]) == 2
    assert file in capsys.readouterr().err


def test_results_follow_the_models_that_speak(place: Place, tmp_path: Path) -> None:
    """What the gate learned from decides whether a class is said at all: another reference is another result."""
    runs, source, out = tmp_path / "runs", tmp_path / "patients", tmp_path / "out"
    shutil.copytree(place.runs, runs)
    shutil.copytree(place.files / "E1-0001", source / "E1-0001")
    shutil.copytree(place.files / "E1-0002", source / "E1-0002")
    where = [f"--source={source}", f"--out={out}", f"--data={place.data}", f"--runs={runs}", "--cases=false"]
    assert main(["assess", *where]) == 0
    first = {path: path.read_text() for path in out.glob("*/assessment.json")}
    reference(runs / "renal/few/pretrain/image-s42/encoder")
    assert main(["assess", *where]) == 0
    assert all(path.read_text() != text for path, text in first.items())


def test_painted_regions_are_dicom_objects_in_the_scans_own_space(place: Place, tmp_path: Path) -> None:
    study = tmp_path / "study"
    write_study(DemoSource().patient("E1-0001"), study, STEP_MM, phases=2)
    assert run(place, study, tmp_path / "out", "--cases=false", "--dicom=true") == 0
    source = pydicom.dcmread(study / "0/I0000")
    kidneys, _ = read_scan(study, CONTRACT, Shown((study / "mask.nii.gz",)))
    models = Assessor.of_runs(place.data, place.runs, cases=False).models
    read = 0
    for kidney in kidneys:
        path = tmp_path / f"out/regions_{kidney.side}.dcm"
        labels = painted(kidney, models)
        codes = [code for code in (1, 2, 3) if (labels == code).any()]
        assert path.exists() == bool(codes)
        if not codes:
            continue
        read += 1
        found = hd.seg.segread(path)
        assert found.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert (found.PatientID, found.StudyInstanceUID) == ("", source.StudyInstanceUID)
        assert [found.get_segment_description(n).segment_label.split()[-1] for n in found.segment_numbers] == [
            kidney.side
        ] * len(codes)
        # Every voxel comes back where it was, whatever order highdicom stores it in.
        affine = grid_affine(kidney, CONTRACT)
        for number, code in enumerate(codes, start=1):
            volume = found.get_volume(segment_numbers=[number], combine_segments=True)
            expected = (affine @ np.c_[np.argwhere(labels == code), np.ones((labels == code).sum())].T)[:3].T
            stored = np.argwhere(np.asarray(volume.array) > 0)
            lps = (volume.affine @ np.c_[stored, np.ones(len(stored))].T)[:3].T
            order = [points[np.lexsort(points.round(2).T)] for points in (lps * (-1, -1, 1), expected)]
            np.testing.assert_allclose(order[0], order[1], atol=1e-2)
    assert read


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_assessed_is_refused(
    case: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, expected = REFUSED[case]
    folder = tmp_path / "patient"
    folder.mkdir()
    write(folder, place)
    assert run(place, folder, tmp_path / "out", "--cases=false", "--batch=false") == 2
    said = capsys.readouterr().err
    assert re.search(expected, said), said
    assert not (tmp_path / "out/assessment.json").exists()
    assert str(tmp_path) not in said
