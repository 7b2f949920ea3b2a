"""Every engine does the same: each task once, one that loses its process again, one that ends two processes not."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datamodules.engine import Lost, Needs, open_pool
from datamodules.engine import local as local_module
from datamodules.engine.local import environments
from datamodules.engine.pool import VARIABLE, chosen_engine
from datamodules.errors import DataError
from tests.datamodules.engine.tasks import Counted, own_pid

ROOT = Path(__file__).parents[3]


@contextmanager
def _cluster(folder: Path, workers: int, *flags: str) -> Iterator[str]:
    """A Dask scheduler with workers, started as a user does it; its address."""
    pytest.importorskip("distributed", reason="Dask is an extra: renal-vlm-suite[cluster]")
    place = folder / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    begin = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", f"--scheduler-file={place}"]
    started = [subprocess.Popen([*begin, "--host=127.0.0.1", "--port=0"], cwd=folder, env=environment)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", f"--scheduler-file={place}"]
    worker += ["--nthreads=1", f"--nworkers={workers}", f"--local-directory={folder}", *flags]
    started.append(subprocess.Popen(worker, cwd=folder, env=environment))
    deadline = time.monotonic() + 60
    try:
        while not place.is_file():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        from distributed import Client

        with Client(scheduler_file=str(place)) as client:
            client.wait_for_workers(workers, timeout=60)
            address = str(client.scheduler.address).replace("tcp://", "dask://")
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with _cluster(tmp_path_factory.mktemp("dask"), 2) as address:
        yield address


@pytest.fixture(params=["local", "dask"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = "local" if request.param == "local" else request.getfixturevalue("scheduler")
    monkeypatch.setenv(VARIABLE, name)
    return name


@pytest.mark.slow
def test_every_task_is_done_once_whoever_dies(engine: str, tmp_path: Path) -> None:
    work = Counted(tmp_path, once=(3, 11), always=(7,), seconds=0.05)
    with open_pool(work, 2) as pool:
        found = list(pool.run(range(16)))
    assert sorted(number for number, _ in found) == list(range(16))
    lost = {number: outcome for number, outcome in found if isinstance(outcome, Lost)}
    assert set(lost) == {7}
    assert "and so was the next one" in lost[7].sentence
    assert {number: outcome for number, outcome in found if number != 7} == {n: n * n for n in range(16) if n != 7}
    done = work.done()
    # A finished task whose answer was on its way when its process died may be done once more, never be lost.
    assert set(done) == set(range(16)) - {7}
    assert len(done) == 15


@pytest.mark.slow
def test_what_a_task_raises_comes_back_as_it_is(engine: str, tmp_path: Path) -> None:
    with open_pool(Counted(tmp_path, refused=2), 2) as pool, pytest.raises(DataError, match="number 2 was found"):
        list(pool.run(range(6)))


@pytest.mark.slow
def test_processes_that_all_die_end_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    work = Counted(tmp_path, always=tuple(range(50)))
    with open_pool(work, 2) as pool, pytest.raises(DataError, match="3 worker processes ended one after another"):
        list(pool.run(range(50)))
    assert len(list(tmp_path.glob("tried-*"))) < 6


@pytest.mark.slow
def test_a_task_that_lost_its_process_is_tried_again_alone(tmp_path: Path) -> None:
    """Two that had no memory beside each other may go one after the other."""
    work = Counted(tmp_path, once=(0,), seconds=0.3)
    with local_module.Processes(work, 2, Needs()) as pool:
        assert [number for number, _ in pool.run(range(5))][-1] == 0


@pytest.mark.slow
def test_a_run_that_is_left_early_leaves_no_process(tmp_path: Path) -> None:
    with local_module.Processes(Counted(tmp_path, seconds=0.2), 2, Needs()) as pool:
        next(pool.run(range(100)))
    assert not multiprocessing.active_children()
    assert len(Counted(tmp_path).done()) < 6


def test_one_process_is_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with open_pool(own_pid, 1) as pool:
        assert list(pool.run(["a"])) == [("a", os.getpid())]


def test_devices_are_dealt_to_who_asks_and_cores_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local_module, "default_workers", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local_module.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(local_module.torch.cuda, "device_count", lambda: 0)
    found = environments(3, Needs(gpu=True))
    assert [entry["OMP_NUM_THREADS"] for entry in found] == ["2"] * 3
    assert not any("CUDA_VISIBLE_DEVICES" in entry for entry in found)
    assert environments(3, Needs(one_thread=True))[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setattr(local_module.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(local_module.torch.cuda, "device_count", lambda: 2)
    assert [entry["CUDA_VISIBLE_DEVICES"] for entry in environments(3, Needs(gpu=True))] == ["0", "1", "0"]
    assert not any("CUDA_VISIBLE_DEVICES" in entry for entry in environments(3, Needs()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-1a")
    assert [entry["CUDA_VISIBLE_DEVICES"] for entry in environments(2, Needs(gpu=True))] == ["5", "GPU-1a"]


@pytest.mark.parametrize("name", ["ray://head:10001", "dask", "tcp://here:1"])
def test_an_unknown_engine_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(DataError, match="expected local, dask://HOST:PORT or slurm"):
        chosen_engine()


def test_a_scheduler_on_a_network_needs_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="Dask is an extra: renal-vlm-suite[cluster]")
    monkeypatch.setenv(VARIABLE, "dask://192.0.2.1:8786")
    with pytest.raises(DataError, match="has no certificates"), open_pool(own_pid, 2):
        pass


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="Dask is an extra: renal-vlm-suite[cluster]")
    from datamodules.engine import dask_pool

    monkeypatch.setattr(dask_pool, "CONNECT_S", 1)
    monkeypatch.setenv(VARIABLE, "dask://127.0.0.1:9")
    with pytest.raises(DataError, match="no scheduler answered within 1 s"), open_pool(own_pid, 2):
        pass


@pytest.mark.slow
def test_a_folder_that_workers_do_not_see_is_told(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, scheduler)
    monkeypatch.setattr(os, "getcwd", lambda: "/not/on/this/worker")
    with open_pool(own_pid, 2) as pool, pytest.raises(DataError, match="expected a disk that all workers see"):
        list(pool.run(range(2)))


@pytest.mark.slow
def test_a_worker_that_comes_back_at_its_address_has_the_work_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a firewall workers have ports of their own, which a fresh process takes over from one that was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with _cluster(tmp_path, 1, f"--worker-port={port}") as address:
        monkeypatch.setenv(VARIABLE, address)
        (tmp_path / "work").mkdir()
        with open_pool(Counted(tmp_path / "work", once=(1,)), 1) as pool:
            assert sorted(pool.run(range(4))) == [(number, number * number) for number in range(4)]


@pytest.mark.slow
def test_a_worker_that_another_command_took_is_told(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, scheduler)
    with open_pool(own_pid, 2) as first, open_pool(own_pid, 2) as second:
        assert len(list(first.run(range(4)))) == 4
        assert len(list(second.run(range(4)))) == 4
        with pytest.raises(DataError, match="works for one command at a time"):
            list(first.run(range(4)))
