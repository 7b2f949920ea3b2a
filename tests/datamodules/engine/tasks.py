"""What the tests of the engines have their workers do."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError


def own_pid(_: object) -> int:
    return os.getpid()


@dataclass(frozen=True)
class Counted:
    """Squares a number, notes that it did, and ends its process at some.

    Args:
        folder: Where each finished computation leaves a file of its own.
        once: Numbers that end their process the first time.
        always: Numbers that end it every time.
        refused: A number that is bad data.
        seconds: What one takes.
    """

    folder: Path
    once: tuple[int, ...] = ()
    always: tuple[int, ...] = ()
    refused: int | None = None
    seconds: float = 0.0

    def __call__(self, number: int) -> int:
        tried = self.folder / f"tried-{number}"
        first = not tried.exists()
        tried.touch()
        if number in self.always or (number in self.once and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.refused:
            raise DataError(f"number {number} was found; expected another.")
        time.sleep(self.seconds)
        (self.folder / f"done-{number}-{time.monotonic_ns()}").touch()
        return number * number

    def done(self) -> list[int]:
        """The numbers that were computed, each as often as it was."""
        return sorted(int(path.name.split("-")[1]) for path in self.folder.glob("done-*"))
