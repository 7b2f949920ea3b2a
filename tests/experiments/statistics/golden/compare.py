"""Writes docs/STATISTICS.md: every statistic, its source, and its largest difference from R and three libraries.

Run from the root of the repository, with statsmodels installed beside the `dev` extra:
python -m tests.experiments.statistics.golden.compare
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from scipy.special import expit, logit
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import brier_score, concordance_index_censored, concordance_index_ipcw, cumulative_dynamic_auc
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from tests.experiments.statistics.golden.ours import COVARIATES, HORIZON_MONTHS, expected, found, golden, groups

DOCUMENT = Path("docs/STATISTICS.md")
LIBRARIES = ("scikit-survival", "statsmodels", "lifelines")
Library = Callable[[pd.DataFrame, np.ndarray], np.ndarray | list[float]]

DEFINITIONS = {
    "Cox: log hazard ratios": ("Cox 1972, Efron's ties 1977", "survival::coxph"),
    "Cox: standard errors, relative": ("inverse of the observed information", "survival::coxph"),
    "Cox: log-likelihoods": ("of the fit and of the null model", "survival::coxph"),
    "Cox: likelihood-ratio p": ("chi-squared, as many degrees as covariates", "survival::coxph"),
    "Cox regression refused as separated": (
        "Bryson and Johnson 1981, by linear programming",
        "survival::coxph's warning",
    ),
    "Firth: log hazard ratios": (
        "Heinze and Schemper 2001, two covariates",
        "maximum of coxph's likelihood, penalised",
    ),
    "Firth: profile-likelihood interval, p": ("Heinze and Schemper 2001", "profile of coxph's likelihood, penalised"),
    "proportional hazards, score test": (
        "Grambsch and Therneau 1994, score test; four transforms",
        "survival::cox.zph",
    ),
    "log-rank chi-squared": ("Mantel 1966, two and three groups", "survival::survdiff"),
    "Kaplan-Meier survival": ("Kaplan and Meier 1958, at 6, 12, 24, 36 months", "survival::survfit"),
    "Kaplan-Meier log-log interval": ("Greenwood's variance on the log-log scale", "survival::survfit"),
    "median survival and interval": ("where curve and limits reach one half", "survival::survfit"),
    "Harrell's C-index": ("Harrell et al. 1996", "survival::concordance"),
    "Uno's C-index": ("Uno et al. 2011, 1 / G(t-)^2", 'survival::concordance, timewt "n/G2"'),
    "time-dependent AUC": ("cumulative/dynamic, Uno et al. 2007, 36 months", "riskRegression::Score"),
    "time-dependent Brier score": ("Graf et al. 1999, 36 months", "riskRegression::Score"),
    "AUC with DeLong's interval": ("DeLong et al. 1988", "pROC::ci.auc"),
    "Brier score": ("Brier 1950", "rms::val.prob"),
    "calibration slope and standard error": ("Cox 1958", "stats::glm (rms::val.prob's slope)"),
    "calibration in the large and standard error": ("Van Calster et al. 2019", "stats::glm with offset"),
    "survival calibration slope and standard error": ("McLernon et al. 2023, 36 months", "survival::coxph"),
}


def libraries() -> dict[str, dict[str, Library]]:
    """What each library says of a statistic; of Cox regressions its defaults but for the tolerance."""
    months = [6.0, 12.0, 24.0, 36.0]

    def survival(rows: pd.DataFrame) -> np.ndarray:
        return Surv.from_arrays(rows["event"] == 1, rows["time"])

    def sksurv_cox(rows: pd.DataFrame, _: np.ndarray) -> np.ndarray:
        return CoxPHSurvivalAnalysis(ties="efron", tol=1e-12).fit(rows[COVARIATES].astype(float), survival(rows)).coef_

    def statsmodels_cox(rows: pd.DataFrame, _: np.ndarray) -> np.ndarray:
        model = PHReg(rows["time"], rows[COVARIATES].astype(float), status=rows["event"], ties="efron")
        return np.asarray(model.fit(disp=0).params)

    def lifelines_cox(rows: pd.DataFrame, _: np.ndarray) -> np.ndarray:
        fitted = CoxPHFitter().fit(
            rows[["time", "event", *COVARIATES]], "time", "event", fit_options={"precision": 1e-10}
        )
        return fitted.params_.to_numpy()

    def at(times: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
        place = np.searchsorted(times, months[:count], side="right")
        return np.append(1.0, values)[place]

    def third(rows: pd.DataFrame) -> np.ndarray:
        return np.searchsorted(np.quantile(rows["marker"], [1 / 3, 2 / 3]), rows["marker"], side="left")

    def logistic(rows: pd.DataFrame, slope: bool) -> list[float]:
        odds = logit(expit(rows["score"].to_numpy()))
        if slope:
            fitted = sm.GLM(rows["target"], sm.add_constant(odds), sm.families.Binomial()).fit(tol=1e-14)
        else:
            fitted = sm.GLM(rows["target"], np.ones(len(rows)), sm.families.Binomial(), offset=odds).fit(tol=1e-14)
        return [float(fitted.params.iloc[-1]), float(fitted.bse.iloc[-1])]

    def curve_at_horizon(rows: pd.DataFrame) -> np.ndarray:
        return 1 - expit(rows["score"].to_numpy())

    def median(rows: pd.DataFrame, _: np.ndarray) -> list[float]:
        from lifelines.utils import median_survival_times

        fitted = KaplanMeierFitter().fit(rows["time"], rows["event"])
        ends = median_survival_times(fitted.confidence_interval_survival_function_).to_numpy().ravel()
        return [float(fitted.median_survival_time_), *map(float, ends)]

    return {
        "Cox: log hazard ratios": {
            "scikit-survival": sksurv_cox,
            "statsmodels": statsmodels_cox,
            "lifelines": lifelines_cox,
        },
        "log-rank chi-squared": {
            "statsmodels": lambda rows, _: [
                float(survdiff(rows["time"], rows["event"], group)[0]) for group in (rows["high"], third(rows))
            ],
            "lifelines": lambda rows, _: [
                multivariate_logrank_test(rows["time"], group, rows["event"]).test_statistic
                for group in (rows["high"], third(rows))
            ],
        },
        "Kaplan-Meier survival": {
            "scikit-survival": lambda rows, r: at(*kaplan_meier_estimator(rows["event"] == 1, rows["time"]), len(r)),
            "statsmodels": lambda rows, r: at(
                (curve := SurvfuncRight(rows["time"], rows["event"])).surv_times, curve.surv_prob, len(r)
            ),
            "lifelines": lambda rows, r: np.asarray(
                KaplanMeierFitter().fit(rows["time"], rows["event"]).predict(months[: len(r)])
            ),
        },
        "median survival and interval": {"lifelines": median},
        "Harrell's C-index": {
            "scikit-survival": lambda rows, _: [
                concordance_index_censored(rows["event"] == 1, rows["time"], rows["score"].to_numpy())[0]
            ],
        },
        "Uno's C-index": {
            "scikit-survival": lambda rows, _: [
                concordance_index_ipcw(survival(rows), survival(rows), rows["score"].to_numpy())[0]
            ],
        },
        "time-dependent AUC": {
            "scikit-survival": lambda rows, _: cumulative_dynamic_auc(
                survival(rows), survival(rows), rows["score"].to_numpy(), HORIZON_MONTHS
            )[0],
        },
        "time-dependent Brier score": {
            "scikit-survival": lambda rows, _: brier_score(
                survival(rows), survival(rows), curve_at_horizon(rows)[:, None], HORIZON_MONTHS
            )[1],
        },
        "calibration slope and standard error": {"statsmodels": lambda rows, _: logistic(rows, True)},
        "calibration in the large and standard error": {"statsmodels": lambda rows, _: logistic(rows, False)},
    }


def difference(values: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference; infinite where one is not a number and the other is."""
    values, reference = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    same = (values == reference) | (np.isnan(values) & np.isnan(reference))
    apart = np.abs(np.subtract(values, reference, out=np.zeros_like(values), where=~same))
    return float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0))


def measured() -> tuple[dict[str, dict[str, list[float]]], dict[str, int]]:
    """Differences from R of every group by statistic and who computes it, and what failed instead."""
    answers, named = golden(), libraries()
    differences: dict[str, dict[str, list[float]]] = {}
    for name, rows in groups().items():
        reference, own = expected(answers[name]), found(rows, answers[name])
        for statistic, values in reference.items():
            entry = differences.setdefault(statistic, {})
            entry.setdefault("this suite", []).append(difference(own[statistic], values))
            for library, compute in named.get(statistic, {}).items():
                entry.setdefault(library, []).append(_library(compute, rows, values))
    return differences, {name: len(rows) for name, rows in groups().items()}


def _library(compute: Library, rows: pd.DataFrame, reference: np.ndarray) -> float:
    """A library's difference; NaN where it stops with an error. What it warns of is seen in its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return difference(np.ravel(compute(rows, reference)), reference)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError, RuntimeError):
            return float("nan")


def document() -> str:
    """The text of docs/STATISTICS.md."""
    differences, sizes = measured()
    answers = golden()
    separated = sum(bool(answers[name]["cox"]["separated"]) for name in sizes)
    versions = answers["versions"]
    lines = [
        "# Statistics",
        "",
        "Written by `python -m tests.experiments.statistics.golden.compare`; do not edit.",
        "",
        f"Largest difference from R {versions['R']} (survival {versions['survival']}, pROC {versions['pROC']}, "
        f"riskRegression {versions['riskRegression']}, rms {versions['rms']}) over {len(sizes)} groups of "
        f"{min(sizes.values())} to {max(sizes.values())} patients: ties, hazard ratios of 0.02 to 80 drawn, groups of "
        f"2 to 10 %, {separated} with separated events. `tests/experiments/statistics/golden/` holds the patients, the "
        "R script and its answers; the tests hold this suite to 1e-6. Of the libraries, "
        f"{', '.join(f'{name} {version(name)}' for name in LIBRARIES)}, the same calls on the same patients: "
        "`k failed` counts groups in which one ends in an error or in no number, and the difference is of the others.",
        "",
        "| Statistic | Definition | R | this suite | scikit-survival | statsmodels | lifelines |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for statistic, (definition, function) in DEFINITIONS.items():
        cells = [_cell(differences[statistic].get(name)) for name in ("this suite", *LIBRARIES)]
        lines.append(f"| {statistic} | {definition} | `{function}` | {' | '.join(cells)} |")
    lines += [
        "",
        "Where a difference of a library is no rounding:",
        "",
        "- lifelines' and statsmodels' Cox regressions diverge or stop early on rare groups with strong effects.",
        "- scikit-survival weighs an event by the chance of not being censored up to and at its time, R by that before",
        "  it. They differ where a censoring falls on the time of an event; the suite follows R.",
        "",
        "Where events are separated a Cox regression is refused, or fitted by Firth's penalised likelihood where the",
        "caller asks for it; the column `method` of a table and the note beneath it say so. The median survival is the",
        "middle of a step of the curve at just one half, as R has it. Intervals of a Kaplan-Meier estimate of 0 or 1,",
        "which R does not give, are of the beta product (Fay, Brittain and Proschan 2013).",
        "",
        "An AUC whose interval by DeLong or bootstrap reaches 0 or 1 has it and Newcombe's (2006, method 5) together:",
        "pROC gives 1-1 for an AUC of 1, and warns. Any other figure that no replicate of a bootstrap changes has the",
        "interval of Clopper and Pearson over its patients, or over as many comparable pairs as share no patient; a",
        "difference has it too, and p of a sign test. The column `interval` of a table names the method.",
        "",
    ]
    return "\n".join(lines)


def _cell(values: list[float] | None) -> str:
    if values is None:
        return ""
    finite = [value for value in values if np.isfinite(value)]
    failed = len(values) - len(finite)
    text = f"{max(finite):.1e}" if finite and max(finite) > 0 else "0" if finite else ""
    return f"{text}, {failed} failed".lstrip(", ") if failed else text


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
