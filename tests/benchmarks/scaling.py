"""A step on one rank and on two (gloo, one thread each), and on a GPU with mixed precision where there is one."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from datamodules.files import read_json, write_json
from tests.ranks import spawn

RANKS = (1, 2)
Step = Callable[[], object]
Maker = Callable[..., Step]
"""Makes a step, given whatever describes it and last the device; a function of a module, which processes can import."""


def seconds_by_ranks(make: Maker, *arguments: Any, rounds: int) -> dict[str, float]:
    """Median seconds of a step, by number of ranks; every rank is a process with one thread.

    Args:
        make: Makes the step of a rank.
        arguments: Its arguments.
        rounds: Steps that are timed, after one that is not.
    """
    figures = {}
    for ranks in RANKS:
        with tempfile.TemporaryDirectory() as folder:
            spawn(_timed_rank, Path(folder), make, arguments, rounds, ranks=ranks)
            figures[str(ranks)] = float(read_json(Path(folder) / "seconds.json")["seconds"])
    return figures


def _timed_rank(rank: int, folder: Path, make: Maker, arguments: tuple[Any, ...], rounds: int) -> None:
    seconds = _median(make(*arguments, "cpu"), rounds, dist.barrier)
    if rank == 0:
        write_json(folder / "seconds.json", {"seconds": seconds})


def seconds_by_precision(make: Maker, *arguments: Any, rounds: int, kind: str = "cuda") -> dict[str, float]:
    """Median seconds of a step on a device in float32 and in bfloat16 by autocast; nothing without such a device.

    Args:
        make: Makes the step.
        arguments: Its arguments.
        rounds: Steps that are timed, after one that is not.
        kind: `cuda`, or `cpu`.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        return {}
    wait = torch.cuda.synchronize if kind == "cuda" else (lambda: None)
    figures = {}
    for name, mixed in (("float32", False), ("bfloat16", True)):
        with torch.autocast(kind, torch.bfloat16, enabled=mixed):
            figures[name] = _median(make(*arguments, kind), rounds, wait)
    return figures


def _median(step: Step, rounds: int, wait: Callable[[], object]) -> float:
    step()
    seconds = []
    for _ in range(rounds):
        wait()
        started = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
