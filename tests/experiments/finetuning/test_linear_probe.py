"""How the penalty of a linear model is chosen, and in which coordinates a Cox model is fitted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sksurv.ensemble import GradientBoostingSurvivalAnalysis
from sksurv.linear_model import CoxPHSurvivalAnalysis

from experiments.finetuning.cox_boosting import CoxBoosting
from experiments.finetuning.linear_probe import LOGISTIC_STRENGTHS, ProbePart, _logistic, _risks, _within_span
from experiments.statistics.concordance import harrell
from experiments.statistics.cox_fit import fit_cox
from experiments.statistics.penalty import balanced_folds


def test_folds_of_a_penalty_spread_the_outcomes_and_follow_the_patient() -> None:
    names, outcome = [f"P{number}" for number in range(61)], np.arange(61) % 4 == 0
    fold = balanced_folds(names, outcome, 7)
    assert fold is not None
    for value in (True, False):
        counts = np.bincount(fold[outcome == value], minlength=5)
        assert counts.max() - counts.min() <= 1
    order = np.random.default_rng(0).permutation(61)
    shuffled = balanced_folds([names[place] for place in order], outcome[order], 7)
    assert shuffled is not None
    assert np.array_equal(shuffled, fold[order])


def test_of_few_events_there_are_as_many_folds_and_of_one_none() -> None:
    names = [f"P{number}" for number in range(20)]
    fold = balanced_folds(names, np.arange(20) < 3, 0)
    assert fold is not None
    assert sorted(set(fold.tolist())) == [0, 1, 2]
    assert balanced_folds(names, np.arange(20) < 1, 0) is None
    assert balanced_folds(names, np.zeros(20), 0) is None


def _module(patients: int, classes: int) -> SimpleNamespace:
    frame = pd.DataFrame({"patient_id": [f"P{number}" for number in range(patients)]})
    label = SimpleNamespace(name="made", class_names=[str(number) for number in range(classes)])
    return SimpleNamespace(plan=SimpleNamespace(patients=frame), seed=1, label=label, class_counts=[50, 50])


def test_the_penalty_is_that_of_scikit_learns_cross_validated_loss() -> None:
    rng = np.random.default_rng(5)
    feature = rng.normal(size=(160, 30))
    outcome = (feature[:, 0] + rng.normal(size=160) > 0).astype(np.int64)
    rows = np.arange(160)
    train, val = (ProbePart(part, feature[part], outcome[part]) for part in (rows[:100], rows[100:]))
    module = _module(160, 2)
    fit = _logistic(module, train, val, [val])
    fold = balanced_folds(module.plan.patients["patient_id"].tolist(), outcome, 1)
    expected = GridSearchCV(
        LogisticRegression(max_iter=5000),
        {"C": [1 / strength for strength in LOGISTIC_STRENGTHS]},
        scoring="neg_log_loss",
        cv=PredefinedSplit(fold),
    ).fit(feature, outcome)
    assert fit.chosen["penalty"] == pytest.approx(1 / expected.best_params_["C"])


def test_noise_gets_a_strong_penalty_and_one_lucky_validation_set_does_not_change_that() -> None:
    strong = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        feature, outcome = rng.normal(size=(160, 60)), rng.integers(0, 2, 160)
        rows = np.arange(160)
        train, val = (ProbePart(part, feature[part], outcome[part]) for part in (rows[:100], rows[100:]))
        strong.append(_logistic(_module(160, 2), train, val, [val]).chosen["penalty"])
    assert min(strong) >= 100
    assert np.median(strong) >= 1000


def test_a_cox_model_within_the_span_of_its_patients_is_the_same_model() -> None:
    rng = np.random.default_rng(3)
    feature = rng.normal(size=(40, 90)) * rng.uniform(0.2, 3, size=90) + rng.normal(size=90)
    outcome = np.empty(40, dtype=[("event", bool), ("months", np.float64)])
    outcome["event"], outcome["months"] = rng.random(40) < 0.6, rng.integers(1, 20, 40)
    feature[:30] -= feature[:30].mean(axis=0)
    parts = [ProbePart(rows, feature[rows], outcome[rows]) for rows in np.split(np.arange(40), [30])]
    train, (held,), axes = _within_span(parts[0], parts[1:])
    assert train.feature.shape == (30, 29)
    fitted = [fit_cox(p.feature, p.outcome["months"], p.outcome["event"], 2.0) for p in (parts[0], train)]
    np.testing.assert_allclose(fitted[1].predict(held.feature), fitted[0].predict(parts[1].feature), atol=1e-9)
    assert axes is not None
    weight = axes @ fitted[1].coefficient
    np.testing.assert_allclose(parts[1].feature @ weight, fitted[0].predict(parts[1].feature), atol=1e-9)
    narrow = parts[0]._replace(feature=feature[:30, :5])
    assert _within_span(narrow, [])[0] is narrow


def _survival(seed: int, patients: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    feature = rng.normal(size=(patients, 12)) * rng.uniform(0.5, 2, 12) + rng.normal(size=12)
    log_risk = 0.6 * feature[:, 0] + 0.5 * feature[:, 1] * feature[:, 2]
    onset, censoring = rng.exponential(np.exp(-log_risk)), rng.exponential(1.5, patients)
    outcome = np.empty(patients, dtype=[("event", bool), ("months", np.float64)])
    outcome["event"], outcome["months"] = onset <= censoring, np.ceil(24 * np.minimum(onset, censoring))
    return feature, outcome


@pytest.mark.parametrize("penalty", [1.0, 30.0, 1e4])
def test_a_ridge_cox_model_and_its_curve_are_scikit_survivals(penalty: float) -> None:
    feature, outcome = _survival(1, 150)
    reference = CoxPHSurvivalAnalysis(alpha=penalty, ties="efron", tol=1e-13, n_iter=500).fit(feature, outcome)
    fitted = fit_cox(feature, outcome["months"], outcome["event"], penalty)
    np.testing.assert_allclose(fitted.coefficient, reference.coef_, atol=1e-8)
    part = ProbePart(np.arange(150), feature, outcome)
    cuts = np.array([0.0, 3.0, 11.5, 30.0])
    module = SimpleNamespace(outcome={"cuts": cuts})
    columns = _risks(module, fitted, part, [part])  # type: ignore[arg-type]
    curve = reference.predict_survival_function(feature, return_array=True)
    place = np.searchsorted(reference.unique_times_, cuts, side="right")
    expected = np.column_stack([np.ones(150), curve])[:, place]
    found = np.column_stack([columns[f"survival_{cut:.2f}"] for cut in cuts])
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_boosted_trees_rank_as_scikit_survivals_do() -> None:
    """Within noise over ten draws: other trees of the same kind."""
    difference, values = [], []
    for seed in range(10):
        feature, outcome = _survival(seed, 450)
        train, test = slice(0, 150), slice(150, None)
        settings = {"learning_rate": 0.1, "subsample": 0.8, "max_features": "sqrt", "min_samples_leaf": 3}
        own = CoxBoosting(50, 2, seed, **settings).fit(
            feature[train], *(outcome[train][k] for k in ("months", "event"))
        )
        theirs = GradientBoostingSurvivalAnalysis(n_estimators=50, max_depth=2, random_state=seed, **settings)
        theirs.fit(feature[train], outcome[train])
        assert list(own.staged_predict(feature))[-1] == pytest.approx(own.predict(feature))
        risks = [model.predict(feature[test]) for model in (own, theirs)]
        held = outcome[test]
        index = [harrell(held["months"], held["event"], risk)(np.ones((1, len(held))))[0] for risk in risks]
        difference.append(index[0] - index[1])
        values.append(index[0])
    assert np.mean(values) > 0.62
    assert abs(np.mean(difference)) < 3 * np.std(difference, ddof=1) / 10**0.5


def test_boosting_without_events_in_a_draw_stays_where_it_is() -> None:
    feature, outcome = _survival(3, 40)
    event = np.arange(40) == 0
    model = CoxBoosting(30, 1, 0, subsample=0.3).fit(feature, outcome["months"], event)
    assert np.isfinite(model.predict(feature)).all()
