"""Decision curves of a study: whether acting on a prediction is worth more than treating all or nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from experiments.registry import ENCODERS, TASKS
from experiments.scores.plots.classification import decision_plot
from experiments.studies.encoder_lines import encoder_line
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import capital, interval
from experiments.studies.report.pictures import seed_words
from experiments.studies.report.report_page import Block, Gallery, PageTable, Picture, Row
from experiments.studies.report.result_tables import estimate_of


@dataclass(frozen=True)
class Decisions:
    """The decision curves of one group of patients.

    Args:
        group: Its name.
        curves: Tables of `decision_curve` or `survival_decision_curve` by encoder.
        what: What is predicted, where that is not a class, such as `OS at 36 months`.
    """

    group: str
    curves: Mapping[str, pd.DataFrame]
    what: str = ""

    @property
    def title(self) -> str:
        """The group, and what is predicted of it."""
        return f"{self.group}, {self.what}" if self.what else self.group


def decision_blocks(
    series: PointSeries, found: Sequence[Decisions], thresholds: Sequence[float], note: str
) -> list[Block]:
    """A picture of every group, and the net benefit at some thresholds.

    Args:
        series: The points.
        found: Groups with their curves.
        thresholds: Those shown in the table.
        note: What must be said beside every figure.
    """
    pictures, frames = [], []
    for one in found:
        frames += [curve.assign(group=one.group, encoder=name) for name, curve in one.curves.items()]
        titled = {ENCODERS[name].title: curve for name, curve in one.curves.items()}
        lines = [encoder_line(name) for name in one.curves]
        counted = "events by then" if one.what else "positive"
        figure = decision_plot(titled, f"{TASKS[series.task].title}: {one.title}", note, lines, counted)
        alt = "; ".join(f"{name} {_useful(curve)}" for name, curve in titled.items())
        caption = f"Decision curves, {one.title}. Net benefit of treating those at or above a threshold probability."
        pictures.append(Picture(f"decision-{series.key}-{one.group}", figure, caption, f"Decision curves. {alt}."))
    titles = {one.group: one.title for one in found}
    table = _table(series, pd.concat(frames, ignore_index=True), titles, thresholds)
    return [Gallery(tuple(pictures)), table]


def _useful(curve: pd.DataFrame) -> str:
    better = curve[curve["advantage_low"] > 0]["threshold"]
    if better.empty:
        return "is not better than treating all and treating nobody at any threshold"
    return f"is better than treating all and treating nobody from {better.min():.2f} to {better.max():.2f}"


def _table(
    series: PointSeries, frame: pd.DataFrame, titles: Mapping[str, str], thresholds: Sequence[float]
) -> PageTable:
    rows = []
    for group, part in frame.groupby("group", sort=False):
        rows.append(Row((capital(titles[str(group)]),), heading=True))
        for name, own in part.groupby("encoder", sort=False):
            values = own.set_index("threshold").loc[list(thresholds)]
            estimates = [estimate_of(row, "advantage") for row in values.to_dict("records")]
            rows.append(Row((ENCODERS[str(name)].title, *(interval(found, 3) for found in estimates))))
    return PageTable(
        f"decision-{series.key}",
        "Net benefit over the better of treating all and treating nobody (95 % CI), at three threshold probabilities.",
        ("Encoder", *(f"Threshold {value:.0%}" for value in thresholds)),
        tuple(rows),
        frame,
        f"The CSV has all thresholds. {seed_words(series)}",
    )
