"""The table and the figures of a run: ROC curves of classes, or Kaplan-Meier curves of risk groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import CohortInfo
from datamodules.csv_files import write_csv
from experiments.runs.console import say
from experiments.scores.outcomes import RISK, fold_of, metric_of, outcomes_of, score_columns
from experiments.scores.plots.classification import roc_plot
from experiments.scores.plots.style import save, words
from experiments.scores.plots.survival import kaplan_meier_plot
from experiments.scores.results_table import Group, class_table, groups, results_table, scored_caption
from experiments.statistics.risk_groups import assign_groups, risk_cuts

CLASSES = "classes.csv"
_RISK_GROUPS = {0: "low risk", 1: "high risk"}


def write_results(
    folder: Path, predictions: pd.DataFrame, title: str, info: CohortInfo, ordered: bool = True
) -> tuple[pd.DataFrame, list[Path]]:
    """Write `results.csv` and the figures of the task beside the predictions; of three or more classes `classes.csv`.

    Args:
        folder: Folder of the run.
        predictions: As `PredictionWriter` writes them.
        title: What was predicted by what.
        info: The cohort.
        ordered: Whether the classes of the task have an order.

    Returns:
        The table, and the figures: `roc.png`, or `km_<group>.png` of every pooled group of a survival task.
    """
    table, classes = results_table(predictions, ordered), class_table(predictions)
    write_csv(folder / "results.csv", table)
    if len(classes):
        write_csv(folder / CLASSES, classes)
    metric = metric_of(predictions)
    draw = _draw_survival if metric.survival else _draw_classes
    return table, draw(folder, predictions, title, scored_caption(info, metric))


def _draw_classes(folder: Path, predictions: pd.DataFrame, title: str, note: str) -> list[Path]:
    """One curve per group; of three or more classes each against the rest, in the pooled groups alone."""
    columns = score_columns(predictions)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    folds: dict[str, np.ndarray] = {}
    for group in groups(predictions):
        own = fold_of(group.rows)
        target = group.rows["target"].to_numpy(dtype=int)
        if len(columns) == 2:
            curves[group.name] = (target == 1, group.rows[columns[1]].to_numpy(dtype=float))
        elif group.kind != "external":
            for number, column in enumerate(columns):
                name = f"{group.name}, {column.removeprefix('score_')} against the rest"
                curves[name] = (target == number, group.rows[column].to_numpy(dtype=float))
        folds |= dict.fromkeys(curves, own) if own is not None else {}
    save(roc_plot(curves, title, note, folds=folds), folder / "roc.png")
    return [folder / "roc.png"]


def _draw_survival(folder: Path, predictions: pd.DataFrame, title: str, note: str) -> list[Path]:
    """Curves of patients above and below the median risk of the validation patients, who are not tested.

    Drawn for the endpoint that was trained on; in a cohort with folds each is cut by its own validation patients.
    """
    paths = []
    for group in groups(predictions):
        if group.kind == "external":
            continue
        outcome = next(outcomes_of(group.rows), None)
        risk_group = None if outcome is None else risk_group_of(predictions, outcome.rows)
        if outcome is None or risk_group is None:
            say(f"No Kaplan-Meier curves of {group.name}: the risks of validation do not cut it in two groups.")
            continue
        heading = f"{title}\n{group.name}, C-index {words(outcome.estimate())}"
        cut = f"{note} Groups are cut at the median risk of validation patients."
        figure = kaplan_meier_plot(
            outcome.months, outcome.target, risk_group, _RISK_GROUPS, heading, cut, outcome.endpoint.upper()
        )
        paths.append(folder / f"km_{_slug(group)}.png")
        save(figure, paths[-1])
    return paths


def _slug(group: Group) -> str:
    return group.name.replace(" ", "_").replace("-", "_")


def risk_group_of(predictions: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray | None:
    """Risk group of tested patients, cut at the median risk of validation patients, of every fold at its own.

    Args:
        predictions: Predictions of a survival task.
        rows: The tested ones of them.

    Returns:
        0 (low) or 1 (high) for every row; None where validation cannot tell two groups, or all rows are in one.
    """
    folds = rows["fold"].to_numpy() if "fold" in rows else np.zeros(len(rows))
    validated = predictions[predictions["part"] == "val"]
    result = np.zeros(len(rows), dtype=np.int64)
    for fold in np.unique(folds):
        own = validated[validated["fold"] == fold] if "fold" in rows else validated
        risk = own[RISK].to_numpy(dtype=float)
        if not len(risk) or risk.max() <= np.median(risk):  # nobody is above the cut
            return None
        result[folds == fold] = assign_groups(rows[RISK].to_numpy(dtype=float)[folds == fold], risk_cuts(risk))
    return result if len(np.unique(result)) == 2 else None
