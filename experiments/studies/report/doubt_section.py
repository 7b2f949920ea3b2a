"""The page of doubt of a classification: calibration before and after, sets by centre, abstention, local patients."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping

import pandas as pd

from experiments.doubt.doubt_figures import calibration_figure, coverage_figure, risk_coverage_figure, smooth_curve
from experiments.doubt.doubt_tables import (
    AFTER,
    ANSWERED,
    BEFORE,
    BRIER,
    ECE,
    INTERCEPT,
    SLOPE,
    abstention_table,
    calibration_table,
    grouped,
    local_table,
    sets_table,
)
from experiments.doubt.prediction_sets import CONFIDENCE
from experiments.doubt.task_doubt import TaskDoubt, asked_and_said, task_doubt
from experiments.registry import ENCODERS, TASKS
from experiments.statistics.estimate import Estimate
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import capital, interval, number
from experiments.studies.report.pictures import seed_words
from experiments.studies.report.report_page import Block, Gallery, PageTable, Picture, Row, Section, Text
from experiments.studies.report.result_tables import estimate_of

_CALIBRATION = {ECE: "Expected calibration error", SLOPE: "Slope", INTERCEPT: "Intercept", BRIER: "Brier score"}
_SETS = {
    "coverage": "Coverage",
    "set size": "Classes in a set",
    "sets of one class": "Sets of one class",
    "error of 100%": "Error, all answered",
    f"error of {ANSWERED:.0%}": f"Error, surest {ANSWERED:.0%}",
}
_LOCAL = {
    "log_loss": "Log loss",
    "distance": "Distance of means",
    "coverage": "Coverage",
    "set_size": "Classes in a set",
}
_PREDICTED, _ANSWERED, _NEAR = (0.1, 0.3, 0.5, 0.7, 0.9), (1.0, 0.9, ANSWERED, 0.6, 0.4), 0.03
_MISSING = (
    "No calibration and no prediction sets: the predictions hold no validation patients of every class, by whom they "
    "could be made."
)


def doubt_section(series: PointSeries, note: str) -> Section:
    """How sure the predictions of the index encoder are."""
    predictions = series.first_seed()[series.index]
    doubt, title = task_doubt(predictions), ENCODERS[series.index].title
    section = Section(f"{series.key}-doubt", "Doubt")
    if doubt is None:
        section.blocks.append(Text(_MISSING, kind="missing"))
        return section
    used = sum(one.n for one in doubt.chosen.values())
    section.blocks.append(
        Text(
            f"Of {title}. Calibration: {doubt.methods}, chosen by cross-validation of {used} validation patients and "
            f"fitted on them; sets hold the true class of {CONFIDENCE:.0%} of the patients of each class where these "
            f"are like the validation patients. {seed_words(series)}"
        )
    )
    section.blocks.extend(_calibration_blocks(series, doubt, predictions, note))
    section.blocks.extend(_sets_blocks(series, doubt, predictions, note))
    section.blocks.append(
        local_block(
            local_table(doubt, predictions),
            _LOCAL,
            f"doubt-local-{series.key}",
            "Recalibration with local patients of an external centre, and sets made by them alone, tested on its "
            "others.",
            "Mean over 100 draws of the local patients: of 20 the intercept is fitted, of 50 intercept and slope; "
            "their sets share a threshold for all classes (Mondrian by centre).",
        )
    )
    return section


def _calibration_blocks(series: PointSeries, doubt: TaskDoubt, predictions: pd.DataFrame, note: str) -> list[Block]:
    table = calibration_table(doubt, predictions)
    rows = []
    for (name, stage), part in table.groupby(["group", "stage"], sort=False):
        own = part.set_index("statistic")
        values = [interval(estimate_of(own.loc[key].to_dict(), "value"), 3) for key in _CALIBRATION]
        rows.append(Row((f"{capital(str(name))}, {stage}", str(own["n"].iloc[0]), str(own["events"].iloc[0]), *values)))
    two = doubt.tested.score.shape[1] == 2
    said = "Probability of the second class" if two else "Probability of the likeliest class"
    pictures, curves = [], []
    for group, answers in grouped(doubt, predictions):
        if group.kind == "external":
            continue
        smooth = {
            stage: smooth_curve(*asked_and_said(answers.target, values))
            for stage, values in ((BEFORE, answers.score), (AFTER, answers.probability))
        }
        curves += [curve.assign(group=group.name, stage=stage) for stage, curve in smooth.items()]
        figure = calibration_figure(smooth, f"{TASKS[series.task].title}: {group.name}", note, said)
        errors = table[(table["group"] == group.name) & (table["statistic"] == ECE)].set_index("stage")["value"]
        alt = f"Expected calibration error {number(errors[BEFORE], 3)} before and {number(errors[AFTER], 3)} after."
        pictures.append(
            Picture(
                f"doubt-calibration-{series.key}-{group.name}",
                figure,
                f"Calibration before and after, {group.name}: observed share as a smooth function of the prediction.",
                f"Two smooth calibration curves. {alt}",
            )
        )
    return [
        PageTable(
            f"doubt-calibration-{series.key}",
            "Calibration before and after.",
            ("Group", "n", "Positives" if two else "Right", *(f"{name} (95 % CI)" for name in _CALIBRATION.values())),
            tuple(rows),
            table,
            "Expected calibration error in ten groups of about equal size; above 0 by chance, the more so the "
            "fewer patients there are."
            + (
                ""
                if two
                else " Of more than two classes: the probability of the likeliest, against whether it is right."
            ),
        ),
        Gallery(tuple(pictures)),
        _smooth_table(series, pd.concat(curves, ignore_index=True)),
    ]


def _sets_blocks(series: PointSeries, doubt: TaskDoubt, predictions: pd.DataFrame, note: str) -> list[Block]:
    table, curve = sets_table(doubt, predictions), abstention_table(doubt, predictions)
    title = TASKS[series.task].title
    pictures = (
        Picture(
            f"doubt-coverage-{series.key}",
            coverage_figure(table, f"{title}: prediction sets", note),
            "Coverage and size of the prediction sets by centre.",
            coverage_words(table),
        ),
        Picture(
            f"doubt-risk-coverage-{series.key}",
            risk_coverage_figure(curve, f"{title}: abstention", note),
            "Error of those that are answered, when the least sure are left to a doctor.",
            "Error against the share of patients that are answered.",
        ),
    )
    return [
        PageTable(
            f"doubt-sets-{series.key}",
            f"Prediction sets at {CONFIDENCE:.0%}, and the error when the least sure are left out.",
            ("Group", "n", *(f"{name} (95 % CI)" for name in _SETS.values())),
            coverage_rows(table, _SETS),
            table,
            "Coverage with Wilson's interval. External patients are not exchangeable with the validation patients, so "
            "that nothing is promised of them.",
        ),
        Gallery(pictures),
        _abstention_table(series, curve),
    ]


def coverage_rows(table: pd.DataFrame, shown: Collection[str]) -> tuple[Row, ...]:
    """A row of each group with the statistics that are shown, from `sets_table` or `bounds_table`."""
    rows = []
    for name, part in table.groupby("group", sort=False):
        own = part.set_index("statistic")
        values = [interval(estimate_of(own.loc[key].to_dict(), "value")) for key in shown]
        rows.append(Row((capital(str(name)), str(own.loc["coverage", "n"]), *values)))
    return tuple(rows)


def coverage_words(table: pd.DataFrame) -> str:
    """What stands for the picture of coverage where it is not seen."""
    pooled = table[(table["statistic"] == "coverage") & (table["kind"] != "external")]
    values = "; ".join(f"{row['group']} {number(row['value'])}" for row in pooled.to_dict("records"))
    return f"Coverage by centre with intervals. {values}."


def _smooth_table(series: PointSeries, frame: pd.DataFrame) -> PageTable:
    """The smooth curves at five predictions; the CSV file holds all points."""
    rows = []
    for (name, stage), curve in frame.groupby(["group", "stage"], sort=False):
        found = [_nearest(curve, "predicted", at, "observed") for at in _PREDICTED]
        rows.append(Row((f"{capital(str(name))}, {stage}", *found)))
    return PageTable(
        f"doubt-calibration-curves-{series.key}",
        "Observed share by the prediction, from the smooth curves.",
        ("Group", *(f"{at:.0%} (95 % CI)" for at in _PREDICTED)),
        tuple(rows),
        frame,
        "A dash stands where no patient has such a prediction.",
    )


def _abstention_table(series: PointSeries, frame: pd.DataFrame) -> PageTable:
    """The error at five shares that are answered; the CSV file holds all."""
    rows = tuple(
        Row((capital(str(name)), *(_nearest(curve, "answered", at, "error") for at in _ANSWERED)))
        for name, curve in frame.groupby("group", sort=False)
    )
    return PageTable(
        f"doubt-risk-coverage-{series.key}",
        "Error by the share of patients that is answered, the surest first.",
        ("Group", *(f"{at:.0%} (95 % CI)" for at in _ANSWERED)),
        rows,
        frame,
        "Wilson's intervals of the patients that are answered.",
    )


def _nearest(curve: pd.DataFrame, along: str, at: float, name: str) -> str:
    """A value of a curve with its interval, a dash where it has no point near."""
    distance = (curve[along] - at).abs()
    if distance.min() > _NEAR:
        return "\N{EN DASH}"
    row = curve.loc[distance.idxmin()]
    return interval(Estimate(float(row[name]), float(row["low"]), float(row["high"])))


def _moved(row: Mapping[Hashable, object], name: str) -> str:
    """A value before and after, with the range of the difference over draws."""
    before, after, low, high = (
        number(float(str(row[f"{name}_{stage}"])), 3) for stage in ("before", "after", "low", "high")
    )
    return f"{before} to {after} ({low} to {high})"


def local_block(table: pd.DataFrame, shown: Mapping[str, str], key: str, caption: str, note: str) -> Block:
    """What local patients of a centre change, from `local_table` or `survival_local_table`.

    Args:
        table: The table.
        shown: Titles of what is shown, by name in the table.
        key: Key of the table on the page.
        caption: Its caption.
        note: What is said below it, before that the range is of draws.
    """
    if table.empty:
        return Text("No recalibration with local patients: no external centre has enough patients.", kind="missing")
    rows = tuple(
        Row((capital(row["group"]), str(row["local"]), str(row["n"]), *(_moved(row, name) for name in shown)))
        for row in table.to_dict("records")
    )
    header = ("Centre", "Local", "Tested", *(f"{title} (difference, 95 % of draws)" for title in shown.values()))
    return PageTable(key, caption, header, rows, table, f"{note} The range is that over draws, not over patients.")
