"""Cox regression against scikit-survival and published coefficients; what has no maximum is refused in a sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines.datasets import load_gbsg2, load_rossi
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from datamodules.errors import DataError
from experiments.statistics import cox_fit
from experiments.statistics.cox import cox_regression, proportional_hazards
from experiments.statistics.cox_fit import NoMaximumError, NotConvergedError
from experiments.statistics.partial_likelihood import LogLikelihood, Maximum
from tests.experiments.statistics.cohort import censored

ROSSI = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]


def _rossi(columns: list[str] = ROSSI) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, list[str]]:
    table = load_rossi()
    return table, table["week"].to_numpy(float), table["arrest"].to_numpy() == 1, columns


def _clinical(seed: int = 0, n: int = 120) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    time, event, risk = censored(seed, n)
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "risk": risk,
            "size_mm": rng.normal(50, 15, n),
            "age_years": rng.normal(60, 10, n),
            "grade": rng.choice(["1-2", "3", "4"], n),
            "high_stage": rng.random(n) < 0.4,
        }
    )
    return frame, time + 0.5, event


def test_published_recidivism() -> None:
    """Allison, Survival Analysis Using SAS; Fox and Weisberg, Cox regression in R (Efron's ties)."""
    result = cox_regression(*_rossi())
    published = [-0.37942, -0.05744, 0.31390, -0.14980, -0.43370, -0.08487, 0.09150]
    assert result.table["coefficient"].to_numpy() == pytest.approx(published, abs=5e-6)
    p_values = [0.04740, 0.00903, 0.30812, 0.48029, 0.25606, 0.66461, 0.00140]
    assert result.table["p"].to_numpy() == pytest.approx(p_values, abs=5e-5)
    assert result.table["low"].iloc[0] == pytest.approx(0.4702, abs=5e-5)
    assert result.table["high"].iloc[0] == pytest.approx(0.9957, abs=5e-5)
    assert (result.n, result.events, result.left_out) == (432, 114, 0)
    assert result.likelihood_ratio_p == pytest.approx(2.362e-05, rel=1e-3)
    assert result.events_per_covariate == pytest.approx(114 / 7)


def test_published_breast_cancer_with_levels() -> None:
    """German Breast Cancer Study Group 2, all covariates, as R's coxph on TH.data::GBSG2."""
    table = load_gbsg2()
    covariates = ["horTh", "age", "menostat", "tsize", "tgrade", "pnodes", "progrec", "estrec"]
    result = cox_regression(table, table["time"].to_numpy(float), table["cens"].to_numpy() == 1, covariates)
    values = result.table.set_index("covariate")["coefficient"]
    expected = {
        "horTh: yes v. no": -0.3462784,
        "age": -0.0094592,
        "menostat: Pre v. Post": -0.2584448,
        "tsize": 0.0077961,
        "pnodes": 0.0487886,
        "progrec": -0.0022172,
        "estrec": 0.0001973,
    }
    assert values[list(expected)].to_numpy() == pytest.approx(list(expected.values()), abs=5e-8)
    linear = values["tgrade: III v. I"] / 2**0.5  # R's orthogonal polynomial of three levels
    quadratic = (values["tgrade: III v. I"] - 2 * values["tgrade: II v. I"]) / 6**0.5
    assert (linear, quadratic) == pytest.approx((0.5512988, -0.2010905), abs=5e-7)


def test_coefficients_are_scikit_survivals() -> None:
    frame, time, event = _clinical()
    result = cox_regression(frame, time, event, list(frame))
    design = frame.assign(**{"3": frame["grade"] == "3", "4": frame["grade"] == "4"}).drop(columns="grade")
    design = design[["risk", "size_mm", "age_years", "3", "4", "high_stage"]].astype(float)
    reference = CoxPHSurvivalAnalysis(ties="efron", tol=1e-12).fit(design, Surv.from_arrays(event, time))
    assert result.table["coefficient"].to_numpy() == pytest.approx(reference.coef_, abs=1e-5)
    assert result.table["covariate"].tolist()[3:5] == ["grade: 3 v. 1-2", "grade: 4 v. 1-2"]


def test_patients_with_missing_covariates_are_counted() -> None:
    frame, time, event = _clinical(1)
    holes = frame.assign(grade=frame["grade"].where(np.arange(120) % 10 > 0))
    result = cox_regression(holes, time, event, ["risk", "grade"])
    kept = np.arange(120) % 10 > 0
    complete = cox_regression(frame[kept], time[kept], event[kept], ["risk", "grade"])
    assert (result.n, result.left_out, result.events) == (108, 12, int(event[kept].sum()))
    assert result.table["coefficient"].to_numpy() == pytest.approx(complete.table["coefficient"].to_numpy())


def test_proportional_hazards_have_a_row_for_all_together() -> None:
    """R's survival 3.5: cox.zph(coxph(Surv(week, arrest) ~ ., rossi))."""
    check = proportional_hazards(cox_regression(*_rossi())).set_index("covariate")
    assert list(check.index) == [*ROSSI, "GLOBAL"]
    published = [5.9739816534, 4.2245956334, 17.6944152545]
    assert check.loc[["age", "wexp", "GLOBAL"], "statistic"].to_numpy() == pytest.approx(published, abs=1e-6)
    assert check["degrees"].tolist() == [1] * 7 + [7]
    assert check["events"].eq(114).all()


def test_a_changing_hazard_ratio_is_found_and_a_constant_one_is_not() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(600) % 2
    constant = rng.exponential(np.exp(-0.8 * group))
    crossing = np.where(group, rng.weibull(3.0, 600), rng.weibull(0.7, 600))
    event = np.ones(600, dtype=bool)
    frame = pd.DataFrame({"group": group})
    assert proportional_hazards(cox_regression(frame, constant, event, ["group"]))["p"].iloc[0] > 0.05
    assert proportional_hazards(cox_regression(frame, crossing, event, ["group"]))["p"].iloc[0] < 1e-6


def test_what_cannot_be_estimated_is_said() -> None:
    frame, time, event = _clinical(2)
    with pytest.raises(DataError, match="None of 120 patients had an event"):
        cox_regression(frame, time, event & False, ["risk"])
    with pytest.raises(DataError, match="Covariate age_years is the same for all 120 patients"):
        cox_regression(frame.assign(age_years=60), time, event, ["risk", "age_years"])
    twice = frame.assign(size_cm=frame["size_mm"] / 10)
    with pytest.raises(DataError, match=r"Covariate size_(mm|cm) follows from the others"):
        cox_regression(twice, time, event, ["risk", "size_mm", "size_cm"])
    safe = frame.assign(grade=np.where(event, "3", np.where(np.arange(120) % 3 == 0, "1", "3")))
    with pytest.raises(DataError, match=r"No event among the \d+ patients without grade: 3 v. 1, \d+ among the others"):
        cox_regression(safe, time, event, ["risk", "grade"])
    with pytest.raises(DataError, match=r"\['stage'\] are not among the 5 columns"):
        cox_regression(frame, time, event, ["risk", "stage"])
    with pytest.raises(DataError, match="infinite"):
        cox_regression(frame.assign(risk=np.inf), time, event, ["risk"])


def test_monotone_likelihood_of_a_number_is_said() -> None:
    time = np.arange(1.0, 41.0)
    event = np.ones(40, dtype=bool)
    frame = pd.DataFrame({"marker": -time, "noise": np.random.default_rng(0).normal(size=40)})  # orders all events
    with pytest.raises(NoMaximumError, match="no maximum: marker separates the 40 events") as said:
        cox_regression(frame, time, event, ["marker", "noise"])
    assert said.value.names == ("marker",)


def test_two_covariates_that_separate_together_are_both_named() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 80))
    time = np.exp(-2 * (first - second)) + 1e-3
    with pytest.raises(NoMaximumError, match="first, second together separate"):
        cox_regression(pd.DataFrame({"first": first, "second": second}), time, np.ones(80), ["first", "second"])


def test_separated_events_are_fitted_by_firths_likelihood_where_asked_for() -> None:
    frame, time, event = _clinical(4)
    frame["late"] = (time > np.quantile(time[event], 0.7)) & ~event
    with pytest.raises(NoMaximumError, match="No event among"):
        cox_regression(frame, time, event, ["risk", "late"])
    result = cox_regression(frame, time, event, ["risk", "late"], separated="firth")
    assert result.table["method"].eq("Cox, Firth").all()
    assert result.separated == ("late",)
    row = result.table.set_index("covariate").loc["late"]
    assert 0 < row["low"] < row["hazard_ratio"] < row["high"] < 1
    assert 0 <= result.likelihood_ratio_p < 1
    with pytest.raises(DataError, match="cannot be tested where late separates"):
        proportional_hazards(result)


def test_a_covariate_that_nobody_at_risk_differs_in_is_redundant_and_not_separating() -> None:
    frame, time, event = _clinical(5)
    early = np.append(time, [0.01, 0.02, 0.03])  # censored before the first event
    more = pd.concat([frame.assign(other=0), frame.iloc[:3].assign(other=1)])
    with pytest.raises(DataError, match="Covariate other follows from the others among the patients at risk"):
        cox_regression(more, early, np.append(event, [False] * 3), ["risk", "other"])


def test_units_and_origin_of_a_covariate_do_not_matter() -> None:
    frame, time, event = _clinical(6)
    plain = cox_regression(frame, time, event, ["risk", "age_years"]).table
    moved = frame.assign(age_years=frame["age_years"] * 365.25 + 1e6)
    table = cox_regression(moved, time, event, ["risk", "age_years"]).table
    assert table["coefficient"].to_numpy() * [1, 365.25] == pytest.approx(plain["coefficient"].to_numpy(), rel=1e-8)


def test_a_fit_that_is_no_maximum_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, time, event = _clinical(7)

    def stopped(objective: LogLikelihood, start: np.ndarray, *_: object, **__: object) -> Maximum:
        point = start + 0.3
        return Maximum(point, objective.terms(point), np.zeros(len(start)), True)

    monkeypatch.setattr(cox_fit, "ascend", stopped)
    with pytest.raises(NotConvergedError, match="did not converge: log-likelihood"):
        cox_regression(frame, time, event, ["risk", "age_years"])
