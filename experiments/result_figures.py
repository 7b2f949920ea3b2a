"""The table and the figure of a run: ROC curves of classes, or Kaplan-Meier curves of risk groups."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from datamodules.cohort import CohortInfo
from datamodules.files import replacing
from experiments.evaluation import Group, caption, groups, results_table, with_interval
from experiments.outcomes import RISK, Outcome, metric_of, outcomes_of, score_columns
from experiments.statistics.kaplan_meier import kaplan_meier, log_rank, numbers_at_risk
from experiments.statistics.risk_groups import assign_groups, hazard_ratios, risk_cuts

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLORS = ("#2c7fb8", "#d95f0e")
_GROUPS = ("low risk", "high risk")


def write_results(folder: Path, predictions: pd.DataFrame, title: str, info: CohortInfo) -> tuple[pd.DataFrame, Path]:
    """Write `results.csv` and the figure of the task, `roc.png` or `km.png`, beside the predictions.

    Returns:
        The table, and the figure's path.
    """
    table = results_table(predictions)
    with replacing(folder / "results.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table, write_figure(folder, predictions, table, title, caption(info))


def write_figure(folder: Path, predictions: pd.DataFrame, table: pd.DataFrame, title: str, note: str) -> Path:
    """Draw the figure that the kind of task has.

    Args:
        folder: Folder of the run.
        predictions: As `PredictionWriter` writes them.
        table: Their `results_table`.
        title: What was predicted by what.
        note: What must be said beside the results.

    Returns:
        The PNG written.
    """
    survival = metric_of(predictions).name == "c_index"
    figure = (km_figure if survival else roc_figure)(predictions, table, title, note)
    path = folder / ("km.png" if survival else "roc.png")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def roc_figure(predictions: pd.DataFrame, table: pd.DataFrame, title: str, note: str) -> Figure:
    """ROC curves of every group; of three or more classes each against the rest, of the pooled groups alone."""
    figure, axes = plt.subplots(figsize=(5.4, 7.4), layout="constrained")
    figure.suptitle(title)
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    columns = score_columns(predictions)
    metric = metric_of(predictions)
    for group in groups(predictions):
        row = table[table["group"] == group.name].iloc[0]
        if np.isnan(row[metric.name]) or (len(columns) > 2 and group.kind == "external"):
            continue
        value = f"{row[metric.name]:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        if len(columns) == 2:
            label = f"{group.name} (n {row['n']}, {row['positives']} positive): {value}"
            _roc(axes, group, 1, label, group.kind != "external")
            continue
        axes.plot([], [], " ", label=f"{group.name} (n {row['n']}): macro {value}")
        for number, column in enumerate(columns):
            members = int((group.rows["target"] == number).sum())
            _roc(axes, group, number, f"    {column.removeprefix('score_')} against the rest ({members})", True)
    axes.set(xlabel="1 - specificity", ylabel="Sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1.005))
    figure.legend(fontsize=8, loc="outside lower center", frameon=False, title="AUC [95 % interval]", title_fontsize=8)
    axes.set_title("\n".join(textwrap.wrap(note, 80)), fontsize=7, color="0.4")
    return figure


def _roc(axes: Axes, group: Group, number: int, label: str, strong: bool) -> None:
    score = group.rows[score_columns(group.rows)[number]]
    rate, sensitivity, _ = roc_curve(group.rows["target"] == number, score)
    axes.plot(rate, sensitivity, linewidth=2 if strong else 0.8, alpha=1 if strong else 0.6, label=label)


def km_figure(predictions: pd.DataFrame, table: pd.DataFrame, title: str, note: str) -> Figure:
    """Kaplan-Meier curves of the endpoint that was trained on, of patients above and below the cut.

    The cut is the median risk of the validation patients, who are not tested; in a cohort with folds that of each
    fold's own. Where their risks cannot be cut, everybody is one group.

    Args:
        predictions: As `PredictionWriter` writes them, validation patients included.
        table: Their `results_table`.
        title: Title.
        note: What must be said beside the results.
    """
    reported = [group for group in groups(predictions) if group.kind != "external"]
    figure, axes = plt.subplots(
        2, len(reported), figsize=(4.6 * len(reported), 5.6), layout="constrained", squeeze=False, sharex="col",
        gridspec_kw={"height_ratios": [5, 1]},
    )  # fmt: skip
    figure.suptitle(title)
    for column, group in enumerate(reported):
        outcome = next(outcomes_of(group.rows))
        row = table[(table["group"] == group.name) & (table["endpoint"] == outcome.endpoint)].iloc[0]
        value = with_interval(row["c_index"], row["low"], row["high"])
        size = f"n {row['n']}, {row['events']} events"
        axes[0, column].set_title(f"{group.name}, {outcome.endpoint} ({size})\nC-index {value}", fontsize=8)
        _km_panel(axes[0, column], axes[1, column], outcome, _risk_group(predictions, outcome.rows))
    figure.supxlabel("\n".join(textwrap.wrap(f"{note} Groups cut at the median risk of validation.", 60 + 50 * len(
        reported))), fontsize=7, color="0.4")  # fmt: skip
    return figure


def _risk_group(predictions: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """0 or 1 for every row, by the validation patients of the same fold; zeros where these cannot be cut in two."""
    group = np.zeros(len(rows), dtype=int)
    fold = rows["fold"].to_numpy() if "fold" in rows else np.zeros(len(rows))
    for number in np.unique(fold):
        validated = predictions[predictions["part"] == "val"]
        if "fold" in rows:
            validated = validated[validated["fold"] == number]
        risk = validated[RISK].to_numpy(dtype=float)
        if len(np.unique(risk)) > 1:
            group[fold == number] = assign_groups(rows[RISK].to_numpy(dtype=float)[fold == number], risk_cuts(risk))
    return group


def _km_panel(axes: Axes, below: Axes, outcome: Outcome, group: np.ndarray) -> None:
    time, event = outcome.months, outcome.target
    ticks = np.arange(0, max(time.max(), 1.0) + 1e-9, 12.0 * max(1, round(time.max() / 60)))
    for number in np.unique(group):
        chosen = group == number
        curve = kaplan_meier(time[chosen], event[chosen])
        label = f"{_GROUPS[number]} (n {chosen.sum()}, {event[chosen].sum()} events)"
        axes.step(curve.times_months, curve.survival, where="post", color=_COLORS[number], label=label)
        axes.fill_between(curve.times_months, curve.low, curve.high, step="post", color=_COLORS[number], alpha=0.15)
        for month, count in zip(ticks, numbers_at_risk(time[chosen], ticks), strict=True):
            below.text(month, 1.0 - number, str(count), ha="center", va="center", fontsize=7, color=_COLORS[number])
    if len(np.unique(group)) == 2:
        ratio = hazard_ratios(time, event, group).iloc[0]
        test = log_rank(time, event, group)
        value = with_interval(ratio["hazard_ratio"], ratio["low"], ratio["high"])
        axes.plot([], [], " ", label=f"hazard ratio {value}, log-rank p {test.p:.3f}")
    axes.set(ylim=(0, 1.02), ylabel="Survival")
    axes.legend(fontsize=7, loc="lower left", frameon=False)
    below.set(ylim=(-0.6, 1.6), yticks=[], xticks=ticks, xlabel="Months, with numbers at risk")
    for side in ("top", "right", "left"):
        below.spines[side].set_visible(False)
