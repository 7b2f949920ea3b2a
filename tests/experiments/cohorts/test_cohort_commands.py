"""`make cohort` and `make import` through the command line: what is built, and how bad scans are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.quality.cohort_checks import LOCAL_PATHS
from experiments.cli import main
from experiments.cohorts.sources import make_source, recognise
from tests.datamodules.importers.kits_phantom import abdomen, scan, write_case, write_records


def _import(folder: Path, out: Path, *extra: str) -> int:
    return main(["import", f"--source={folder}", f"--out={out}", "--workers=1", *extra])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("truncated", "segmentation.nii.gz"),
        ("shape", "same voxels in both"),
        ("nan", "NaN"),
        ("constant", "every voxel"),
    ],
)
def test_a_damaged_case_is_named_and_exits_with_2(
    damage: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, labels = tmp_path / "dataset", abdomen()
    image = scan(labels)
    good = [f"case_{number:05d}" for number in range(4)]
    for number, case in enumerate(good):
        write_case(folder, case, labels, scan(labels, number))
    write_records(folder, {case: {"malignant": number % 2 == 0} for number, case in enumerate([*good, "case_00009"])})
    images = {"nan": np.where(labels == 1, np.nan, image), "constant": np.full_like(image, 40.0)}
    cut = 3 if damage == "shape" else 0
    write_case(folder, "case_00009", labels, images.get(damage, image), image_shape_cut=cut)
    if damage == "truncated":
        path = folder / "case_00009" / "segmentation.nii.gz"
        path.write_bytes(path.read_bytes()[:200])
    assert _import(folder, tmp_path / "out", "--options={folds: 3}") == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 patients imported, 0 skipped, 1 failed" in shown
    assert sentence in shown
    assert str(tmp_path) not in shown
    report = pd.read_parquet(tmp_path / "out" / "import.parquet").set_index("patient_id")
    assert report.loc["case_00009", "status"] == "failed"
    assert Cohort.load(tmp_path / "out")["patients"]["patient_id"].tolist() == good


@pytest.mark.slow
def test_a_cohort_holds_no_path_of_its_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_CACHE", str(tmp_path / "cache"))
    folder, out, labels = tmp_path / "Ward_Doe_Jane", tmp_path / "out", abdomen()
    cases = [f"case_{number:05d}" for number in range(4)]
    for number, case in enumerate(cases):
        write_case(folder, case, labels, scan(labels, number))
    write_records(folder, {case: {"malignant": number % 2 == 0} for number, case in enumerate(cases)})
    assert _import(folder, out, "--options={folds: 3}") == 0
    kept = [path for path in out.rglob("*") if path.is_file()]
    assert len(kept) > 10
    for path in kept:
        assert b"Ward_Doe_Jane" not in path.read_bytes(), path.name
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    (origin,) = (tmp_path / "cache" / "sources").iterdir()
    assert origin.stat().st_mode & 0o777 == 0o600
    volumes = ["volumes", "--encoder=scratch", f"--data={out}", "--profile=small", "--workers=1"]
    assert main(volumes) == 0
    assert len(list((out / "volumes").glob("*/contract.json"))) == 2
    # Another user, or another machine, is asked for the source; a damaged memory is none.
    for damage in (lambda: origin.write_text("{"), origin.unlink):
        damage()
        for added in (out / "volumes").glob("*/contract.json"):
            if json.loads(added.read_text())["grid"][1] != 48:
                added.unlink()
        capsys.readouterr()
        assert main(volumes) == 2
        assert "name it with SOURCE=" in capsys.readouterr().err
    assert main([*volumes, f"--source={folder}", "--options={folds: 3}"]) == 0


def test_paths_that_an_older_cohort_holds_are_told_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, labels = tmp_path / "dataset", tmp_path / "out", abdomen()
    for number in range(4):
        write_case(folder, f"case_{number:05d}", labels, scan(labels, number))
    write_records(folder, {f"case_{number:05d}": {"malignant": number % 2 == 0} for number in range(4)})
    assert _import(folder, out, "--options={folds: 3}") == 0
    (out / LOCAL_PATHS).write_text(json.dumps({"kind": "kits23", "path": str(folder), "options": {}}))
    capsys.readouterr()
    assert main(["data-check", f"--data={out}", "--quick=true"]) == 0
    assert "WARN .build/made_from.json: holds paths of the machine" in capsys.readouterr().out
    assert _import(folder, out, "--options={folds: 3}") == 0
    assert not (out / LOCAL_PATHS).exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--source=nowhere", "--out=x"], "SOURCE nowhere does not exist"),
        (["--source=README.md", "--out=x"], "was not recognised; name its KIND, one of several, demo, kits23"),
        (["--source=README.md", "--out=x", "--kind=nifti"], "KIND=nifti is not known"),
        (["--source=README.md", "--out=x", "--kind=kits23", "--options={fold: 2}"], "fold"),
    ],
)
def test_a_wrong_source_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_small_phantom_cohort_is_drawn_checked_and_drawn_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    command = ["cohort", f"--out={out}", "--patients=60", "--pretraining=0", "--workers=1"]
    assert main(command) == 0
    assert "60 patients imported" in capsys.readouterr().out
    cohort = Cohort.load(out)
    assert cohort.info.phantom
    assert len(cohort["centers"]) == 12
    assert main(["data-check", f"--data={out}"]) == 0
    written = {path: path.stat().st_mtime_ns for path in (out / "volumes").rglob("*.bin")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "volumes").rglob("*.bin")} == written
    assert main([*command[:2], "--patients=70", "--workers=1"]) == 2
    assert "finished work is not overwritten" in capsys.readouterr().err
    assert main(["cohort", f"--out={tmp_path / 'few'}", "--patients=3"]) == 2


def test_a_cohort_is_named_after_its_folder_and_nifti_files_want_a_table(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.nii.gz").touch()
    (scans / "patients.csv").touch()
    with pytest.raises(DataError, match="holds NIfTI files"):
        recognise(scans)
    (scans / "IM0001").touch()
    assert recognise(scans) == "dicom"
    (tmp_path / "manifest.csv").touch()
    named = make_source("manifest", tmp_path / "manifest.csv", tmp_path / "mine", {"plan": {"seed": 7}})
    assert (named.plan.name, named.plan.seed) == ("mine", 7)  # type: ignore[attr-defined]
    other = make_source("manifest", tmp_path / "manifest.csv", tmp_path / "mine", {"plan": {"name": "other"}})
    assert other.plan.name == "other"  # type: ignore[attr-defined]
