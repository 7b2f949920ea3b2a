"""Multivariable Cox regression, adjusted hazard ratios, and the check of proportional hazards."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError, ConvergenceWarning
from lifelines.statistics import proportional_hazard_test
from scipy.linalg import LinAlgWarning, qr

from datamodules.errors import DataError
from experiments.statistics.estimate import survival_arrays

_TIME, _EVENT = "time_months", "event"
_LARGEST = 10.0
"""Log hazard ratio per standard deviation beyond which a likelihood has no maximum in practice."""


class NoMaximumError(DataError):
    """A partial likelihood without a maximum: a covariate separates the events from the other patients."""


@dataclass(frozen=True)
class CoxRegression:
    """A fitted Cox regression.

    Args:
        table: Columns covariate, coefficient, hazard_ratio, low, high (95 %, Wald), p, n, events.
        n: Patients with all covariates known.
        events: Events among them.
        left_out: Patients left out because a covariate is missing.
        events_per_covariate: Below about 10 the coefficients are too far from 0 (Peduzzi et al., 1995).
        likelihood_ratio_p: p of the likelihood-ratio test that no covariate matters.
        fitted: The lifelines model.
        rows: What it was fitted on.
    """

    table: pd.DataFrame
    n: int
    events: int
    left_out: int
    events_per_covariate: float
    likelihood_ratio_p: float
    fitted: CoxPHFitter
    rows: pd.DataFrame


def cox_regression(
    patients: pd.DataFrame, time_months: np.ndarray, event: np.ndarray, covariates: Sequence[str]
) -> CoxRegression:
    """Fit a Cox regression by lifelines, with Efron's treatment of ties.

    Args:
        patients: One row per patient.
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        covariates: Columns: numbers and bool enter as they are; text and categories as one column per level against the
            first level, named `grade: 3 v. 1`.

    Returns:
        The regression of the patients whose covariates are all known.

    Raises:
        DataError: if there is no event, a covariate is missing, constant, or follows from the others.
        NoMaximumError: if the likelihood has no maximum, as where a level has no event, or nothing but events.
    """
    time, event, _ = survival_arrays(time_months, event)
    absent = [name for name in covariates if name not in patients]
    if not covariates:
        raise DataError("A Cox regression on no covariates was asked for; name at least one column.")
    if absent:
        raise DataError(f"Covariates {absent} are not among the {patients.shape[1]} columns {list(patients.columns)}.")
    if len(patients) != len(time):
        raise DataError(f"{len(patients)} rows of covariates and {len(time)} times must match.")
    known = patients[list(covariates)].notna().all(axis=1).to_numpy()
    design = _design(patients.loc[known, list(covariates)])
    time, event = time[known], event[known]
    _check_design(design, event)
    rows = design.assign(**{_TIME: time, _EVENT: event})
    fitted = CoxPHFitter()
    try:
        with warnings.catch_warnings():
            # Where there is no maximum the steps run away before that is noticed, here or below.
            for kind in (ConvergenceWarning, LinAlgWarning, RuntimeWarning):
                warnings.simplefilter("ignore", kind)
            fitted.fit(rows, _TIME, _EVENT, fit_options={"precision": 1e-10})
    except ConvergenceError as error:
        raise NoMaximumError(_no_maximum(list(covariates), int(event.sum()))) from error
    scaled = fitted.params_.to_numpy() * design.std(ddof=0).to_numpy()
    if not np.isfinite(scaled).all() or (np.abs(scaled) > _LARGEST).any():
        raise NoMaximumError(_no_maximum(list(design.columns[np.abs(scaled) > _LARGEST]), int(event.sum())))
    return CoxRegression(
        _table(fitted, len(time), int(event.sum())),
        len(time),
        int(event.sum()),
        int((~known).sum()),
        int(event.sum()) / design.shape[1],
        float(fitted.log_likelihood_ratio_test().p_value),
        fitted,
        rows,
    )


def proportional_hazards(regression: CoxRegression, transform: str = "km") -> pd.DataFrame:
    """Test of proportional hazards by scaled Schoenfeld residuals (Grambsch and Therneau, Biometrika 1994).

    Args:
        regression: The regression.
        transform: Transform of time: km (survival, as R's cox.zph), rank, log or identity.

    Returns:
        Columns covariate, statistic (chi-squared, 1 degree of freedom), p, n, events. A small p says that a hazard
        ratio changes over time.
    """
    result = proportional_hazard_test(regression.fitted, regression.rows, time_transform=transform)
    summary = result.summary.loc[regression.table["covariate"]]
    return pd.DataFrame(
        {
            "covariate": [str(name) for name in summary.index],
            "statistic": summary["test_statistic"].to_numpy(),
            "p": summary["p"].to_numpy(),
            "n": regression.n,
            "events": regression.events,
        }
    )


def _design(frame: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, np.ndarray] = {}
    for name in frame:
        values = frame[name]
        if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
            columns[str(name)] = values.to_numpy(dtype=np.float64)
            continue
        category = values.astype("category").cat.remove_unused_categories()
        levels = list(category.cat.categories)
        if len(levels) == 1:
            columns[str(name)] = np.zeros(len(frame))
        for level in levels[1:]:
            columns[f"{name}: {level} v. {levels[0]}"] = (category == level).to_numpy(dtype=np.float64)
    return pd.DataFrame(columns)


def _check_design(design: pd.DataFrame, event: np.ndarray) -> None:
    if not event.any():
        raise DataError(
            f"None of {len(event)} patients with known covariates had an event; a Cox regression needs some."
        )
    if not np.isfinite(design.to_numpy()).all():
        raise DataError("A covariate holds infinite values; expected finite numbers.")
    for name in design:
        values = design[name].to_numpy()
        if np.ptp(values) == 0:
            raise DataError(f"Covariate {name} is the same for all {len(values)} patients; leave it out.")
        levels = np.unique(values)
        if len(levels) > 2:
            continue
        for level, other in (levels, levels[::-1]):
            if not event[values == level].any():
                raise NoMaximumError(
                    f"No event among the {int((values == level).sum())} patients with {name} = {level:g}, "
                    f"{int(event.sum())} with {other:g}: its hazard ratio is not finite; merge levels or leave it out."
                )
    _check_rank(design)


def _check_rank(design: pd.DataFrame) -> None:
    """Refuse a covariate that follows linearly from others; pivoting leaves the redundant ones to the end."""
    values = design.to_numpy()
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    triangle, pivots = qr(scaled, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    kept = int((diagonal > 1e-8 * diagonal[0]).sum())
    if kept < design.shape[1]:
        names = [str(design.columns[place]) for place in pivots[kept:]]
        raise DataError(
            f"Covariate {', '.join(names)} follows from the others in {len(design)} patients, so that their hazard "
            "ratios cannot be told apart; leave one of them out."
        )


def _no_maximum(names: Sequence[str], events: int) -> str:
    return (
        f"The Cox likelihood has no maximum: {', '.join(names)} separates the {events} events from the other patients, "
        "or follows from other covariates; merge levels or leave covariates out."
    )


def _table(fitted: CoxPHFitter, n: int, events: int) -> pd.DataFrame:
    summary = fitted.summary
    return pd.DataFrame(
        {
            "covariate": [str(name) for name in summary.index],
            "coefficient": summary["coef"].to_numpy(),
            "hazard_ratio": summary["exp(coef)"].to_numpy(),
            "low": summary["exp(coef) lower 95%"].to_numpy(),
            "high": summary["exp(coef) upper 95%"].to_numpy(),
            "p": summary["p"].to_numpy(),
            "n": n,
            "events": events,
        }
    )
