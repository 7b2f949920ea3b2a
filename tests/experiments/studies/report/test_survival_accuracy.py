"""Accuracy of predicted survival against scikit-survival, over folds whose models have cut points of their own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import brier_score, cumulative_dynamic_auc, integrated_brier_score
from sksurv.util import Surv

from experiments.scores.outcomes import outcomes_of
from experiments.scores.results_table import Group
from experiments.scores.survival_curves import predicted_survival
from experiments.statistics.kaplan_meier import survival_at
from experiments.studies.report.survival_accuracy import (
    GRID_MONTHS,
    ScoredEncoder,
    _brier,
    _calibration,
    _integrated,
    _mean_auc,
)

CUTS = {0: (0.0, 15.0, 50.0), 1: (0.0, 20.0, 80.0)}


@pytest.fixture(scope="module")
def made() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    risk = rng.normal(0, 0.7, 160)
    happened, censored = rng.exponential(40 * np.exp(-risk)), rng.uniform(20, 120, 160)
    frame = pd.DataFrame({"patient_id": [f"P{i}" for i in range(160)], "center": "I1", "role": "internal"})
    frame = frame.assign(
        part="test", os_months=np.minimum(happened, censored), os_event=happened <= censored, risk=risk
    )
    for fold, cuts in CUTS.items():
        for months in cuts:
            own = np.where(np.arange(160) % 2 == fold, np.exp(-months / 40 * np.exp(risk)), np.nan)
            name = f"survival_{months:.2f}"
            frame[name] = frame[name].fillna(pd.Series(own)) if name in frame else own
    return frame


def _of(frame: pd.DataFrame) -> ScoredEncoder:
    return ScoredEncoder("stage1", Group("internal test", "internal", frame), next(outcomes_of(frame)))


def test_brier_scores_are_scikit_survivals(made: pd.DataFrame) -> None:
    one = _of(made)
    everybody = Surv.from_arrays(one.event, one.time)
    survival = predicted_survival(made, [36.0])
    score, known = _brier(one, 36.0)
    assert score.value == pytest.approx(brier_score(everybody, everybody, survival, [36.0])[1][0])
    assert score.low < score.value < score.high
    assert score.value < known.value  # it knows who is at risk
    assert (score.n, score.events) == (known.n, known.events)
    integrated, reach = _integrated(one)
    times = GRID_MONTHS[GRID_MONTHS <= 50]  # the curves of one fold end there
    assert reach == "3 to 48 months"
    expected = integrated_brier_score(everybody, everybody, predicted_survival(made, times), times)
    assert integrated.value == pytest.approx(expected)


def test_nothing_beyond_the_curve_of_any_patient(made: pd.DataFrame) -> None:
    one = _of(made)
    for estimate in (*_brier(one, 60.0), *_calibration(one, 60.0).values()):
        assert np.isnan(estimate.value)
        assert estimate.n is not None
    alone = _of(made[made["survival_80.00"].notna()].reset_index(drop=True))
    assert np.isfinite(_brier(alone, 60.0)[0].value)
    risks = _of(made[[name for name in made if not name.startswith("survival_")]])
    assert np.isnan(_brier(risks, 12.0)[0].value)
    assert _integrated(risks)[1] == ""
    assert np.isfinite(_mean_auc(risks).value)


def test_calibration_of_the_truth_is_one(made: pd.DataFrame) -> None:
    true = made.assign(**{"survival_36.00": np.exp(-36 / 40 * np.exp(made["risk"]))})
    found = _calibration(_of(true), 36.0)
    assert found["slope"].low < 1 < found["slope"].high
    kept = survival_at(made["os_months"].to_numpy(), made["os_event"].to_numpy(), 36.0).value
    assert found["ratio"].value == pytest.approx((1 - kept) / (1 - true["survival_36.00"]).mean())
    assert found["ratio"].value == pytest.approx(1, abs=0.2)  # 160 patients tell a rate no better


def test_mean_auc_is_scikit_survivals_and_within_folds(made: pd.DataFrame) -> None:
    one = _of(made)
    everybody = Surv.from_arrays(one.event, one.time)
    times = one.usable(GRID_MONTHS)
    expected = cumulative_dynamic_auc(everybody, everybody, made["risk"].to_numpy(), times)[1]
    assert _mean_auc(one).value == pytest.approx(expected)
    folds = made.assign(fold=np.arange(160) % 2)
    moved = folds.assign(risk=folds["risk"] + 9.0 * folds["fold"])
    assert _mean_auc(_of(folds)).value == pytest.approx(_mean_auc(_of(moved)).value)
    assert _mean_auc(_of(folds)).value != pytest.approx(expected, abs=1e-6)
