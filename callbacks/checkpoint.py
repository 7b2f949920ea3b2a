"""Checkpoints of a run: the best and the last, in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

_PATHS = ("best_model_path", "last_model_path", "kth_best_model_path")


class PortableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that writes one file and no path into it, so that a run folder can be moved and shared.

    Args:
        folder: Where the checkpoint goes.
        filename: Its name without ending.
        monitor: Metric that says which epoch is kept; None keeps the latest.
        mode: `min` or `max`.
        every_epoch: Whether it is written after epochs without a validation, too; Lightning decides when left out.
    """

    def __init__(
        self,
        folder: Path,
        filename: str,
        monitor: str | None = None,
        mode: str = "min",
        every_epoch: bool | None = None,
    ) -> None:
        super().__init__(
            dirpath=folder,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_on_train_epoch_end=every_epoch,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """The state with file names instead of paths."""
        state = super().state_dict()
        state["dirpath"] = ""
        for name in _PATHS:
            state[name] = Path(state[name]).name if state[name] else ""
        state["best_k_models"] = {Path(path).name: score for path, score in state["best_k_models"].items()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resolve file names against this run's folder."""
        folder = Path(str(self.dirpath))
        state = dict(state_dict, dirpath=str(folder))
        for name in _PATHS:
            state[name] = str(folder / state[name]) if state[name] else ""
        state["best_k_models"] = {str(folder / name): score for name, score in state["best_k_models"].items()}
        super().load_state_dict(state)


class BestCheckpoint(PortableCheckpoint):
    """Keeps `best.ckpt`, the epoch with the best validation metric.

    Of epochs with the same score the last one is kept: on a small validation set the AUC has few values, and the
    later epoch was trained longer.

    Args:
        folder: Where the checkpoint goes.
        monitor: Validation metric.
        mode: `min` or `max`.
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(folder, "best", monitor, mode)

    def check_monitor_top_k(self, trainer: lightning.Trainer, current: torch.Tensor | None = None) -> bool:
        """Whether the current score is at least as good as the best one; what is no number never is."""
        if current is None or not trainer.strategy.reduce_boolean_decision(not bool(torch.isnan(current))):
            return False
        better = super().check_monitor_top_k(trainer, current)
        tied = self.best_model_score is not None and bool(current == self.best_model_score)
        return bool(trainer.strategy.reduce_boolean_decision(better or tied, all=False))


class LastCheckpoint(PortableCheckpoint):
    """Keeps `last.ckpt`, from which a run resumes, after every epoch.

    ModelCheckpoint's own `save_last` writes only when the best epoch changes, and without validation every epoch only
    after one. It must stand after `BestCheckpoint`, whose state it saves.

    Args:
        folder: Where the checkpoint goes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", every_epoch=True)
