"""How fast a run goes and when it will end."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

logger = logging.getLogger("renal_suite")


class Throughput(Callback):
    """Logs samples per second, learning rate and peak GPU memory of every epoch, and says how long the rest takes.

    Args:
        unit: What a sample is called.
        key: Entry of the batch with one row a sample.
    """

    def __init__(self, unit: str = "volumes", key: str = "patient") -> None:
        self.unit, self.key = unit, key
        self._started = 0.0
        self._run_started = 0.0
        self._first_epoch = 0
        self._samples = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock of the run."""
        self._run_started, self._first_epoch = time.monotonic(), trainer.current_epoch

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock of the epoch."""
        self._started, self._samples = time.monotonic(), 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: dict[str, torch.Tensor],
        batch_idx: int,
    ) -> None:
        """Count the samples of this rank."""
        self._samples += len(batch[self.key])

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the rates."""
        rate = self._samples * trainer.world_size / max(time.monotonic() - self._started, 1e-9)
        pl_module.log("train/samples_per_second", rate, rank_zero_only=True)
        pl_module.log("train/lr", trainer.optimizers[0].param_groups[0]["lr"], rank_zero_only=True)
        if torch.cuda.is_available():
            pl_module.log("train/peak_memory_gib", torch.cuda.max_memory_allocated() / 2**30, rank_zero_only=True)
        done, total = trainer.current_epoch + 1, trainer.max_epochs
        if total is None or total < 0:
            return
        elapsed = time.monotonic() - self._run_started
        left = elapsed / (done - self._first_epoch) * (total - done)
        if done == total or done % max(1, total // 5) == 0:
            metrics = ", ".join(
                f"{name} {float(value):.3f}"
                for name, value in sorted(trainer.callback_metrics.items())
                if name in ("train/loss", "val/loss", "val/auroc", "val/c_index", "val/mean_auroc")
            )
            speed = f"{rate:.1f} {self.unit}/s"
            text = f"epoch {done}/{total}: {metrics}, {speed}, about {timedelta(seconds=round(left))} left"
            rank_zero_only(logger.info)(text)
