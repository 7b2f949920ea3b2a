"""Ends a training whose loss or gradient is no number, before anything of it is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

_SHOWN = 12
"""Most patients that a sentence names."""


class DivergedError(RuntimeError):
    """A training whose loss or gradient is no number any more; says where, and what to do."""


class _Step(NamedTuple):
    """What a step left behind: its loss and the norm of its gradient are read later, many steps at once."""

    number: int
    rate: float
    loss: torch.Tensor
    norm: torch.Tensor
    patients: tuple[str, ...]


class _Bad(NamedTuple):
    """The first step of a rank that is no number."""

    number: int
    rate: float
    loss: float
    norm: float
    patients: tuple[str, ...]


class FiniteGuard(Callback):
    """Ends the run at the first loss, or norm of the gradient, that is not finite.

    The values stay on the device and are looked at every few steps, at the end of an epoch and before a checkpoint is
    written, so that a GPU does not wait for the host at every step, and no checkpoint is ever written after such a
    step. All ranks agree, and name the patients of the step. The norm is the one that was clipped by
    (`module.gradient_norm`); under a gradient scaler, which passes over steps without one by itself, the loss alone
    counts.

    Args:
        folder: Where the run's checkpoints are.
        every: Steps from one look to the next.
    """

    def __init__(self, folder: Path, every: int = 10) -> None:
        self.folder, self.every = folder, every
        self._steps: list[_Step] = []
        self._rate = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Forget an earlier fit."""
        self._steps = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rate, which a schedule changes before the step is over."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the step, and look at the last ones now and then."""
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if loss is None:  # the module passed over this step
            return
        norm = getattr(pl_module, "gradient_norm", None)
        if norm is None or getattr(trainer.precision_plugin, "scaler", None) is not None:
            norm = loss
        patients = tuple(map(str, batch.get("patient_id", ()))) if isinstance(batch, Mapping) else ()
        self._steps.append(_Step(trainer.global_step, self._rate, loss.detach(), norm.detach(), patients))
        if len(self._steps) >= self.every or trainer.is_last_batch:
            self._look(trainer)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look before anything is kept."""
        self._look(trainer)

    def _look(self, trainer: lightning.Trainer) -> None:
        steps, self._steps = self._steps, []
        if not steps:
            return
        values = torch.stack([value.float().reshape(()) for step in steps for value in (step.loss, step.norm)])
        bad = not bool(torch.isfinite(values).all())
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce_boolean_decision(bad, all=False)
        if not bad:
            return
        read = values.view(-1, 2).tolist()
        own = [
            _Bad(step.number, step.rate, loss, norm, step.patients)
            for step, (loss, norm) in zip(steps, read, strict=True)
            if not (math.isfinite(loss) and math.isfinite(norm))
        ]
        everyone: list[_Bad | None] = [own[0] if own else None]
        if trainer.world_size > 1:
            everyone = [None] * trainer.world_size
            dist.all_gather_object(everyone, own[0] if own else None)
        raise DivergedError(self._sentence(trainer, [found for found in everyone if found is not None]))

    def _sentence(self, trainer: lightning.Trainer, found: list[_Bad]) -> str:
        first = min(bad.number for bad in found)
        ranks = [bad for bad in found if bad.number == first]
        lost = [bad for bad in ranks if not math.isfinite(bad.loss)]
        what = f"the loss is {lost[0].loss}" if lost else f"the norm of the gradient is {ranks[0].norm}"
        patients = list(dict.fromkeys(name for bad in lost or ranks for name in bad.patients))
        more = f" and {len(patients) - _SHOWN} more" if len(patients) > _SHOWN else ""
        whose = f" Patients of the step: {', '.join(patients[:_SHOWN])}{more}." if patients else ""
        kept = (
            f"The last good checkpoint is last.ckpt, after epoch {trainer.current_epoch}."
            if (self.folder / "last.ckpt").is_file()
            else "No checkpoint was written before."
        )
        return (
            f"Training diverged at step {first}, in epoch {trainer.current_epoch + 1}: {what} at learning rate "
            f"{ranks[0].rate:.3g}.{whose} {kept} Try a lower rate (--optimizer.lr) or look at the scans of these "
            "patients; the same command with other settings moves the failed run aside."
        )
