"""A logistic regression around a prior: scikit-learn's around 0, and its centre where the prior is firm."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from experiments.statistics.prior_logistic import fit_prior_logistic


def _drawn(seed: int, patients: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    feature = rng.normal(size=(patients, features)) * rng.uniform(0.3, 3, features)
    target = np.argmax(feature[:, :classes] + rng.gumbel(size=(patients, classes)), axis=1)
    target[:classes] = np.arange(classes)
    return feature, target, rng.uniform(0.5, 2, classes)[target]


@pytest.mark.parametrize("precision", [0.05, 1.0, 40.0])
@pytest.mark.parametrize(("patients", "features"), [(150, 7), (14, 40)])
def test_around_zero_it_is_scikit_learns_ridge(precision: float, patients: int, features: int) -> None:
    for classes in (2, 3):
        feature, target, weight = _drawn(classes, patients, features, classes)
        found = fit_prior_logistic(feature, target, weight, np.zeros((classes, features)), precision)
        strength = precision if classes == 2 else 2 * precision
        expected = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=20_000)
        expected.fit(feature, target, sample_weight=weight)
        np.testing.assert_allclose(found.predict_proba(feature), expected.predict_proba(feature), atol=2e-5)
        assert np.allclose(found.predict_proba(feature).sum(axis=1), 1)


def test_around_a_centre_it_is_the_maximum_that_another_optimiser_finds() -> None:
    feature, target, weight = _drawn(4, 60, 5, 3)
    centre = np.random.default_rng(8).normal(size=(3, 5))

    def loss(point: np.ndarray) -> float:
        weights, bias = point[:15].reshape(3, 5), point[15:]
        logs = log_softmax(feature @ weights.T + bias, axis=1)[np.arange(60), target]
        return float(-(weight * logs).sum() + 3.0 * np.square(weights - centre).sum())

    found = fit_prior_logistic(feature, target, weight, centre, 3.0)
    expected = minimize(loss, np.zeros(18), method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose(found.weight, expected.x[:15].reshape(3, 5), atol=1e-4)
    assert loss(np.concatenate([found.weight.ravel(), found.bias])) <= expected.fun + 1e-9


def test_a_firm_prior_stays_at_its_centre_and_learns_how_common_the_classes_are() -> None:
    feature, target, weight = _drawn(5, 90, 4, 2)
    centre = np.array([[0.0, 0.0, 0.0, 0.0], [2.0, -1.0, 0.0, 0.5]])
    found = fit_prior_logistic(feature, target, weight, centre, 1e9)
    np.testing.assert_allclose(found.weight, centre, atol=1e-6)
    shares = np.average(np.eye(2)[target], axis=0, weights=weight)
    np.testing.assert_allclose(np.average(found.predict_proba(feature), axis=0, weights=weight), shares, atol=1e-6)


def test_classes_that_a_plane_parts_have_finite_weights() -> None:
    feature = np.linspace(-1, 1, 20)[:, None]
    target = (feature[:, 0] > 0).astype(int)
    found = fit_prior_logistic(feature, target, np.ones(20), np.zeros((2, 1)), 1.0)
    assert np.isfinite(found.weight).all()
    assert (found.predict_proba(feature).argmax(axis=1) == target).all()
