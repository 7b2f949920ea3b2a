"""A SLURM job at its time limit: saved at the end of a step, queued again, and the same weights as without a break."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import Dataset

from callbacks import requeue
from callbacks.checkpoint import LastCheckpoint
from callbacks.requeue import Requeue, Requeued, requeue_on_signal
from callbacks.seeding import EpochSeed
from datamodules.loading.loaders import ResumableLoader
from datamodules.loading.sampling import EvenBatchSampler, VisitSampler

JOB = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0",
       "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The environment of a job and a `scontrol` that writes down what it is asked."""
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(requeue._Asked, "now", False)
    monkeypatch.setattr(requeue._Asked, "training", False)
    requeue_on_signal()
    yield asked
    signal.signal(signal.SIGUSR1, before)


class Numbers(Dataset[torch.Tensor]):
    def __getitem__(self, draw: Any) -> torch.Tensor:
        return torch.full((4,), draw.visit / 10)


class Line(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = (self.layer(batch) - batch[:, :1].sin()).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class SignalAt(Callback):
    def __init__(self, step: int) -> None:
        self.step, self.seen = step, []  # type: ignore[var-annotated]

    def on_train_batch_start(self, trainer: Any, module: Any, batch: torch.Tensor, batch_idx: int) -> None:
        self.seen.append([round(10 * float(value)) for value in batch[:, 0]])
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)


def _fit(folder: Path, step: int = -1, workers: int = 0) -> tuple[Line, SignalAt]:
    sampler = VisitSampler([[0]] * 10, ["a"] * 10, seed=3)
    loader = ResumableLoader(Numbers(), batch_sampler=EvenBatchSampler(sampler, 2), num_workers=workers)
    sender, module = SignalAt(step), Line()
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=3, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[sender, EpochSeed(3), LastCheckpoint(folder), Requeue(folder, 3)],
    )  # fmt: skip
    last = folder / "last.ckpt"
    trainer.fit(module, loader, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    return module, sender


@pytest.mark.parametrize("step", [7, 9])  # in the midst of the second epoch, and in its last step
def test_a_job_goes_on_where_it_stopped(job: Path, tmp_path: Path, step: int) -> None:
    expected, order = _fit(tmp_path / "whole")
    with pytest.raises(Requeued) as ended:
        _fit(tmp_path / "parts", step)
    assert ended.value.code == 0
    assert job.read_text() == "requeue 4711\n"
    requeue._Asked.now = False  # the job starts again as another process
    found, rest = _fit(tmp_path / "parts")
    assert order.seen[-len(rest.seen) :] == rest.seen
    assert len(rest.seen) == (7 if step == 7 else 4)
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_outside_of_training_a_job_is_given_back_at_once(job: Path) -> None:
    with pytest.raises(Requeued):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert job.read_text() == "requeue 4711\n"


def test_an_array_job_is_named_with_its_task(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(Requeued):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert job.read_text() == "requeue 12_3\n"


def test_workers_are_asked_in_the_order_of_the_epoch_that_goes_on() -> None:
    """A loader is opened before Lightning tells its sampler the epoch; what it gives must not depend on that."""

    def batches(start: int, epoch: int) -> list[list[int]]:
        sampler = VisitSampler([[0]] * 10, ["a"] * 10, seed=3)
        loader = ResumableLoader(Numbers(), batch_sampler=EvenBatchSampler(sampler, 2), num_workers=1)
        loader.load_state_dict({"batches": start})
        opened = iter(loader)
        sampler.set_epoch(epoch)
        return [[round(10 * float(value)) for value in batch[:, 0]] for batch in opened]

    assert batches(2, 1) == batches(0, 1)[2:]
    assert batches(0, 1) != batches(0, 0)
