"""Prediction sets cover what they say on exchangeable patients; abstention against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score

from datamodules.errors import DataError
from experiments.doubt.prediction_sets import (
    PredictionSets,
    centre_sets,
    coverage,
    risk_coverage,
    selective_error,
    set_size,
)


def draw(rng: np.random.Generator, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a model that is too sure and biased, of patients with rare classes."""
    target = rng.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[target] + np.linspace(0, 1, classes)
    return softmax(3 * logits, axis=1), target


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "validated"), [(2, 60), (3, 90)])
def test_coverage_of_every_class_is_what_theory_says(classes: int, validated: int) -> None:
    """Over draws of validation and test patients, P(covered | class) lies in [1 - a, 1 - a + 1 / (n + 1)]."""
    rng = np.random.default_rng(classes)
    covered: list[list[float]] = [[] for _ in range(classes)]
    floor: list[list[float]] = [[] for _ in range(classes)]
    for _ in range(400):
        score, target = draw(rng, validated, classes)
        if np.bincount(target, minlength=classes).min() < 1:
            continue
        asked, truth = draw(rng, 300, classes)
        sets = PredictionSets(score, target)(asked, 0.9)
        for number in range(classes):
            members = truth == number
            covered[number].append(sets[members, number].mean())
            floor[number].append(1 / (1 + (target == number).sum()))
    for number in range(classes):
        assert 0.9 - 0.006 < np.mean(covered[number]) < 0.9 + np.mean(floor[number]) + 0.006


def test_sets_are_those_of_the_quantile_of_each_class() -> None:
    rng = np.random.default_rng(0)
    score, target = draw(rng, 200, 2)
    asked, _ = draw(rng, 50, 2)
    sets = PredictionSets(score, target)(asked, 0.9)
    for number in range(2):
        own = np.sort(1 - score[target == number, number])
        rank = int(np.ceil(0.9 * (len(own) + 1)))
        np.testing.assert_array_equal(sets[:, number], 1 - asked[:, number] <= own[rank - 1])


def test_a_class_of_too_few_patients_is_never_left_out() -> None:
    score = np.array([[0.9, 0.1]] * 30 + [[0.4, 0.6]] * 5)
    target = np.array([0] * 30 + [1] * 5)
    sets = PredictionSets(score, target)(np.array([[0.999, 0.001]]), 0.9)
    assert sets.tolist() == [[True, True]]
    with pytest.raises(DataError, match="patients of every class"):
        PredictionSets(score, np.zeros(35, dtype=int))


def test_coverage_and_size_carry_their_counts() -> None:
    sets = np.array([[True, False], [True, True], [False, False], [False, True]])
    target = np.array([0, 1, 0, 0])
    found = coverage(sets, target)
    assert (found.value, found.n, found.events) == (0.5, 4, 2)
    assert set_size(sets)(np.ones((1, 4)))[0] == pytest.approx(1.0)


def test_the_error_of_the_surest_is_that_of_scikit_learn_and_the_whole_that_of_everybody() -> None:
    rng = np.random.default_rng(4)
    score, target = draw(rng, 100, 3)
    curve = risk_coverage(score, target)
    assert curve["n"].tolist() == list(range(100, 0, -1))
    assert curve["error"].iloc[0] == pytest.approx(1 - accuracy_score(target, score.argmax(axis=1)))
    surest = np.argsort(-score.max(axis=1), kind="stable")[:80]
    expected = 1 - accuracy_score(target[surest], score[surest].argmax(axis=1))
    assert curve.loc[curve["n"] == 80, "error"].item() == pytest.approx(expected)
    assert selective_error(score, target, 0.8)(np.ones((1, 100)))[0] == pytest.approx(expected)
    weights = rng.integers(0, 3, (1, 100)).astype(float)
    twice = np.repeat(np.arange(100), weights[0].astype(int))
    assert selective_error(score, target, 1.0)(weights)[0] == pytest.approx(
        1 - accuracy_score(target[twice], score[twice].argmax(axis=1))
    )
    with pytest.raises(DataError, match="of no patient"):
        risk_coverage(score[:0], target[:0])


def test_the_library_leaves_the_filters_of_warnings_alone() -> None:
    import experiments.doubt.prediction_sets  # noqa: F401

    assert ("always", None, UserWarning, None, 0) not in warnings.filters


@pytest.mark.parametrize("count", [9, 20, 50])
def test_sets_of_a_centres_own_patients_cover_as_the_theory_says(count: int) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        score = rng.dirichlet([1.0, 2.0, 0.5], count + 50)
        target = (rng.random(count + 50)[:, None] > score.cumsum(axis=1)).sum(axis=1).clip(max=2)
        sets = centre_sets(score[:count], target[:count], score[count:])
        found.append(sets[np.arange(50), target[count:]].mean())
    error = np.std(found) / np.sqrt(len(found))
    assert 0.9 - 3 * error <= np.mean(found) <= 0.9 + 1 / (count + 1) + 3 * error
    assert centre_sets(score[:8], target[:8], score[count:]).all()  # eight patients promise nothing
