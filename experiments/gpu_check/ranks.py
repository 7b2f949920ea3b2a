"""Two ranks on this machine: one gradient, layers that synchronise, and steps that no rank leaves early."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from experiments.gpu_check.check_results import CheckResult, exact_float32, judged, skipped
from experiments.gpu_check.subjects import Sizes, Subject, alignment, classification
from lightning_modules.losses.gradcache import cached_features, micro_batches

_LIMIT_S = 120.0
"""Seconds after which ranks that wait for each other are taken to hang."""


class _Step(nn.Module):
    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.module = subject.module

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        return Subject(self.module, batch).loss()


def _rows(batch: dict[str, Any], rank: int) -> dict[str, Any]:
    """Uneven shares: a row less on the second rank where their number is odd."""
    rows = len(batch["patient"])
    part = slice(0, (rows + 1) // 2) if rank == 0 else slice((rows + 1) // 2, rows)
    return {name: value[part] for name, value in batch.items()}


def _gradient(step: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    step(batch).backward()
    return torch.cat([value.grad.flatten().cpu() for value in step.parameters() if value.grad is not None])


def _rank(rank: int, port: int, kind: str, sizes: Sizes, base: Path) -> None:
    devices = torch.cuda.device_count() if kind == "cuda" else 0
    device = torch.device(kind, rank % devices) if devices else torch.device("cpu")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    if devices:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if devices > 1 else "gloo", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    with exact_float32():
        for name, make in (("classification", classification), ("alignment", alignment)):
            subject = make(device, sizes, base)
            wrapped = DistributedDataParallel(_Step(subject))
            found[name] = _gradient(wrapped, _rows(subject.batch, rank))
    if devices:
        torch.manual_seed(0)
        layer = nn.SyncBatchNorm(3).to(device)
        network = nn.Sequential(nn.Conv3d(1, 3, 3), layer, nn.AdaptiveAvgPool3d(1), nn.Flatten()).to(device)
        image = torch.rand(3 - rank, 1, 8, 8, 8, device=device)
        parts = micro_batches(len(image), 1, device)
        cached_features(lambda part: network(image[part]), parts, network).sum().backward()
        found["synchronised"] = layer.running_mean.cpu()  # type: ignore[union-attr]
    torch.save(found, base.parent / f"rank-{rank}.pt")
    dist.destroy_process_group()


def two_ranks(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """The gradient of two ranks against one process's, and SyncBatchNorm over uneven micro-batches."""
    odd = Sizes(sizes.crop, sizes.rows // 2 * 2 + 1, sizes.width)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = mp.spawn(_rank, args=(port, device.type, odd, base), nprocs=2, join=False)
    deadline, done = time.monotonic() + _LIMIT_S, False
    try:
        while not done and time.monotonic() < deadline:
            done = started.join(timeout=max(0.0, deadline - time.monotonic()))
    finally:
        for process in started.processes:
            process.kill()
    if not done:
        yield judged("two ranks", False, f"they still waited for each other after {_LIMIT_S:.0f} seconds")
        return
    found = [torch.load(base.parent / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    for name, make in (("classification", classification), ("alignment", alignment)):
        subject = make(torch.device("cpu"), odd, base)
        expected = _gradient(_Step(subject), subject.batch)
        differ = max(float((one[name] - expected).norm() / expected.norm()) for one in found)
        yield judged(
            f"two ranks, {name}", differ < 1e-3, f"gradient differs by {differ:.1e}", relative_difference=differ
        )
    if "synchronised" not in found[0]:
        yield skipped("SyncBatchNorm", "needs a GPU")
        return
    same = bool(torch.equal(found[0]["synchronised"], found[1]["synchronised"]))
    yield judged("SyncBatchNorm", same, "uneven micro-batches end, and statistics are those of both ranks")
