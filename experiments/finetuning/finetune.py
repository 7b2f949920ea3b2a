"""`make finetune`: one point of a data-efficiency curve, or one of every task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.predictions import PREDICTIONS
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.labels import of_no_class
from datamodules.errors import DataError
from datamodules.files import read_parquet, write_json, write_parquet
from experiments.doubt.doubt_tables import doubt_metrics
from experiments.doubt.survival_doubt import survival_doubt
from experiments.doubt.survival_tables import survival_doubt_metrics
from experiments.doubt.task_doubt import CALIBRATION, task_doubt
from experiments.finetuning.point import Point, without_labels
from experiments.registry import ENCODERS, MODES, PROFILES, TASKS, choose, task_label
from experiments.runs.console import say
from experiments.runs.folders import folds_of
from experiments.runs.launch import DONE, RUN_COMMAND, Launch, check_finished, mark_done, train
from experiments.runs.locks import training
from experiments.runs.tracking import log_results, make_logger, send_kept, shared_run
from experiments.scores.outcomes import ACROSS_FOLDS, RISK, metric_of
from experiments.scores.results_figures import write_results
from experiments.scores.results_table import (
    class_table,
    format_classes,
    format_table,
    results_table,
    scored_caption,
    with_interval,
)
from lightning_modules.core.distributed import is_main_rank

ALL_TASKS = "all"
Runner = Callable[[Launch], MLFlowLogger]


def finetune(point: Point, report: bool = True) -> pd.DataFrame:
    """Train and test one point; on a cohort with folds, one run per fold, and a metric within folds.

    A finished point is reported and not run again; an interrupted one goes on from its last checkpoint.

    Args:
        point: The point.
        report: Whether its table is printed.

    Returns:
        The results by group, with n, events and 95 % intervals.

    Raises:
        DataError: if the cohort, a name or the fraction is refused.
    """
    choose("TASK", point.task, {**TASKS, ALL_TASKS: "one after the other"})
    choose("MODE", point.mode, dict(MODES))
    choose("ENCODER", point.encoder, dict(ENCODERS))
    choose("PROFILE", point.profile, dict(PROFILES))
    if point.task == ALL_TASKS:
        return finetune_all(point)
    _check_fraction(point)
    cohort = Cohort.load(point.data)
    folder = point.folder(cohort)
    launches = [point.launch(cohort, fold) for fold in folds_of(cohort)]
    if (folder / DONE).is_file() and all(check_finished(launch) for launch in launches):
        send_kept(point.runs, folder, point.experiment(cohort), point.name, point.tags(cohort))
        table = results_table(_predictions(folder), task_label(point.task).ordered)
        if report:
            say(f"{point.name} is finished already; its results:")
            _report(table, cohort, folder)
        return table
    left_out = of_no_class(cohort, task_label(point.task))
    if left_out:
        named = ", ".join(f"{name} {count}" for name, count in left_out.items())
        say(f"{sum(left_out.values())} patients are in no class of task {point.task} and are left out: {named}.")
    with training(folder):
        table = _run(point, cohort, launches)
    if report and is_main_rank():
        _report(table, cohort, folder)
        _say_curve(point, cohort)
    return table


def _check_fraction(point: Point) -> None:
    """Refuse a share of the labels that is none; no labels at all are enough for an encoder that starts from prompts.

    Raises:
        DataError: if it is out of range.
    """
    if point.fraction == 0 and not without_labels(point.task, point.encoder):
        names = ", ".join(name for name, entry in ENCODERS.items() if entry.prompts)
        raise DataError(
            f"FRACTION=0 was asked for with TASK={point.task} and ENCODER={point.encoder}, which need labels; a "
            f"classification needs none with ENCODER={names}."
        )
    if not 0 <= point.fraction <= 1:
        raise DataError(f"FRACTION={point.fraction:g} was asked for; expected a share of the labels in (0, 1].")


def _say_curve(point: Point, cohort: Cohort) -> None:
    """Where points of several shares of the labels are there: the command that makes a curve of them."""
    names = {path.parent.name for path in point.folder(cohort).parent.glob(f"{point.encoder}-{point.mode}-f*/{DONE}")}
    shares = {name.rsplit("-f", 1)[1].split("-")[0] for name in names}
    if len(shares) > 1:
        more = "".join(f" {name.upper()}={value}" for name, value in (("tag", point.tag),) if value)
        how = "" if point.mode == "finetune" else f" MODE={point.mode}"
        say(
            f"{len(shares)} shares of the labels are finished; their curve: `make curve TASK={point.task}{how}{more} "
            "FINISHED=true`."
        )


def _run(point: Point, cohort: Cohort, launches: list[Launch]) -> pd.DataFrame:
    """Train and test what is not finished; the results, on ranks other than 0 an empty table."""
    folder = point.folder(cohort)
    for launch in launches:
        _ = launch.configuration.parsed  # a setting that is refused leaves no run behind
    parent, runner = curve_run(point, cohort), _runner(point)
    if launches[0].folder == folder:
        logger = runner(replace(launches[0], parent=parent))
        predictions = _predictions(folder)
    else:
        logger, predictions = _run_folds(point, cohort, launches, parent, runner)
    if not is_main_rank():
        return pd.DataFrame()
    return _finish(point, cohort, folder, logger, predictions)


def _runner(point: Point) -> Runner:
    """What runs a launch: Lightning's fit and test, or a linear model; without images there is nothing to fine-tune."""
    if point.mode == "finetune" and not ENCODERS[point.encoder].tabular:
        return lambda launch: train(launch, test=True).logger
    from experiments.finetuning.linear_probe import run_probe

    return run_probe


def finetune_all(point: Point) -> pd.DataFrame:
    """One point of every task, one after the other; finished ones are not run again.

    A task that the cohort cannot serve (no such label, too few patients or events) is passed over and named at the end.

    Returns:
        The results of all tasks, with a column `task`.

    Raises:
        DataError: at the end, if a task was refused, with the reason of the first.
    """
    tables, refused = [], {}
    for number, name in enumerate(TASKS, start=1):
        say(f"Task {number} of {len(TASKS)}: {TASKS[name].title}")
        try:
            tables.append(finetune(replace(point, task=name)).assign(task=name))
        except DataError as error:
            refused[name] = str(error)
            say(f"Task {name} is refused: {error}")
    say(f"All tasks, {point.encoder}, {point.mode}, {point.fraction:.0%} of the labels:\n{_summary(tables, refused)}")
    if refused:
        first = next(iter(refused))
        raise DataError(f"{len(refused)} of {len(TASKS)} tasks were refused ({', '.join(refused)}). {refused[first]}")
    return pd.concat(tables, ignore_index=True)


def _summary(tables: list[pd.DataFrame], refused: dict[str, str]) -> str:
    """One line per task and pooled group: what it was trained on, with n, events and interval."""
    lines = [f"{'task':16s}{'group':20s}{'n':>6s}{'events':>8s}   metric (95 % interval)"]
    for table in tables:
        if table.empty:  # ranks other than the first keep no table
            continue
        metric = "c_index" if "c_index" in table else "auroc"
        count = next(name for name in ("positives", "minority", "events") if name in table)
        for row in table[table["kind"] != "external"].drop_duplicates("group").to_dict("records"):
            value = f"{metric} {with_interval(row[metric], row['low'], row['high'], row['interval'])}"
            lines.append(f"{row['task']:16s}{row['group']:20s}{row['n']:6d}{row[count]:8d}   {value}")
    lines += [f"{name:16s}refused: {reason}" for name, reason in refused.items()]
    return "\n".join([*lines, "events: of two classes the positive ones, of more the patients outside the largest"])


def curve_run(point: Point, cohort: Cohort) -> str | None:
    """The parent run that all points of one curve share: same cohort, split, task and profile."""
    if not is_main_rank():
        return None
    experiment = point.experiment(cohort)
    return shared_run(point.runs, cohort, experiment, "curve", task=point.task, profile=point.profile)


def _run_folds(
    point: Point, cohort: Cohort, launches: list[Launch], parent: str | None, runner: Runner
) -> tuple[MLFlowLogger, pd.DataFrame]:
    """Every fold as a run of its own under one MLflow run, which takes the pooled results."""
    folder = point.folder(cohort)
    logger = make_logger(point.runs, folder, point.experiment(cohort), point.name, point.tags(cohort), parent)
    if is_main_rank():
        write_json(folder / RUN_COMMAND, point.command())
    parts = []
    for number, launch in enumerate(launches):
        if check_finished(launch):
            say(f"fold {number + 1} of {len(launches)} is finished already")
        else:
            say(f"fold {number + 1} of {len(launches)}")
            runner(replace(launch, parent=logger.run_id))
            mark_done(launch.folder, {"fold": number})
        parts.append(centred(_predictions(launch.folder)).assign(fold=number))
    pooled = pd.concat(parts, ignore_index=True)
    if is_main_rank():
        write_parquet(folder / PREDICTIONS, pooled)
    return logger, pooled


def centred(predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions of one fold with risks relative to the mean of its validation patients.

    The partial likelihood leaves the level of a log-risk open, so risks of two models cannot be pooled as they are; nor
    are they fully comparable afterwards, since their spread differs too, so that the metric is within folds.
    """
    validated = predictions["part"] == "val"
    if RISK not in predictions or not validated.any():
        return predictions
    return predictions.assign(**{RISK: predictions[RISK] - predictions.loc[validated, RISK].mean()})


def _predictions(folder: Path) -> pd.DataFrame:
    return read_parquet(folder / PREDICTIONS)[0]


def _finish(
    point: Point, cohort: Cohort, folder: Path, logger: MLFlowLogger, predictions: pd.DataFrame
) -> pd.DataFrame:
    """Write and log the results; DONE is written last."""
    metric = metric_of(predictions)
    table, figures = write_results(folder, predictions, point.title, cohort.info, task_label(point.task).ordered)
    metrics: dict[str, float] = {}
    trained = table["endpoint"].iloc[0] if "endpoint" in table else ""
    for row in table.dropna(subset=["low"]).to_dict("records"):
        # The endpoint that was trained on is the task's own metric; the others carry their name.
        other = f"_{row['endpoint']}" if row.get("endpoint", "") != trained else ""
        group = str(row["group"]).replace(" ", "_")
        more = [name for name in ("kappa", ACROSS_FOLDS[0]) if name in row]
        for name in (metric.name, "low", "high", "n", metric.count, *more):
            if np.isfinite(row[name]):
                metrics[f"{name}{other}/{group}"] = float(row[name])
    classes, curves = task_doubt(predictions), survival_doubt(predictions)
    if classes is not None:
        write_json(folder / CALIBRATION, classes.to_dict())
        metrics |= doubt_metrics(classes, predictions)
    if curves is not None:
        write_json(folder / CALIBRATION, curves.to_dict())
        metrics |= survival_doubt_metrics(curves, predictions)
    if classes is not None or curves is not None:
        figures = [*figures, folder / CALIBRATION]
    files = (folder / "results.csv", *figures, folder / PREDICTIONS)
    log_results(logger, metrics, scored_caption(cohort.info, metric), files, round(100 * point.fraction))
    mark_done(folder, {"run_id": logger.run_id, "results": "results.csv"})
    return table


@rank_zero_only
def _report(table: pd.DataFrame, cohort: Cohort, folder: Path) -> None:
    predictions = _predictions(folder)
    metric, classes = metric_of(predictions), class_table(predictions)
    each = f"{format_classes(classes)}\n" if len(classes) else ""
    say(f"{format_table(table, metric)}\n{each}{scored_caption(cohort.info, metric)}\nFolder: {folder.as_posix()}")
