"""One trial of a sweep: a training run that is validated and never tested."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.trial import Trial

from callbacks.divergence import DivergedError
from callbacks.predictions import prediction_frame
from callbacks.pruning import EpochPruning
from datamodules.cohort.cohort import Cohort
from datamodules.files import write_parquet
from experiments.finetuning.point import Point
from experiments.runs.console import say
from experiments.runs.launch import FinishedRun, train
from experiments.runs.locks import LOCK, held
from experiments.runs.tracking import log_metrics, outbox_of
from experiments.scores.outcomes import Metric, Outcome, metric_of, outcomes_of
from experiments.studies.sweep.search_space import Space, Value, flags
from experiments.studies.sweep.storage import original_number
from lightning_modules.core.errors import ModelError

VALIDATION = "validation.parquet"
FAILURES = 3
"""Trials of one worker that may fail one after the other; then the reason lies in more than the values."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep consists of.

    Args:
        point: The point whose hyper-parameters are searched.
        space: What is searched.
        folder: Folder of the trials and results.
        command: What `make resume` calls again, as plain data without a password.
        monitor: Validation metric.
    """

    point: Point
    space: Space
    folder: Path
    command: Mapping[str, object]
    monitor: str

    def trial_folder(self, number: int) -> Path:
        """Where a trial lies."""
        return self.folder / f"trial-{number:04d}"


TRIAL_FAILS = (ModelError, DivergedError, torch.OutOfMemoryError)
"""What ends a trial and not the sweep: values that cannot be trained with."""


class TooManyFailuresError(Exception):
    """Several trials in a row failed; carries the reason of the last."""


class TrialObjective:
    """Trains a trial and gives the validation metric of its best epoch.

    The DataModule is asked for training and validation only: internal validation patients decide, and no test patient
    is read. A trial that goes on with an interrupted one takes its folder, its checkpoint and its MLflow run.

    Args:
        sweep: The sweep.
        cohort: The cohort.
        parent: MLflow id of the sweep's run.

    Attributes:
        current: Number of the trial that runs, or ran last.
    """

    def __init__(self, sweep: Sweep, cohort: Cohort, parent: str | None) -> None:
        self.sweep, self.cohort, self.parent = sweep, cohort, parent
        self.current = -1
        self._failures = 0

    def __call__(self, trial: Trial) -> float:
        """Run a trial.

        Raises:
            TrialPruned: if the pruner ended it.
            ModelError: if its values cannot be trained with.
            TooManyFailuresError: after `FAILURES` such trials in a row.
        """
        number, values = original_number(trial_of(trial)), self.sweep.space.suggest(trial)
        folder, self.current = self.sweep.trial_folder(number), trial.number
        goes_on = f", going on with trial {number}" if number != trial.number else ""
        say(f"Trial {trial.number}{goes_on}: {words(values)}")
        with held(folder / LOCK):
            try:
                return self._run(trial, number, values, folder)
            except optuna.TrialPruned:
                last = list(trial_of(trial).intermediate_values.items())[-1]
                self._track(folder, values, "pruned", {})
                say(f"Trial {trial.number} is ended after epoch {last[0] + 1} ({self.sweep.monitor} {last[1]:.3f}).")
                self._failures = 0
                raise
            except TRIAL_FAILS as error:
                self._failures += 1
                say(f"Trial {trial.number} failed: {str(error).splitlines()[0]}")
                if self._failures >= FAILURES:
                    raise TooManyFailuresError(str(error).splitlines()[0]) from error
                raise
            except SystemExit as error:
                raise KeyboardInterrupt from error  # what Lightning makes of an interruption

    def _run(self, trial: Trial, number: int, values: Mapping[str, Value], folder: Path) -> float:
        launch = self.sweep.point.launch(self.cohort, None)
        launch = replace(
            launch,
            folder=folder,
            name=f"{folder.parent.name}-{folder.name}",
            tags={**launch.tags, "sweep": folder.parent.name, "trial": str(number)},
            command=self.sweep.command,
            parent=self.parent,
            configuration=launch.configuration.over(values={"run_dir": folder}, flags=flags(values)),
        )
        finished = train(launch, test=False, callbacks=[EpochPruning(trial, self.sweep.monitor)])
        metric, outcome = validated(finished, folder)
        estimate = outcome.estimate()
        counted = {"low": estimate.low, "high": estimate.high, "n": len(outcome.rows), metric.count: outcome.count}
        for name, value in counted.items():
            trial.set_user_attr(name, float(value))
        trial.set_user_attr("interval", estimate.interval)
        self._track(folder, values, "complete", {"value": finished.best_score, **counted})
        say(f"Trial {trial.number}: {self.sweep.monitor} {finished.best_score:.3f}")
        self._failures = 0
        return finished.best_score

    def _track(self, folder: Path, values: Mapping[str, Value], state: str, results: Mapping[str, float]) -> None:
        """Parameters, state and value in the trial's MLflow run; its checkpoints, which nobody needs again, go."""
        client = outbox_of(folder)
        run_id = client.run_id() or ""
        for path, value in values.items():
            client.log_param(run_id, f"sweep/{path}", value)
        client.set_tag(run_id, "trial_state", state)
        finite = {f"sweep/{name}": float(value) for name, value in results.items() if np.isfinite(value)}
        log_metrics(client, run_id, finite)
        client.set_terminated(run_id)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def trial_of(trial: Trial) -> optuna.trial.FrozenTrial:
    """A trial as its storage has it."""
    return trial.study.get_trials(deepcopy=False)[trial.number]


def words(values: Mapping[str, Value]) -> str:
    """Values of parameters in one line."""
    shown = {path: f"{value:.3g}" if isinstance(value, float) else str(value) for path, value in values.items()}
    return ", ".join(f"{path} {value}" for path, value in shown.items())


def validated(finished: FinishedRun, folder: Path) -> tuple[Metric, Outcome]:
    """The validation patients of the best checkpoint, written beside the trial, and what is scored on them."""
    model = finished.model
    module = model.trainer.datamodule  # type: ignore[attr-defined]
    columns = model.prediction_columns(model.val_table.score, list(module.label.class_names))  # type: ignore[operator]
    frame = prediction_frame(model.val_table.patient, module.plan.patients, columns, module.label.endpoint)
    write_parquet(folder / VALIDATION, frame)
    return metric_of(frame), next(outcomes_of(frame))
