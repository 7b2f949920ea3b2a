"""The page of doubt of a survival task: curves before and after, lower bounds by centre, abstention, local patients."""

from __future__ import annotations

import pandas as pd

from experiments.doubt.doubt_figures import BOUNDS, coverage_figure
from experiments.doubt.doubt_tables import ANSWERED
from experiments.doubt.prediction_sets import CONFIDENCE
from experiments.doubt.survival_doubt import SurvivalDoubt, survival_doubt
from experiments.doubt.survival_tables import (
    BRIER,
    ECE,
    RATIO,
    SLOPE,
    bounds_table,
    survival_calibration_table,
    survival_local_table,
)
from experiments.registry import ENCODERS, TASKS
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import capital, interval, number
from experiments.studies.report.maps_block import maps_blocks
from experiments.studies.report.pictures import seed_words
from experiments.studies.report.report_page import Block, Gallery, PageTable, Picture, Row, Section, Text
from experiments.studies.report.result_tables import estimate_of

_CALIBRATION = {ECE: "Calibration error", SLOPE: "Slope", RATIO: "Observed over expected", BRIER: "Brier score"}
_SHOWN = {
    "coverage": "Outlive their bound",
    "bound in months": "Mean bound, months",
    "error of 100%": "Error at 36 months, all answered",
    f"error of {ANSWERED:.0%}": f"Error, surest {ANSWERED:.0%}",
}


def survival_doubt_section(series: PointSeries, note: str) -> Section:
    """How sure the curves of the index encoder are."""
    predictions = series.first_seed()[series.index]
    doubt, title = survival_doubt(predictions), ENCODERS[series.index].title
    section = Section(f"{series.key}-doubt", "Doubt")
    if doubt is None:
        text = "No calibration of curves and no bounds: there are no curves, or no validation patients with an event."
        section.blocks.extend([Text(text, kind="missing"), *maps_blocks(series)])
        return section
    used = sum(one.n for one in doubt.chosen.values())
    events = sum(one.events for one in doubt.chosen.values())
    section.blocks.append(
        Text(
            f"Of {title}, {doubt.endpoint.upper()}. Calibration: {doubt.methods}, chosen by cross-validation of {used} "
            f"validation patients with {events} events and fitted on them; {CONFIDENCE:.0%} of patients like these "
            f"outlive their lower bound. {seed_words(series)}"
        )
    )
    section.blocks.append(_calibration_block(series, doubt, predictions))
    section.blocks.extend(_bounds_blocks(series, doubt, predictions, note))
    section.blocks.append(_local_block(series, doubt, predictions))
    section.blocks.extend(maps_blocks(series))
    return section


def _calibration_block(series: PointSeries, doubt: SurvivalDoubt, predictions: pd.DataFrame) -> Block:
    table = survival_calibration_table(doubt, predictions)
    rows = []
    for (name, months, stage), part in table.groupby(["group", "months", "stage"], sort=False):
        own = part.set_index("statistic")
        values = [interval(estimate_of(own.loc[key].to_dict(), "value"), 3) for key in _CALIBRATION]
        counts = (str(own["n"].iloc[0]), str(own["events"].iloc[0]))
        rows.append(Row((f"{capital(str(name))}, {months:.0f} months, {stage}", *counts, *values)))
    return PageTable(
        f"doubt-survival-{series.key}",
        "Calibration of the curves before and after, at fixed times.",
        ("Group", "Known", "Events", *(f"{name} (95 % CI)" for name in _CALIBRATION.values())),
        tuple(rows),
        table,
        "Calibration error in five groups by predicted risk, censoring weighted away; above 0 by chance. Slope and "
        "observed over expected are 1 when calibrated.",
    )


def _bounds_blocks(series: PointSeries, doubt: SurvivalDoubt, predictions: pd.DataFrame, note: str) -> list[Block]:
    table = bounds_table(doubt, predictions)
    rows = []
    for name, part in table.groupby("group", sort=False):
        own = part.set_index("statistic")
        values = [interval(estimate_of(own.loc[key].to_dict(), "value")) for key in _SHOWN]
        rows.append(Row((capital(str(name)), str(own.loc["coverage", "n"]), *values)))
    pooled = table[(table["statistic"] == "coverage") & (table["kind"] != "external")]
    alt = "; ".join(f"{row['group']} {number(row['value'])}" for row in pooled.to_dict("records"))
    figure = coverage_figure(table, f"{TASKS[series.task].title}: lower bounds", note, BOUNDS)
    picture = Picture(
        f"doubt-bounds-{series.key}",
        figure,
        "Share of patients that outlive their lower bound, and its height, by centre.",
        f"Coverage by centre with intervals. {alt}.",
    )
    return [
        PageTable(
            f"doubt-bounds-{series.key}",
            f"Lower bounds of survival at {CONFIDENCE:.0%}, and the error when the least sure are left out.",
            ("Group", "n", *(f"{name} (95 % CI)" for name in _SHOWN.values())),
            tuple(rows),
            table,
            "Censoring is weighted away by Kaplan-Meier of the same group. External patients are not exchangeable with "
            "the validation patients, so that nothing is promised of them. The error is that of saying who outlives 36 "
            "months.",
        ),
        Gallery((picture,)),
    ]


def _local_block(series: PointSeries, doubt: SurvivalDoubt, predictions: pd.DataFrame) -> Block:
    table = survival_local_table(doubt, predictions)
    if table.empty:
        return Text("No recalibration with local patients: no external centre has enough patients.", kind="missing")
    rows = tuple(
        Row((
            capital(row["group"]), str(row["local"]), str(row["n"]),
            f"{number(row['log_loss_before'], 3)} to {number(row['log_loss_after'], 3)} "
            f"({number(row['log_loss_low'], 3)} to {number(row['log_loss_high'], 3)})",
        ))
        for row in table.to_dict("records")
    )  # fmt: skip
    return PageTable(
        f"doubt-survival-local-{series.key}",
        "Recalibration of curves with local patients of an external centre, tested on its others.",
        ("Centre", "Local", "Tested", "Weighted log loss (difference, 95 % of draws)"),
        rows,
        table,
        "Mean over 100 draws of the local patients: of 20 the level is fitted, of 50 level and spread. The range is "
        "that over draws, not over patients.",
    )
