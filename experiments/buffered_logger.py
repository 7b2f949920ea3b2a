"""Lightning's MLflow logger, except that a training step does not wait for the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.entities import Metric


class BufferedMLFlowLogger(MLFlowLogger):
    """Gathers metrics and writes them together: a write takes about 20 ms with SQLite, however many they are.

    Metrics are written whenever a checkpoint was saved and at the end of a fit or test, also of one that fails. A
    killed process loses what it gathered since, and a run that resumes from that checkpoint logs it again.

    Args:
        seconds: Metrics are written when the last write is this long ago.
        kwargs: As Lightning's logger takes them.
    """

    def __init__(self, *, seconds: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds
        self._gathered: list[Metric] = []
        self._written = time.monotonic()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep the metrics of a step, with the time at which they were measured."""
        now_ms = int(time.time() * 1000)
        self._gathered += [Metric(name, float(value), now_ms, step or 0) for name, value in metrics.items()]
        if time.monotonic() - self._written >= self.seconds:
            self.write()

    def write(self) -> None:
        """Write what was gathered to the store."""
        if self._gathered:
            self.experiment.log_batch(run_id=str(self.run_id), metrics=self._gathered)
        self._gathered, self._written = [], time.monotonic()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Write everything that happened before the checkpoint."""
        self.write()
        super().after_save_checkpoint(checkpoint_callback)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Write the rest and end the run."""
        self.write()
        super().finalize(status)


class SilentLogger(MLFlowLogger):
    """Stands for the logger on ranks other than 0: it logs nothing and opens no store.

    MLflow makes the tables of a new store as soon as a client is made, and two ranks would make them at once.
    """

    def __init__(self) -> None:
        Logger.__init__(self)

    @property
    def experiment(self) -> Any:
        """What takes every call and does nothing."""
        return _DummyExperiment()

    @property
    def run_id(self) -> str | None:
        """None."""
        return None

    @property
    def save_dir(self) -> str | None:
        """None."""
        return None

    @property
    def name(self) -> str | None:
        """None."""
        return None

    @property
    def version(self) -> str | None:
        """None."""
        return None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Nothing."""

    def finalize(self, status: str = "success") -> None:
        """Nothing."""

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Nothing."""
