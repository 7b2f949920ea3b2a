"""Two real processes give the survival loss and gradient of one, on the same global batch and the same memory."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.downstream.survival import Survival
from lightning_modules.losses.cox import RiskMemory
from tests.lightning_modules.downstream.test_survival import make_batch, make_module

CASES = ("memory", "batch", "no events", "deephit")


def _case(name: str) -> tuple[Survival, dict[str, torch.Tensor]]:
    module, batch = make_module(objective="deephit" if name == "deephit" else "cox", risk_set="batch"), make_batch(7)
    if name == "no events":
        batch["event"] = torch.zeros_like(batch["event"])
    if name == "memory":
        everyone = make_batch(12)
        time, event = everyone["time_months"][:, 1].clone(), everyone["event"][:, 1].clone()
        module.memory = RiskMemory(time, event)
        module.memory.restore({"score": torch.linspace(-1, 1, 12), "seen": torch.arange(12) > 2})
    # Statistics of one rank's images are not those of all; everything else must be.
    return module.eval(), batch


class _Step(torch.nn.Module):
    def __init__(self, module: Survival) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.module.training_step(batch, 0)


def _result(step: torch.nn.Module, module: Survival, batch: dict[str, torch.Tensor]) -> dict[str, object]:
    loss = step(batch)
    loss.backward()
    gradient = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    memory = {} if module.memory is None else module.memory.state()
    return {"loss": loss.detach(), "gradient": gradient, "memory": memory}


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results = {}
    for name in CASES:
        module, batch = _case(name)
        part = {key: value[slice(0, 2) if rank == 0 else slice(2, 7)] for key, value in batch.items()}
        results[name] = _result(DistributedDataParallel(_Step(module)), module, part)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, args=(port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in CASES:
        module, batch = _case(name)
        expected = _result(_Step(module), module, batch)
        for found in (rank[name] for rank in ranks):
            torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-5, atol=1e-6)
            assert found["gradient"].keys() == expected["gradient"].keys()
            for key, value in expected["gradient"].items():
                torch.testing.assert_close(found["gradient"][key], value, rtol=1e-4, atol=1e-5)
            for key, value in expected["memory"].items():
                torch.testing.assert_close(found["memory"][key], value)
        total = sum(float(value.abs().sum()) for value in expected["gradient"].values())
        assert (total == 0) == (name == "no events")
