"""How fast a run goes, how much of its time it waits for data, and when it will end."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

logger = logging.getLogger("renal_suite")

EVERY_S = 30.0
"""Most seconds between two lines of a run that has no terminal, as long as its steps are shorter."""
_SHOWN = ("train/loss", "val/loss", "val/auroc", "val/c_index", "val/mean_auroc")


class Throughput(Callback):
    """Says every half minute, and logs every epoch, how fast a run goes and how much of its time waits for data.

    An epoch logs samples per second over all ranks, the share of time that this rank waited for its loader, learning
    rate and peak GPU memory. Where a `LiveProgress` shows the same in a terminal, no lines are printed.

    Args:
        unit: What a sample is called.
        key: Entry of the batch with one row a sample.
    """

    def __init__(self, unit: str = "volumes", key: str = "patient") -> None:
        self.unit, self.key = unit, key
        self._run_started = self._started = self._asked = self._said = self._paused = 0.0
        self._waited, self._samples, self._first_place = 0.0, 0, 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock of the run."""
        self._run_started = self._said = time.monotonic()
        loop = trainer.fit_loop
        given = loop.epoch_loop.batch_progress.current.completed if loop.restarted_mid_epoch else 0
        self._first_place = _place(trainer, given)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock of the epoch."""
        self._started = self._asked = time.monotonic()
        self._samples, self._waited = 0, 0.0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the last batch was done: the loader's."""
        self._waited += time.monotonic() - self._asked

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: dict[str, torch.Tensor],
        batch_idx: int,
    ) -> None:
        """Count the samples of this rank, and speak where half a minute has passed."""
        self._samples += len(batch[self.key])
        self._asked = time.monotonic()
        if self._due(trainer):
            steps = f"step {batch_idx + 1}/{trainer.num_training_batches}"
            self._say(f"epoch {trainer.current_epoch + 1}/{_total(trainer)}, {steps}: {self._figures(trainer)}")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the clock of the epoch: its figures are of training."""
        self._paused = time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Go on with it."""
        taken = time.monotonic() - self._paused
        self._started, self._asked = self._started + taken, self._asked + taken

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Speak where half a minute has passed in a long validation."""
        if self._due(trainer):
            total = list(trainer.num_val_batches)[dataloader_idx]
            self._say(f"validation after epoch {trainer.current_epoch + 1}: batch {batch_idx + 1}/{total}")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the rates."""
        pl_module.log("train/samples_per_second", self.rate(trainer), rank_zero_only=True)
        pl_module.log("train/waiting", self.waiting(), rank_zero_only=True)
        pl_module.log("train/lr", trainer.optimizers[0].param_groups[0]["lr"], rank_zero_only=True)
        if torch.cuda.is_available():
            pl_module.log("train/peak_memory_gib", torch.cuda.max_memory_allocated() / 2**30, rank_zero_only=True)
        done, total = trainer.current_epoch + 1, trainer.max_epochs
        if total is None or total < 0 or _has_terminal(trainer):
            return
        if done == total or done % max(1, total // 5) == 0:
            self._say(f"epoch {done}/{total}: {self._figures(trainer)}")

    def rate(self, trainer: lightning.Trainer) -> float:
        """Samples a second of this epoch, over all ranks."""
        return self._samples * trainer.world_size / max(time.monotonic() - self._started, 1e-9)

    def waiting(self) -> float:
        """Share of the time of this epoch that its loader took."""
        return self._waited / max(time.monotonic() - self._started, 1e-9)

    def left(self, trainer: lightning.Trainer) -> timedelta | None:
        """Time that the rest of the run takes at its mean pace so far; None where there is no end."""
        total = trainer.max_epochs
        done = _place(trainer, trainer.fit_loop.epoch_loop.batch_idx + 1)
        if total is None or total < 0 or done <= self._first_place:
            return None
        elapsed = time.monotonic() - self._run_started
        return timedelta(seconds=round(elapsed / (done - self._first_place) * max(0.0, total - done)))

    def _figures(self, trainer: lightning.Trainer) -> str:
        found = trainer.callback_metrics
        parts = [f"{name} {float(found[name]):.3f}" for name in _SHOWN if name in found]
        parts += [f"{self.rate(trainer):.1f} {self.unit}/s", f"waiting for data {self.waiting():.0%}"]
        left = self.left(trainer)
        return ", ".join(parts if left is None else [*parts, f"about {left} left"])

    def _due(self, trainer: lightning.Trainer) -> bool:
        return time.monotonic() - self._said >= EVERY_S and not _has_terminal(trainer)

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        rank_zero_only(logger.info)(text)


class LiveProgress(RichProgressBar):
    """Lightning's progress bar with what `Throughput` measures, for a run in a terminal.

    Metrics lie on the device, which has to be waited for where they are read; they are read once a second.
    """

    _READ_EVERY_S = 1.0

    def __init__(self) -> None:
        super().__init__(leave=False)
        self._read_at, self._metrics_read = 0.0, dict[str, Any]()

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Loss, samples a second, share of time waiting, and time left."""
        now = time.monotonic()
        if now - self._read_at < self._READ_EVERY_S and self._metrics_read:
            return self._metrics_read
        self._read_at, found = now, super().get_metrics(trainer, pl_module)
        found.pop("v_num", None)
        measured = next((one for one in trainer.callbacks if isinstance(one, Throughput)), None)  # type: ignore[attr-defined]
        if measured is not None and trainer.training:
            found[f"{measured.unit}/s"] = f"{measured.rate(trainer):.1f}"
            found["waiting"] = f"{measured.waiting():.0%}"
            left = measured.left(trainer)
            if left is not None:
                found["left"] = str(left)
        self._metrics_read = dict(found)
        return self._metrics_read


def _has_terminal(trainer: lightning.Trainer) -> bool:
    return any(isinstance(one, LiveProgress) for one in trainer.callbacks)  # type: ignore[attr-defined]


def _total(trainer: lightning.Trainer) -> str:
    return "?" if trainer.max_epochs is None or trainer.max_epochs < 0 else str(trainer.max_epochs)


def _place(trainer: lightning.Trainer, batches: int) -> float:
    """Epochs that are done, with the part of the present one."""
    steps = trainer.num_training_batches
    return trainer.current_epoch + (batches / steps if 0 < steps < float("inf") else 0.0)
