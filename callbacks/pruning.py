"""Ends a trial of a sweep that is behind the others."""

from __future__ import annotations

import warnings

import lightning
from optuna.trial import Trial
from optuna_integration import PyTorchLightningPruningCallback


class EpochPruning(PyTorchLightningPruningCallback):
    """Reports the validation metric of every epoch to Optuna and ends the trial where its pruner says so.

    The validation of the best checkpoint after training is no epoch and is not reported, which Optuna's own callback
    would do. An epoch that a resumed trial runs again keeps its first report, which is the same.

    Args:
        trial: The trial.
        monitor: Validation metric.

    Raises:
        TrialPruned: out of the fit of a trial that is ended.
    """

    def __init__(self, trial: Trial, monitor: str) -> None:
        super().__init__(trial, monitor)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the epoch, and ask the pruner."""
        if trainer.state.fn != "fit":
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is already reported.*")
            super().on_validation_end(trainer, pl_module)
