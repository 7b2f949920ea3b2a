"""Runs that ended without a result: marked, and out of the way of the next one."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

from datamodules.errors import DataError
from datamodules.files import read_json_mapping, write_json
from experiments.runs.console import say
from experiments.runs.locks import HOLDER, LOCK
from lightning_modules.core.distributed import is_main_rank

FAILED = "FAILED"
_WAIT_S = 120.0
_STAYS = (LOCK, HOLDER)
"""Files of whoever works in the folder now."""


def mark_failed(folder: Path, error: BaseException) -> None:
    """Say in the folder of a run, from rank 0, that it failed and why."""
    if is_main_rank():
        write_json(folder / FAILED, {"reason": str(error)})


def clear_failed(folder: Path, same: bool) -> None:
    """Make room where a run failed; does nothing where none did.

    With the same configuration it is tried again from its last checkpoint; with another one what it left is moved to
    `<folder>.failed-<number>`. Ranks other than 0 wait until that is done.

    Args:
        folder: Folder of the run.
        same: Whether the failed run has the configuration that is asked for.

    Raises:
        DataError: on a rank other than 0, if rank 0 does not come to it.
    """
    if not is_main_rank():
        _wait(folder)
        return
    if not (folder / FAILED).is_file():
        return
    if same:
        say(f"This run failed before. {_reason(folder / FAILED)} It is tried again.")
        (folder / FAILED).unlink()
        return
    aside = next(path for number in count(1) if not (path := Path(f"{folder}.failed-{number}")).exists())
    aside.mkdir()
    # The mark goes last: as long as it is there the folder is not free.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == FAILED):
        if path.name not in _STAYS:
            path.rename(aside / path.name)
    say(f"A run with another configuration failed here; what it left is now in {aside.name}.")


def _reason(path: Path) -> str:
    """Why the run failed; what is damaged keeps no run from being tried again."""
    try:
        return str(read_json_mapping(path, "reason")["reason"])
    except DataError as error:
        return f"Why is not known ({error})"


def _wait(folder: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while (folder / FAILED).is_file():
        if time.monotonic() > deadline:
            raise DataError(f"Rank 0 did not clear the failed run in {folder.name} within {_WAIT_S:.0f} s.")
        time.sleep(0.5)
