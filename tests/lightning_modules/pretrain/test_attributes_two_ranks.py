"""Two real processes give the loss and the gradient of one, on the same global batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from tests.lightning_modules.pretrain.test_attributes import gradients, make_batch, make_module


def _rank(rank: int, port: int, folder: str, weighting: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    module, batch = make_module(weighting=weighting), make_batch(7)
    part = {name: value[slice(0, 3) if rank == 0 else slice(3, 7)] for name, value in batch.items()}

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, part: dict[str, torch.Tensor]) -> torch.Tensor:
            loss, self.terms = self.module.loss(self.module(part["image"], part["phase"]), part["attributes"])
            return loss

    wrapped = DistributedDataParallel(Loss())
    wrapped(part).backward()
    result = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    torch.save({"gradient": result, "mean": wrapped.module.terms.mean}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["sum", "gradient"])
def test_two_processes_give_the_gradient_of_one(weighting: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, args=(port, str(tmp_path), weighting), nprocs=2)
    module, batch = make_module(weighting=weighting), make_batch(7)
    expected = gradients(module, batch)
    with torch.no_grad():
        mean = make_module().terms(module(batch["image"], batch["phase"]), batch["attributes"]).mean
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["mean"], mean, rtol=1e-5, atol=1e-6)
        assert found["gradient"].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found["gradient"][name], value, rtol=1e-4, atol=1e-5)
