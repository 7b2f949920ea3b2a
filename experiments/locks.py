"""Claims on work that several processes and machines share through one disk: one does it, the others see that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

LEASE_S = 600.0
"""Seconds without a sign of life after which the claim of another machine's process counts as left behind."""
_BEAT_S = 20.0


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
    return True


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for a claim, hold it for a block, and give it back."""
    with lease(path):
        yield
