"""How a command ends when it is asked to: at once, with every block closed, and an exit code that says so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from callbacks.requeue import requeue_asked

TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT


class Terminated(SystemExit):
    """Ends a process that got SIGTERM, with the exit code that a shell gives for it."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def _end(number: int, frame: FrameType | None) -> None:
    if not requeue_asked():  # SLURM ends a job that was queued again; it is on its way out
        raise Terminated


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM for a block, in the place of an end without a word and without clearing up."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_at_once() -> None:
    """Take SIGTERM back from Lightning while a model is trained.

    Lightning's handler waits for the end of a batch, then ends with exit code 0, and broadcasts from within the
    signal, while the other ranks may be in another collective. Does nothing where the command does not end on SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    composed = signal.getsignal(signal.SIGTERM)
    if _end in getattr(composed, "signal_handlers", ()):
        signal.signal(signal.SIGTERM, _end)


def chain(error: BaseException) -> list[BaseException]:
    """An error and what it came from, in that order."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None and cause not in found:
        found.append(cause)
    return found


@contextmanager
def goes_on_from(*checkpoints: Path) -> Iterator[None]:
    """Have an interruption of a block say from where the same command will go on.

    Args:
        checkpoints: Checkpoints of the run that it may go on from, the newest first. While the newest is replaced,
            only the one before is there.
    """
    try:
        yield
    except BaseException as stop:
        # A file that was being written may raise an error of its own while it is closed.
        if any(isinstance(one, KeyboardInterrupt | SystemExit) for one in chain(stop)):
            stop.add_note(_place(checkpoints))
        raise


def _place(checkpoints: Sequence[Path]) -> str:
    checkpoint = next((path for path in checkpoints if path.is_file()), None)
    if checkpoint is None:
        return "No epoch was finished yet."
    try:
        # Mapped, not read: its weights may be large, and whoever ends the process may not wait.
        done = torch.load(checkpoint, weights_only=True, mmap=True)["epoch"] + 1
    except Exception as error:  # torch raises many kinds; the interruption must get through
        return f"{checkpoint.name} could not be read ({type(error).__name__}); the same command says how it goes on."
    return f"The same command goes on after epoch {done}."
