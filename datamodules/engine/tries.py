"""How often a task is tried, and when: the same wherever processes are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from datamodules.engine.pool import Lost
from datamodules.errors import DataError

_NOBODY = 3
"""Processes that may end one after another before any task was finished."""


class Tries(ABC):
    """A pool whose processes have one task each at a time.

    A task whose process died is tried again when all others are done, alone: what two tasks together had no memory for
    may go by itself.
    """

    @abstractmethod
    def _busy(self) -> bool:
        """Whether a process has something to do."""

    @abstractmethod
    def _give(self, task: Any) -> bool:
        """Give a task to a process that has nothing to do; whether there was one."""

    @abstractmethod
    def _wait(self) -> list[tuple[Any, Any]]:
        """Wait for outcomes, and give those that are there; `Lost` where the process ended."""

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """As of `Pool`."""
        waiting, alone = deque(tasks), deque[Any]()
        deaths, finished, again = 0, False, False
        while waiting or alone or self._busy():
            while waiting and self._give(waiting[0]):
                waiting.popleft()
            if alone and not waiting and not self._busy() and self._give(alone[0]):
                alone.popleft()
                again = True
            for task, outcome in self._wait():
                if not isinstance(outcome, Lost):
                    finished = True
                    yield task, outcome
                    continue
                deaths += 1
                if deaths >= _NOBODY and not finished:
                    raise DataError(
                        f"{deaths} worker processes ended one after another and nothing was finished; the last was "
                        f"{outcome.cause}. Free memory, or ask for fewer processes (WORKERS, JOBS)."
                    )
                if again:
                    yield task, outcome
                else:
                    alone.append(task)
