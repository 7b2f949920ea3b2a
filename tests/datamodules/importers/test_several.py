"""One cohort of many sources that grows: only what changed is read, and who left leaves no trace."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import pandas as pd
import pytest
import yaml

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.importers.builder import ImportAccount, build_cohort, refresh_cohort
from datamodules.importers.records import Source
from datamodules.quality.cohort_checks import check_cohort
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet, shard_name
from experiments.cohorts.sources import make_source
from tests.datamodules.importers.dicom_phantom import RAW_ID, Scan, segmentation
from tests.datamodules.importers.nifti_phantom import labels, save, scan_hu

CONTRACT = PreprocessingContract(grid=(10, 14, 14))
OTHER = PreprocessingContract(grid=(8, 10, 10))
HEAD = "patient_id,study_id,series_id,center,phase,image,mask\n"


def add_rows(folder: Path, names: list[str]) -> None:
    """Patients of a manifest, each with a scan of its own, and a clinical table and reports beside it."""
    folder.mkdir(exist_ok=True)
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text() if manifest.is_file() else HEAD)
    if not (folder / "m.nii.gz").is_file():
        save(folder / "m.nii.gz", labels())
    for name in names:
        save(folder / f"{name}.nii.gz", scan_hu(seed=zlib.crc32(f"{folder.name}{name}".encode()) % 1000))
        with manifest.open("a") as file:
            file.write(f"{name},{name}-e,{name}-s,c,venous,{name}.nii.gz,m.nii.gz\n")


def add_scan(folder: Path, patient: int) -> None:
    study = f"1.2.826.0.1.3680043.8.498.{patient}"
    scan = Scan(patient=f"{RAW_ID}-{patient}", study=study, series=f"{study}.1", seed=patient)
    scan.write(folder / str(patient))
    segmentation(scan).save_as(folder / str(patient) / "seg", enforce_file_format=True)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Two hospitals that give their patients the same numbers, and an archive of DICOM files."""
    for name in ("north", "south"):
        add_rows(tmp_path / name, ["1", "2"])
        (tmp_path / name / "patients.csv").write_text("patient_id,os_months,os_event\n1,12,0\n2,24,1\n")
        (tmp_path / name / "reports.csv").write_text("study_id,text\n1-e,Left renal mass.\n")
    add_scan(tmp_path / "pacs", 1)
    write(tmp_path)
    return tmp_path


def write(root: Path, **changes: object) -> None:
    sources = {
        "north": {"path": "north/manifest.csv", "center": "north", "role": "internal"},
        "south": {"path": "south/manifest.csv", "center": "south", "role": "external"},
        "pacs": {"path": "pacs", "role": "pretrain"},
    }
    content = {"plan": {"name": "joined"}, "sources": sources, **changes}
    (root / "cohort.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def source(root: Path) -> Source:
    return make_source("several", root / "cohort.yaml", root / "out", {})


def built(root: Path, contract: PreprocessingContract = CONTRACT) -> tuple[Cohort, ImportAccount]:
    return build_cohort(source(root), root / "out", contract, workers=1)


def written(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (root / "out" / "volumes").rglob("*.bin")}


def by_center(cohort: Cohort) -> dict[str, list[str]]:
    return cohort["patients"].groupby("center")["patient_id"].apply(lambda ids: sorted(map(str, ids))).to_dict()


def test_the_same_number_in_two_hospitals_is_two_patients(hospital: Path) -> None:
    cohort, report = built(hospital)
    assert report.counts == {"imported": 5, "skipped": 0, "failed": 0}
    patients = by_center(cohort)
    assert {center: len(ids) for center, ids in patients.items()} == {"north": 2, "south": 2, "pacs": 1}
    assert not set(patients["north"]) & set(patients["south"])
    roles = dict(cohort["centers"].itertuples(index=False, name=None))
    assert roles == {"north": "internal", "south": "external", "pacs": "pretrain"}
    assert not any(str(name).startswith("1") for name in cohort["patients"]["patient_id"])
    assert len(cohort["reports"]) == 2


def test_only_what_changed_is_read_and_nobody_moves(hospital: Path) -> None:
    before, _ = built(hospital)
    splits = before["splits"].set_index("patient_id")["split"]
    files = written(hospital)
    add_rows(hospital / "north", ["3", "4"])
    add_scan(hospital / "pacs", 2)
    after, report = built(hospital)
    assert report.read == 3
    assert len(after["patients"]) == 8
    assert {name: written(hospital)[name] for name in files} == files
    moved = after["splits"].set_index("patient_id")["split"].reindex(splits.index)
    assert (moved.fillna("") == splits.fillna("")).all()
    assert len(VolumeSet.find(hospital / "out")) == 16


def test_another_mask_is_one_patient_read_again(hospital: Path) -> None:
    built(hospital)
    files = written(hospital)
    save(hospital / "north" / "1.nii.gz", scan_hu(seed=77))
    _, report = built(hospital)
    assert report.read == 1
    changed = [name for name, time in written(hospital).items() if files[name] != time]
    assert len(changed) == 1


def test_a_later_follow_up_reads_no_scan(hospital: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(hospital)
    files = written(hospital)
    (hospital / "north" / "patients.csv").write_text("patient_id,os_months,os_event\n1,36,1\n2,24,1\n")
    monkeypatch.setattr("datamodules.importers.nifti.manifest._read", lambda *_: pytest.fail("a scan was read"))
    cohort, report = refresh_cohort(source(hospital), hospital / "out", CONTRACT)
    assert report.read == 0
    assert written(hospital) == files
    assert sorted(cohort["patients"]["os_months"].dropna()) == [12.0, 24.0, 24.0, 36.0]
    again, report = built(hospital)
    assert report.read == 0
    pd.testing.assert_frame_equal(again["patients"], cohort["patients"])


def test_a_refresh_that_would_need_scans_says_so(hospital: Path) -> None:
    built(hospital)
    add_rows(hospital / "north", ["3"])
    with pytest.raises(DataError, match="1 of 6 patients are new or have other scans"):
        refresh_cohort(source(hospital), hospital / "out", CONTRACT)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "[", "[]", "null", '{"patient_id": "x"}'])
def test_damaged_entries_of_a_build_are_read_again_or_leave(hospital: Path, content: str) -> None:
    """A file that no command reads would else refuse every command for good."""
    cohort, _ = built(hospital)
    first, *_, last = by_center(cohort)["north"]
    entries = {name: next((hospital / "out/.build").glob(f"*/{shard_name(name)}.json")) for name in (first, last)}
    entries[first].write_text(content)
    with pytest.raises(DataError, match="1 of 5 patients are new or have other scans"):
        refresh_cohort(source(hospital), hospital / "out", CONTRACT)
    again, report = built(hospital)
    assert report.read == 1
    assert report.counts == {"imported": 5, "skipped": 0, "failed": 0}
    pd.testing.assert_frame_equal(again["patients"], cohort["patients"])
    entries[last].write_text(content)
    write(hospital, withdrawn=[last])
    left, _ = built(hospital)
    assert set(cohort["patients"]["patient_id"]) - set(left["patients"]["patient_id"]) == {last}
    assert not list((hospital / "out").rglob(f"{shard_name(last)}.*"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["withdrawn", "no longer in the source"])
def test_who_leaves_leaves_no_trace(hospital: Path, how: str) -> None:
    cohort, _ = built(hospital)
    built(hospital, OTHER)
    attributes = hospital / "out" / "attributes"
    attributes.mkdir()
    (attributes / "rules.parquet").write_bytes(b"evidence")
    (leaver,) = cohort["reports"].merge(cohort["patients"], on="patient_id").query("center == 'north'")["patient_id"]
    stay = cohort["splits"].set_index("patient_id")["split"].drop(leaver)
    if how == "withdrawn":
        write(hospital, withdrawn=[str(leaver)])
    else:
        for name in ("manifest", "patients", "reports"):
            path = hospital / "north" / f"{name}.csv"
            path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("1")))
    after, report = built(hospital)
    assert report.removed == (leaver,)
    assert leaver not in set(after["patients"]["patient_id"])
    assert (after["splits"].set_index("patient_id")["split"].fillna("") == stay.fillna("")).all()
    for path in (hospital / "out").rglob("*"):
        assert shard_name(str(leaver)) not in path.name, path
        assert not path.is_file() or str(leaver).encode() not in path.read_bytes(), path
    assert not attributes.exists()
    for contract in (CONTRACT, OTHER):
        assert len(VolumeSet.find(hospital / "out", contract=contract)) == 8


@pytest.mark.slow
def test_a_further_set_of_other_scans_is_no_longer_finished(hospital: Path) -> None:
    built(hospital)
    built(hospital, OTHER)
    save(hospital / "south" / "2.nii.gz", scan_hu(seed=78))
    _, report = built(hospital)
    assert report.mend[0].startswith(f"volume set kidney-{OTHER.hash}")
    with pytest.raises(DataError, match="finished volume sets"):
        VolumeSet.find(hospital / "out", contract=OTHER)
    assert built(hospital, OTHER)[1].read == 1


def test_another_cohort_is_not_written_over_it(hospital: Path) -> None:
    built(hospital)
    write(hospital, plan={"name": "another"})
    with pytest.raises(DataError, match="finished work is not overwritten"):
        built(hospital)


@pytest.mark.parametrize(("first", "second", "level"), [("north", "south", "FAIL"), ("north", "north", "")])
def test_one_scan_under_two_identifiers_is_found(hospital: Path, first: str, second: str, level: str) -> None:
    if first != second:
        shutil.copy(hospital / first / "1.nii.gz", hospital / second / "1.nii.gz")
    built(hospital)
    findings = [one for one in check_cohort(hospital / "out", verify=False) if "two patients" in one.what]
    assert [one.level for one in findings] == ([level] if level else [])
    assert not findings or "2 volumes are those of two patients in two splits, folds or roles" in findings[0].what


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {"a": {"kind": "manifest"}}}, "source a: expected path"),
        ({"sources": {"a": {"path": "north/manifest.csv", "place": "x"}}}, "place is not known"),
        ({"sources": {"a": {"path": "north/manifest.csv", "role": "test"}}}, "role 'test' was found"),
        ({"sources": {"a": {"path": "nowhere"}}}, "does not exist"),
        ({"sources": {"a/b": {"path": "north/manifest.csv"}}}, "a/b"),
        ({"sources": []}, "expected the keys plan, sources"),
        ({"more": 1}, "expected the keys plan, sources"),
    ],
)
def test_a_bad_list_of_sources_is_refused(hospital: Path, changes: dict[str, object], message: str) -> None:
    write(hospital, **changes)
    with pytest.raises(DataError, match=message):
        source(hospital)


def test_two_roles_of_one_centre_are_refused(hospital: Path) -> None:
    sources = {
        name: {"path": f"{name}/manifest.csv", "center": "same", "role": role}
        for name, role in (("north", "internal"), ("south", "external"))
    }
    write(hospital, sources=sources)
    with pytest.raises(DataError, match="Centre same has the roles internal and external"):
        built(hospital)
