"""Multivariable Cox regression, adjusted hazard ratios, and the check of proportional hazards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import chi2, norm, rankdata

from datamodules.errors import DataError
from experiments.statistics.cox_fit import CoxFit, NoMaximumError, fit_cox, fit_firth
from experiments.statistics.estimate import survival_arrays
from experiments.statistics.weighted_survival import FollowUp, product_limit

EFRON, FIRTH = "Cox", "Cox, Firth"
"""What stands in the column `method` of a table."""

Transform = Literal["km", "rank", "log", "identity"]


@dataclass(frozen=True)
class CoxRegression:
    """A fitted Cox regression.

    Args:
        table: Columns covariate, coefficient, standard_error, hazard_ratio, low, high (95 %; Wald, of Firth's
            likelihood by its profile), p, n, events, method (`EFRON` or `FIRTH`).
        n: Patients with all covariates known.
        events: Events among them.
        left_out: Patients left out because a covariate is missing.
        events_per_covariate: Below about 10 the coefficients are too far from 0 (Peduzzi et al., 1995).
        log_likelihood: Of the fit, of Firth's likelihood penalised.
        null_log_likelihood: Of the model without covariates.
        likelihood_ratio_p: p of the likelihood-ratio test that no covariate matters.
        fitted: The fit; None of Firth's likelihood.
        time_months: Times that it was fitted on [n].
        event: Events that it was fitted on [n].
        separated: Covariates that separate the events, where Firth's likelihood was used.
    """

    table: pd.DataFrame
    n: int
    events: int
    left_out: int
    events_per_covariate: float
    log_likelihood: float
    null_log_likelihood: float
    likelihood_ratio_p: float
    fitted: CoxFit | None
    time_months: np.ndarray
    event: np.ndarray
    separated: tuple[str, ...] = ()


def cox_regression(
    patients: pd.DataFrame,
    time_months: np.ndarray,
    event: np.ndarray,
    covariates: Sequence[str],
    separated: Literal["refuse", "firth"] = "refuse",
) -> CoxRegression:
    """Fit a Cox regression with Efron's treatment of ties, as R's `coxph`.

    Args:
        patients: One row per patient.
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        covariates: Columns: numbers and bool enter as they are; text and categories as one column per level against the
            first level, named `grade: 3 v. 1`.
        separated: Where a covariate separates the events, as where a level has no event, or nothing but events: refuse,
            or fit all coefficients by Firth's penalised likelihood, which the column `method` then says.

    Returns:
        The regression of the patients whose covariates are all known.

    Raises:
        DataError: if there is no event, a covariate is missing, constant, or follows from the others.
        NoMaximumError: if the likelihood has no maximum and is to be refused then.
        NotConvergedError: if the maximum was not reached.
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
    values, names = design.to_numpy(dtype=np.float64), [str(name) for name in design]
    n, events, degrees = len(time), int(event.sum()), len(names)
    common = (n, events, int((~known).sum()), events / degrees)
    try:
        fitted = fit_cox(values, time, event, names=names)
    except NoMaximumError as error:
        if separated == "refuse":
            raise
        firth = fit_firth(values, time, event, names)
        table = _table(
            names, firth.coefficient, np.sqrt(np.diag(firth.covariance)), firth.low, firth.high, firth.p, n, events
        )
        likelihoods = _likelihoods(firth.log_likelihood, firth.null_log_likelihood, degrees)
        return CoxRegression(table.assign(method=FIRTH), *common, *likelihoods, None, time, event, error.names)
    standard_error = fitted.standard_error
    spread = float(norm.ppf(0.975)) * standard_error
    ends = fitted.coefficient - spread, fitted.coefficient + spread
    p = 2 * norm.sf(np.abs(fitted.coefficient) / standard_error)
    table = _table(names, fitted.coefficient, standard_error, *ends, p, n, events).assign(method=EFRON)
    likelihoods = _likelihoods(fitted.log_likelihood, fitted.null_log_likelihood, degrees)
    return CoxRegression(table, *common, *likelihoods, fitted, time, event)


def proportional_hazards(regression: CoxRegression, transform: Transform = "km") -> pd.DataFrame:
    r"""Score test of proportional hazards, as `cox.zph` of R's survival from version 3 on.

    Whether :math:`\beta` depends on time is tested by the score of :math:`\theta = 0` in :math:`\beta + \theta g(t)`
    (Grambsch and Therneau, Biometrika 1994, without their approximation that the variance of the covariates is the
    same at all events).

    Args:
        regression: The regression.
        transform: Transform g of time: km (1 - survival just before), rank, log or identity.

    Returns:
        Columns covariate, statistic (chi-squared), degrees, p, n, events; a row for each covariate, and the last, named
        `GLOBAL`, for all together. A small p says that a hazard ratio changes over time.

    Raises:
        DataError: of a regression by Firth's likelihood, whose score has no such distribution; or of log of 0.
    """
    if regression.fitted is None:
        raise DataError(
            f"Proportional hazards cannot be tested where {', '.join(regression.separated)} separates the events."
        )
    likelihood, scale = regression.fitted.likelihood, regression.fitted.scale
    sets = likelihood.sets
    along = _transformed(regression.time_months, regression.event, transform)
    along = (along - along[regression.event].mean())[sets.order][sets.events]
    point = regression.fitted.coefficient * scale
    score = along @ likelihood.schoenfeld(point)
    plain, crossed, squared = (likelihood.variances(point, along**power) for power in (0, 1, 2))
    # The score of the coefficients is 0, so that only their part of the information is taken off.
    variance = squared - crossed @ np.linalg.solve(plain, crossed)
    each = np.square(score) / np.diag(variance)
    together = float(score @ np.linalg.solve(variance, score))
    degrees = np.append(np.ones(len(score), dtype=int), len(score))
    statistic = np.append(each, together)
    return pd.DataFrame(
        {
            "covariate": [*regression.table["covariate"], "GLOBAL"],
            "statistic": statistic,
            "degrees": degrees,
            "p": chi2.sf(statistic, degrees),
            "n": regression.n,
            "events": regression.events,
        }
    )


def _transformed(time: np.ndarray, event: np.ndarray, transform: Transform) -> np.ndarray:
    if transform == "identity":
        return time
    if transform == "rank":
        return rankdata(time)
    if transform == "log":
        if (time <= 0).any():
            raise DataError(f"{int((time <= 0).sum())} times are 0 and have no logarithm; use another transform.")
        return np.log(time)
    before = np.nextafter(time, -np.inf)
    return 1 - product_limit(FollowUp(time, event), before, np.ones((1, len(time))))[0]


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


def _likelihoods(value: float, null: float, degrees: int) -> tuple[float, float, float]:
    return value, null, float(chi2.sf(max(0.0, 2 * (value - null)), degrees))


def _table(
    names: Sequence[str],
    coefficient: np.ndarray,
    standard_error: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    p: np.ndarray,
    n: int,
    events: int,
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "covariate": list(names),
            "coefficient": coefficient,
            "standard_error": standard_error,
            "hazard_ratio": np.exp(coefficient),
            "low": np.exp(low),
            "high": np.exp(high),
            "p": p,
            "n": n,
            "events": events,
        }
    )
