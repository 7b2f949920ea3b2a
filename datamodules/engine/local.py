"""Processes of this machine that work off tasks side by side, each with a GPU or a share of the cores of its own."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from datamodules.engine.pool import Lost, Needs, default_workers
from datamodules.engine.tries import Tries
from datamodules.processes import fresh_process

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def environments(workers: int, needs: Needs) -> list[Mapping[str, str | None]]:
    """What each of several processes finds in its environment.

    GPUs are dealt in turn, by the names that `CUDA_VISIBLE_DEVICES` gives them where it is set; the cores are divided.

    Args:
        workers: Number of processes.
        needs: What their tasks need.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    cores = default_workers()
    allowed = int(os.environ.get("OMP_NUM_THREADS") or cores)
    threads = 1 if needs.one_thread else max(1, min(allowed, cores // workers))
    shared = {**dict.fromkeys(_THREADS, str(threads)), **needs.environment}
    if not (needs.gpu and gpus and torch.cuda.is_available()):
        return [shared] * workers
    return [{**shared, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(workers)]


class Processes(Tries):
    """Processes that stay, so that imports are paid once; one that dies is replaced and loses its own task only.

    Processes end with the `with` block, and with the process that started them.

    Args:
        work: As of `open_pool`.
        workers: Most processes.
        needs: What a task needs.
    """

    def __init__(self, work: Callable[[Any], Any], workers: int, needs: Needs) -> None:
        self._work, self._needs = work, needs
        self._environments = environments(workers, needs)
        self._processes: dict[int, tuple[SpawnProcess, Connection]] = {}
        self._tasks: dict[int, Any] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for process, connection in self._processes.values():
            if kind is not None or self._tasks:  # also where nobody asked for all outcomes
                process.terminate()
            connection.close()  # a process that waits for a task ends at that
        for process, _connection in self._processes.values():
            process.join()

    def _busy(self) -> bool:
        return bool(self._tasks)

    def _give(self, task: Any) -> bool:
        number = next((number for number in range(len(self._environments)) if number not in self._tasks), None)
        if number is None:
            return False
        if number not in self._processes:
            self._processes[number] = self._started(self._environments[number])
        self._tasks[number] = task
        with suppress(OSError):  # it died while it was idle, which the next wait finds
            self._processes[number][1].send(task)
        return True

    def _wait(self) -> list[tuple[Any, Any]]:
        ready = wait([self._processes[number][1] for number in self._tasks])
        found: list[tuple[Any, Any]] = []
        for number in [number for number in self._tasks if self._processes[number][1] in ready]:
            process, connection = self._processes[number]
            try:
                outcome, error = connection.recv()
            except (EOFError, OSError):
                process.join()
                del self._processes[number]
                outcome, error = Lost(_ending(process.exitcode)), None
            if error is not None:
                raise error
            found.append((self._tasks.pop(number), outcome))
        return found

    def _started(self, environment: Mapping[str, str | None]) -> tuple[SpawnProcess, Connection]:
        ours, theirs = multiprocessing.Pipe()
        process = fresh_process(_serve, theirs, self._work, self._needs.begin)
        with changed(environment):
            process.start()
        theirs.close()
        return process, ours


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _serve(connection: Connection, work: Callable[[Any], Any], begin: Callable[[], object] | None) -> None:
    # An interruption ends a worker as a termination does. One that waits for its next task would print a trace.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if begin is not None:
        begin()
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[Any, Exception | None] = (work(task), None)
        except Exception as error:
            answer = (None, _told(error))
        connection.send(answer)


def _told(error: Exception) -> Exception:
    """An error that can be sent, with its trace as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        copy.copy(error)  # made anew from its arguments, as on the other side
    except Exception:  # errors of libraries may take other arguments than they keep
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def changed(environment: Mapping[str, str | None]) -> Iterator[None]:
    """Other variables in the environment of this process, for as long as the block lasts."""
    before = {name: os.environ.get(name) for name in environment}
    put(environment)
    try:
        yield
    finally:
        put(before)


def put(environment: Mapping[str, str | None]) -> None:
    """Set variables of the environment; None takes one away."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
