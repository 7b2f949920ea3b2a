"""What happens to disks and processes: a flipped bit, a lost shard, a full disk, a killed import; and the way back."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.files import write_json
from datamodules.importers.builder import build_cohort
from datamodules.importers.records import PatientRecord
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.roi import Volume
from datamodules.volumes.shards import VolumeSet, shard_name, write_shard
from tests.tiny import CONTRACT, TinySource

ROOT = Path(__file__).parents[3]
LOADED: list[str] = []


@dataclass(frozen=True)
class CountingSource(TinySource):
    """Notes whom it loads, in this process."""

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        LOADED.append(patient_id)
        return super().load(patient_id, contract)


@pytest.fixture(autouse=True)
def _nobody_loaded_yet() -> None:
    LOADED.clear()


@contextmanager
def _full_after(size: int) -> Iterator[None]:
    """A file system that takes `size` bytes of any file; the kernel refuses the rest, as a full disk does."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def _finished(root: Path) -> set[str]:
    return {path.stem for path in root.glob(".build/*/*.json")}


def _leftovers(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if ".part" in path.name]


def test_a_shard_with_a_flipped_bit_is_made_again_alone(tiny_copy: Path, tiny_root: Path) -> None:
    volumes = VolumeSet.find(tiny_copy)
    row = volumes.index.iloc[30]
    path = volumes.folder / "shards" / row["shard"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))
    positions = volumes.index.index[volumes.index["shard"] == row["shard"]]
    with pytest.raises(DataError, match=rf"Shard {row['shard']} of tiny/.* is damaged.* Delete the file and run"):
        [volumes.read(int(position)) for position in positions]
    path.unlink()  # what the message says
    build_cohort(CountingSource(), tiny_copy, CONTRACT, workers=1)
    assert [row["patient_id"]] == LOADED
    assert path.read_bytes() == (VolumeSet.find(tiny_root).folder / "shards" / row["shard"]).read_bytes()


def test_lost_shards_are_named_and_made_again_alone(tiny_copy: Path, tiny_root: Path) -> None:
    volumes = VolumeSet.find(tiny_copy)
    lost = ["E1-003", "I2-007"]
    for patient in lost:
        (volumes.folder / "shards" / f"{shard_name(patient)}.bin").unlink()
    first = min(f"{shard_name(patient)}.bin" for patient in lost)
    with pytest.raises(DataError, match=rf"2 shards .* are missing, the first is {first}; run `make cohort`"):
        VolumeSet.find(tiny_copy)
    build_cohort(CountingSource(), tiny_copy, CONTRACT, workers=1)
    assert sorted(LOADED) == lost
    repaired, whole = VolumeSet.find(tiny_copy), VolumeSet.find(tiny_root)
    for position in range(len(whole)):
        np.testing.assert_array_equal(repaired.read(position), whole.read(position))


@pytest.mark.slow
def test_a_shard_lost_while_a_run_reads_is_named_soon(tiny_copy: Path) -> None:
    volumes = VolumeSet.find(tiny_copy)
    volumes.read(0)
    shard = volumes.index.iloc[-1]["shard"]
    (volumes.folder / "shards" / shard).unlink()
    started = time.monotonic()
    with pytest.raises(DataError, match=rf"Shard {shard} of tiny/.* could not be read"):
        volumes.read(len(volumes) - 1)
    assert time.monotonic() - started < 20


def test_a_shard_that_the_disk_refuses_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    image = np.arange(8 * 12 * 12, dtype=np.int16).reshape(8, 12, 12)
    volumes = [Volume("study", f"series{number}", "left", "arterial", image) for number in range(4)]
    with _full_after(4096), pytest.raises(DataError, match=rf"Shard {shard_name('p')}\.bin of patient p could not be"):
        write_shard(tmp_path, "p", volumes, [], CONTRACT)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_table_that_the_disk_refuses_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "cohort.json"
    write_json(path, {"patients": 1})
    before = path.read_bytes()
    with _full_after(4096), pytest.raises(DataError, match=r"cohort\.json could not be written in .*: File too large"):
        write_json(path, {"patients": list(range(5000))})
    assert path.read_bytes() == before
    assert _leftovers(tmp_path) == []


@pytest.mark.slow
def test_an_import_onto_a_full_disk_stops_and_goes_on(
    tmp_path: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself refuses the twenty-first shard: it is opened on /dev/full."""
    root, opened = tmp_path / "tiny", []

    def device(path: str, mode: str = "r") -> Any:
        opened.extend([path] if path.endswith(".bin") else [])
        return open("/dev/full" if path.endswith(".bin") and len(opened) > 20 else path, mode)

    monkeypatch.setattr("litdata.streaming.writer.open", device, raising=False)
    with pytest.raises(DataError, match=r"Shard \w+\.bin of patient I1-008 could not be written: No space left on dev"):
        build_cohort(TinySource(), root, CONTRACT, workers=1)
    monkeypatch.undo()
    assert len(_finished(root)) == 20
    assert not (root / "cohort.json").exists()
    assert _leftovers(root) == []
    _, report = build_cohort(CountingSource(), root, CONTRACT, workers=1)
    assert len(LOADED) == 40
    assert report.counts == {"imported": 60, "skipped": 0, "failed": 0}
    _check_equal(root, tiny_root)


_ON_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from datamodules.importers.builder import build_cohort
from datamodules.errors import DataError
from tests.datamodules.volumes.test_damage import LOADED, CountingSource
from tests.tiny import CONTRACT, TinySource

if __name__ == "__main__":
    disk = Path(sys.argv[1])
    try:
        build_cohort(TinySource(), disk / "tiny", CONTRACT, workers=2)
    except DataError as error:
        print(error)
    kept = len(list(disk.glob("tiny/.build/*/*.json")))
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    _, report = build_cohort(CountingSource(), disk / "tiny", CONTRACT, workers=1)
    print("kept", kept, "redone", len(LOADED), "imported", report.counts["imported"])
"""


@pytest.mark.slow
def test_an_import_in_processes_onto_a_disk_of_its_own_that_is_full(tmp_path: Path) -> None:
    """A real file system of 600 kB, in a name space of this test's own."""
    disk, script = tmp_path / "disk", tmp_path / "build.py"
    disk.mkdir()
    script.write_text(_ON_A_SMALL_DISK)
    space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=600k tmpfs '{disk}'"
    if shutil.which("unshare") is None or subprocess.run([*space, mount], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no test mount a file system of its own")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*space, f"{mount} && '{sys.executable}' '{script}' '{disk}'"],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    refusal, tally = done.stdout.strip().splitlines()
    assert "could not be written" in refusal
    assert "No space left on device" in refusal
    _, kept, _, redone, _, imported = tally.split()
    assert 5 <= int(kept) <= 45
    assert int(kept) + int(redone) == int(imported) == 60


def _check_equal(root: Path, other: Path) -> None:
    one, two = VolumeSet.find(root).folder, VolumeSet.find(other).folder
    for path in sorted((two / "shards").iterdir()):
        assert (one / "shards" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_a_killed_import_goes_on_without_redoing_anyone(tiny_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    script = tmp_path / "build.py"
    script.write_text(
        "import sys, time; from pathlib import Path\n"
        "from datamodules.importers.builder import build_cohort; from tests.tiny import CONTRACT, TinySource\n"
        "build_cohort(TinySource(), Path(sys.argv[1]), CONTRACT, workers=1, progress=lambda *_: time.sleep(0.02))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script), str(root)], env=environment)
    deadline = time.monotonic() + 90
    while len(_finished(root)) < 10 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished = _finished(root)
    assert 10 <= len(finished) < 60
    build_cohort(CountingSource(), root, CONTRACT, workers=1)
    assert {shard_name(patient) for patient in LOADED} & finished == set()
    assert len(LOADED) == 60 - len(finished)
    _check_equal(root, tiny_root)


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_its_patient_alone(tmp_path: Path, tiny_root: Path) -> None:
    """As the system's memory killer does it, whenever the patient is read."""
    root = tmp_path / "tiny"
    _, report = build_cohort(DeadlySource(), root, CONTRACT, workers=2)
    assert report.counts == {"imported": 59, "skipped": 0, "failed": 1}
    (lost,) = report.rows[report.rows["status"] == "failed"].to_dict("records")
    assert lost["patient_id"] == DEADLY
    assert "worker process was ended twice" in lost["reason"]
    build_cohort(CountingSource(), root, CONTRACT, workers=1)
    assert LOADED == [DEADLY]
    _check_equal(root, tiny_root)


@pytest.mark.slow
def test_a_worker_that_is_killed_once_loses_nobody(tmp_path: Path, tiny_root: Path) -> None:
    _, report = build_cohort(DeadlySource(once=str(tmp_path / "killed")), tmp_path / "tiny", CONTRACT, workers=2)
    assert (tmp_path / "killed").exists()
    assert report.counts == {"imported": 60, "skipped": 0, "failed": 0}
    _check_equal(tmp_path / "tiny", tiny_root)


@pytest.mark.slow
def test_workers_that_never_live_end_the_import(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 worker processes ended one after another and nothing was finished"):
        build_cohort(DeadlySource(everyone=True), tmp_path / "tiny", CONTRACT, workers=2)


DEADLY = "I1-006"


@dataclass(frozen=True)
class DeadlySource(TinySource):
    """Kills the process that loads one patient, or any.

    Args:
        once: File that says that it was done; then it is not done again.
        everyone: Whether any patient is deadly.
    """

    once: str = ""
    everyone: bool = False

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        if (patient_id == DEADLY or self.everyone) and not (self.once and Path(self.once).exists()):
            Path(self.once or os.devnull).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(patient_id, contract)
