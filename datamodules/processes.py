"""Processes that this one starts: fresh ones, which end when it does, however it ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

_PR_SET_PDEATHSIG = 1
"""`prctl`'s request for a signal at the death of the parent, see prctl(2)."""
_LOOK_S = 1.0


def fresh_process(target: Callable[..., object], *arguments: Any) -> SpawnProcess:
    """A fresh process, not started yet, that calls a function and ends with this one."""
    return multiprocessing.get_context("spawn").Process(target=_call, args=(_Read(), target, arguments))


class _Read:
    """Has the process that reads it end with its parent, before it reads what it is to call.

    To read a function is to import its module, which takes seconds, on a busy machine many; a parent that was killed
    meanwhile would not be missed.
    """

    def __reduce__(self) -> tuple[Callable[[], _Read], tuple[()]]:
        return _read, ()


def _read() -> _Read:
    end_with_parent()
    return _Read()


def end_with_parent() -> None:
    """Have this process end as soon as the one that started it is gone.

    On Linux the kernel ends it, also in the midst of a computation; it counts as the parent the thread that started
    this process, so that processes are started from the main thread. Elsewhere a thread looks every second.
    """
    started_by = multiprocessing.parent_process()
    parent = os.getppid() if started_by is None else started_by.pid
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0:
        if os.getppid() != parent:  # it was gone before it was asked for
            os._exit(1)
        return
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int | None) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def _call(_: _Read, target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    target(*arguments)
