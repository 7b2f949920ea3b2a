"""What every fan-out of the suite goes through: a pool that works off tasks, and the choice of where."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from datamodules.errors import DataError

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")

VARIABLE = "RENAL_ENGINE"
"""Environment variable that names the engine; ENGINE= of a command sets it."""
_FORMS = "local, dask://HOST:PORT or slurm"


@dataclass(frozen=True)
class Lost:
    """A task that ended two processes, the first of them and the one that tried it again.

    Args:
        cause: What ended the process, as `ended by SIGKILL`.
    """

    cause: str

    @property
    def sentence(self) -> str:
        """What happened, and what to do."""
        return (
            f"its process was {self.cause}, and so was the next one that tried it, most often for want of memory; run "
            "it with fewer processes at a time (WORKERS, JOBS), or where there is more memory"
        )


@dataclass(frozen=True)
class Needs:
    """What a task needs of the process that works on it.

    Args:
        gpu: Whether it uses a GPU where there is one: each process then has one of its own, as far as they go.
        one_thread: Whether it computes in one thread, however many cores there are for each process.
        environment: Variables of its environment; None takes one away.
        begin: Called once in every process, before its first task.
    """

    gpu: bool = False
    one_thread: bool = False
    environment: Mapping[str, str | None] = field(default_factory=dict)
    begin: Callable[[], object] | None = None


class Pool(Protocol):
    """Processes that work off tasks."""

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Work off tasks, in any order.

        A process that is killed loses its own task only, which is tried once more.

        Yields:
            Each task once with its outcome, or with `Lost` where it ended two processes.

        Raises:
            DataError: if the processes end one after another, or the engine is gone.
            Exception: what the work raised; the other tasks are given up.
        """
        ...


class _Here:
    """This process in the place of several."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            yield task, self._work(task)


def default_workers() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_engine() -> str:
    """The engine that ENGINE= names; `local` where it names none.

    Raises:
        DataError: if there is no such engine.
    """
    name = os.environ.get(VARIABLE) or "local"
    if name not in ("local", "slurm") and not name.startswith("dask://"):
        raise DataError(f"ENGINE={name[:80]} was asked for; expected {_FORMS}.")
    return name


def in_this_process(workers: int) -> bool:
    """Whether `open_pool` does the work in this very process: one is asked for, and ENGINE= names no other place.

    Raises:
        DataError: if there is no such engine.
    """
    return workers <= 1 and chosen_engine() == "local"


def open_pool(
    work: Callable[[Task], Outcome], workers: int, needs: Needs | None = None, *, local: bool = False
) -> AbstractContextManager[Pool]:
    """Processes that do some work, in a `with` block that ends them.

    Args:
        work: What is done with a task; a function of a module, or such a one with what is bound to it. It is sent to
            every process once, each task and outcome by itself.
        workers: Most processes of this machine; 1 stands for this very process. On an engine of its own, the jobs that
            SLURM is asked for; a Dask cluster has as many as were started.
        needs: What a task needs.
        local: Whether the work belongs to this machine, whatever ENGINE= names.

    Raises:
        DataError: if ENGINE= names no engine, or one that is not installed or does not answer.
    """
    name = "local" if local else chosen_engine()
    needs = needs or Needs()
    if name != "local":
        from datamodules.engine.dask_pool import dask_pool

        return dask_pool(name, work, workers, needs)
    if workers <= 1:
        return _here(work)
    from datamodules.engine.local import Processes

    return Processes(work, workers, needs)


@contextmanager
def _here(work: Callable[[Any], Any]) -> Iterator[Pool]:
    yield _Here(work)
