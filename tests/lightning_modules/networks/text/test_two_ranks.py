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

from lightning_modules.losses.text_loss import LossTerms, attribute_contrast_loss, masked_token_loss, simcse_loss
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from lightning_modules.networks.text.projection import Scatter
from lightning_modules.networks.text.tokens import shifted
from tests.tiny_text import TEXTS, make_base, stir

FACTS = torch.tensor([[0, 1], [1, -100], [0, 1], [0, -100], [1, 0]])
SHARES = (slice(0, 3), slice(3, 5))
NEGATIVE_OF = torch.tensor([0, 2, 2, 4])
"""Which of the texts each text with one fact changed belongs to."""


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
            chosen, target, _ = shifted(self.encoder.hidden(**tokens), labels)
            return masked_token_loss(self.encoder.logits(chosen), target).loss
        first = self.encoder(**tokens)
        second = self.encoder(**self.encoder.tokenize([f"{text} No cyst ." for text in texts[share]]))
        if self.name == "simcse":
            terms: LossTerms = simcse_loss(first, second)
        elif self.name == "attributes":
            terms = attribute_contrast_loss(first, second, FACTS[share])
        else:
            negatives, owners = self.negatives(share)
            terms = attribute_contrast_loss(first, second, FACTS[share], 0.05, negatives, owners)
        return terms.loss

    def negatives(self, share: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The texts of a share with one fact changed, more on one rank than on the other, and of which they are."""
        owners = NEGATIVE_OF[(share.start <= NEGATIVE_OF) & (share.stop > NEGATIVE_OF)]
        texts = [f"{TEXTS[owner % len(TEXTS)]} There is thrombus ." for owner in owners]
        return self.encoder(**self.encoder.tokenize(texts)), owners - share.start

    def projection(self, share: slice) -> torch.Tensor:
        """The projection that all ranks find together, as the quadratic form that its signs do not change."""
        scatter = Scatter(self.encoder.hidden_dim, torch.device("cpu"))
        self.eval()
        with torch.no_grad():
            texts = [*TEXTS, "Normal left kidney . No stone ."][share]
            first, second = (
                self.encoder(**self.encoder.tokenize([f"{t}{end}" for t in texts])) for end in ("", " No .")
            )
            scatter.add(first, second, *self.negatives(share))
            found = scatter.projection(3)
        return found.T @ found


NAMES = ("mntp", "simcse", "attributes", "negatives")


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
    torch.save(module.projection(SHARES[rank]), f"{folder}/projection-{rank}.pt")
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
    expected_form = module.projection(slice(0, 5))
    for rank in range(2):
        form = torch.load(tmp_path / f"projection-{rank}.pt", weights_only=True)
        torch.testing.assert_close(form, expected_form, rtol=1e-3, atol=1e-4 * float(expected_form.abs().max()))
