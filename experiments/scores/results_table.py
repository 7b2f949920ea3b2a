"""From predictions to the table of a run: every number with its n, its events and its interval."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import CohortInfo
from experiments.scores.outcomes import (
    ACROSS_FOLDS,
    FOLD,
    Metric,
    across_columns,
    metric_of,
    outcomes_of,
    score_columns,
)
from experiments.statistics.support import MARKED, mark


@dataclass(frozen=True)
class Group:
    """A set of patients that a metric is computed over."""

    name: str
    kind: str  # internal, external, pooled external, folds
    rows: pd.DataFrame


def groups(predictions: pd.DataFrame) -> Iterator[Group]:
    """The groups that are reported: the internal test, every external centre, all external centres together.

    Predictions of folds (role internal, one row per patient from the fold that tested it) form one group, whose metric
    is within folds.

    Args:
        predictions: Columns role, center, part, target and the scores; only part `test` is used.
    """
    tested = predictions[predictions["part"] == "test"]
    folds = FOLD in tested
    internal = tested[tested["role"] == "internal"]
    if not internal.empty:
        yield Group("out-of-fold" if folds else "internal test", "folds" if folds else "internal", internal)
    external = tested[tested["role"] == "external"]
    for center, rows in external.groupby("center", sort=True):
        yield Group(f"external {center}", "external", rows)
    if len(set(external["center"])) > 1:
        yield Group("pooled external", "pooled external", external)


def results_table(predictions: pd.DataFrame, ordered: bool = True) -> pd.DataFrame:
    """The metric of every group of a task.

    Args:
        predictions: As `PredictionWriter` writes them.
        ordered: Whether the classes have an order.

    Returns:
        Columns group, kind, n, then of two classes positives, auroc; of more minority (patients outside the largest
        class), auroc (macro one-vs-rest), kappa (quadratic where classes have an order), kappa_low, kappa_high,
        kappa_interval; of a survival task endpoint, events, c_index (Harrell), one row per group and endpoint, that
        which was trained on first. low and high are the 95 % interval of the metric, interval the name of its method,
        or why there is none. NaN where a metric is not defined. Where there are folds the metric is within them, and
        across_folds, across_folds_low, across_folds_high, across_folds_interval are that of the pooled folds.
    """
    metric = metric_of(predictions)
    rows = []
    for group in groups(predictions):
        for outcome in outcomes_of(group.rows):
            estimate = outcome.estimate()
            row: dict[str, object] = {"group": group.name, "kind": group.kind}
            row |= {"endpoint": outcome.endpoint} if outcome.endpoint else {}
            row |= {"n": len(outcome.rows), metric.count: outcome.count}
            row |= {metric.name: estimate.value, "low": estimate.low, "high": estimate.high}
            row["interval"] = estimate.interval
            row |= across_columns(outcome.across_estimate())
            kappa = outcome.kappa(ordered)
            if kappa is not None:
                row |= {"kappa": kappa.value, "kappa_low": kappa.low, "kappa_high": kappa.high}
                row["kappa_interval"] = kappa.interval
            rows.append(row)
    return pd.DataFrame(rows)


def class_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every class against all others in every group, for a task of three or more classes.

    A macro AUC is a mean over classes, in which a class of five patients weighs as much as one of a hundred; this table
    says how many each has, and how well it alone is told.

    Args:
        predictions: As `PredictionWriter` writes them.

    Returns:
        Columns group, kind, class, n (patients of the class), of (patients of the group), auroc, low, high, interval;
        within folds where there are some. Empty for other tasks.
    """
    names = [name.removeprefix("score_") for name in score_columns(predictions)]
    rows = []
    for group in groups(predictions) if len(names) > 2 else ():
        (outcome,) = outcomes_of(group.rows)
        for number, name in enumerate(names):
            row: dict[str, object] = {"group": group.name, "kind": group.kind, "class": name}
            row |= {"n": int((outcome.target == number).sum()), "of": len(outcome.target)}
            found = outcome.of_class(number)
            rows.append(row | {"auroc": found.value, "low": found.low, "high": found.high, "interval": found.interval})
    return pd.DataFrame(rows)


def format_classes(table: pd.DataFrame) -> str:
    """The classes of the pooled groups as fixed-width text."""
    lines = [f"{'each class against the rest':52s}{'n':>6s}   AUC (95 % interval)"]
    for row in table[table["kind"] != "external"].to_dict("records"):
        value = with_interval(row["auroc"], row["low"], row["high"], row["interval"])
        lines.append(f"{row['group'] + ', ' + row['class']:52s}{row['n']:6d}   {value}")
    return "\n".join(lines)


def caption(info: CohortInfo) -> str:
    """What must be said beside every result of a cohort."""
    parts = [f"Cohort {info.name}."]
    if info.phantom:
        parts.append("Phantom results: the patients are generated.")
    if info.intensity == "rendered":
        parts.append("CT intensities are rendered from masks, not acquired.")
    return " ".join(parts)


def short_caption(info: CohortInfo) -> str:
    """The same in a few words, for what stands under a heading that says it in full."""
    parts = ["phantom results"] if info.phantom else []
    parts += ["rendered intensities"] if info.intensity == "rendered" else []
    return f"{', '.join(parts).capitalize()}." if parts else ""


def scored_caption(info: CohortInfo, metric: Metric) -> str:
    """What must be said beside a metric: the caption of the cohort, and how folds were scored."""
    return " ".join(part for part in (caption(info), metric.remark) if part)


def with_interval(value: float, low: float, high: float, method: object = "") -> str:
    """A number with its 95 % interval as text, marked where the method stands in for resampling."""
    if np.isnan(value):
        return "not defined"
    interval = "interval not defined" if np.isnan(low) else f"{low:.3f} to {high:.3f}"
    return f"{value:.3f} ({interval}){mark(method)}"


def marked(table: pd.DataFrame) -> list[str]:
    """What the mark of an interval says, where a column of methods has one that is marked."""
    methods = [name for name in table if str(name).endswith("interval")]
    return [MARKED] if any(mark(method) for name in methods for method in table[name]) else []


def width_of(metric: Metric) -> int:
    """Width of the column of a metric in fixed-width text."""
    return max(26, len(metric.title) + 17)


def row_name(row: Mapping[Hashable, object]) -> str:
    """Group, and endpoint where there is one."""
    return f"{row['group']}, {row['endpoint']}" if "endpoint" in row else str(row["group"])


def format_table(table: pd.DataFrame, metric: Metric) -> str:
    """The results as fixed-width text."""
    more = {"kappa": ("kappa", "kappa_low", "kappa_high", "kappa_interval"), "across folds, pooled": ACROSS_FOLDS}
    more = {name: columns for name, columns in more.items() if columns[0] in table}
    title = f"{metric.title} (95 % interval)"
    lines = [f"{'':24s}{'n':>6s}{metric.count_title:>11s}   {title:{width_of(metric)}s}"]
    lines[0] = (lines[0] + "".join(f"   {name:26s}" for name in more)).rstrip()
    for row in table.to_dict("records"):
        value = with_interval(row[metric.name], row["low"], row["high"], row["interval"])
        extra = "".join(f"   {with_interval(*(row[name] for name in columns)):26s}" for columns in more.values())
        counted = f"{row['n']:6d}{row[metric.count]:11d}"
        lines.append(f"{row_name(row):24s}{counted}   {value:{width_of(metric)}s}{extra}".rstrip())
    return "\n".join([*lines, *marked(table)])
