"""A job whose time is over: saved, given back to SLURM, and gone on with where it stopped."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Protocol, runtime_checkable

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

logger = logging.getLogger("renal_suite")


class Requeued(SystemExit):
    """Ends a process whose job was given back to SLURM."""


class _Asked:
    """Whether SLURM asked this process to end, and whether it trains just now."""

    now = False
    training = False


def requeue_on_signal() -> None:
    """Take SIGUSR1, which SLURM sends before a job's time is over (`--signal=USR1@300`).

    While a model is trained the run is saved first, at the end of a step. At any other time the job is given back at
    once: what is finished lies on the disk, and the same command goes on from it. Does nothing outside of a job.

    Lightning's own handler saves from within the signal, in the midst of a step and on every rank at another place of
    it, where ranks wait for each other for ever; it leaves the signal alone where it has a handler.
    """
    if SLURMEnvironment.detect() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, _noted)


def requeue_asked() -> bool:
    """Whether SLURM asked this process to give its job back."""
    return _Asked.now


def _noted(number: int, frame: FrameType | None) -> None:
    _Asked.now = True
    if not _Asked.training:
        _give_back()


def _give_back() -> None:
    """Ask SLURM to queue the job again, from rank 0, and end this process."""
    _ask_for_the_queue()
    raise Requeued(0)


@rank_zero_only
def _ask_for_the_queue() -> None:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not re.fullmatch(r"[0-9_]+", job):
        raise RuntimeError(f"SLURM names the job {job!r}; expected digits.")
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    said = "is queued again and goes on from here" if done.returncode == 0 else f"was not queued: {done.stderr}"
    logger.info(f"The time of job {job} is over; it {said.strip()}.")


@runtime_checkable
class Resumable(Protocol):
    """A loader that can begin in the midst of an epoch."""

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin where the state says."""


class Requeue(Callback):
    """Saves `last.ckpt` at the end of a step when SLURM asked for it, and gives the job back.

    All ranks agree on the step, so that none waits for another; of several ranks they ask each other every few steps
    only, since each question stops the queue of a GPU. A run goes on in the midst of an epoch where its loader can
    begin there; else from the end of the epoch before.

    Args:
        folder: Where the checkpoint goes.
        seed: Seed of the run.
        every: Batches from one question to the next, of several ranks; the signal comes minutes before the end.
    """

    def __init__(self, folder: Path, seed: int, every: int = 10) -> None:
        self.path, self.seed, self.every = folder / "last.ckpt", seed, every
        self._batches = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hold the signal until a step ends; after a resumption in the midst of an epoch, seed what dropout draws."""
        _Asked.training = True
        if trainer.fit_loop.restarted_mid_epoch:
            place = [self.seed, trainer.current_epoch, trainer.global_rank, trainer.fit_loop.epoch_loop.batch_idx + 2]
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on a signal acts at once; one that came in the last step acts now."""
        _Asked.training = False
        if _Asked.now:
            _give_back()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """As at the end of training."""
        _Asked.training = False

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Save and end, when a rank was asked to; the last step of an epoch leaves it to the first of the next."""
        self._batches += 1
        # A step whose gradient is not yet whole cannot be saved.
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not SLURMEnvironment.detect() or trainer.is_last_batch or not whole:
            return
        if trainer.world_size > 1 and self._batches < self.every:
            return
        self._batches = 0
        asked = _Asked.now
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if not asked:
            return
        if isinstance(trainer.train_dataloader, Resumable):
            trainer.save_checkpoint(self.path)
        _give_back()
