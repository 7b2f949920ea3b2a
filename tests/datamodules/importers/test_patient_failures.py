"""One patient whose files cannot be read is failed, with a reason that names nothing; the import goes on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.importers.builder import build_cohort
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.patient_jobs import PatientJob
from datamodules.importers.plan import CohortPlan
from datamodules.importers.records import PatientRecord
from datamodules.volumes.contract import PreprocessingContract
from tests.datamodules.importers.nifti_phantom import labels, save, scan_hu
from tests.tiny import CONTRACT, TinySource

Damage = Callable[[bytearray], bytes | bytearray]
SECRET = "Doe_Jane_19521103"


def _set(offset: int, kind: str, *values: float) -> Damage:
    """Overwrites a field of a NIfTI-1 header (nifti1.h)."""

    def damage(content: bytearray) -> bytearray:
        raw = np.array(values, dtype=kind).tobytes()
        content[offset : offset + len(raw)] = raw
        return content

    return damage


_SROW = 280
DAMAGES: dict[str, tuple[Damage, str]] = {
    "dimensions of 32767": (_set(42, "<i2", 32767, 32767, 32767), "its header asks for 32767 x 32767 x 32767 voxels"),
    "2^31 voxels": (_set(42, "<i2", 2048, 1024, 1024), "its header asks for"),
    "negative dimensions": (_set(42, "<i2", -5, -5, -5), "expected one 3D volume|is damaged"),
    "no dimensions": (_set(40, "<i2", 0), "expected one 3D volume|is damaged"),
    "nine dimensions": (_set(40, "<i2", 9), "is damaged"),
    "a dimension of time": (_set(40, "<i2", 4, 32, 28, 20, 7), "expected one 3D volume"),
    "singular affine": (
        _set(_SROW, "<f4", 8, 8, 8, 0, 8, 8, 8, 0, 8, 8, 8, 0),
        "two sizes of a voxel, 13.9 x 13.9 x 13.9 mm by the sform",
    ),
    "axes in one plane": (
        _set(_SROW, "<f4", 8, 0, 8, 0, 0, 8, 8, 0, 0, 0, 0.001, 0),
        "two sizes of a voxel, 8 x 8 x 11.3 mm by the sform",
    ),
    "affine of zeros": (_set(_SROW, "<f4", *[0.0] * 12), "two sizes of a voxel, 0 x 0 x 0 mm by the sform"),
    "affine of NaN": (_set(_SROW, "<f4", *[np.nan] * 12), "codes are 0, or hold no numbers"),
    "origin of NaN": (_set(_SROW + 12, "<f4", np.nan), "codes are 0, or hold no numbers"),
    "infinite affine": (_set(_SROW, "<f4", np.inf), "codes are 0, or hold no numbers"),
    "complex voxels": (_set(70, "<i2", 32, 64), "voxels of type complex64"),
    "colours": (_set(70, "<i2", 128, 24), "expected one number each"),
    "unknown type": (_set(70, "<i2", 1234), "is damaged"),
    "slope of NaN and offset beyond the file": (_set(108, "<f4", 1e30, np.nan, np.nan), "is damaged"),
    "negative offset": (_set(108, "<f4", -352.0), "is damaged"),
    "no magic": (_set(344, "<i4", 0), "no NIfTI|is damaged"),
    "empty": (lambda content: b"", "is damaged"),
    "header alone": (lambda content: content[:352], "is damaged"),
    "half a file": (lambda content: content[: len(content) // 2], "is damaged"),
}


def _zooms(*values: float) -> Damage:
    """Voxel sizes of a file that states its orientation by qform alone."""

    def damage(content: bytearray) -> bytearray:
        return _set(80, "<f4", *values)(_set(252, "<i2", 1, 0)(content))

    return damage


DAMAGES["zooms of 0"] = (_zooms(0, 0, 0), "voxels of 0 x 0 x 0 mm")
DAMAGES["zooms of NaN"] = (_zooms(np.nan, np.nan, np.nan), "hold no numbers|is damaged")


def _ward(folder: Path) -> ManifestSource:
    """Four patients with a scan and a mask each, in a folder that is called as one of them."""
    rows = []
    for number in range(4):
        image = save(folder / f"scan{number}.nii.gz", scan_hu(number))
        mask = save(folder / f"mask{number}.nii.gz", labels())
        row = {"patient_id": f"p{number}", "study_id": f"e{number}", "series_id": f"s{number}", "center": "A"}
        rows.append(row | {"phase": "venous", "image": image.name, "mask": mask.name})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return ManifestSource(folder / "manifest.csv", CohortPlan("hospital"))


def _check(source: ManifestSource, root: Path, words: str, runs: int = 1) -> None:
    """The import of three goes on, and again at a rerun; the reason of the fourth holds no path."""
    for _ in range(runs):
        cohort, report = build_cohort(source, root, PreprocessingContract(grid=(20, 20, 20)), workers=1)
        assert report.counts == {"imported": 3, "skipped": 0, "failed": 1}
        stored = pd.read_parquet(root / "import.parquet").set_index("patient_id").loc["p1"]
        assert stored["status"] == "failed"
        assert pd.Series([stored["reason"]]).str.contains(words).all(), stored["reason"]
        assert SECRET not in stored["reason"]
        assert ".nii" not in stored["reason"]
        assert sorted(cohort["patients"]["patient_id"]) == ["p0", "p2", "p3"]
    Cohort.load(root)


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("file", ["scan1.nii.gz", "mask1.nii.gz"])
def test_a_bad_nifti_costs_its_patient_alone(tmp_path: Path, name: str, file: str) -> None:
    damage, words = DAMAGES[name]
    source = _ward(tmp_path / SECRET)
    path = tmp_path / SECRET / file
    path.write_bytes(gzip.compress(damage(bytearray(gzip.decompress(path.read_bytes()))), 1))
    _check(source, tmp_path / "out", words)


@pytest.mark.parametrize("kept", [0, 5, 200, -20])
def test_a_truncated_archive_costs_its_patient_alone(tmp_path: Path, kept: int) -> None:
    source = _ward(tmp_path / SECRET)
    path = tmp_path / SECRET / "scan1.nii.gz"
    path.write_bytes(path.read_bytes()[:kept])
    _check(source, tmp_path / "out", "is damaged", runs=2)


def test_an_absurd_header_is_refused_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "__array__", lambda self, *_: asked.append(self.shape))
    source = _ward(tmp_path / SECRET)
    path = tmp_path / SECRET / "scan1.nii.gz"
    damage, words = DAMAGES["2^31 voxels"]
    path.write_bytes(gzip.compress(damage(bytearray(gzip.decompress(path.read_bytes()))), 1))
    job = PatientJob(source, tmp_path / "entries", tmp_path / "volumes", CONTRACT)
    entry = json.loads(job.path(job("p1")).read_text())
    assert (entry["status"], asked) == ("failed", [])
    assert words in entry["reason"]


@dataclass(frozen=True)
class FailingSource(TinySource):
    """Raises an error of a library at one patient; its message shows a path."""

    error: Exception | None = None
    rows: str = ""

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        record = super().load(patient_id, contract)
        if patient_id == "I1-003":
            if self.error is not None:
                raise self.error
            record.rows["patients"][0]["age_years"] = self.rows  # type: ignore[index]
        return record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(f"/data/{SECRET}"), "do not fit into memory; import with fewer workers"),
        (np.linalg.LinAlgError(f"/data/{SECRET}"), r"could not be read \(LinAlgError in "),
        (OSError(5, "Input/output error", f"/data/{SECRET}"), r"could not be read \(OSError in "),
        (RecursionError(SECRET), r"could not be read \(RecursionError in "),
        (nibabel.filebasedimages.ImageFileError(SECRET), r"could not be read \(ImageFileError in "),
    ],
)
def test_an_unforeseen_error_costs_its_patient_alone(tmp_path: Path, error: Exception, words: str) -> None:
    cohort, report = build_cohort(FailingSource(error=error), tmp_path / "tiny", CONTRACT, workers=1)
    assert report.counts == {"imported": 59, "skipped": 0, "failed": 1}
    reasons = report.rows.set_index("patient_id")["reason"]
    assert reasons.str.contains(words).sum() == 1
    assert not reasons.str.contains(SECRET).any()
    assert "I1-003" not in set(cohort["patients"]["patient_id"])


@pytest.mark.slow
@pytest.mark.parametrize("value", [-4.0, 900.0, "old"])
def test_rows_that_the_schema_refuses_cost_their_patient_alone(tmp_path: Path, value: object) -> None:
    source = FailingSource(rows=value)  # type: ignore[arg-type]
    cohort, report = build_cohort(source, tmp_path / "tiny", CONTRACT, workers=1)
    assert report.counts == {"imported": 59, "skipped": 0, "failed": 1}
    (reason,) = report.rows.loc[report.rows["status"] == "failed", "reason"]
    assert reason.startswith("its rows of patients")
    assert "column age_years" in reason
    assert len(cohort["patients"]) == 59


@pytest.mark.slow
def test_a_damaged_entry_of_an_interrupted_import_is_made_again(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    build_cohort(TinySource(), root, CONTRACT, workers=1)
    entry = next(path for path in (root / ".build").glob("*/*.json") if "I1-003" in path.read_text())
    content = entry.read_text()
    entry.write_text(content[: len(content) // 2])
    _, report = build_cohort(TinySource(), root, CONTRACT, workers=1)
    assert report.counts["imported"] == 60
    assert entry.read_text() == content
