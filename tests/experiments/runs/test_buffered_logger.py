"""Metrics reach MLflow complete, in few writes, whether a run ends well or not, and whatever becomes of the store."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from mlflow.tracking import MlflowClient
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from datamodules.errors import DataError
from experiments.runs import outbox, tracking
from experiments.runs.buffered_logger import BufferedMLFlowLogger
from experiments.runs.console import configure_output
from experiments.runs.outbox import SPOOL
from experiments.runs.tracking import make_logger, send_kept, tracking_uri

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


@pytest.fixture(autouse=True)
def _said() -> None:
    configure_output()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose tables are made, which takes seconds."""
    runs = tmp_path_factory.mktemp("runs")
    MlflowClient(tracking_uri(runs)).create_experiment("e")
    return runs / "mlflow.db"


@pytest.fixture
def runs(prepared: Path, tmp_path: Path) -> Path:
    (tmp_path / "mlflow.db").write_bytes(prepared.read_bytes())
    return tmp_path


def _logger(runs: Path) -> BufferedMLFlowLogger:
    found = make_logger(runs, runs / "run", "e", "run", {"kind": "test"})
    assert isinstance(found, BufferedMLFlowLogger)
    found.seconds = 3600
    return found


def _fit(module: Module, logger: BufferedMLFlowLogger, folder: Path, checkpoint: bool = False) -> None:
    callbacks: list[Any] = [ModelCheckpoint(folder, every_n_train_steps=STEPS)] if checkpoint else []
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, log_every_n_steps=1, callbacks=callbacks,
        enable_checkpointing=checkpoint, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(torch.rand(STEPS, 1)), batch_size=1))


def _stored(runs: Path, name: str = "train/step") -> list[tuple[int, float]]:
    """The points of the one run that there is."""
    client = MlflowClient(tracking_uri(runs))
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))


def _status(runs: Path) -> str:
    client = MlflowClient(tracking_uri(runs))
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    return str(run.info.status)


def test_every_step_is_stored_in_few_writes(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, writes = _logger(runs), []
    log_batch = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: Any = (), params: Any = (), **more: Any) -> None:
        writes.append(len(metrics))
        log_batch(self, run_id, metrics, params, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    _fit(Module(), logger, runs)
    assert _stored(runs) == [(step, float(step)) for step in range(STEPS)]
    assert len(writes) == 1
    assert _status(runs) == "FINISHED"
    assert not (runs / "run" / SPOOL).exists()


def test_a_failure_loses_no_step_before_it(runs: Path) -> None:
    with pytest.raises(RuntimeError, match="a broken batch"):
        _fit(Module(fails_at=4), _logger(runs), runs)
    assert _stored(runs) == [(step, float(step)) for step in range(4)]
    assert _status(runs) == "FAILED"


def test_a_checkpoint_and_time_bring_the_metrics_to_the_store(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = _logger(runs)
    monkeypatch.setattr(BufferedMLFlowLogger, "finalize", lambda self, status="success": None)  # a killed process
    _fit(Module(), logger, runs, checkpoint=True)
    assert logger.outbox.drain()
    # Lightning saves a step's checkpoint before it logs that step, which a resumed run does not take again.
    assert [step for step, _ in _stored(runs)] == list(range(STEPS))
    logger.seconds = 0.0
    logger.log_metrics({"train/step": 9.0}, step=9)
    assert logger.outbox.drain()
    assert _stored(runs)[-1] == (9, 9.0)


def test_a_resumed_run_writes_no_point_twice(runs: Path) -> None:
    """The steps since the checkpoint are trained again, at another speed; what is scored afterwards is all kept."""
    for start, until in ((0, 5), (3, 8)):
        logger = _logger(runs)
        for step in range(start, until):
            logger.log_metrics({"train/loss": 1.0 / (1 + step), "train/speed": time.monotonic()}, step)
        logger.write()
        assert logger.outbox.drain()
    for name in ("train/loss", "train/speed"):
        assert [step for step, _ in _stored(runs, name)] == list(range(8))
    for value in (0.5, 0.5, 0.25):  # the best weights at the last step; scored again, and scored otherwise
        logger = _logger(runs)
        logger.fitting = False
        logger.log_metrics({"train/loss": value}, 7)
        logger.write()
        assert logger.outbox.drain()
    assert [value for step, value in _stored(runs, "train/loss") if step == 7] == [0.125, 0.25, 0.5]


def test_what_lightning_adds_to_every_metric_is_written_once_a_step(runs: Path) -> None:
    """A run that is killed between two metrics of a step, and resumed, writes what one does that is never killed."""
    killed = [({"val/auc": 0.5, "epoch": 0.0}, 3)]
    whole = [*killed, ({"train/loss": 0.25, "epoch": 0.0}, 3)]
    whole += [({"train/loss": 0.125, "epoch": 1.0}, 7), ({"val/auc": 0.75, "epoch": 1.0}, 7)]
    for metrics in (killed, whole):
        logger = _logger(runs)
        for values, step in metrics:
            logger.log_metrics(values, step)
            time.sleep(0.01)  # the store itself knows points of one millisecond as one
        logger.write()
        assert logger.outbox.drain()
    assert _stored(runs, "epoch") == [(3, 0.0), (7, 1.0)]
    assert _stored(runs, "train/loss") == [(3, 0.25), (7, 0.125)]
    assert _stored(runs, "val/auc") == [(3, 0.5), (7, 0.75)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds in the place of minutes; the store's own patience is left alone."""
    monkeypatch.setattr(outbox, "_PATIENCE_S", 2.0)
    monkeypatch.setattr(outbox, "_LAST_TRY_S", 1.0)
    monkeypatch.setattr(outbox, "_RETRY_S", (0.2,))


@pytest.fixture
def locked(runs: Path) -> Iterator[sqlite3.Connection]:
    """A store that somebody else writes to for a long time."""
    connection = sqlite3.connect(runs / "mlflow.db", isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


@pytest.mark.slow
def test_a_locked_store_ends_nothing_and_is_told_later(
    runs: Path, locked: sqlite3.Connection, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = _logger(runs)
    locked.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    _fit(Module(), logger, runs)
    assert time.monotonic() - started < 15  # a store that is asked itself takes 52 s to say no
    shown = capsys.readouterr().out
    assert "not in MLflow yet" in shown
    kept = [json.loads(line) for line in (runs / "run" / SPOOL).read_text().splitlines()]
    assert [entry["do"] for entry in kept] == ["metrics", "status"]
    locked.execute("ROLLBACK")
    deadline = time.monotonic() + 60
    while not logger.outbox.drain():
        assert time.monotonic() < deadline
    assert _stored(runs) == [(step, float(step)) for step in range(STEPS)]
    assert not (runs / "run" / SPOOL).exists()


@pytest.mark.slow
def test_a_damaged_store_ends_nothing_and_a_mended_one_is_told(
    runs: Path, impatient: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (runs / "mlflow.db").read_bytes()
    other = runs / "other"
    other.mkdir()
    (other / "mlflow.db").write_bytes(b"no database" * 500)
    logger = _logger(other)
    _fit(Module(), logger, other)
    assert logger.run_id is None
    shown = capsys.readouterr().out
    assert "WARNING: MLflow's store does not take the log of run (" in shown
    assert "Traceback" not in shown
    logger.outbox.close()  # the process ends
    monkeypatch.setattr(tracking, "_outboxes", {})
    moved = runs / "moved"
    other.rename(moved)
    (moved / "mlflow.db").write_bytes(whole)
    send_kept(moved, moved / "run", "e", "run", {"kind": "test"})
    assert _stored(moved) == [(step, float(step)) for step in range(STEPS)]
    assert _status(moved) == "FINISHED"
    assert not (moved / "run" / SPOOL).exists()


def test_what_mlflow_refuses_is_said_and_stops_nothing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = _logger(runs)
    logger.log_hyperparams({"rate": 1})
    logger.log_hyperparams({"rate": 2})
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finalize()
    assert "WARNING: MLflow refused an entry of run (params:" in capsys.readouterr().out
    assert _stored(runs, "train/loss") == [(0, 1.0)]


def test_an_entry_that_a_kill_cut_short_is_left_out(runs: Path) -> None:
    (runs / "run").mkdir()
    entry = {"do": "metrics", "points": [["train/loss", 1.0, 1, 0]], "fitting": True}
    (runs / "run" / SPOOL).write_text(json.dumps(entry) + "\n" + json.dumps(entry)[:20])
    assert _logger(runs).outbox.drain()
    assert _stored(runs, "train/loss") == [(0, 1.0)]


@pytest.mark.parametrize("named", ["file:/tmp/mlruns", "file:///tmp/mlruns", "./mlruns", "/tmp/mlruns"])
def test_a_folder_of_files_is_refused_as_a_store(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_NAMED_STORE", named)
    with pytest.raises(DataError, match=r"MLFLOW_TRACKING_URI names a folder of files.*leave it unset"):
        make_logger(tmp_path, tmp_path / "run", "e", "run", {})


@pytest.mark.parametrize("named", ["http://127.0.0.1:9", "sqlite:///a.db", "postgresql+psycopg2://h/d", "databricks"])
def test_databases_and_servers_are_stores(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_NAMED_STORE", named)
    assert tracking_uri(tmp_path) == named


def test_artifacts_follow_a_folder_of_runs_that_was_moved(runs: Path) -> None:
    old, new = runs / "old", runs / "new"
    old.mkdir()
    (old / "mlflow.db").write_bytes((runs / "mlflow.db").read_bytes())

    def told(place: Path, name: str) -> None:
        logger = make_logger(place, place / name, "renal/x", name, {})
        (place / name / "a.txt").write_text(name)
        logger.experiment.log_artifact(None, place / name / "a.txt")
        assert logger.experiment.drain()

    told(old, "first")
    old.rename(new)
    told(new, "second")
    assert not old.exists()
    client = MlflowClient(tracking_uri(new))
    experiment = client.get_experiment_by_name("renal/x")
    found = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    for name in ("first", "second"):
        assert [file.path for file in client.list_artifacts(found[name])] == ["a.txt"]
        assert Path(client.download_artifacts(found[name], "a.txt", str(runs))).read_text() == name
