"""Processes of one machine that work off tasks side by side, each with a GPU or a share of the cores of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

import torch

from datamodules.processes import fresh_process
from experiments.runs.console import configure_output
from experiments.runs.tracking import store_environment

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
Environment = Mapping[str, str | None]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Died:
    """A process that ended in the middle of its task."""

    code: int | None

    @property
    def sentence(self) -> str:
        """What happened, and what to do."""
        if self.code is not None and self.code < 0:
            name = signal.Signals(-self.code).name
            return f"its process was ended by {name}, most often for want of memory; run it with fewer JOBS"
        return f"its process ended with code {self.code}; its own message, above, says why"


def environments(jobs: int) -> list[Environment]:
    """What each of several processes finds in its environment.

    GPUs are dealt in turn, by the names that `CUDA_VISIBLE_DEVICES` gives them where it is set; without one the cores
    are divided.

    Args:
        jobs: Number of processes.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = int(os.environ.get("OMP_NUM_THREADS") or cores)
    shared = dict.fromkeys(_THREADS, str(max(1, min(allowed, cores // jobs)))) | store_environment()
    found: list[Environment] = []
    for number in range(jobs):
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus and torch.cuda.is_available() else {}
        found.append({**shared, **gpu})
    return found


class Workers(Generic[Task, Outcome]):
    """Processes that stay, so that imports are paid once; one that dies is replaced and loses its own task only.

    Use it in a `with` block, which ends the processes.

    Args:
        work: What is done with a task; a function of a module, sent to the processes with what is bound to it. It
            returns what went wrong and does not raise it.
        environments: Environment of every process, on top of this one's; None takes a variable away.
    """

    def __init__(self, work: Callable[[Task], Outcome], environments: list[Environment]) -> None:
        self._work, self._environments = work, environments
        self._processes: list[tuple[SpawnProcess, Connection]] = []
        self._tasks: dict[int, Task] = {}

    def __enter__(self) -> Workers[Task, Outcome]:
        self._processes = [self._started(environment) for environment in self._environments]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for process, connection in self._processes:
            if kind is not None:
                process.terminate()
            connection.close()  # a process that waits for a task ends at that
        for process, _connection in self._processes:
            process.join()

    @property
    def idle(self) -> bool:
        """Whether a process has nothing to do."""
        return len(self._tasks) < len(self._processes)

    @property
    def busy(self) -> bool:
        """Whether a process has something to do."""
        return bool(self._tasks)

    def submit(self, task: Task) -> None:
        """Give a task to an idle process."""
        number = next(number for number in range(len(self._processes)) if number not in self._tasks)
        self._tasks[number] = task
        with suppress(OSError):  # it died while it was idle, which the next wait finds
            self._processes[number][1].send(task)

    def wait(self) -> list[tuple[Task, Outcome | Died]]:
        """Wait until at least one task is done, and give those that are."""
        ready = wait([self._processes[number][1] for number in self._tasks])
        found: list[tuple[Task, Outcome | Died]] = []
        for number in [number for number in self._tasks if self._processes[number][1] in ready]:
            process, connection = self._processes[number]
            outcome: Outcome | Died
            try:
                outcome = connection.recv()
            except (EOFError, OSError):
                process.join()
                outcome = Died(process.exitcode)
                self._processes[number] = self._started(self._environments[number])
            found.append((self._tasks.pop(number), outcome))
        return found

    def _started(self, environment: Environment) -> tuple[SpawnProcess, Connection]:
        ours, theirs = multiprocessing.Pipe()
        process = fresh_process(_serve, theirs, self._work)
        with _changed(environment):
            process.start()
        theirs.close()
        return process, ours


def _serve(connection: Connection, work: Callable[[Task], Outcome]) -> None:
    configure_output()
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(work(task))


@contextmanager
def _changed(environment: Environment) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    _set(environment)
    try:
        yield
    finally:
        _set(before)


def _set(environment: Environment) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
