"""Kidneys by TotalSegmentator: a stand-in with its signature gets one series and gives the masks that it would."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from datamodules.errors import DataError
from datamodules.phantoms.phantom_source import DemoSource
from experiments.assessment.assessor import Assessor
from experiments.assessment.located import KIDNEYS, found_by_totalsegmentator
from experiments.assessment.patient_files import PatientFiles
from lightning_modules.core.errors import ModelError
from tests.datamodules.importers.phantom_study import write_study
from tests.experiments.assessment.place import STEP_MM, Place


class Package:
    """Stands for totalsegmentator.python_api: cuts the kidneys of a known mask by side."""

    def __init__(self, mask: Path | None) -> None:
        self.mask, self.given = mask, Path()

    def totalsegmentator(self, input: Path, output: Path, **options: Any) -> None:
        assert options == {"task": "total", "roi_subset": list(KIDNEYS), "ml": False, "quiet": True}
        self.given = input
        if self.mask is None:
            return
        mask = nibabel.load(self.mask)
        labels = np.asarray(mask.dataobj)
        x = (mask.affine @ np.array([*np.unravel_index(np.arange(labels.size), labels.shape), np.ones(labels.size)]))[0]
        right = (x > 0).reshape(labels.shape)
        for name, side in (("kidney_left", ~right), ("kidney_right", right)):
            nibabel.save(
                nibabel.Nifti1Image(((labels > 0) & side).astype(np.uint8), mask.affine), output / f"{name}.nii.gz"
            )


def installed(monkeypatch: pytest.MonkeyPatch, mask: Path | None) -> Package:
    package = Package(mask)
    api = types.ModuleType("totalsegmentator.python_api")
    api.totalsegmentator = package.totalsegmentator  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "totalsegmentator", types.ModuleType("totalsegmentator"))
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", api)
    return package


@pytest.mark.slow
def test_a_study_without_a_mask_is_assessed(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "study"
    write_study(DemoSource().patient("E1-0001"), study, STEP_MM, phases=2)
    (study / "mask.nii.gz").rename(tmp_path / "truth.nii.gz")
    package = installed(monkeypatch, tmp_path / "truth.nii.gz")
    (tmp_path / "scratch").mkdir()
    shown = found_by_totalsegmentator(PatientFiles(study, study), tmp_path / "scratch")
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(package.given.iterdir())]
    assert len({header.SeriesInstanceUID for header in headers}) == 1
    levels = [header.ImagePositionPatient[2] for header in headers]
    assert levels == sorted(levels)
    found = Assessor.of_runs(place.data, place.runs, cases=False, outside_training=True)(shown.image, shown.masks)
    assert {kidney["side"] for kidney in found.content["kidneys"]} == {"left", "right"}
    assert {kidney["outlined_by"] for kidney in found.content["kidneys"]} == {"encoder"}  # it draws no lesions


def test_no_kidney_and_no_package_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "totalsegmentator", None)
    with pytest.raises(ModelError, match="pip install TotalSegmentator"):
        found_by_totalsegmentator(PatientFiles(tmp_path, tmp_path / "scan.nii"), tmp_path)
    installed(monkeypatch, None)
    with pytest.raises(DataError, match="found no kidney"):
        found_by_totalsegmentator(PatientFiles(tmp_path, tmp_path / "scan.nii"), tmp_path)
