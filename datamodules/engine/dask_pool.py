"""A Dask cluster as the place of work: one that is there, or one whose workers are jobs of SLURM."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from datamodules.engine.local import put
from datamodules.engine.pool import VARIABLE, Lost, Needs, Pool
from datamodules.engine.tries import Tries
from datamodules.errors import DataError

CONNECT_S = 30
LOOK_S = 1.0
"""How often is looked whether workers came or went."""
_PAUSE_S = 0.2
_GPU = "GPU"
"""How Dask calls this resource: `dask worker tcp://... --resources GPU=1`."""
_INSTALL = "ENGINE={name} needs Dask; run `pip install 'renal-vlm-suite[cluster]'`."


@contextmanager
def dask_pool(name: str, work: Callable[[Any], Any], workers: int, needs: Needs) -> Iterator[Pool]:
    """A pool of the processes of a Dask cluster.

    The suite deals the tasks and tries one again whose process was killed; Dask reaches and watches the workers.

    Args:
        name: `dask://HOST:PORT`, or `slurm` for workers that are jobs of the cluster this machine belongs to.
        work: As of `open_pool`; the suite must be installed where the workers run.
        workers: Jobs that SLURM is asked for.
        needs: What a task needs; the number of threads is the workers' own.

    Raises:
        DataError: if Dask is not installed, the scheduler does not answer, or its address is open to a network.
    """
    try:
        import dask
        from distributed import Client
    except ModuleNotFoundError as error:
        raise DataError(_INSTALL.format(name=name)) from error
    # It shows a trace of every worker that dies, which is told in a sentence where it matters.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.comm.retry.count": 3}))
        try:
            if name == "slurm":
                client = stack.enter_context(Client(stack.enter_context(_slurm(workers, needs))))
            else:
                client = stack.enter_context(Client(_address(name), timeout=CONNECT_S))
        except (OSError, TimeoutError) as error:
            raise DataError(
                f"ENGINE={name}: no scheduler answered within {CONNECT_S} s ({type(error).__name__}). Start one with "
                "`dask scheduler`, and `dask worker` on every machine."
            ) from error
        # The number is the scheduler's own; one that was started by hand tries four times, wherever there is room.
        client.run_on_scheduler(_give_up_at_once)
        yield _Cluster(client, work, needs)


def _give_up_at_once(dask_scheduler: Any) -> None:
    dask_scheduler.allowed_failures = 0


def _address(name: str) -> str:
    """The scheduler's address: plain on this machine, encrypted and with certificates beyond it.

    Whoever reaches an open scheduler runs code with the rights of its workers, and reads what is sent: pseudonyms' keys
    and patients' tables among it.
    """
    import dask

    found = urlsplit(name)
    host, port = found.hostname, found.port or 8786
    if not host:
        raise DataError(f"ENGINE={name} was asked for; expected dask://HOST:PORT.")
    if _is_loopback(host):
        return f"tcp://{host}:{port}"
    if not dask.config.get("distributed.comm.tls.ca-file", None):
        raise DataError(
            f"ENGINE={name} names a scheduler beyond this machine, and Dask has no certificates here "
            "(distributed.comm.tls); expected them, since patients' data and keys are sent. See Dask's page on TLS, or "
            "open a tunnel and name localhost."
        )
    return f"tls://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _slurm(workers: int, needs: Needs) -> Any:
    """Workers as jobs of SLURM, a process each; partition, account, memory and time as Dask's configuration says.

    They end with this process, or a minute after it where it is killed.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError as error:
        raise DataError(_INSTALL.format(name="slurm")) from error
    import dask

    set_by_user = {key: dask.config.get(f"jobqueue.slurm.{key}", None) for key in ("cores", "memory")}
    options: dict[str, Any] = {
        "cores": set_by_user["cores"] or 1,
        "memory": set_by_user["memory"] or "8GB",
        "processes": 1,
        "n_workers": workers,
        # Certificates of this run alone, which its jobs read from the folder where it was started.
        "security": True,
        "protocol": "tls://",
        "shared_temp_directory": os.getcwd(),
        "scheduler_options": {"dashboard_address": None},
        "log_directory": "slurm-workers",
    }
    if needs.gpu:
        options["job_extra_directives"] = ["--gpus=1"]
        options["worker_extra_args"] = ["--resources", f"{_GPU}=1"]
    try:
        return SLURMCluster(**options)
    except RuntimeError as error:  # with the call of sbatch and its answer
        said = str(error).strip().splitlines()[-1]
        raise DataError(
            f"ENGINE=slurm: no job was taken ({said}). Cores, memory, partition, account and time are those of "
            "jobqueue.slurm in Dask's configuration (~/.config/dask/jobqueue.yaml)."
        ) from error


@dataclass(frozen=True)
class _Given:
    """A task and the worker that has it."""

    task: Any
    worker: str


class _Cluster(Tries):
    """The workers of a cluster, each with as many tasks as it has threads, or GPUs where these are asked for.

    Tasks are tied to a worker: Dask itself gives a worker several at once and, where it dies, counts its death against
    all of them.
    """

    def __init__(self, client: Any, work: Callable[[Any], Any], needs: Needs) -> None:
        self._client, self._needs = client, needs
        self._name, self._work = uuid.uuid4().hex, work
        self._given: dict[Any, _Given] = {}
        self._slots: dict[str, int] = {}
        self._began: dict[str, str] = {}
        self._ready: dict[str, str] = {}
        self._looked = -LOOK_S

    def _busy(self) -> bool:
        return bool(self._given)

    def _free(self) -> str | None:
        """A worker that has room for a task."""
        if time.monotonic() - self._looked > LOOK_S:
            self._look()
        taken = Counter(given.worker for given in self._given.values())
        for worker, slots in self._slots.items():
            if taken[worker] < slots and self._prepared(worker):
                return worker
        return None

    def _look(self) -> None:
        """See which workers are there; a task of one that left in peace, as at its time limit, goes to another one."""
        found = self._client.run_on_scheduler(_workers)
        offered = {worker: gpus for worker, (_, gpus, _) in found.items() if gpus}
        with_gpu = self._needs.gpu and offered
        self._slots = offered if with_gpu else {worker: threads for worker, (threads, _, _) in found.items()}
        self._began = {worker: process for worker, (_, _, process) in found.items()}
        self._looked = time.monotonic()

    def _prepared(self, worker: str) -> bool:
        """Send the work to a worker once, and again where a fresh one took over its address; whether it is there."""
        if self._ready.get(worker) != self._began[worker]:
            try:
                self._client.run(_keep, self._name, self._work, self._needs, os.getcwd(), workers=[worker])
            except OSError:  # it died a moment ago
                self._slots = {name: slots for name, slots in self._slots.items() if name != worker}
                return False
            self._ready[worker] = self._began[worker]
        return True

    def _give(self, task: Any) -> bool:
        worker = self._free()
        if worker is None:
            return False
        future = self._client.submit(
            _apply, self._name, task, pure=False, workers=[worker], key=f"task-{uuid.uuid4().hex}"
        )
        self._given[future] = _Given(task, worker)
        return True

    def _wait(self) -> list[tuple[Any, Any]]:
        from distributed import CancelledError, KilledWorker, wait
        from distributed.comm import CommClosedError

        if not self._given:
            time.sleep(_PAUSE_S)  # no worker is there yet
            return []
        try:
            with suppress(TimeoutError):
                wait(list(self._given), timeout=LOOK_S, return_when="FIRST_COMPLETED")
            ready = [future for future in self._given if future.done()]
            found = []
            for future in ready:
                given = self._given.pop(future)
                try:
                    outcome = future.result()
                except KilledWorker:
                    self._looked = -LOOK_S
                    outcome = Lost("ended")
                future.release()
                found.append((given.task, outcome))
            if not ready:
                self._move()
        except (CommClosedError, CancelledError, OSError) as error:
            if isinstance(error, OSError) and self._client.status == "running":
                raise  # of the work itself, such as a disk that is full
            raise DataError(
                f"The Dask scheduler is gone ({type(error).__name__}); start it again, then run the same command, "
                "which keeps what is finished."
            ) from error
        return found

    def _move(self) -> None:
        """Give the tasks of workers that left in peace, as at the time limit of their job, to others."""
        self._look()
        for future, given in list(self._given.items()):
            if given.worker not in self._slots and self._give(given.task):
                future.cancel()
                del self._given[future]


def _workers(dask_scheduler: Any) -> dict[str, tuple[int, int, str]]:
    """Threads, GPUs and process of every worker that takes tasks, by its address."""
    return {
        worker.address: (worker.nthreads, int(worker.resources.get(_GPU, 0)), worker.server_id)
        for worker in dask_scheduler.workers.values()
        if worker.status.name == "running"
    }


_KEPT: dict[str, Callable[[Any], Any]] = {}
"""What this process, a worker, does with the tasks of a pool."""


def _keep(name: str, work: Callable[[Any], Any], needs: Needs, folder: str) -> None:
    try:
        os.chdir(folder)  # relative paths are those of the command
    except OSError as error:
        raise DataError(
            f"The folder where the command was started is not on worker {socket.gethostname()} ({error.strerror}); "
            "expected a disk that all workers see, under one path."
        ) from error
    put({VARIABLE: "local", **needs.environment})
    if needs.begin is not None:
        needs.begin()
    _KEPT.clear()  # what an earlier command left
    _KEPT[name] = work


def _apply(name: str, task: Any) -> Any:
    work = _KEPT.get(name)
    if work is None:
        raise DataError(
            f"A worker on {socket.gethostname()} was given to another command meanwhile; expected a Dask cluster that "
            "works for one command at a time. Run this one again when the other is done; what is finished is kept."
        )
    return work(task)
