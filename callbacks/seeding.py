"""Randomness that does not depend on where a run was interrupted."""

from __future__ import annotations

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class EpochSeed(Callback):
    """Seeds the global generators at the start of every training epoch from (seed, epoch, rank).

    Dropout then draws the same in a run that was resumed at an epoch boundary as in one that was not.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int = 42) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Seed for this epoch."""
        state = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank]).generate_state(1)
        torch.manual_seed(int(state[0]))
