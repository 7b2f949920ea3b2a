"""Two real processes give the gradient of one, with the negatives of both, on the same global batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.losses.text import (
    Terms,
    attribute_contrast_loss,
    masked_token_loss,
    shifted,
    simcse_loss,
)
from lightning_modules.networks.text import TextEncoder, TextEncoderConfig
from tests.tiny_text import TEXTS, make_base, stir

FACTS = torch.tensor([[0, 1], [1, -100], [0, 1], [0, -100], [1, 0]])
SHARES = (slice(0, 3), slice(3, 5))


class Objective(torch.nn.Module):
    """One of the losses on a share of five texts, two views each."""

    def __init__(self, base: str, name: str) -> None:
        super().__init__()
        self.name = name
        config = TextEncoderConfig(base, "tiny", quantization="none", lora_rank=4, lora_dropout=0.0)
        self.encoder = TextEncoder(config, "cpu", head=True).train()
        stir(self.encoder)

    def forward(self, share: slice) -> torch.Tensor:
        texts = [*TEXTS, "Normal left kidney . No stone ."]
        tokens = self.encoder.tokenize(texts[share])
        if self.name == "mntp":
            labels = tokens["input_ids"].masked_fill(tokens["input_ids"] % 3 != 0, -100)
            chosen, target = shifted(self.encoder.hidden(**tokens), labels)
            return masked_token_loss(self.encoder.logits(chosen), target).loss
        first = self.encoder(**tokens)
        second = self.encoder(**self.encoder.tokenize([f"{text} No cyst ." for text in texts[share]]))
        terms: Terms = (
            simcse_loss(first, second)
            if self.name == "simcse"
            else attribute_contrast_loss(first, second, FACTS[share])
        )
        return terms.loss


NAMES = ("mntp", "simcse", "attributes")


def gradient(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for name in NAMES:
        module = Objective(f"{folder}/base", name)
        wrapped = DistributedDataParallel(module)
        loss = wrapped(SHARES[rank])
        loss.backward()
        torch.save({"loss": loss.detach(), "gradient": gradient(module)}, f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    make_base(tmp_path / "base", num_hidden_layers=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, args=(port, str(tmp_path)), nprocs=2)
    for name in NAMES:
        module = Objective(str(tmp_path / "base"), name)
        loss = module(slice(0, 5))
        loss.backward()
        expected = gradient(module)
        found = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
        torch.testing.assert_close((found[0]["loss"] + found[1]["loss"]) / 2, loss.detach(), rtol=1e-4, atol=1e-5)
        for part in found:
            assert part["gradient"].keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(part["gradient"][key], value, rtol=1e-4, atol=1e-5)
