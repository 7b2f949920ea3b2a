"""Two real processes give the gradient of one where a batch is weighed: classes, anatomy; and equal parts of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.downstream.classification import Classification
from lightning_modules.losses.anatomy import anatomy_loss
from lightning_modules.losses.gradcache import micro_batches
from lightning_modules.networks.image.encoders import EncoderConfig
from tests.ranks import spawn

ROWS, FIRST = 9, 5


class _Classes(nn.Module):
    """The loss of the classification task, whose classes are unevenly common."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = Classification(
            encoder=EncoderConfig(width=8, depth=10, norm="group"), class_counts=[90, 10],
            contract={"grid": [8, 12, 12], "region": "kidney"}, optimizer=OptimizerConfig(), dropout=0.0,
            balance="inverse",
        )  # fmt: skip

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.module.training_step(batch, 0)


class _Anatomy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.paint = nn.Conv3d(1, 5, 3, padding=1)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return anatomy_loss(self.paint(batch["image"]), batch["share"], batch["mask_known"], batch["sinus_known"])


def _batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    share = torch.randn(ROWS, 5, 8, 12, 12, generator=generator).mul(3).softmax(1)
    share[6:8, 2:4] = 0.0  # kidneys without a lesion, all on the second rank
    return {
        "image": torch.rand(ROWS, 1, 8, 12, 12, generator=generator),
        "target": torch.tensor([0, 0, 0, 0, 1, 0, -100, 1, 1]),
        "share": share,
        "mask_known": torch.tensor([True, False, True, True, True, True, True, True, False]),
        "sinus_known": torch.arange(ROWS) % 3 > 0,
    }


MODELS = {"classes": _Classes, "anatomy": _Anatomy}


def _differentiate(model: nn.Module, inner: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    loss = model(batch)
    loss.backward()
    gradient = {name: value.grad for name, value in inner.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), "gradient": gradient}


def _rank(rank: int, folder: Path) -> None:
    rows = slice(0, FIRST) if rank == 0 else slice(FIRST, ROWS)
    batch = {name: value[rows] for name, value in _batch().items()}
    results: dict[str, Any] = {}
    for name, kind in MODELS.items():
        inner = kind()
        results[name] = _differentiate(DistributedDataParallel(inner), inner, batch)
    results["parts"] = [len(micro_batches(FIRST - rank, size, torch.device("cpu"))) for size in (1, 2, 3, 9)]
    torch.save(results, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    spawn(_rank, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, kind in MODELS.items():
        inner = kind()
        expected = _differentiate(inner, inner, _batch())
        losses = torch.stack([entry[name]["loss"] for entry in found])
        torch.testing.assert_close(losses.mean(), expected["loss"], rtol=1e-5, atol=1e-6)
        for entry in found:
            assert entry[name]["gradient"].keys() == expected["gradient"].keys()
            for weight, value in expected["gradient"].items():
                torch.testing.assert_close(entry[name]["gradient"][weight], value, rtol=1e-4, atol=1e-6)
    # A layer that synchronises over ranks waits for ever where one of them has a part more.
    assert found[0]["parts"] == found[1]["parts"] == [4, 3, 2, 1]
