"""No process outlives the one that started it, even when that is killed in the midst of its work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from datamodules import processes
from datamodules.importers.records import PatientRecord
from datamodules.volumes.contract import PreprocessingContract
from tests.tiny import TinySource

ROOT = Path(__file__).parents[2]
GONE_S = 5.0


@dataclass(frozen=True)
class EndlessSource(TinySource):
    """A source whose patients take for ever to read."""

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        sleep(600.0)
        return super().load(patient_id, contract)


def sleep(seconds: float) -> float:
    (Path(os.environ["AT_WORK"]) / str(os.getpid())).touch()
    time.sleep(seconds)
    return seconds


IMPORT = """
from pathlib import Path
from datamodules.importers.builder import build_cohort
from tests.datamodules.test_processes import EndlessSource
from tests.tiny import CONTRACT
build_cohort(EndlessSource(), Path({folder!r}), CONTRACT, workers=2)
"""
IDLE_POOL = """
import time
from datamodules.engine import open_pool
from tests.datamodules.test_processes import sleep
with open_pool(sleep, 2) as pool:
    list(pool.run([3.0, 3.0]))
    time.sleep(600)
"""
CURVE = """
from datamodules.engine import Needs, open_pool
from experiments.runs.console import configure_output
from tests.datamodules.test_processes import sleep
with open_pool(sleep, 2, Needs(gpu=True, begin=configure_output)) as pool:
    list(pool.run([600.0, 600.0]))
"""


@pytest.fixture
def started() -> Iterator[list[psutil.Process]]:
    everything: list[psutil.Process] = []
    yield everything
    for process in everything:
        if process.is_running():
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("script", [IMPORT, IDLE_POOL, CURVE], ids=["import", "idle pool", "curve"])
def test_workers_end_with_a_killed_parent(script: str, tmp_path: Path, started: list[psutil.Process]) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "if __name__ == '__main__':\n" + script.format(folder=str(tmp_path / "cohort")).replace("\n", "\n    ")
    )
    at_work = tmp_path / "at_work"
    at_work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "AT_WORK": str(at_work)}
    parent = psutil.Process(subprocess.Popen([sys.executable, str(program)], cwd=ROOT, env=environment).pid)
    started.append(parent)
    deadline = time.monotonic() + 90
    while len(list(at_work.iterdir())) < 2:
        assert parent.is_running()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = [psutil.Process(int(path.name)) for path in at_work.iterdir()]
    started += workers
    assert {worker.ppid() for worker in workers} == {parent.pid}
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=GONE_S)
    assert alive == []


SLOW_IMPORT = """
import os, time
from pathlib import Path
place = Path(os.environ["AT_WORK"])
(place / str(os.getpid())).touch()
if os.environ.get("READER") != str(os.getpid()):
    time.sleep(600)
def work():
    pass
"""
READER = """
import os
os.environ["READER"] = str(os.getpid())
from slow_import import work
from datamodules.processes import fresh_process
fresh_process(work).start()
"""


@pytest.mark.slow
def test_a_worker_that_still_imports_its_work_ends_with_a_killed_parent(
    tmp_path: Path, started: list[psutil.Process]
) -> None:
    (tmp_path / "slow_import.py").write_text(SLOW_IMPORT)
    script = READER.replace("\n", "\n    ")
    (tmp_path / "program.py").write_text(f"if __name__ == '__main__':\n{script}\n")
    at_work = tmp_path / "at_work"
    at_work.mkdir()
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    environment = {**os.environ, "PYTHONPATH": path, "AT_WORK": str(at_work)}
    parent = psutil.Process(
        subprocess.Popen([sys.executable, str(tmp_path / "program.py")], cwd=tmp_path, env=environment).pid
    )
    started.append(parent)
    deadline = time.monotonic() + 60
    while len(list(at_work.iterdir())) < 2:  # the parent imports it, too
        assert parent.is_running()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (worker,) = (psutil.Process(int(path.name)) for path in at_work.iterdir() if int(path.name) != parent.pid)
    started.append(worker)
    parent.kill()
    parent.wait()
    assert psutil.wait_procs([worker], timeout=GONE_S)[1] == []


@pytest.mark.slow
def test_without_the_kernels_help_a_thread_looks(started: list[psutil.Process]) -> None:
    """As on macOS: the child's child is told of its parent's death by looking."""
    script = (
        "import os, sys, time\n"
        "from datamodules import processes\n"
        "processes.sys = type('Other', (), {'platform': 'darwin'})\n"
        "if os.fork() == 0:\n"
        "    processes.end_with_parent()\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    started += [child, psutil.Process(parent.pid)]
    parent.kill()
    parent.wait()
    assert psutil.wait_procs([child], timeout=GONE_S)[1] == []


def test_every_process_is_started_in_one_place() -> None:
    own = Path(processes.__file__)
    bare = re.compile(r"ProcessPoolExecutor\(|\.Process\(|\.Pool\(|os\.fork\(|Popen\(")
    found = [
        path.relative_to(ROOT).as_posix()
        for room in ("datamodules", "lightning_modules", "callbacks", "experiments")
        for path in (ROOT / room).rglob("*.py")
        if path != own and bare.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.slow
def test_a_waiting_worker_that_is_interrupted_prints_no_trace() -> None:
    script = (
        "import os, signal, time\n"
        "from datamodules.engine import Needs\n"
        "from datamodules.engine.local import Processes\n"
        "from tests.datamodules.engine.tasks import own_pid\n"
        "with Processes(own_pid, 1, Needs()) as pool:\n"
        "    (_, worker), = pool.run([0])\n"
        "    time.sleep(0.5)\n"
        "    os.kill(worker, signal.SIGINT)\n"
        "    time.sleep(1.5)\n"
    )
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
