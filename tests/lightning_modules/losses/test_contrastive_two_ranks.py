"""Two real processes give loss and gradient of one: every contrastive loss, gathered rows, gradient caching."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.core.distributed import gather_rows, number_of_ranks, row_counts, row_offset
from lightning_modules.core.errors import ModelError
from lightning_modules.losses.contrastive import info_nce, knowledge_info_nce
from lightning_modules.losses.gradcache import cached_features, micro_batches
from lightning_modules.losses.sigmoid import sigmoid_loss
from tests.lightning_modules.pretrain.test_alignment import Gradients, fit, make_module
from tests.ranks import spawn

SHARES = {"even": (4, 4), "uneven": (3, 5)}
ROWS = 8


class Towers(nn.Module):
    """Two towers and a loss; the image tower optionally by gradient caching in parts of two."""

    def __init__(self, kind: str, micro_batch: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5))
        self.text = nn.Linear(7, 5)
        self.scale, self.bias = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-1.0))
        self.kind, self.micro_batch = kind, micro_batch
        self.losses: dict[str, Callable[..., torch.Tensor]] = {
            "infonce": info_nce,
            "siglip": sigmoid_loss,
            "knowledge": partial(knowledge_info_nce, ignore_from=0.5),
        }

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        pixels = batch["image"]
        if self.micro_batch is None:
            image = self.image(pixels)
        else:
            parts = micro_batches(len(pixels), self.micro_batch, pixels.device)
            image = cached_features(lambda part: self.image(pixels[part]), parts, self.image)
        pair = functional.normalize(image, dim=1), functional.normalize(self.text(batch["text"]), dim=1)
        further: dict[str, tuple[torch.Tensor, ...]] = {
            "infonce": (),
            "siglip": (self.bias,),
            "knowledge": (batch["report_id"], batch["attributes"]),
        }
        loss: torch.Tensor = self.losses[self.kind](*pair, self.scale.exp(), *further[self.kind])
        return loss


def make_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(ROWS, 6, generator=generator),
        "text": torch.randn(ROWS, 7, generator=generator),
        "report_id": torch.tensor([0, 1, 2, 0, 3, 4, 1, 0]),
        # Rows 2 and 5 state the same, 4 nearly; they lie on different ranks.
        "attributes": torch.tensor([[0, 0], [1, 0], [1, 2], [0, 0], [1, -100], [1, 2], [1, 0], [0, 0]]),
    }


CASES = [(kind, micro, share) for kind in ("infonce", "siglip", "knowledge") for micro in (None, 2) for share in SHARES]


def _differentiate(model: nn.Module, towers: Towers, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    loss = model(batch)
    loss.backward()
    gradient = {name: value.grad for name, value in towers.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), "gradient": gradient}


def _share_of(rank: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A different function of all rows on every rank, so that a wrong sum over ranks cannot go unseen."""
    return lambda rows: ((rank + 1) * rows.cumsum(0).sin()).sum() + rank * rows.square().sum()


def _fit_on_rank(rank: int, folder: Path) -> dict[str, Any]:
    """One step of the whole module under Lightning's DDP: gradient caching, clipping, logging."""
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2)):
        os.environ[name] = str(value)
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    seen, first = Gradients(), sum(SHARES["uneven"][:rank])
    rows = slice(first, first + SHARES["uneven"][rank])
    module = make_module(micro_batch=2, loss="knowledge")
    trainer = fit(module, folder, rows, strategy="ddp", devices=2, use_distributed_sampler=False, callbacks=seen)
    return {"gradient": seen.found, **{name: float(value) for name, value in trainer.callback_metrics.items()}}


def _rank(rank: int, folder: Path) -> None:
    results: dict[str, Any] = {}
    for kind, micro, share in CASES:
        first = sum(SHARES[share][:rank])
        batch = {name: value[first : first + SHARES[share][rank]] for name, value in make_batch().items()}
        towers = Towers(kind, micro)
        # The bias belongs to one loss only.
        model = DistributedDataParallel(towers, find_unused_parameters=kind != "siglip")
        results[f"{kind}-{micro}-{share}"] = _differentiate(model, towers, batch)
    for counts in ((3, 5), (8, 0)):
        first = sum(counts[:rank])
        own = make_batch()["text"][first : first + counts[rank]].requires_grad_(True)
        _share_of(rank)(gather_rows(own)).backward()
        numbers = gather_rows(torch.full((len(own),), rank), row_counts(len(own), own.device))
        assert number_of_ranks() == 2
        assert row_counts(len(own), own.device) == list(counts)
        assert row_offset(counts) == first
        results[f"gather-{counts}"] = {"rows": gather_rows(own).detach(), "gradient": own.grad, "of": numbers}
    with pytest.raises(ModelError, match="expected one count for each rank"):
        gather_rows(torch.zeros(2, 1), [1, 1])
    results["fit"] = _fit_on_rank(rank, folder)
    torch.save(results, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_give_loss_and_gradient_of_one(tmp_path: Path) -> None:
    spawn(_rank, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for kind, micro, share in CASES:
        towers = Towers(kind)
        expected = _differentiate(towers, towers, make_batch())
        ranks = [results[f"{kind}-{micro}-{share}"] for results in found]
        loss = sum(result["loss"] for result in ranks) / 2
        torch.testing.assert_close(loss, expected["loss"], rtol=1e-5, atol=1e-6)
        for result in ranks:
            for name, value in expected["gradient"].items():
                torch.testing.assert_close(result["gradient"][name], value, rtol=1e-5, atol=1e-6)
    seen = Gradients()
    metrics = fit(make_module(loss="knowledge"), tmp_path, callbacks=seen).callback_metrics
    for results in found:
        for name, value in seen.found.items():
            torch.testing.assert_close(results["fit"]["gradient"][name], value, rtol=1e-5, atol=1e-6, msg=name)
        for name, value in metrics.items():
            # Validation follows a step of Adam, which turns what is nearly 0 into its sign.
            assert results["fit"][name] == pytest.approx(float(value), rel=1e-5 if name == "train/loss" else 1e-2), name
    for counts in ((3, 5), (8, 0)):
        whole = make_batch()["text"].requires_grad_(True)
        (_share_of(0)(whole) + _share_of(1)(whole)).backward()
        assert whole.grad is not None
        for rank, results in enumerate(found):
            first = sum(counts[:rank])
            result = results[f"gather-{counts}"]
            assert torch.equal(result["rows"], whole.detach())
            assert result["of"].tolist() == [0] * counts[0] + [1] * counts[1]
            torch.testing.assert_close(result["gradient"], whole.grad[first : first + counts[rank]])


def test_one_rank_keeps_its_tensor() -> None:
    rows = make_batch()["text"]
    assert gather_rows(rows) is rows
    assert row_counts(7, rows.device) == [7]
    assert row_offset([7]) == 0
