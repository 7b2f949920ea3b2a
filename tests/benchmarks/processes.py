"""What needs processes of its own: cold and warm epochs, the memory of a loader's worker, one and two ranks."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Barrier
from queue import Queue
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.engine import Needs
from datamodules.engine.local import Processes
from datamodules.processes import fresh_process
from tests.benchmarks.chains import DEFAULT, REFERENCE, Chain, monai_chain, our_chain
from tests.benchmarks.machine import forget_cached, one_core, resident_mb
from tests.benchmarks.stored_forms import Material

BATCH = 16
OURS = "ours: default"
_CHAINS: dict[str, Callable[[Material], Chain]] = {
    REFERENCE: monai_chain,
    OURS: lambda material: our_chain(material, DEFAULT),
}


def epoch_rates(material: Material, epochs: int) -> dict[str, list[float]]:
    """Volumes a second in every epoch of a fresh process, the first with a cold page cache.

    The first also verifies the checksum of every volume that it reads.
    """
    return {name: _in_process(_epochs, material, name, epochs) for name in _CHAINS}


def _epochs(material: Material, name: str, epochs: int) -> list[float]:
    chain, rates = _CHAINS[name](material), []
    with one_core():
        chain(range(BATCH))  # loads what the libraries load at their first call; these volumes are left out below
        forget_cached(material.folder)
        for _ in range(epochs):
            start = time.perf_counter()
            for first in range(BATCH, material.count, BATCH):
                chain(range(first, first + BATCH))
            rates.append((material.count - BATCH) / (time.perf_counter() - start))
    return rates


def rank_rates(material: Material, ranks: int, repeats: int) -> dict[str, float]:
    """Volumes a second over all ranks, each a process on a core of its own that takes its share of the volumes."""
    return {name: _rank_rate(material, name, ranks, repeats) for name in _CHAINS}


def _rank_rate(material: Material, name: str, ranks: int, repeats: int) -> float:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(ranks), context.Queue()
    members = [fresh_process(_rank, material, name, rank, ranks, repeats, barrier, results) for rank in range(ranks)]
    for member in members:
        member.start()
    seconds = [results.get(timeout=600) for _ in members]
    for member in members:
        member.join()
    return repeats * BATCH * ranks / max(seconds)


def _rank(
    material: Material, name: str, rank: int, ranks: int, repeats: int, barrier: Barrier, results: Queue[float]
) -> None:
    chain = _CHAINS[name](material)
    share = range(rank, material.count, ranks)[:BATCH]
    with one_core(rank):
        chain(share)
        barrier.wait(timeout=600)
        start = time.perf_counter()
        for _ in range(repeats):
            chain(share)
        results.put(time.perf_counter() - start)


def worker_memory(material: Material, epochs: int) -> dict[str, list[dict[str, float]]]:
    """Memory of a loader's worker at the end of every epoch, in MB."""
    return {
        "reference, MONAI in the worker": _memory(material, True, epochs),
        "ours, int16 from the worker": _memory(material, False, epochs),
    }


class _Samples(Dataset[tuple[torch.Tensor, dict[str, float]]]):
    """Samples as a loader's worker makes them, each with the memory that the worker then holds."""

    def __init__(self, material: Material, reference: bool) -> None:
        self.material, self.reference = material, reference
        self.load: Callable[[int], torch.Tensor] | None = None

    def __len__(self) -> int:
        return self.material.count

    def __getitem__(self, position: int) -> tuple[torch.Tensor, dict[str, float]]:
        if self.load is None:
            torch.set_num_threads(1)
            chain, volumes = monai_chain(self.material), self.material.open()
            self.load = (
                (lambda place: chain([place])[0])
                if self.reference
                else lambda place: torch.from_numpy(volumes.read(place))
            )
        return self.load(position), resident_mb()


def _memory(material: Material, reference: bool, epochs: int) -> list[dict[str, float]]:
    loader = DataLoader(
        _Samples(material, reference),
        batch_size=None,
        shuffle=True,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )
    held = []
    for _ in range(epochs):
        memory: dict[str, float] = {}
        for _, memory in loader:  # noqa: B007 - the last one counts
            pass
        held.append(memory)
    return held


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a function in a fresh process."""
    with Processes(partial(_called, function), 1, Needs()) as pool:
        return next(outcome for _, outcome in pool.run([arguments]))


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)
