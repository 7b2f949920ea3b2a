"""Metrics reach MLflow complete, in few writes, whether a run ends well or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from mlflow.tracking import MlflowClient
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from experiments.buffered_logger import BufferedMLFlowLogger

STEPS = 7


class Module(lightning.LightningModule):
    """A weight that learns, and fails at a given step."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.layer, self.fails_at = nn.Linear(1, 1), fails_at

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        if batch_idx == self.fails_at:
            raise RuntimeError("a broken batch")
        loss: torch.Tensor = self.layer(batch[0]).square().mean()
        self.log("train/step", float(batch_idx))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def _fit(module: Module, logger: BufferedMLFlowLogger, folder: Path, checkpoint: bool = False) -> None:
    callbacks: list[Any] = [ModelCheckpoint(folder, every_n_train_steps=STEPS)] if checkpoint else []
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, log_every_n_steps=1, callbacks=callbacks,
        enable_checkpointing=checkpoint, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(torch.rand(STEPS, 1)), batch_size=1))


def _stored(store: str, logger: BufferedMLFlowLogger) -> list[tuple[int, float]]:
    history = MlflowClient(store).get_metric_history(str(logger.run_id), "train/step")
    return sorted((point.step, point.value) for point in history)


def test_every_step_is_stored_in_few_writes(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = BufferedMLFlowLogger(experiment_name="e", tracking_uri=store, seconds=3600)
    writes: list[int] = []
    log_batch = logger.experiment.log_batch

    def counted(run_id: str, metrics: Any) -> None:
        writes.append(len(metrics))
        log_batch(run_id, metrics)

    monkeypatch.setattr(logger.experiment, "log_batch", counted)
    _fit(Module(), logger, tmp_path)
    assert _stored(store, logger) == [(step, float(step)) for step in range(STEPS)]
    assert len(writes) == 1
    assert MlflowClient(store).get_run(str(logger.run_id)).info.status == "FINISHED"


def test_a_failure_loses_no_step_before_it(store: str, tmp_path: Path) -> None:
    logger = BufferedMLFlowLogger(experiment_name="e", tracking_uri=store, seconds=3600)
    with pytest.raises(RuntimeError, match="a broken batch"):
        _fit(Module(fails_at=4), logger, tmp_path)
    assert _stored(store, logger) == [(step, float(step)) for step in range(4)]
    assert MlflowClient(store).get_run(str(logger.run_id)).info.status == "FAILED"


def test_a_checkpoint_and_time_bring_the_metrics_to_the_store(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = BufferedMLFlowLogger(experiment_name="e", tracking_uri=store, seconds=3600)
    monkeypatch.setattr(BufferedMLFlowLogger, "finalize", lambda self, status="success": None)  # a killed process
    _fit(Module(), logger, tmp_path, checkpoint=True)
    # Lightning saves a step's checkpoint before it logs that step.
    assert [step for step, _ in _stored(store, logger)] == list(range(STEPS - 1))
    logger.seconds = 0.0
    logger.log_metrics({"train/step": 9.0}, step=9)
    assert _stored(store, logger)[-1] == (9, 9.0)
