"""What the figures of a report share: the colour of an encoder, its name, and its predictions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from experiments.registry import ENCODERS, TASKS
from experiments.scores.outcomes import Metric
from experiments.scores.plots.forest import forest_plot
from experiments.scores.results_table import Group, groups
from experiments.statistics.data_efficiency import FractionReached
from experiments.statistics.estimate import Estimate
from experiments.studies.compare import REPORTED
from experiments.studies.curve.curve_figure import curve_figure
from experiments.studies.curve.curve_table import Cell, curve_table, reached_table, zero_shot_rows
from experiments.studies.encoder_lines import encoder_color, encoder_marker
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import NOT_DEFINED, capital, interval, number, p_value
from experiments.studies.report.report_page import PageTable, Picture, Row, Text
from experiments.studies.report.result_tables import estimate_of

_HEADING = {"value": np.nan, "low": np.nan, "high": np.nan, "n": np.nan, "events": np.nan, "interval": ""}


def pooled_groups(series: PointSeries) -> list[Group]:
    """The internal test, the pooled external patients, or the pooled folds."""
    return [group for group in groups(next(iter(series.first_seed().values()))) if group.kind in REPORTED]


def of_group(predictions: pd.DataFrame, group: Group) -> pd.DataFrame:
    """One encoder's predictions of the tested patients of a group, in the order of the group."""
    tested = predictions[predictions["part"] == "test"].set_index("patient_id")
    return tested.loc[group.rows["patient_id"]].reset_index()


def seed_words(series: PointSeries) -> str:
    """Which points a figure of single patients is drawn from."""
    seed = series.seeds(series.fraction)[0]
    return f"Seed {seed} alone, {series.fraction:.0%} of the labels; the table of results averages over seeds."


def curve_blocks(series: PointSeries, cells: list[Cell], note: str) -> list[Picture | PageTable | Text]:
    """The data-efficiency curve with zero-shot at 0 %, and the smallest sufficient fractions."""
    plan, metric = series.curve(), series.metric
    own = [cell for cell in cells if cell.own]
    table = curve_table(plan, own, zero_shot_rows(plan, series.cohort, metric))
    shown = table[table["kind"].isin(REPORTED)]
    if len(series.fractions) < 2:
        return [
            _frame_table(series, shown),
            Text(f"No curve: one share of the labels ({series.fraction:.0%}) was run."),
        ]
    figure = curve_figure(table, metric, plan.labels, f"{TASKS[series.task].title}: {series.title.lower()}", note)
    steps = ", ".join(f"{share:.0%} ({count:.0f} patients)" for share, count in plan.labels.items())
    group = str(shown["group"].iloc[-1])
    ends = "; ".join(
        f"{ENCODERS[str(name)].title} {_value(rows.iloc[0])} at {rows['fraction'].iloc[0]:.0%}, "
        f"{_value(rows.iloc[-1])} at {rows['fraction'].iloc[-1]:.0%}"
        for name, rows in shown[shown["group"] == group].sort_values("fraction").groupby("encoder", sort=False)
    )
    alt = f"{capital(metric.title)} against the share of the training labels ({steps}). {capital(group)}: {ends}."
    caption = "Data efficiency: mean over seeds, bands are 95 % CI over patients, broken lines are baselines."
    blocks: list[Picture | PageTable | Text] = [
        Picture(f"curve-{series.key}", figure, caption, alt),
        _frame_table(series, shown),
    ]
    reached = reached_table(plan, [cell for cell in own if np.isfinite(cell.pooled.estimate.value)])
    if len(reached):
        blocks.append(
            Text("Smallest share of the labels that reaches the best baseline at 100 %:", reached_words(reached))
        )
    else:
        blocks.append(
            Text(
                "No smallest sufficient share: that needs a pretrained encoder, and a baseline at 100 % of the labels."
            )
        )
    return blocks


def reached_words(reached: pd.DataFrame) -> tuple[str, ...]:
    """The sentences of a curve, with the titles of encoders."""
    said = []
    for row in reached.to_dict("records"):
        found = FractionReached(row["fraction"], row["low"], row["high"], row["reached"], 0, row["n"], row["events"])
        sentence = found.sentence(ENCODERS[row["encoder"]].title, [ENCODERS[row["baseline"]].title])
        said.append(f"{capital(row['group'])}: {sentence}")
    return tuple(said)


def _value(row: pd.Series) -> str:
    return number(float(row["value"]))


def _frame_table(series: PointSeries, shown: pd.DataFrame) -> PageTable:
    metric, rows = series.metric, []
    for group, own in shown.groupby("group", sort=False):
        first = own.iloc[0]
        rows.append(
            Row((f"{capital(str(group))}, n {first['n']}, {first[metric.count]} {metric.count_title}",), heading=True)
        )
        for name in [name for name in ENCODERS if name in set(own["encoder"])]:
            found = {row["fraction"]: ends(row) for row in own[own["encoder"] == name].to_dict("records")}
            cells = [interval(found[share]) if share in found else "not run" for share in _shares(shown)]
            rows.append(Row((ENCODERS[name].title, *cells)))
    header = ("Encoder", *("Zero-shot" if not share else f"{share:.0%} of labels" for share in _shares(shown)))
    return PageTable(
        f"curve-{series.key}",
        f"{capital(metric.title)} (95 % CI) by share of the training labels.",
        header,
        tuple(rows),
        shown,
        f"{series.title}. Mean over the seeds that all encoders of a share have.",
    )


def ends(row: Mapping[Any, Any]) -> Estimate:
    """The columns value, low, high and interval of a row."""
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]), interval=str(row["interval"]))


def _shares(shown: pd.DataFrame) -> list[float]:
    return sorted(set(shown["fraction"]))


def encoder_forest(series: PointSeries, frame: pd.DataFrame, note: str) -> Picture:
    """Forest plot: all encoders in the pooled groups, and the index encoder in every centre."""
    metric, rows = series.metric, []
    own = frame[frame["endpoint"].isin(["", series.label.endpoint])]
    for group, part in own[own["kind"].isin(REPORTED)].groupby("group", sort=False):
        rows.append({"label": capital(str(group)), **_HEADING})
        rows += [_forest_row(row, ENCODERS[row["encoder"]].title, metric) for row in part.to_dict("records")]
    centers = own[(own["kind"] == "external") & (own["encoder"] == series.index)]
    if len(centers):
        rows.append({"label": f"{ENCODERS[series.index].title}, by centre", **_HEADING})
        rows += [_forest_row(row, capital(str(row["group"])), metric) for row in centers.to_dict("records")]
    title = f"{TASKS[series.task].title}: encoders and centres"
    figure = forest_plot(
        pd.DataFrame(rows), title, capital(metric.title), note, reference=0.5, counted=metric.count_title
    )
    return Picture(
        f"forest-{series.key}",
        figure,
        f"Every encoder in the pooled groups, and {ENCODERS[series.index].title} in every centre. {series.title}, "
        f"{series.fraction:.0%} of the labels, mean over seeds.",
        f"Forest plot of {metric.title}. {_forest_alt(rows)}",
    )


def _forest_row(row: dict[Hashable, Any], label: str, metric: Metric) -> dict[str, object]:
    estimate = estimate_of(row, metric.name)
    shade, look = encoder_color(row["encoder"]), encoder_marker(row["encoder"])
    entry = {"label": label, "value": estimate.value, "low": estimate.low, "high": estimate.high, "n": row["n"]}
    return entry | {"interval": estimate.interval, "events": row[metric.count], "color": shade, "look": look}


def _forest_alt(rows: list[dict[str, object]]) -> str:
    parts = []
    for row in rows:
        if pd.isna(row["n"]):  # type: ignore[call-overload]
            parts.append(f"{row['label']}:")
        else:
            parts.append(f"{row['label']} {interval(ends(row))};")
    return " ".join(parts)


def subgroup_blocks(series: PointSeries, frame: pd.DataFrame, note: str) -> list[PageTable | Picture]:
    """The subgroups of the index encoder as a table and as a forest plot of each pooled group."""
    metric, rows = series.metric, []
    for group, part in frame.groupby("group", sort=False):
        rows.append(Row((capital(str(group)),), heading=True))
        for variable, levels in part.groupby("variable", sort=False):
            for place, row in enumerate(levels.to_dict("records")):
                p = "" if place or np.isnan(row["p"]) else p_value(row["p"])
                few = np.isnan(row[metric.name])
                value = f"{NOT_DEFINED}, too few" if few else interval(estimate_of(row, metric.name))
                rows.append(Row((f"{variable}: {row['level']}", str(row["n"]), str(row[metric.count]), value, p)))
    name = ENCODERS[series.index].title
    table = PageTable(
        f"subgroups-{series.key}",
        f"Subgroups: {metric.title} of {name}.",
        ("Subgroup", "n", capital(metric.count_title), f"{capital(metric.title)} (95 % CI)", "p of heterogeneity"),
        tuple(rows),
        frame.assign(encoder=series.index),
        f"{name} was chosen by its place among the encoders, not by its results. p: Cochran's Q over the parts of a "
        "variable, not corrected; phases overlap and are not tested. Below 10 patients no metric is given. A subgroup "
        "whose interval holds another's value is no evidence of equal performance.",
    )
    pictures = []
    for group, part in frame.groupby("group", sort=False):
        lines: list[dict[str, object]] = []
        for variable, levels in part.dropna(subset=[metric.name]).groupby("variable", sort=False):
            if variable != "All":
                lines.append({"label": str(variable), **_HEADING})
            lines += [
                _forest_row(row | {"encoder": series.index}, capital(row["level"]), metric)
                for row in levels.to_dict("records")
            ]
        if not lines:  # a group of fewer patients than any subgroup needs
            continue
        title = f"{TASKS[series.task].title}, {name}: {group}"
        reference = float(lines[0]["value"])  # type: ignore[arg-type]
        figure = forest_plot(
            pd.DataFrame(lines), title, capital(metric.title), note, reference=reference, counted=metric.count_title
        )
        caption = f"Subgroups of {group}; the line is the value of all patients."
        pictures.append(
            Picture(
                f"subgroups-{series.key}-{group}", figure, caption, f"Forest plot of subgroups. {_forest_alt(lines)}"
            )
        )
    return [table, *pictures]
