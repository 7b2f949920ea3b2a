"""A training ends at the first loss or gradient that is no number, and keeps nothing of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks.checkpoint import LastCheckpoint
from callbacks.divergence import DivergedError, FiniteGuard
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.suite_module import SuiteModule
from tests.ranks import spawn

STEPS = 5


class Line(SuiteModule):
    """A weight per step whose loss or gradient is broken at given steps, on given ranks."""

    def __init__(self, loss_at: int = -1, gradient_at: int = -1, ranks: tuple[int, ...] = (0,)) -> None:
        super().__init__({}, OptimizerConfig(lr=0.5))
        self.layer = nn.Linear(1, 1)
        self.loss_at, self.gradient_at, self.ranks = loss_at, gradient_at, ranks

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch["image"]).square().mean()
        if self.global_rank in self.ranks and self.global_step + 1 == self.loss_at:
            loss = loss * float("nan")
        if self.global_rank in self.ranks and self.global_step + 1 == self.gradient_at:
            # sqrt has the value 0 and an infinite slope at 0
            loss = loss + (self.layer.weight - self.layer.weight.detach()).abs().sqrt().sum()
        return loss


class AsLightning(Line):
    configure_gradient_clipping = lightning.LightningModule.configure_gradient_clipping  # type: ignore[assignment]


def _batches(rank: int = 0) -> DataLoader[Any]:
    rows = [
        {"image": torch.ones(1), "patient_id": f"P{rank}-{place // 2}-{'ab'[place % 2]}"} for place in range(2 * STEPS)
    ]
    return DataLoader(rows, batch_size=2)  # type: ignore[arg-type]


def _fit(module: SuiteModule, folder: Path, every: int = 10, clip: float | None = 1.0, **kwargs: Any) -> None:
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=clip, use_distributed_sampler=False,
        callbacks=[FiniteGuard(folder, every), LastCheckpoint(folder)], **{"devices": 1, **kwargs},
    )  # fmt: skip
    trainer.fit(module, _batches(trainer.global_rank))


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("clip", [1.0, None])
def test_the_first_bad_step_is_named_and_nothing_of_it_is_kept(every: int, clip: float | None, tmp_path: Path) -> None:
    for what, module, said in (
        ("loss", Line(loss_at=7), "the loss is nan"),
        ("gradient", Line(gradient_at=7), "the norm of the gradient is (nan|inf)"),
    ):
        with pytest.raises(DivergedError, match=said) as ended:
            _fit(module, tmp_path / what, every, clip)
        sentence = str(ended.value)
        assert "at step 7, in epoch 2" in sentence
        assert "Patients of the step: P0-1-a, P0-1-b." in sentence
        assert "last.ckpt, after epoch 1." in sentence
        kept = torch.load(tmp_path / what / "last.ckpt", weights_only=True)
        assert kept["global_step"] == STEPS
        assert all(bool(torch.isfinite(value).all()) for value in kept["state_dict"].values())


def test_the_learning_rate_is_that_of_the_step(tmp_path: Path) -> None:
    module = Line(loss_at=1)
    with pytest.raises(DivergedError, match="No checkpoint was written before") as ended:
        _fit(module, tmp_path)
    schedule = module.lr_schedulers().lr_lambdas[0]  # type: ignore[union-attr]
    assert f"at learning rate {0.5 * schedule(0):.3g}." in str(ended.value)


def test_a_checkpoint_in_the_midst_of_an_epoch_is_refused(tmp_path: Path) -> None:
    class Saves(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[FiniteGuard(tmp_path, 100), Saves()],
    )  # fmt: skip
    with pytest.raises(DivergedError, match="at step 2"):
        trainer.fit(Line(loss_at=2), _batches())
    assert not (tmp_path / "mid.ckpt").exists()


def test_clipping_is_lightnings(tmp_path: Path) -> None:
    """The norm is kept on the way, and the weights stay as they were."""
    weights = []
    for kind in (Line, AsLightning):
        torch.manual_seed(0)
        module = kind()
        _fit(module, tmp_path / kind.__name__, clip=0.1)
        weights.append(torch.cat([value.detach().reshape(-1) for value in module.parameters()]))
    assert torch.equal(*weights)


def _rank(rank: int, folder: Path) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    with pytest.raises(DivergedError) as ended:
        _fit(Line(loss_at=7, ranks=(1,)), folder, devices=2, strategy="ddp")
    (folder / f"{rank}.txt").write_text(str(ended.value))


@pytest.mark.slow
def test_ranks_agree_and_name_the_patients_of_the_rank_that_broke(tmp_path: Path) -> None:
    spawn(_rank, tmp_path)
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert "Patients of the step: P1-1-a, P1-1-b." in said[0]
