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
from experiments.studies.report.doubt_section import coverage_rows, coverage_words, local_block
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import capital, interval
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
        section.blocks.append(Text(text, kind="missing"))
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
    section.blocks.append(
        local_block(
            survival_local_table(doubt, predictions),
            {"log_loss": "Weighted log loss"},
            f"doubt-survival-local-{series.key}",
            "Recalibration of curves with local patients of an external centre, tested on its others.",
            "Mean over 100 draws of the local patients: of 20 the level is fitted, of 50 level and spread.",
        )
    )
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
    figure = coverage_figure(table, f"{TASKS[series.task].title}: lower bounds", note, BOUNDS)
    picture = Picture(
        f"doubt-bounds-{series.key}",
        figure,
        "Share of patients that outlive their lower bound, and its height, by centre.",
        coverage_words(table),
    )
    return [
        PageTable(
            f"doubt-bounds-{series.key}",
            f"Lower bounds of survival at {CONFIDENCE:.0%}, and the error when the least sure are left out.",
            ("Group", "n", *(f"{name} (95 % CI)" for name in _SHOWN.values())),
            coverage_rows(table, _SHOWN),
            table,
            "Censoring is weighted away by Kaplan-Meier of the same group. External patients are not exchangeable with "
            "the validation patients, so that nothing is promised of them. The error is that of saying who outlives 36 "
            "months.",
        ),
        Gallery((picture,)),
    ]
