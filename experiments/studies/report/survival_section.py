"""The figures and tables of a survival task: risk groups, hazard ratios, accuracy at horizons."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from experiments.registry import ENCODERS, TASKS
from experiments.scores.outcomes import Outcome
from experiments.scores.plots.survival import kaplan_meier_plot
from experiments.scores.results_figures import risk_group_of
from experiments.scores.results_table import Group
from experiments.statistics.cox import FIRTH, CoxRegression, cox_regression, proportional_hazards
from experiments.statistics.estimate import Estimate
from experiments.statistics.kaplan_meier import log_rank, survival_at
from experiments.statistics.risk_groups import hazard_ratios
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import capital, interval, p_value, plural
from experiments.studies.report.pictures import pooled_groups, seed_words
from experiments.studies.report.report_page import Block, Gallery, PageTable, Picture, Row, Section, Text
from experiments.studies.report.survival_accuracy import horizon_table, own_outcome, probability_blocks
from experiments.studies.report.survival_decisions import survival_decisions

NAMES = {0: "low risk", 1: "high risk"}
RISK_HEADER = ("Encoder", "Low risk: n (events)", "High risk: n (events)", "Log-rank p", "Hazard ratio (95 % CI)")
FIRTH_NOTE = (
    "Firth: where groups or covariates separate the events a Cox model has no finite hazard ratio; it is then by "
    "Firth's penalised likelihood, with profile-likelihood intervals (Heinze and Schemper, 2001)."
)
_CUT = "Groups are cut at the median risk of validation patients, never of tested ones."


def survival_sections(series: PointSeries, frame: pd.DataFrame, note: str) -> list[Section]:
    """The sections of a survival task.

    Args:
        series: Its points.
        frame: From `results_frame`, for the best baseline.
        note: What must be said beside every figure.
    """
    time: list[Block] = [horizon_table(series)]
    return [
        Section(f"{series.key}-risk", "Risk groups", _risk_blocks(series, frame, note)),
        Section(f"{series.key}-adjusted", "Adjusted hazard ratio", _adjusted_blocks(series)),
        Section(f"{series.key}-time", "Accuracy at fixed times", time),
        Section(f"{series.key}-calibration", "Predicted probabilities of survival", probability_blocks(series, note)),
        Section(f"{series.key}-decision", "Clinical usefulness", survival_decisions(series, note)),
    ]


def _risk_blocks(series: PointSeries, frame: pd.DataFrame, note: str) -> list[Block]:
    rows, records, pictures, undivided = [], [], [], []
    for group in pooled_groups(series):
        rows.append(Row((capital(group.name),), heading=True))
        best = frame.loc[(frame["group"] == group.name) & (frame["endpoint"] == series.label.endpoint), "baseline"]
        drawn = list(dict.fromkeys([series.index, *(name for name in best.head(1) if name)]))
        for name, predictions in series.first_seed().items():
            outcome = own_outcome(predictions, group)
            groups = None if outcome is None else risk_group_of(predictions, outcome.rows)
            if outcome is None or groups is None:
                undivided.append(f"{ENCODERS[name].title}, {group.name}")
                continue
            record = risk_record(outcome, groups)
            records.append({"group": group.name, "encoder": name, "endpoint": outcome.endpoint, **record})
            rows.append(Row((ENCODERS[name].title, *risk_cells(record))))
            if name in drawn:
                pictures.append(_curves(series, group, name, outcome, groups, record, note))
    blocks: list[Block] = [Gallery(tuple(pictures))] if pictures else []
    if records:
        title = f"Risk groups, {series.label.endpoint.upper()}: high against low risk."
        caution = f"{_CUT} {FIRTH_NOTE} {seed_words(series)}"
        table = PageTable(f"risk-groups-{series.key}", title, RISK_HEADER, tuple(rows), pd.DataFrame(records), caution)
        blocks.append(table)
    if undivided:
        blocks.append(
            Text(f"Not divided by the cut of their validation patients: {'; '.join(undivided)}.", kind="missing")
        )
    return blocks


def risk_record(outcome: Outcome, groups: np.ndarray) -> dict[str, Any]:
    """Log-rank test and hazard ratio of two risk groups with its method, and n and events of each."""
    time, event = outcome.months, outcome.target
    test, ratio = log_rank(time, event, groups), hazard_ratios(time, event, groups).iloc[0]
    record: dict[str, Any] = {}
    for number, name in ((0, "low"), (1, "high")):
        record |= {f"{name}_n": int((groups == number).sum()), f"{name}_events": int(event[groups == number].sum())}
    record |= {"log_rank": test.statistic, "p": test.p, "hazard_ratio": float(ratio["hazard_ratio"])}
    record |= {"hazard_ratio_low": float(ratio["low"]), "hazard_ratio_high": float(ratio["high"])}
    return record | {"hazard_ratio_method": ratio["method"]}


def _ratio(record: dict[str, Any]) -> str:
    ratio = Estimate(record["hazard_ratio"], record["hazard_ratio_low"], record["hazard_ratio_high"])
    return ratio_words(ratio, record["hazard_ratio_method"])


def ratio_words(ratio: Estimate, method: str) -> str:
    """A hazard ratio with its interval, marked where it is by Firth's likelihood."""
    return f"{interval(ratio)}, Firth" if method == FIRTH else interval(ratio)


def risk_cells(record: dict[str, Any]) -> tuple[str, ...]:
    """What stands beneath `RISK_HEADER` behind the encoder."""
    counts = (f"{record[f'{name}_n']} ({record[f'{name}_events']})" for name in ("low", "high"))
    return (*counts, p_value(record["p"]), _ratio(record))


def _curves(
    series: PointSeries,
    group: Group,
    name: str,
    outcome: Outcome,
    groups: np.ndarray,
    record: dict[str, Any],
    note: str,
) -> Picture:
    heading = f"{TASKS[series.task].title}: {ENCODERS[name].title}, {group.name}"
    endpoint = outcome.endpoint.upper()
    caption = f"{endpoint} by risk group, {ENCODERS[name].title}, {group.name}. {_CUT} {seed_words(series)}"
    key = f"km-{series.key}-{group.name}-{name}"
    return curves_picture(key, heading, caption, outcome, groups, NAMES, record, note)


def curves_picture(
    key: str,
    heading: str,
    caption: str,
    outcome: Outcome,
    groups: np.ndarray,
    names: Mapping[int, str],
    record: dict[str, Any],
    note: str,
) -> Picture:
    """Kaplan-Meier curves of two groups with numbers at risk, and in words.

    Args:
        key: Name of the picture.
        heading: Title on it.
        caption: What stands beneath it.
        outcome: The endpoint.
        groups: Group of each patient.
        names: Names of the groups, the reference first.
        record: From `risk_record`.
        note: What must be said beside the result.
    """
    endpoint = outcome.endpoint.upper()
    figure = kaplan_meier_plot(outcome.months, outcome.target, groups, names, heading, note, endpoint)
    kept = "; ".join(
        f"{title} {interval(survival_at(outcome.months[groups == number], outcome.target[groups == number], 36.0))}"
        for number, title in names.items()
    )
    alt = (
        f"Kaplan-Meier curves of {endpoint} with numbers at risk. At 36 months: {kept}. Log-rank p "
        f"{p_value(record['p'])}, hazard ratio {_ratio(record)}."
    )
    return Picture(key, figure, caption, alt)


def covariates_of(series: PointSeries, rows: pd.DataFrame) -> pd.DataFrame:
    """What a risk group is adjusted for: T stage, N or M, grade, size and age, of the patients of a table.

    Returns:
        Columns `pT3 or higher`, `N1 or M1`, `grade 3 or 4`, `size, cm`, `age, 10 years` in the order of the rows.
    """
    patients = series.cohort.patients().set_index("patient_id").loc[rows["patient_id"]]
    stage = patients["stage_pt"].where(~patients["stage_pt"].isin(["X"]))
    spread = patients["stage_pn"].isin(["1", "2"]).fillna(False) | (patients["stage_pm"] == "1").fillna(False)
    found = pd.DataFrame(
        {
            "pT3 or higher": stage.str[0].isin(["3", "4"]).astype("Float64").where(stage.notna()),
            "N1 or M1": spread.astype("Float64"),
            "grade 3 or 4": (patients["isup_grade"] >= 3).astype("Float64"),
            "size, cm": patients["tumor_size_mm"] / 10,
            "age, 10 years": patients["age_years"] / 10,
        }
    )
    return found.astype("Float64").astype(float).reset_index(drop=True)


def _adjusted_blocks(series: PointSeries) -> list[Block]:
    """Multivariable Cox regression of the index encoder's risk group; a covariate that cannot be fitted is left out."""
    blocks: list[Block] = []
    predictions = series.first_seed()[series.index]
    for group in pooled_groups(series):
        outcome = own_outcome(predictions, group)
        groups = None if outcome is None else risk_group_of(predictions, outcome.rows)
        if outcome is None or groups is None:
            blocks.append(
                Text(f"No adjusted hazard ratio of {group.name}: there are no two risk groups.", kind="missing")
            )
            continue
        table, refused = _adjusted(series, group, outcome, groups)
        blocks += [table] if table else []
        if refused:
            blocks.append(Text(f"{capital(group.name)}: {' '.join(refused)}", kind="missing"))
    return blocks


def _adjusted(
    series: PointSeries, group: Group, outcome: Outcome, groups: np.ndarray
) -> tuple[PageTable | None, list[str]]:
    design = covariates_of(series, outcome.rows).assign(**{"high risk": groups})
    names = ["high risk", *(str(name) for name in design if name != "high risk")]
    known = [name for name in names if design[name].notna().any()]
    refused = [f"Not adjusted for {name}, which is not recorded." for name in names if name not in known]
    while known:
        try:
            fitted = cox_regression(design, outcome.months, outcome.target, known, separated="firth")
            break
        except DataError as error:
            if len(known) == 1:
                return None, [*refused, str(error)]
            named = [name for name in known[1:] if name in str(error)] or known[1:]
            culprit = min(named, key=lambda name: _balance(design[name]))
            refused.append(f"Not adjusted for {culprit}: {str(error)[0].lower()}{str(error)[1:]}")
            known.remove(culprit)
    records = fitted.table.assign(group=group.name, p_proportional=float("nan"))
    checked = _proportional(fitted)
    if checked is not None:
        records["p_proportional"] = records["covariate"].map(checked)
    rows = tuple(_cox_row(row) for row in records.to_dict("records"))
    left = (
        f"{plural(fitted.left_out, 'patient')} with a missing covariate left out"
        if fitted.left_out
        else "nobody left out"
    )
    note = (
        f"n {fitted.n}, {fitted.events} events, {left}; {fitted.events_per_covariate:.1f} events a covariate"
        f"{', which is few: coefficients may be too large' if fitted.events_per_covariate < 10 else ''}. Efron's ties; "
        f"all covariates together: likelihood-ratio p {p_value(fitted.likelihood_ratio_p)}; "
        f"{_proportional_words(fitted, checked)} Stage and grade are known after surgery. "
        f"{seed_words(series)}"
    )
    what = f"risk group of {ENCODERS[series.index].title}, {outcome.endpoint.upper()}"
    title = f"Multivariable Cox regression, {group.name}: {what}."
    header = ("Covariate", "Hazard ratio (95 % CI)", "p", "p, proportional hazards")
    return PageTable(f"cox-{series.key}-{group.name.replace(' ', '-')}", title, header, rows, records, note), refused


def _balance(values: pd.Series) -> float:
    """Share of the rarer level of a covariate of two levels; one half of a number."""
    known = values.dropna()
    return min(known.mean(), 1 - known.mean()) if known.isin([0, 1]).all() else 0.5


def _proportional(fitted: CoxRegression) -> pd.Series | None:
    """p of the test of proportional hazards by covariate, and of all; None where events are separated."""
    return None if fitted.separated else proportional_hazards(fitted).set_index("covariate")["p"]


def _proportional_words(fitted: CoxRegression, checked: pd.Series | None) -> str:
    if checked is None:
        return (
            f"{' and '.join(fitted.separated)} separated the events, so that all hazard ratios are Firth's and "
            f"proportional hazards cannot be tested. {FIRTH_NOTE}"
        )
    together = p_value(checked["GLOBAL"])
    return f"last column: score test of proportional hazards, of all covariates together p {together}."


def _cox_row(row: dict[Hashable, object]) -> Row:
    ratio = Estimate(*(float(row[key]) for key in ("hazard_ratio", "low", "high")))  # type: ignore[arg-type]
    ends = (p_value(float(row[key])) for key in ("p", "p_proportional"))  # type: ignore[arg-type]
    return Row((capital(str(row["covariate"])), ratio_words(ratio, str(row["method"])), *ends))
