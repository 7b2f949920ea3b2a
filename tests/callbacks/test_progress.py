"""What a user reads of a run: a line every half minute without a terminal, a bar in one."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks import progress
from callbacks.progress import EVERY_S, LiveProgress, Throughput

STEPS, EPOCHS = 6, 10


class Line(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch["x"]).square().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.layer(batch["x"]).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(
    folder: Path, *callbacks: Any, epochs: int = EPOCHS, resume: Path | None = None, **options: Any
) -> lightning.Trainer:
    rows = [{"x": torch.ones(2, 4), "patient": torch.arange(2)} for _ in range(STEPS)]
    live = any(isinstance(callback, LiveProgress) for callback in callbacks)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=live, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
        callbacks=list(callbacks),
    )  # fmt: skip
    loader: Any = DataLoader(rows, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(Line(), loader, loader, ckpt_path=resume, weights_only=True)
    return trainer


class Clock:
    """Time goes on by so much with every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 1000.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock(1.0)
    monkeypatch.setattr(progress.time, "monotonic", own)
    return own


def test_a_run_without_a_terminal_speaks_every_half_minute(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    spoken: list[float] = []

    class Noted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            spoken.append(clock.now)

    caplog.set_level(logging.INFO, logger="renal_suite")
    handler = Noted()
    progress.logger.addHandler(handler)
    try:
        fit(tmp_path, Throughput())
    finally:
        progress.logger.removeHandler(handler)
    gaps = [later - earlier for earlier, later in pairwise(spoken)]
    assert len(spoken) > 5
    assert max(gaps) <= EVERY_S + 10 * clock.step  # and what passes within a step
    lines = [record.getMessage() for record in caplog.records]
    shape = (
        r"epoch \d+/10, step \d/6: train/loss [\d.]+(, val/loss -?[\d.]+)?, [\d.]+ volumes/s, "
        r"waiting for data \d+%, about [\d:]+ left"
    )
    assert any(re.fullmatch(shape, line) for line in lines), lines
    assert any(line.startswith("epoch 10/10: ") for line in lines)


def test_waiting_is_the_time_of_the_loader(tmp_path: Path, clock: Clock) -> None:
    clock.step = 0.001

    class Slow(lightning.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.now += 1.0

    trainer = fit(tmp_path, Throughput(), Slow(), epochs=1)
    assert float(trainer.callback_metrics["train/waiting"]) < 0.1
    get = DataLoader.__iter__

    def late(self: Any) -> Any:
        for batch in get(self):
            clock.now += 1.0
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataLoader, "__iter__", late)
        trainer = fit(tmp_path, Throughput(), epochs=1)
    assert float(trainer.callback_metrics["train/waiting"]) > 0.8


def test_time_left_counts_from_where_a_run_goes_on(tmp_path: Path) -> None:
    first = fit(tmp_path, Throughput(), epochs=8)
    first.save_checkpoint(tmp_path / "x.ckpt")
    found = []

    class Asked(lightning.Callback):
        def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
            left = measured.left(trainer)
            found.append((trainer.current_epoch, left, time.monotonic() - measured._run_started))

    measured = Throughput()
    fit(tmp_path, measured, Asked(), epochs=10, resume=tmp_path / "x.ckpt")
    (epoch, left, elapsed), last = found
    assert epoch == 8
    assert abs(left.total_seconds() - elapsed) <= 1  # one of two epochs is done
    assert last[1].total_seconds() == 0


def test_metrics_are_read_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    whole = progress.RichProgressBar.get_metrics
    monkeypatch.setattr(progress.RichProgressBar, "get_metrics", lambda *args: read.append(1) or whole(*args))
    fit(tmp_path, Throughput(), LiveProgress())
    assert 1 <= len(read) < STEPS * EPOCHS / 3


@pytest.mark.slow
def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, '.')\n"
        "from pathlib import Path\n"
        "from callbacks.progress import LiveProgress, Throughput\n"
        "from tests.callbacks.test_progress import fit, Line\n"
        "step = Line.training_step\n"
        "Line.training_step = lambda self, batch, number: (time.sleep(0.15), step(self, batch, number))[1]\n"
        f"fit(Path({str(tmp_path)!r}), Throughput(), LiveProgress(), epochs=3)\n"
    )
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdout=follower, stderr=follower, env=environment, cwd=Path(__file__).parents[2]
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    assert run.wait(60) == 0, shown.decode(errors="replace")[-2000:]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))
    for wanted in ("Epoch 0/2", "train/loss:", "volumes/s:", "waiting:", "left: 0:00:"):
        assert wanted in text, text[-2000:]
