"""What a sweep leaves for its reader: table, figures, best values, sentences, and the same in MLflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from mlflow.tracking import MlflowClient
from optuna import Study

from datamodules.cohort.cohort import Cohort
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from datamodules.files import replacing
from experiments.registry import TASKS
from experiments.runs.console import say
from experiments.runs.tracking import NOTE, best_effort, log_metrics, store_client
from experiments.scores.outcomes import Metric
from experiments.scores.plots.style import save
from experiments.scores.results_table import caption
from experiments.studies.sweep.search_space import Value, nested
from experiments.studies.sweep.sweep_figures import history_figure, importance_figure
from experiments.studies.sweep.sweep_table import FEW, best_sentences, importances, trial_table
from experiments.studies.sweep.trials import Sweep

BEST = "best.yaml"


def publish(
    plan: Sweep, study: Study, cohort: Cohort, parent: str | None, metric: Metric, own: dict[str, Value]
) -> None:
    """Table, figures, best values and sentences, also in MLflow."""
    folder, point = plan.folder, plan.point
    table = trial_table(study.get_trials(deepcopy=False), plan.space, metric)
    paths = [folder / "trials.csv", folder / "history.png"]
    write_csv(paths[0], table)
    if not (table["state"] == "complete").any():
        raise DataError(f"No trial of {folder.name} was trained to its end, so none is the best; raise TRIALS=.")
    complete, shares = int((table["state"] == "complete").sum()), importances(study)
    what = f"{TASKS[point.task].title}, {point.encoder}, {point.fraction:.0%} of the labels"
    title = f"{what}: sweep over {plan.space.name}"
    row = table[table["trial"] == study.best_trial.number].iloc[0]
    on = f"On {row['n']:.0f} internal validation patients ({row[metric.count]:.0f} {metric.count_title})."
    note = f"{on} {caption(cohort.info)}"
    save(history_figure(table, metric.title, title, note), paths[1])
    if shares:
        few = " only: read it with care" if complete < FEW else ""
        paths.append(folder / "importance.png")
        save(importance_figure(shares, metric.title, title, f"{complete} complete trials{few}. {note}"), paths[-1])
    paths.append(folder / BEST)
    with replacing(paths[-1]) as temporary:
        temporary.write_text(yaml.safe_dump(nested(study.best_params), sort_keys=False), encoding="utf-8")
    sentences = best_sentences(study, plan.space, metric, own, shares)
    _log(plan, parent, table, paths, sentences, note)
    for sentence in sentences:
        say(sentence)
    best = paths[-1].as_posix()
    say(f"{caption(cohort.info)}\nBest values: {best}, for `make finetune TASK={point.task} TAG=... PARAMS={best}`")
    say("\n".join(f"{'Table' if path.suffix == '.csv' else 'Figure'}: {path.as_posix()}" for path in paths[:-1]))


def _log(
    plan: Sweep, parent: str | None, table: pd.DataFrame, paths: list[Path], sentences: list[str], note: str
) -> None:
    """The history as metrics of the parent run, a step a trial; what stands there already is not written twice."""
    if parent is None:
        return
    with best_effort("The history of the sweep"):
        _log_history(store_client(plan.point.runs), parent, table, paths, sentences, note)


def _log_history(
    client: MlflowClient, parent: str, table: pd.DataFrame, paths: list[Path], sentences: list[str], note: str
) -> None:
    known = {entry.step for entry in client.get_metric_history(parent, "sweep/value")}
    best = -np.inf
    for row in table[table["state"] == "complete"].to_dict("records"):
        best = max(best, row["value"])
        if row["trial"] not in known:
            log_metrics(client, parent, {"sweep/value": row["value"], "sweep/best": best}, row["trial"])
    client.set_tag(parent, NOTE, "\n\n".join([*sentences, note]))
    for path in paths:
        client.log_artifact(parent, str(path))
