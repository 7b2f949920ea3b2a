"""Survival by predicted aggressiveness: the risk groups of patients whom no survival model was trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from datamodules.cohort.columns import ENDPOINTS
from datamodules.cohort.labels import targets
from datamodules.errors import DataError
from experiments.registry import ENCODERS, task_label
from experiments.scores.outcomes import RISK, Outcome, outcomes_of, score_columns
from experiments.scores.results_figures import risk_group_of
from experiments.scores.results_table import Group, groups
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import capital, interval
from experiments.studies.report.pictures import pooled_groups, seed_words
from experiments.studies.report.report_page import Block, Gallery, PageTable, Picture, Row, Section, Text
from experiments.studies.report.survival_section import NAMES, RISK_HEADER, curves_picture, risk_cells, risk_record

TASK = "aggressiveness"
_CUT = (
    "Groups are cut at the median predicted probability of validation patients of whom the endpoint is known, never of "
    "tested ones."
)


def aggressiveness_section(series: PointSeries, note: str) -> Section:
    """Kaplan-Meier curves, log-rank test and hazard ratio of every known endpoint by predicted aggressiveness.

    Args:
        series: Points of the task of aggressiveness.
        note: What must be said beside every figure.
    """
    blocks: list[Block] = [
        Text(
            "The encoders were trained on aggressiveness alone; recurrence and death of the same patients are read off."
        )
    ]
    for endpoint in ENDPOINTS:
        known = endpoint_frames(series, endpoint)
        blocks += _endpoint_blocks(series, endpoint, known, note) if known else [_unknown(endpoint)]
    return Section(f"{series.key}-survival", "Survival by predicted aggressiveness", blocks)


def _unknown(endpoint: str) -> Text:
    return Text(f"{endpoint.upper()}: not known of any eligible patient of this cohort.", kind="missing")


def endpoint_frames(series: PointSeries, endpoint: str) -> dict[str, pd.DataFrame]:
    """Predicted aggressiveness as a risk, beside one endpoint of the same patients.

    Args:
        series: Points of the task of aggressiveness.
        endpoint: rfs, dss or os.

    Returns:
        By encoder, predictions of the form that survival tasks have: validation and tested patients who are eligible
        for the endpoint and of whom it is known, with `<endpoint>_months`, `<endpoint>_event` and `risk`, the predicted
        probability of aggressiveness. Empty where the cohort does not know the endpoint.
    """
    try:
        known = targets(series.cohort, task_label(endpoint))
    except DataError:  # no patient has the endpoint, which the report says
        return {}
    known = known[known[f"{endpoint}_known"]].set_index("patient_id")
    columns = [f"{endpoint}_months", f"{endpoint}_event"]
    found = {}
    for name, predictions in series.first_seed().items():
        rows = predictions[predictions["patient_id"].isin(known.index)].reset_index(drop=True)
        values = known.loc[rows["patient_id"], columns].reset_index(drop=True)
        keys = [column for column in ("patient_id", "center", "role", "part", "fold") if column in rows]
        risk = rows[score_columns(predictions)[1]].to_numpy(dtype=float)
        found[name] = pd.concat([rows[keys], values], axis=1).assign(**{RISK: risk})
    return found


def _endpoint_blocks(series: PointSeries, endpoint: str, known: dict[str, pd.DataFrame], note: str) -> list[Block]:
    rows, records, pictures, undivided = [], [], [], []
    for shown in pooled_groups(series):
        rows.append(Row((capital(shown.name),), heading=True))
        for name, frame in known.items():
            found = _divided(frame, shown)
            if found is None:
                undivided.append(f"{ENCODERS[name].title}, {shown.name}")
                continue
            outcome, divided = found
            record, ranked = risk_record(outcome, divided), outcome.estimate()
            values = {"c_index": ranked.value, "c_index_low": ranked.low, "c_index_high": ranked.high}
            records.append({"group": shown.name, "encoder": name, "endpoint": endpoint, **record, **values})
            rows.append(Row((ENCODERS[name].title, *risk_cells(record), interval(ranked))))
            if name == series.index:
                pictures.append(_picture(series, shown, name, outcome, divided, record, note))
    blocks: list[Block] = [Gallery(tuple(pictures))] if pictures else []
    if records:
        within = " within folds" if series.metric.within_folds else ""
        table = PageTable(
            f"survival-by-{series.key}-{endpoint}",
            f"{endpoint.upper()} by predicted aggressiveness: high against low.",
            (*RISK_HEADER, f"Harrell C-index{within} (95 % CI)"),
            tuple(rows),
            pd.DataFrame(records),
            f"{_CUT} C-index of the predicted probability of aggressiveness. {seed_words(series)}",
        )
        blocks.append(table)
    if undivided:
        what = f"{endpoint.upper()}: not divided by the cut of their validation patients"
        blocks.append(Text(f"{what}: {'; '.join(undivided)}.", kind="missing"))
    return blocks


def _divided(frame: pd.DataFrame, shown: Group) -> tuple[Outcome, np.ndarray] | None:
    """The endpoint of the patients of a group, and their risk groups; None where these are not two."""
    own = next((group for group in groups(frame) if group.name == shown.name), None)
    outcome = None if own is None else next(outcomes_of(own.rows), None)
    divided = None if outcome is None else risk_group_of(frame, outcome.rows)
    return None if outcome is None or divided is None else (outcome, divided)


def _picture(
    series: PointSeries,
    group: Group,
    name: str,
    outcome: Outcome,
    divided: np.ndarray,
    record: dict[str, float],
    note: str,
) -> Picture:
    endpoint = outcome.endpoint.upper()
    heading = f"{endpoint} by predicted aggressiveness: {ENCODERS[name].title}, {group.name}"
    names = {number: title.replace("risk", "aggressiveness") for number, title in NAMES.items()}
    caption = (
        f"{endpoint} by predicted aggressiveness, {ENCODERS[name].title}, {group.name}. {_CUT} {seed_words(series)}"
    )
    key = f"km-{series.key}-{outcome.endpoint}-{group.name}-{name}"
    return curves_picture(key, heading, caption, outcome, divided, names, record, note)
