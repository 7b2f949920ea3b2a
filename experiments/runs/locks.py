"""Claims on work that several processes and machines share through one disk: one does it, the others see that."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import SoftFileLease, Timeout

from datamodules.errors import DataError
from datamodules.files import read_json_mapping, write_json
from experiments.runs.console import say
from lightning_modules.core.distributed import is_main_rank

LOCK = ".lock"
"""The claim on the folder of a run."""
HOLDER = ".holder.json"
"""Who trains in the folder of a run, for the sentence that another one is told."""
LEASE_S = 600.0
"""Seconds without a sign of life after which the claim of another machine's process counts as left behind."""
_BEAT_S = 20.0
_LOOK_S = 2.0
_own: dict[Path, SoftFileLease] = {}
_training: set[Path] = set()


def lease(path: Path) -> SoftFileLease:
    """A claim, not taken yet: a file with the host and the process that hold it, touched while they live.

    The claim of a dead process of this machine is free at once, that of another machine when its file was not touched
    for `LEASE_S`, by the clock of whoever waits. Nothing but ordinary files is asked of the disk.

    Args:
        path: The file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return SoftFileLease(path, lease_duration=LEASE_S, heartbeat_interval=_BEAT_S)


def taken(claim: SoftFileLease) -> bool:
    """Take a claim if it is free, without waiting.

    The same object must be asked again while another machine holds the claim: it measures how long that was silent.
    """
    try:
        claim.acquire(timeout=0)
    except Timeout:
        return False
    _own[Path(claim.lock_file).resolve()] = claim
    return True


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for a claim, hold it for a block, and give it back."""
    with lease(path) as claim:
        _own[path.resolve()] = claim
        yield


@contextmanager
def training(folder: Path) -> Iterator[None]:
    """Hold the folder of a run for a block, from rank 0; who holds it already goes on.

    Args:
        folder: Folder of the run.

    Raises:
        DataError: if another process trains in it, saying which one.
    """
    path = (folder / LOCK).resolve()
    if not is_main_rank() or path in _training:
        yield
        return
    own = _own.get(path)
    claimed = own is not None and own.is_locked  # by a curve or a sweep of this process
    claim = lease(path)
    if not claimed and not taken(claim):
        _wait_for_silence(claim, folder)
    _training.add(path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "since": now})
    try:
        yield
    finally:
        _training.discard(path)
        (folder / HOLDER).unlink(missing_ok=True)
        if not claimed:
            claim.release()


def _wait_for_silence(claim: SoftFileLease, folder: Path) -> None:
    """Take over the claim of another machine's process that is dead, which its silence alone can tell."""
    holder = read_json_mapping(folder / HOLDER) if (folder / HOLDER).is_file() else {}
    busy = DataError(
        f"{folder.name} is being trained by another process (pid {holder.get('pid', claim.pid)}, host "
        f"{holder.get('host', 'unknown')}, since {holder.get('since', 'a moment ago')}); wait for it, or give this run "
        "a name of its own with TAG=."
    )
    if holder.get("host") in (None, socket.gethostname()):
        raise busy
    say(f"{folder.name} was left by a process on host {holder['host']} or is trained there; looking which.")
    first = _touched(folder)
    while not taken(claim):
        if _touched(folder) != first:
            raise busy
        time.sleep(_LOOK_S)


def _touched(folder: Path) -> float | None:
    with suppress(FileNotFoundError):
        return (folder / LOCK).stat().st_mtime
    return None
