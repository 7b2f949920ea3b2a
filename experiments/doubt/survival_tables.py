"""The tables of doubt of a survival task: curves before and after, lower bounds, abstention, local patients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.doubt.doubt_tables import (
    AFTER,
    ANSWERED,
    BEFORE,
    LOCAL,
    before_and_after,
    estimate_row,
    local_draws,
)
from experiments.doubt.survival_bounds import bound_coverage, outlived
from experiments.doubt.survival_calibrators import (
    LEVEL,
    LINE,
    cumulative_hazard,
    fit_survival_calibrator,
    horizon_losses,
)
from experiments.doubt.survival_doubt import SurvivalDoubt
from experiments.scores.outcomes import fold_of
from experiments.scores.results_table import Group, groups
from experiments.scores.survival_curves import predicted_survival
from experiments.statistics.bootstrap import Statistic, bootstrap, mean_of, ratio
from experiments.statistics.calibration import (
    observed_over_expected,
    survival_calibration_error,
    survival_calibration_slope,
)
from experiments.statistics.estimate import Estimate, undefined
from experiments.statistics.horizons import HORIZONS_MONTHS, at_horizon, brier_at, known_by
from experiments.statistics.support import Support
from experiments.statistics.weighted_survival import FollowUp, known_weights

ECE, SLOPE, RATIO, BRIER = "expected calibration error", "slope", "observed over expected", "brier"
ANSWERED_MONTHS = 36.0
"""Whether a patient outlives this time is what is answered, or left to a doctor."""


def survival_groups(doubt: SurvivalDoubt, predictions: pd.DataFrame) -> Iterator[tuple[Group, np.ndarray]]:
    """The tested patients of every group, as rows of `doubt.tested`."""
    place = {name: number for number, name in enumerate(doubt.tested.rows["patient_id"])}
    for group in groups(predictions):
        rows = np.array([place[name] for name in group.rows["patient_id"] if name in place], dtype=int)
        if len(rows):
            yield group, rows


def survival_calibration_table(doubt: SurvivalDoubt, predictions: pd.DataFrame, replicates: int = 2000) -> pd.DataFrame:
    """Calibration of every group at 12, 36 and 60 months with the curves as they are, and calibrated.

    Intervals are of patients within their folds where there are some, so that a report gives one interval of a score.

    Returns:
        Columns group, kind, months, stage (before, after), statistic, value, low, high, n, events, interval.
    """
    rows = []
    curves = {months: _before_and_calibrated(doubt, months) for months in HORIZONS_MONTHS}
    for group, members in survival_groups(doubt, predictions):
        time, event = doubt.tested.time_months[members], doubt.tested.event[members]
        folds = fold_of(doubt.tested.rows.iloc[members])
        for months, stages in curves.items():
            for stage, values in stages.items():
                found = _calibration(time, event, values[members], months, replicates, folds)
                rows += [
                    estimate_row(group, value, months=months, stage=stage, statistic=name)
                    for name, value in found.items()
                ]
    return pd.DataFrame(rows)


def _before_and_calibrated(doubt: SurvivalDoubt, months: float) -> dict[str, np.ndarray]:
    before = doubt.tested.at(months)
    return {BEFORE: before, AFTER: doubt.calibrated(before)}


def _calibration(
    time: np.ndarray,
    event: np.ndarray,
    survival: np.ndarray,
    months: float,
    replicates: int,
    folds: np.ndarray | None,
) -> dict[str, Estimate]:
    if not _reached(time, survival, months):
        return dict.fromkeys((ECE, SLOPE, RATIO, BRIER), _not_reached(time, event, months))
    error = survival_calibration_error(time, event, survival, months)
    score = brier_at(time, event, survival, months)
    return {
        ECE: at_horizon(error, time, event, months, replicates=replicates, strata=folds),
        SLOPE: survival_calibration_slope(time, event, survival, months),
        RATIO: observed_over_expected(time, event, survival, months),
        BRIER: at_horizon(score, time, event, months, replicates=replicates, strata=folds),
    }


def _reached(time: np.ndarray, survival: np.ndarray, months: float) -> bool:
    """Whether all curves and the follow-up of somebody reach a time."""
    return bool(np.isfinite(survival).all() and (time > months).any())


def _not_reached(time: np.ndarray, event: np.ndarray, months: float) -> Estimate:
    return undefined(*known_by(time, event, months), "follow-up or curves end before")


def bounds_table(doubt: SurvivalDoubt, predictions: pd.DataFrame, replicates: int = 1000) -> pd.DataFrame:
    """Coverage and height of the lower bounds of every group, and the error when the least sure are left out.

    Returns:
        Columns group, kind, statistic, value, low, high, n, events, interval. `error of ...` is the weighted share of
        wrong answers to whether a patient outlives 36 months, all answered and the surest.
    """
    rows = []
    outlive = doubt.calibrated(doubt.tested.at(ANSWERED_MONTHS))
    for group, members in survival_groups(doubt, predictions):
        time, event = doubt.tested.time_months[members], doubt.tested.event[members]
        bound = doubt.bound_months[members]
        found = {
            "coverage": bound_coverage(time, event, bound, replicates),
            "bound in months": bootstrap(mean_of(bound, 0.0, np.inf), len(bound), replicates)[0],
        }
        for answered in (1.0, ANSWERED):
            found[f"error of {answered:.0%}"] = _selective(time, event, outlive[members], answered, replicates)
        rows += [estimate_row(group, value, statistic=name) for name, value in found.items()]
    return pd.DataFrame(rows)


def _selective(time: np.ndarray, event: np.ndarray, survival: np.ndarray, answered: float, replicates: int) -> Estimate:
    if not _reached(time, survival, ANSWERED_MONTHS):
        return _not_reached(time, event, ANSWERED_MONTHS)
    order = np.argsort(-np.abs(survival - 0.5), kind="stable")[: max(1, round(answered * len(survival)))]
    lost, said, group = (event & (time <= ANSWERED_MONTHS))[order], survival[order] > 0.5, FollowUp(time, event)

    def statistic(weights: np.ndarray) -> np.ndarray:
        known = known_weights(group, ANSWERED_MONTHS, weights)[:, order]
        return np.asarray(ratio(np.where(lost == said, known, 0.0).sum(axis=1), known.sum(axis=1)))

    whole = Statistic(statistic, Support(0.0, 1.0, len(order)))
    found = bootstrap(whole, len(time), replicates)[0]
    return found._replace(n=len(order), events=int(lost.sum()))


def survival_local_table(doubt: SurvivalDoubt, predictions: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What recalibration with a few patients of a centre gives the others of it.

    Of 20 local patients the level alone is fitted, of 50 level and spread; the others are tested, over 100 draws.

    Returns:
        One row per external centre and number of local patients: `group`, `local`, `n`, `draws`, the weighted log loss
        at 12, 36 and 60 months before and after, with the 2.5th and 97.5th percentile over draws of the difference.
    """
    rows = []
    tested = doubt.tested
    hazard, seen = tested.within()
    after = cumulative_hazard(doubt.calibrated(np.exp(-hazard)))
    at = doubt.calibrated(predicted_survival(tested.rows, HORIZONS_MONTHS))
    for group, members in survival_groups(doubt, predictions):
        for local in LOCAL if group.kind == "external" else ():
            found = []
            for drawn, left in local_draws(len(members), local, seed):
                fitted, others = members[drawn], members[left]
                if not seen[fitted].any():
                    continue
                method = LINE if local >= max(LOCAL) else LEVEL
                changed = fit_survival_calibrator(after[fitted], seen[fitted], method)(at[others])
                given = tested.time_months[others], tested.event[others]
                found.append([horizon_losses(*given, values).mean() for values in (at[others], changed)])
            if found:
                moved = before_and_after(found, ("log_loss",))
                rows.append({"group": group.name, "local": local, "n": len(members) - local, **moved})
    return pd.DataFrame(rows)


def survival_doubt_metrics(doubt: SurvivalDoubt, predictions: pd.DataFrame) -> dict[str, float]:
    """Coverage of the bounds, and calibration error at 36 months before and after, of every group, for MLflow."""
    found = {}
    stages = _before_and_calibrated(doubt, ANSWERED_MONTHS)
    for group, members in survival_groups(doubt, predictions):
        time, event, name = doubt.tested.time_months[members], doubt.tested.event[members], group.name.replace(" ", "_")
        everybody = np.ones((1, len(time)))
        found[f"bound_coverage/{name}"] = float(outlived(time, event, doubt.bound_months[members])(everybody)[0])
        for stage, values in stages.items():
            if _reached(time, values[members], ANSWERED_MONTHS):
                error = survival_calibration_error(time, event, values[members], ANSWERED_MONTHS)
                found[f"ece_36_months_{stage}/{name}"] = float(error(everybody)[0])
    return {name: value for name, value in found.items() if np.isfinite(value)}
