"""Decision curves of a survival task."""

from __future__ import annotations

from experiments.scores.survival_curves import curve_columns
from experiments.statistics.decision import survival_decision_curve
from experiments.statistics.horizons import HORIZONS_MONTHS
from experiments.studies.report.decisions import Decisions, decision_blocks
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.report_page import Block, Text
from experiments.studies.report.survival_accuracy import scored_groups

_THRESHOLDS = (0.1, 0.2, 0.4)
"""Of the table; recurrence and death are rarer than malignancy."""


def survival_decisions(series: PointSeries, note: str) -> list[Block]:
    """Decision curves of the encoders that predict curves of survival, at the latest time that all of them allow.

    Args:
        series: The points.
        note: What must be said beside every figure.
    """
    found, without = [], []
    for group, scored in scored_groups(series):
        known = [one for one in scored if curve_columns(one.outcome.rows)]
        for months in reversed(HORIZONS_MONTHS):
            found_at = ((one.encoder, one.usable_survival(months)) for one in known)
            survival = {name: values for name, values in found_at if values is not None}
            if survival and len(survival) == len(known):
                break
        else:
            without.append(group.name)
            continue
        curves = {
            one.encoder: survival_decision_curve(one.time, one.event, survival[one.encoder], months) for one in known
        }
        found.append(Decisions(group.name, curves, f"{known[0].outcome.endpoint.upper()} at {months:.0f} months"))
    blocks = decision_blocks(series, found, _THRESHOLDS, note) if found else []
    if without:
        text = "no encoder predicts survival there at a time that follow-up and all curves reach."
        blocks.append(Text(f"No decision curves of {', '.join(without)}: {text}", kind="missing"))
    return blocks
