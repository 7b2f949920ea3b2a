"""Lightning's MLflow logger, except that a training neither waits for the store nor ends with it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.entities import Metric

from experiments.runs.outbox import Outbox


class BufferedMLFlowLogger(MLFlowLogger):
    """Gathers metrics and hands them to the run's outbox together.

    Metrics are handed over before and after a checkpoint is saved and at the end of a fit or test, also of one that
    fails. A killed process loses what it gathered since, and a run that resumes from that checkpoint logs it again.

    Args:
        outbox: What sends them.
        name: MLflow experiment.
        seconds: Metrics are handed over when the last time is this long ago.

    Attributes:
        fitting: Whether what is logged are training steps, of which a resumed run repeats some.
    """

    def __init__(self, outbox: Outbox, name: str, seconds: float = 5.0) -> None:
        Logger.__init__(self)
        self.outbox, self.seconds, self.fitting = outbox, seconds, True
        self._name = name
        self._log_batch_kwargs: dict[str, Any] = {}
        self._gathered: list[Metric] = []
        self._last: dict[str, tuple[int, str]] = {}
        self._written = time.monotonic()

    @property
    def experiment(self) -> Any:
        """What takes the calls of an MLflow client that write."""
        return self.outbox

    @property
    def run_id(self) -> str | None:
        """The run's id; None where the store did not give one yet."""
        return self.outbox.run_id()

    @property
    def save_dir(self) -> str | None:
        """None: the run's folder is Lightning's `default_root_dir`."""
        return None

    @property
    def name(self) -> str | None:
        """The experiment."""
        return self._name

    @property
    def version(self) -> str | None:
        """None."""
        return None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep the metrics of a step, with the time at which they were measured.

        A value that is repeated at one step is kept once: Lightning adds `epoch` to all that it logs, and a run that
        resumes between two of them would not write the second.
        """
        now_ms = int(time.time() * 1000)
        for name, value in metrics.items():
            point = (step or 0, repr(float(value)))
            if self._last.get(name) != point:
                self._last[name] = point
                self._gathered.append(Metric(name, float(value), now_ms, step or 0))
        if time.monotonic() - self._written >= self.seconds:
            self.write()

    def write(self) -> None:
        """Hand over what was gathered."""
        if self._gathered:
            self.outbox.log_batch(metrics=self._gathered, fitting=self.fitting)
        self._gathered, self._written = [], time.monotonic()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Hand over everything that happened before the checkpoint, and what is logged next as soon as it is.

        Lightning logs the metrics of an epoch after its checkpoint, from which a killed run goes on without that epoch.
        """
        self.write()
        self._written = -math.inf

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Hand over the rest and end the run."""
        self.write()
        self.outbox.set_terminated(status="FAILED" if status == "failed" else "FINISHED")


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
