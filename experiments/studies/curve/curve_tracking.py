"""The curve in MLflow: the points' parent run with table, figure and sentence, and beside it one run an encoder.

The runs of all encoders share the names of their metrics, and the step is the percentage of the labels, so that
MLflow's own chart of a metric draws one line an encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow.tracking import MlflowClient

from datamodules.cohort.cohort import Cohort
from experiments.finetuning.finetune import curve_run
from experiments.finetuning.point import mode_suffix
from experiments.registry import ENCODERS, MODES, TASKS
from experiments.runs.tracking import (
    CURVE,
    CURVE_LINE,
    KIND,
    NOTE,
    best_effort,
    cohort_tags,
    log_metrics,
    parent_run,
    store_client,
)
from experiments.scores.outcomes import Metric
from experiments.scores.results_table import with_interval
from experiments.studies.compare import REPORTED
from experiments.studies.curve.curve_table import Curve

_PART = "description."


@dataclass(frozen=True)
class Published:
    """What a curve is published with.

    Args:
        table: As `curve_table` gives it.
        metric: Its metric.
        sentences: The smallest fraction that is enough, in words.
        note: What must be said beside the results.
        files: Tables and figure.
    """

    table: pd.DataFrame
    metric: Metric
    sentences: Sequence[str]
    note: str
    files: Sequence[Path]


def log_curve(plan: Curve, cohort: Cohort, published: Published) -> None:
    """Give MLflow a curve; where its store fails, a warning says so.

    Args:
        plan: The curve.
        cohort: The cohort.
        published: What it is published with.
    """
    parent = curve_run(plan.first, cohort)
    if parent is None:
        return
    with best_effort("The curve"):
        client = store_client(plan.first.runs)
        _describe(client, parent, plan, published)
        for path in published.files:
            client.log_artifact(parent, str(path))
        for name in dict.fromkeys(published.table.dropna(subset=["value"])["encoder"]):
            _log_line(client, parent, plan, cohort, str(name), published)


def _describe(client: MlflowClient, parent: str, plan: Curve, published: Published) -> None:
    """The parent's description: a part for each mode and TAG, since their points share the parent."""
    own = f"{_PART}{plan.first.mode}{f'-{plan.first.tag}' if plan.first.tag else ''}"
    client.set_tag(parent, KIND, CURVE)
    client.set_tag(parent, own, _parent_note(plan, published))
    parts = client.get_run(parent).data.tags
    client.set_tag(parent, NOTE, "\n\n---\n\n".join(parts[name] for name in sorted(parts) if name.startswith(_PART)))


def _parent_note(plan: Curve, published: Published) -> str:
    """Markdown: what the curve is of, and the sentence that an article quotes."""
    title = f"**{TASKS[plan.first.task].title}, {plan.how}: {published.metric.title} by share of the labels.**"
    found = [*published.sentences] or [
        "No smallest share of the labels: no pretrained encoder and baseline to compare."
    ]
    figure = f"Figure and tables: artifacts of this run (`{published.files[-1].name}`)."
    return "\n\n".join([title, *found, published.note, figure])


def _log_line(
    client: MlflowClient, parent: str, plan: Curve, cohort: Cohort, encoder: str, published: Published
) -> None:
    """One encoder: the metric of the pooled groups at every share of the labels.

    MLflow keeps every value that a step ever had. A line of other values is put into a run of its own, and the old run
    is deleted, which MLflow can undo.
    """
    table = published.table
    own = table[(table["encoder"] == encoder) & table["kind"].isin(REPORTED)].dropna(subset=["value"])
    steps: dict[int, dict[str, float]] = {}
    for row in own.to_dict("records"):
        endpoint = f"_{row['endpoint']}" if row.get("endpoint") else ""
        name = f"{row['metric']}{endpoint}/{str(row['group']).replace(' ', '_')}"
        steps.setdefault(round(100 * row["fraction"]), {})[name] = row["value"]
    point, name = plan.first, f"{encoder}{mode_suffix(plan.first.mode, plan.first.tag)}"
    tags = {KIND: CURVE_LINE, CURVE: parent, "encoder": encoder, "mode": point.mode, "task": point.task}
    tags |= {**cohort_tags(cohort), "profile": point.profile, "pretrained": point.pretrained}
    experiment = point.experiment(cohort)
    run_id = parent_run(point.runs, experiment, name, tags)
    known = _known(client, str(run_id))
    wanted = {(name, step): value for step, values in steps.items() for name, value in values.items()}
    if known and known != wanted:
        client.delete_run(str(run_id))
        run_id, known = parent_run(point.runs, experiment, name, tags), {}
    if not known:
        for step, values in sorted(steps.items()):
            log_metrics(client, str(run_id), values, step)
    client.set_tag(str(run_id), NOTE, _line_note(encoder, plan, own, published))


def _known(client: MlflowClient, run_id: str) -> dict[tuple[str, int], float]:
    names = client.get_run(run_id).data.metrics
    return {(name, entry.step): entry.value for name in names for entry in client.get_metric_history(run_id, name)}


def _line_note(encoder: str, plan: Curve, rows: pd.DataFrame, published: Published) -> str:
    metric = published.metric
    lines = [
        f"**{ENCODERS[encoder].title}, {plan.how}.** {MODES[plan.first.mode]}",
        "",
        f"| labels | patients | group | {metric.title} (95 % interval) | n | {metric.count_title} | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows.sort_values(["group", "fraction"]).to_dict("records"):
        value = with_interval(row["value"], row["low"], row["high"], row["interval"])
        endpoint = f", {row['endpoint']}" if row.get("endpoint") else ""
        lines.append(
            f"| {100 * row['fraction']:g} % | {row['labels']:.0f} | {row['group']}{endpoint} | {value} | {row['n']} | "
            f"{row[metric.count]} | {row['seeds']} |"
        )
    return "\n".join([*lines, "", published.note])
