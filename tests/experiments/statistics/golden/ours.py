"""The suite's answers to what R was asked in answers.R, by group and statistic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from experiments.statistics.calibration import (
    brier,
    calibration_intercept,
    calibration_slope,
    survival_calibration_slope,
)
from experiments.statistics.concordance import harrell, uno
from experiments.statistics.cox import cox_regression, proportional_hazards
from experiments.statistics.cox_fit import NoMaximumError, fit_firth
from experiments.statistics.discrimination import auroc_delong
from experiments.statistics.estimate import Estimate
from experiments.statistics.horizons import brier_at, dynamic_auc
from experiments.statistics.kaplan_meier import kaplan_meier, log_rank, survival_at

FOLDER = Path(__file__).parent
HORIZON_MONTHS = 36.0
COVARIATES = ["high", "marker", "age_days", "ordinal"]

Answers = dict[str, np.ndarray]


def groups() -> dict[str, pd.DataFrame]:
    """The patients of data.csv by group."""
    table = pd.read_csv(FOLDER / "data.csv")
    return {str(name): rows.reset_index(drop=True) for name, rows in table.groupby("group", sort=False)}


def golden() -> dict[str, dict[str, Any]]:
    """R's answers by group, and the versions under `versions`."""
    return dict(json.loads((FOLDER / "answers.json").read_text()))


def expected(answers: dict[str, Any]) -> Answers:
    """R's answers of one group under the names of `found`, in comparable units."""
    cox, firth, km = answers["cox"], answers["firth"], answers["km"]
    result = {
        "Cox regression refused as separated": [cox["separated"]],
        "Firth: log hazard ratios": firth["coefficient"],
        "Firth: profile-likelihood interval, p": [firth["low"], firth["high"], firth["p"]],
        "log-rank chi-squared": [answers["logrank"]["high"], answers["logrank"]["third"]],
        "Kaplan-Meier survival": km["survival"],
        "Kaplan-Meier log-log interval": [*np.ravel(km["low"]), *np.ravel(km["high"])],
        "median survival and interval": [np.inf if value is None else value for value in km["median"]],
        "Harrell's C-index": [answers["harrell"]],
        "Uno's C-index": [answers["uno"]],
        "time-dependent AUC": [answers["timed_auc"]],
        "time-dependent Brier score": [answers["timed_brier"]],
        "AUC with DeLong's interval": answers["auc"],
        "Brier score": [answers["brier"]],
        "calibration slope and standard error": answers["slope"],
        "calibration in the large and standard error": answers["intercept"],
        "survival calibration slope and standard error": answers["survival_slope"],
    }
    if not cox["separated"]:
        result["Cox: log hazard ratios"] = cox["coefficient"]
        result["Cox: standard errors, relative"] = [1.0] * len(cox["se"])
        result["Cox: log-likelihoods"] = [cox["loglik"], cox["null"]]
        result["Cox: likelihood-ratio p"] = [cox["p"]]
        result["proportional hazards, score test"] = np.concatenate(list(cox["zph"].values()))
    return {name: np.asarray(values, dtype=np.float64).ravel() for name, values in result.items()}


def found(rows: pd.DataFrame, answers: dict[str, Any]) -> Answers:
    """The suite's answers of one group; R's own are read for the units of standard errors and times alone."""
    time, event = rows["time"].to_numpy(), rows["event"].to_numpy() == 1
    one = np.ones((1, len(rows)))
    risk, target = rows["score"].to_numpy(), rows["target"].to_numpy()
    probability = expit(risk)
    third = np.searchsorted(np.quantile(rows["marker"], [1 / 3, 2 / 3]), rows["marker"], side="left")
    firth = fit_firth(rows[["high", "marker"]].to_numpy(float), time, event)
    curve = kaplan_meier(time, event)
    at = [survival_at(time, event, month) for month in np.ravel(answers["km"]["time"])]
    horizon = HORIZON_MONTHS
    result = {
        "Firth: log hazard ratios": firth.coefficient,
        "Firth: profile-likelihood interval, p": [firth.low[0], firth.high[0], firth.p[0]],
        "log-rank chi-squared": [log_rank(time, event, group).statistic for group in (rows["high"], third)],
        "Kaplan-Meier survival": [estimate.value for estimate in at],
        "Kaplan-Meier log-log interval": [getattr(estimate, end) for end in ("low", "high") for estimate in at],
        "median survival and interval": list(curve.median[:3]),
        "Harrell's C-index": harrell(time, event, risk)(one),
        "Uno's C-index": uno(time, event, risk)(one),
        "time-dependent AUC": dynamic_auc(time, event, risk, horizon)(one),
        "time-dependent Brier score": brier_at(time, event, 1 - probability, horizon)(one),
        "AUC with DeLong's interval": list(auroc_delong(target, risk)[:3]),
        "Brier score": brier(target, probability)(one),
        "calibration slope and standard error": _with_error(calibration_slope(target, probability)),
        "calibration in the large and standard error": _with_error(calibration_intercept(target, probability)),
        "survival calibration slope and standard error": _with_error(
            survival_calibration_slope(time, event, 1 - probability, horizon)
        ),
    }
    try:
        fitted = cox_regression(rows, time, event, COVARIATES)
    except NoMaximumError:
        result["Cox regression refused as separated"] = [True]
    else:
        result["Cox regression refused as separated"] = [False]
        result["Cox: log hazard ratios"] = fitted.table["coefficient"].to_numpy()
        if not answers["cox"]["separated"]:
            result["Cox: standard errors, relative"] = fitted.table["standard_error"] / answers["cox"]["se"]
        result["Cox: log-likelihoods"] = [fitted.log_likelihood, fitted.null_log_likelihood]
        result["Cox: likelihood-ratio p"] = [fitted.likelihood_ratio_p]
        transforms = ("km", "rank", "identity", "log")
        tests = [proportional_hazards(fitted, transform)["statistic"] for transform in transforms]
        result["proportional hazards, score test"] = np.concatenate(tests)
    return {name: np.asarray(values, dtype=np.float64).ravel() for name, values in result.items()}


def _with_error(estimate: Estimate) -> list[float]:
    return [estimate.value, (estimate.high - estimate.low) / 2 / 1.959963984540054]
