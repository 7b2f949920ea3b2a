"""What a user reads while a command runs: our own sentences, without the libraries' chatter."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import InvalidStateError
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from callbacks.progress import EVERY_S
from lightning_modules.core.distributed import is_main_rank

logger = logging.getLogger("renal_suite")

# Each of these is about a library's own code or about a choice that the suite makes on purpose.
_EXPECTED = (
    ".*args parameter is intended to run from within Python.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*torch.jit.script_method.*",
    ".*JsonargparseDeprecationWarning.*",
    ".*instantiate_classes.* was deprecated.*",
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # metrics are gathered over ranks before
    ".*all_gather_into_tensor` is deprecated.*",
)
_CHATTY = {
    **dict.fromkeys(("lightning.pytorch", "lightning.fabric", "alembic", "mlflow", "torchio"), logging.WARNING),
    # It prints the trace of an error of the store, which is told in a sentence by whoever asked the store.
    "mlflow.store.db.utils": logging.CRITICAL,
    # On some CPUs it warns at import that a faster kernel for 4 bits is not installed, also where nothing has 4 bits.
    "bitsandbytes.backends.cpu.ops": logging.ERROR,
}
"""Loggers of libraries, and the level from which they are shown."""


@rank_zero_only
def say(text: str) -> None:
    """Print a sentence, on rank 0 only."""
    logger.info(text)


def progress_bar(console: Console | None = None) -> Progress:
    """A bar for work of known length: what is done, of how many, for how long, and how long it will still take.

    Where there is no terminal, as in the log of a cluster, a line says so every half minute, and the bar stands at the
    end.
    """
    return _Spoken(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


class _Spoken(Progress):
    """A bar that says in lines what it cannot draw."""

    def __init__(self, *columns: ProgressColumn, console: Console | None = None) -> None:
        super().__init__(*columns, console=console)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Move a task on, and speak where half a minute has passed."""
        super().update(task_id, **fields)
        drawn = self.console.is_terminal or self.console.is_jupyter
        if self.disable or drawn or time.monotonic() - self._said < EVERY_S:
            return
        self._said, task = time.monotonic(), self._tasks[task_id]
        total = "?" if task.total is None else f"{task.total:.0f}"
        left = "" if task.time_remaining is None else f", about {timedelta(seconds=round(task.time_remaining))} left"
        say(f"{task.description}: {task.completed:.0f}/{total}{left}")

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Move a task on by some parts."""
        self.update(task_id, advance=advance)


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that reports how many parts are done, of how many; drawn on rank 0 only.

    Args:
        what: What is counted.

    Yields:
        A function of the number done and the number of all.
    """
    with progress_bar() as bar:
        bar.disable = not is_main_rank()

        def show(done: int, total: int) -> None:
            # Made at the first report, so that nothing is drawn where nothing is left to do.
            task = bar.task_ids[0] if bar.task_ids else bar.add_task(what, total=total)
            bar.update(task, completed=done)

        yield show


def configure_output() -> None:
    """Send the suite's messages to standard output as plain text and quieten the libraries."""
    if not logger.handlers:
        logger.addHandler(_CurrentStdout())
        logger.setLevel(logging.INFO)
        logger.propagate = False
    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)
    threading.excepthook = _thread_failed
    for message in _EXPECTED:
        warnings.filterwarnings("ignore", message=message)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Print the trace of a thread, but for one that a defect of Python 3.11 prints.

    Where a command is ended together with its workers, the thread that watches over them trips over the tasks that
    the command withdrew.
    """
    if failure.exc_type is not InvalidStateError:
        threading.__excepthook__(failure)


class _CurrentStdout(logging.Handler):
    """Writes to whatever `sys.stdout` is now, so that a captured stream captures it."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(self.format(record) + "\n")
        sys.stdout.flush()
