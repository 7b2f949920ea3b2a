"""Builds: interrupted and continued, every patient accounted for, nothing overwritten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.importers.builder import build_cohort
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet
from tests.tiny import CONTRACT, TinySource


class Stop(Exception):  # noqa: N818 - it stops, nothing went wrong
    pass


def _stop_after(count: int):
    def progress(done: int, total: int) -> None:
        if done >= count:
            raise Stop

    return progress


def _content(root: Path) -> dict[str, bytes]:
    kept = [path for path in root.rglob("*") if path.is_file() and ".build" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in kept}


@pytest.mark.slow
def test_an_interrupted_build_goes_on_and_equals_an_uninterrupted_one(tiny_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    with pytest.raises(Stop):
        build_cohort(TinySource(), root, CONTRACT, workers=1, progress=_stop_after(20))
    with pytest.raises(DataError, match=r"no cohort\.json"):
        Cohort.load(root)
    started = []
    build_cohort(TinySource(), root, CONTRACT, workers=1, progress=lambda done, _: started.append(done))
    assert started[0] == 20
    assert _content(root) == _content(tiny_root)


@pytest.mark.slow
def test_a_killed_build_in_processes_goes_on(tiny_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    script = (
        "import sys; from pathlib import Path; from datamodules.importers.builder import build_cohort;"
        "from tests.tiny import CONTRACT, TinySource\n"
        "if __name__ == '__main__': build_cohort(TinySource(), Path(sys.argv[1]), CONTRACT, workers=2)"
    )
    path = tmp_path / "build.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, str(path), str(root)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 90
    while len(list(root.glob(".build/*/*.json"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    build_cohort(TinySource(), root, CONTRACT, workers=1)
    leftovers = [name for name in _content(root) if ".part" in name]
    assert {name: content for name, content in _content(root).items() if name not in leftovers} == _content(tiny_root)


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", ["roles", "folds"])
def test_a_rerun_that_adds_patients_moves_nobody_and_keeps_a_stored_assignment(tmp_path: Path, evaluation: str) -> None:
    root, late = tmp_path / "tiny", ("I1-000", "I1-005", "I2-003", "P1-001")
    source = TinySource(evaluation=evaluation)
    before, _ = build_cohort(replace(source, fail=late), root, CONTRACT, workers=1)
    # As an earlier version may have drawn it.
    splits = before["splits"].copy()
    column = "split" if evaluation == "roles" else "fold"
    names = {"train": "test", "test": "train"} if evaluation == "roles" else {0: 1, 1: 0}
    own = splits["patient_id"].str.startswith("I" if evaluation == "roles" else "")
    splits.loc[own, column] = splits.loc[own, column].replace(names)
    Cohort(root, before.info, {**before.tables, "splits": splits}).write()
    after, report = build_cohort(source, root, CONTRACT, workers=1)
    assert report.counts["failed"] == 0
    both = splits.merge(after["splits"], on="patient_id")
    assert len(both) == len(splits) == len(after["splits"]) - len(late)
    assert (both[f"{column}_x"] == both[f"{column}_y"]).all()


@pytest.mark.slow
def test_failures_and_skips_are_counted_with_reasons(tmp_path: Path) -> None:
    source = TinySource(fail=("I1-000",), skip=("E1-001", "E1-002"))
    cohort, report = build_cohort(source, tmp_path / "tiny", CONTRACT, workers=1)
    assert report.counts == {"imported": 57, "skipped": 2, "failed": 1}
    assert len(cohort["patients"]) == 57
    stored = pd.read_parquet(tmp_path / "tiny" / "import.parquet").set_index("patient_id")
    assert stored.loc["I1-000", "status"] == "failed"
    assert "truncated" in stored.loc["I1-000", "reason"]
    assert stored.loc["E1-001", "reason"] == "no kidney in the mask"
    assert len(stored) == 60


@pytest.mark.slow
def test_a_failed_patient_is_tried_again(tmp_path: Path) -> None:
    build_cohort(TinySource(fail=("I1-000",)), tmp_path / "tiny", CONTRACT, workers=1)
    _, report = build_cohort(TinySource(), tmp_path / "tiny", CONTRACT, workers=1)
    assert report.counts == {"imported": 60, "skipped": 0, "failed": 0}


def test_a_lost_shard_is_made_again(tiny_copy: Path) -> None:
    folder = VolumeSet.find(tiny_copy).folder
    sorted((folder / "shards").glob("*.bin"))[3].unlink()
    build_cohort(TinySource(), tiny_copy, CONTRACT, workers=1)
    assert len(VolumeSet.find(tiny_copy)) == 240


def test_another_source_does_not_overwrite_a_finished_cohort(tiny_copy: Path) -> None:
    with pytest.raises(DataError, match="finished work is not overwritten"):
        build_cohort(TinySource(seed=1), tiny_copy, CONTRACT, workers=1)


@pytest.mark.slow
def test_a_second_contract_adds_a_volume_set(tiny_copy: Path) -> None:
    other = PreprocessingContract(grid=(6, 10, 10))
    build_cohort(TinySource(), tiny_copy, other, workers=1)
    assert len(VolumeSet.find(tiny_copy, contract=other)) == 240
    assert len(VolumeSet.find(tiny_copy, contract=CONTRACT)) == 240


def test_nobody_imported_is_an_error(tmp_path: Path) -> None:
    source = TinySource(per_center=1, skip=tuple(TinySource(per_center=1).patient_ids()))
    with pytest.raises(DataError, match="None of 5 patients could be imported"):
        build_cohort(source, tmp_path / "tiny", CONTRACT, workers=1)


@pytest.mark.slow
def test_a_full_disk_stops_the_build_and_a_rerun_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from litdata.streaming.writer import BinaryWriter

    root, written = tmp_path / "tiny", []
    add_item = BinaryWriter.add_item

    def full(self: BinaryWriter, *args: object) -> object:
        if len(written) >= 40:
            raise OSError(28, "No space left on device")
        written.append(1)
        return add_item(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(BinaryWriter, "add_item", full)
    with pytest.raises(DataError, match="No space left on device"):
        build_cohort(TinySource(), root, CONTRACT, workers=1)
    monkeypatch.undo()
    started: list[int] = []
    _, report = build_cohort(TinySource(), root, CONTRACT, workers=1, progress=lambda done, _: started.append(done))
    assert started[0] == 10
    assert report.counts["imported"] == 60
