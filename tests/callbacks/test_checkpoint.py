"""Best and last checkpoint of a run that validates every other epoch."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from callbacks.checkpoint import BestCheckpoint, LastCheckpoint

VALUES = torch.linspace(-1, 1, 16)[:, None]


class Line(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = (self.layer(batch) - batch.sin()).square().mean()
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/loss", (self.layer(batch) - batch.sin()).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Undefined(Line):
    """The first epochs have no metric, as a validation part of one class has no AUC."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until = until

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/loss", torch.tensor(float("nan") if self.current_epoch < self.until else 1.0))


class Stop(Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.after


def _fit(folder: Path, epochs: int) -> dict[str, object]:
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=5, check_val_every_n_epoch=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[BestCheckpoint(folder, "val/loss", "min"), LastCheckpoint(folder), Stop(epochs)],
    )  # fmt: skip
    last = folder / "last.ckpt"
    loader: DataLoader[torch.Tensor] = DataLoader(list(VALUES), batch_size=4)  # type: ignore[arg-type]
    trainer.fit(Line(), loader, loader, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    found: dict[str, object] = torch.load(last, weights_only=True)
    return found


def test_a_run_goes_on_from_an_epoch_that_was_not_validated(tmp_path: Path) -> None:
    whole = _fit(tmp_path / "whole", 5)
    for stop, done in ((1, False), (3, True)):
        found = _fit(tmp_path / "cut", stop)
        assert found["epoch"] == stop - 1
        assert (tmp_path / "cut" / "best.ckpt").is_file() is done
    again = _fit(tmp_path / "cut", 5)
    assert again["epoch"] == whole["epoch"] == 4
    for name, value in whole["state_dict"].items():  # type: ignore[attr-defined]
        assert torch.equal(value, again["state_dict"][name])  # type: ignore[index]
    best = [torch.load(tmp_path / name / "best.ckpt", weights_only=True) for name in ("whole", "cut")]
    assert [content["epoch"] for content in best] == [3, 3]
    assert torch.equal(best[0]["state_dict"]["layer.weight"], best[1]["state_dict"]["layer.weight"])


def test_what_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    for until, best in ((2, [2]), (9, [])):
        folder = tmp_path / str(until)
        trainer = lightning.Trainer(
            default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=3, logger=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            callbacks=[BestCheckpoint(folder, "val/loss", "min"), LastCheckpoint(folder)],
        )  # fmt: skip
        loader: DataLoader[torch.Tensor] = DataLoader(list(VALUES), batch_size=4)  # type: ignore[arg-type]
        trainer.fit(Undefined(until), loader, loader)
        assert [torch.load(path, weights_only=True)["epoch"] for path in folder.glob("best.ckpt")] == best
        assert bool(trainer.checkpoint_callback.best_model_path) is bool(best)  # type: ignore[union-attr]
