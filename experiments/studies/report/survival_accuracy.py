"""How accurate predictions of survival are at and up to fixed times: ranking, Brier scores, calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.registry import ENCODERS, TASKS
from experiments.scores.outcomes import Outcome, outcomes_of
from experiments.scores.plots.survival import survival_calibration_plot
from experiments.scores.results_table import Group
from experiments.scores.survival_curves import curve_columns, predicted_survival
from experiments.statistics.calibration import (
    observed_over_expected,
    survival_calibration_curve,
    survival_calibration_slope,
)
from experiments.statistics.concordance import c_index, uno
from experiments.statistics.estimate import Estimate, undefined
from experiments.statistics.horizons import (
    HORIZONS_MONTHS,
    at_horizon,
    brier_at,
    dynamic_auc,
    integrated_brier,
    kaplan_meier_brier,
    known_by,
    mean_dynamic_auc,
    usable_times,
)
from experiments.statistics.weighted_survival import FollowUp
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import capital, interval, number
from experiments.studies.report.pictures import of_group, pooled_groups, seed_words
from experiments.studies.report.report_page import Block, Gallery, PageTable, Picture, Row, Text

GRID_MONTHS = np.arange(3.0, 60.1, 3.0)
"""Times that a score is integrated over, as far as follow-up and predictions reach."""
_FEWEST_A_GROUP = 20
_KEYS = {"brier": "Brier score", "kaplan_meier": "Kaplan-Meier alone", "slope": "Slope", "ratio": "Observed / expected"}


@dataclass(frozen=True)
class ScoredEncoder:
    """One encoder in a group: what happened to its patients, and what was predicted of them."""

    encoder: str
    group: Group
    outcome: Outcome

    @property
    def time(self) -> np.ndarray:
        """Months to event or censoring [N]."""
        return self.outcome.months

    @property
    def event(self) -> np.ndarray:
        """Whether the event was observed [N]."""
        return self.outcome.target

    def usable(self, times: np.ndarray) -> np.ndarray:
        """Those of the times that follow-up allows a score at."""
        return times[usable_times(times, FollowUp(self.time, self.event))]

    def survival(self, times: np.ndarray) -> np.ndarray | None:
        """Predicted survival [N, T]; None unless it is known of every patient at every time."""
        found = predicted_survival(self.outcome.rows, times)
        return found if len(times) and np.isfinite(found).all() else None

    def usable_survival(self, months: float) -> np.ndarray | None:
        """Predicted survival of one time [N]; None unless follow-up and the curves of all patients reach it."""
        at = np.array([months])
        found = self.survival(at) if len(self.usable(at)) else None
        return None if found is None else found[:, 0]


def own_outcome(predictions: pd.DataFrame, group: Group) -> Outcome | None:
    """The endpoint that was trained on, of one encoder in a group; None where nobody's is known."""
    return next(outcomes_of(of_group(predictions, group)), None)


def scored_groups(series: PointSeries) -> Iterator[tuple[Group, list[ScoredEncoder]]]:
    """The groups of a report with what every encoder, by its first seed, predicted of them."""
    for group in pooled_groups(series):
        found = ((name, own_outcome(predictions, group)) for name, predictions in series.first_seed().items())
        yield group, [ScoredEncoder(name, group, outcome) for name, outcome in found if outcome is not None]


def horizon_table(series: PointSeries) -> PageTable:
    """Uno's C-index, the dynamic AUC at fixed times, and its mean over time."""
    rows, records = [], []
    for group, found in scored_groups(series):
        rows.append(Row((capital(group.name),), heading=True))
        for one in found:
            time, event, risk, folds = one.time, one.event, one.outcome.scores, one.outcome.folds
            values = {"Uno C": c_index(uno(time, event, risk, strata=folds), event, strata=folds)}
            for months in HORIZONS_MONTHS:
                area = dynamic_auc(time, event, risk, months, strata=folds)
                values[f"AUC {months:.0f}"] = at_horizon(area, time, event, months, strata=folds)
            values["mean AUC"] = _mean_auc(one)
            rows.append(Row((ENCODERS[one.encoder].title, *(interval(estimate) for estimate in values.values()))))
            shared = {"group": group.name, "encoder": one.encoder, "endpoint": one.outcome.endpoint}
            records += [shared | {"statistic": key, **estimate._asdict()} for key, estimate in values.items()]
    within = " within folds" if series.metric.within_folds else ""
    return PageTable(
        f"horizons-{series.key}",
        f"Uno's C-index and the cumulative/dynamic AUC{within} at fixed times, {series.label.endpoint.upper()} "
        "(95 % CI).",
        ("Encoder", "Uno C-index", *(f"AUC at {months:.0f} months" for months in HORIZONS_MONTHS), "Mean AUC"),
        tuple(rows),
        pd.DataFrame(records),
        f"Censoring is weighted away; intervals by bootstrap of patients. Mean AUC: over {GRID_MONTHS[0]:.0f} to "
        f"{GRID_MONTHS[-1]:.0f} months as far as follow-up allows, weighted by the fall of survival. "
        f"{seed_words(series)}",
    )


def _mean_auc(one: ScoredEncoder) -> Estimate:
    times, folds = one.usable(GRID_MONTHS), one.outcome.folds
    if not len(times):
        return undefined(*known_by(one.time, one.event, float(GRID_MONTHS[-1])))
    # A model whose curves cross ranks patients differently at different times.
    curves = one.survival(times)
    risk = one.outcome.scores if curves is None else 1 - curves
    mean = mean_dynamic_auc(one.time, one.event, risk, times, strata=folds)
    return at_horizon(mean, one.time, one.event, float(times[-1]), strata=folds)


def probability_blocks(series: PointSeries, note: str) -> list[Block]:
    """Brier scores and calibration of the encoders that predict curves of survival; the others are named.

    Nothing is computed at a time that the curve of some patient does not reach.
    """
    first = series.first_seed()
    without = [ENCODERS[name].title for name, predictions in first.items() if not curve_columns(predictions)]
    blocks: list[Block] = []
    if len(without) < len(first):
        found = [
            (group, [one for one in scored if curve_columns(one.outcome.rows)])
            for group, scored in scored_groups(series)
        ]
        pictures = tuple(picture for name in first for picture in _calibration_pictures(series, found, name, note))
        blocks += [_brier_table(series, found), _calibration_table(series, found)]
        blocks += [Gallery(pictures)] if pictures else []
    if without:
        text = "the predictions hold risks, which rank patients, and no probabilities of survival."
        blocks.append(Text(f"No Brier score and no calibration of {', '.join(without)}: {text}", kind="missing"))
    return blocks


def _brier_table(series: PointSeries, found: list[tuple[Group, list[ScoredEncoder]]]) -> PageTable:
    rows, records = [], []
    for group, scored in found:
        rows.append(Row((capital(group.name),), heading=True))
        for one in scored:
            shared = {"group": group.name, "encoder": one.encoder, "endpoint": one.outcome.endpoint}
            cells = []
            for months in HORIZONS_MONTHS:
                score, known = _brier(one, months)
                cells += [interval(score, 3), number(known.value, 3)]
                records += [
                    shared | {"months": months, "statistic": key, **value._asdict()}
                    for key, value in (("brier", score), ("kaplan_meier", known))
                ]
            score, reach = _integrated(one)
            cells.append(interval(score, 3) + (f", {reach}" if reach else ""))
            records.append(shared | {"months": np.nan, "statistic": f"integrated {reach}", **score._asdict()})
            rows.append(Row((ENCODERS[one.encoder].title, *cells)))
    header = ["Encoder"]
    for months in HORIZONS_MONTHS:
        header += [f"Brier at {months:.0f} months", "Kaplan-Meier alone"]
    return PageTable(
        f"brier-{series.key}",
        f"Brier score of predicted {series.label.endpoint.upper()} at fixed times and integrated over time (95 % CI).",
        (*header, "Integrated Brier"),
        tuple(rows),
        pd.DataFrame(records),
        "0 is perfect. Kaplan-Meier alone: the same estimate for everybody, fitted on the tested patients themselves, "
        "which a model must stay below. Censoring is weighted away; intervals by bootstrap of patients. Not defined: "
        f"follow-up or the predicted curves end before. {seed_words(series)}",
    )


def _brier(one: ScoredEncoder, months: float) -> tuple[Estimate, Estimate]:
    """Brier score of an encoder, and of the Kaplan-Meier estimate."""
    curves, folds = one.survival(np.array([months])), one.outcome.folds
    if curves is None:
        none = undefined(*known_by(one.time, one.event, months))
        return none, none
    statistics = brier_at(one.time, one.event, curves[:, 0], months), kaplan_meier_brier(one.time, one.event, months)
    score, known = (at_horizon(part, one.time, one.event, months, strata=folds) for part in statistics)
    return score, known


def _integrated(one: ScoredEncoder) -> tuple[Estimate, str]:
    """Integrated Brier score over the usable times that every patient's curve reaches, and which these are."""
    times = one.usable(GRID_MONTHS)
    times = times[np.isfinite(predicted_survival(one.outcome.rows, times)).all(axis=0)]
    curves = one.survival(times)
    if curves is None or len(times) < 2:
        return undefined(*known_by(one.time, one.event, float(GRID_MONTHS[-1]))), ""
    score = integrated_brier(one.time, one.event, curves, times)
    estimate = at_horizon(score, one.time, one.event, float(times[-1]), strata=one.outcome.folds)
    return estimate, f"{times[0]:.0f} to {times[-1]:.0f} months"


def _calibration_table(series: PointSeries, found: list[tuple[Group, list[ScoredEncoder]]]) -> PageTable:
    rows, records = [], []
    for group, scored in found:
        rows.append(Row((capital(group.name),), heading=True))
        for one in scored:
            cells = []
            for months in HORIZONS_MONTHS:
                values = _calibration(one, months)
                cells += [interval(value) for value in values.values()]
                shared = {"group": group.name, "encoder": one.encoder, "endpoint": one.outcome.endpoint}
                records += [
                    shared | {"months": months, "statistic": key, **value._asdict()} for key, value in values.items()
                ]
            rows.append(Row((ENCODERS[one.encoder].title, *cells)))
    header = ["Encoder"]
    for months in HORIZONS_MONTHS:
        header += [f"Slope at {months:.0f} months", _KEYS["ratio"]]
    return PageTable(
        f"survival-calibration-{series.key}",
        f"Calibration of predicted {series.label.endpoint.upper()} at fixed times (95 % CI).",
        tuple(header),
        tuple(rows),
        pd.DataFrame(records),
        "Slope of a Cox regression on the complementary log-log of the predicted survival, and the event rate by "
        "Kaplan-Meier over the mean predicted one; both are 1 when calibrated. Probabilities are as the models give "
        f"them. {seed_words(series)}",
    )


def _calibration(one: ScoredEncoder, months: float) -> dict[str, Estimate]:
    survival = one.usable_survival(months)
    if survival is None:
        return dict.fromkeys(("slope", "ratio"), undefined(*known_by(one.time, one.event, months)))
    given = (one.time, one.event, survival, months)
    return {"slope": survival_calibration_slope(*given), "ratio": observed_over_expected(*given)}


def _calibration_pictures(
    series: PointSeries, found: list[tuple[Group, list[ScoredEncoder]]], name: str, note: str
) -> Iterator[Picture]:
    """Predicted against observed event rate of one encoder, by groups of predicted risk, at the last usable horizon."""
    for months in reversed(HORIZONS_MONTHS):
        curves = {}
        for group, scored in found:
            for one in (one for one in scored if one.encoder == name):
                survival = one.usable_survival(months)
                if survival is not None:
                    parts = int(np.clip(len(one.time) // _FEWEST_A_GROUP, 2, 5))
                    curves[group.name] = survival_calibration_curve(one.time, one.event, survival, months, parts)
        if not curves:
            continue
        title = f"{TASKS[series.task].title}: {ENCODERS[name].title}"
        figure = survival_calibration_plot(curves, title, months, note)
        alt = ". ".join(
            f"{capital(group)}: "
            + "; ".join(
                f"predicted {number(row['predicted'])}, observed "
                f"{interval(Estimate(row['observed'], row['low'], row['high']))}"
                for row in curve.to_dict("records")
            )
            for group, curve in curves.items()
        )
        caption = (
            f"Calibration of {ENCODERS[name].title} at {months:.0f} months: event rate by Kaplan-Meier against the "
            f"predicted one, in groups of equal size by predicted risk. {seed_words(series)}"
        )
        yield Picture(f"survival-calibration-{series.key}-{name}", figure, caption, f"Calibration curve. {alt}.")
        return
