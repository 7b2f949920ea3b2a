"""How the penalty of a linear model is chosen, and in which coordinates a Cox model is fitted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sksurv.linear_model import CoxPHSurvivalAnalysis

from experiments.linear_probe import Part, _chosen, _within_span


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 0.9, 0.6], (1, 0.9)),
        ([0.7, 0.7, 0.7, 0.7, 0.7], (2, 0.7)),
        ([0.6, 0.7, 0.7, 0.7, 0.6], (2, 0.7)),
        ([math.nan, 0.4, math.nan], (1, 0.4)),
    ],
)
def test_the_best_and_of_equal_ones_the_middle(values: list[float], expected: tuple[int, float]) -> None:
    model, strength, value = _chosen(list(range(len(values))), lambda s: s, lambda s: values[int(s)])
    assert (model, value) == expected
    assert strength == expected[0]


def test_where_validation_tells_nothing_the_middle_is_taken() -> None:
    model, _, value = _chosen([1.0, 2.0, 3.0], lambda s: s, lambda s: math.nan)
    assert model == 2.0
    assert math.isnan(value)


def test_a_cox_model_within_the_span_of_its_patients_is_the_same_model() -> None:
    rng = np.random.default_rng(3)
    feature = rng.normal(size=(40, 90)) * rng.uniform(0.2, 3, size=90) + rng.normal(size=90)
    outcome = np.empty(40, dtype=[("event", bool), ("months", np.float64)])
    outcome["event"], outcome["months"] = rng.random(40) < 0.6, rng.integers(1, 20, 40)
    feature[:30] -= feature[:30].mean(axis=0)
    parts = [Part(rows, feature[rows], outcome[rows]) for rows in np.split(np.arange(40), [30])]
    train, (held,) = _within_span(parts[0], parts[1:])
    assert train.feature.shape == (30, 29)
    fitted = [CoxPHSurvivalAnalysis(alpha=2.0, ties="efron").fit(p.feature, p.outcome) for p in (parts[0], train)]
    np.testing.assert_allclose(
        fitted[1].predict(held.feature), fitted[0].predict(parts[1].feature), rtol=1e-5, atol=1e-7
    )
    curves = [
        model.predict_survival_function(part.feature, return_array=True)
        for model, part in zip(fitted, (parts[1], held), strict=True)
    ]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5, atol=1e-7)
    narrow = parts[0]._replace(feature=feature[:30, :5])
    assert _within_span(narrow, [])[0] is narrow
