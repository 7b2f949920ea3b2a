"""Standardised differences by hand and against scipy, and the customary tests against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, kruskal, ttest_ind

from experiments.statistics.balance import categorical_p, categorical_smd, largest_smd, numeric_p, smd

NAN = float("nan")


def test_difference_of_numbers() -> None:
    assert smd(np.array([1.0, 2, 3]), np.array([3.0, 4, 5])) == pytest.approx(2.0)  # means 2 and 4, both SD 1
    assert smd(np.array([3.0, 4, 5]), np.array([1.0, 2, 3])) == pytest.approx(2.0)  # without sign
    assert smd(np.array([0.0, 2]), np.array([1.0, 7])) == pytest.approx(3 / np.sqrt((2 + 18) / 2))
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 1, 40), rng.normal(1, 3, 40)
    # Of groups of one size it is Welch's t without the size.
    assert smd(one, two) == pytest.approx(abs(ttest_ind(one, two, equal_var=False).statistic) * np.sqrt(2 / 40))
    assert smd(rng.permutation(one), rng.permutation(two)) == pytest.approx(smd(one, two))
    assert smd(10 * one + 3, 10 * two + 3) == pytest.approx(smd(one, two))


def test_difference_of_a_share_is_that_of_numbers() -> None:
    one, two = np.array([True] * 30 + [False] * 70), np.array([True] * 50 + [False] * 50)
    expected = 0.2 / np.sqrt((0.3 * 0.7 + 0.5 * 0.5) / 2)  # Austin 2009, equation 2
    assert categorical_smd(one.astype(str), two.astype(str)) == pytest.approx(expected)
    assert smd(one, two) == pytest.approx(expected, rel=0.01)  # with the variance of a sample


def test_difference_of_three_levels_by_hand() -> None:
    first, second = ["a"] * 5 + ["b"] * 3 + ["c"] * 2, ["a"] * 2 + ["b"] * 3 + ["c"] * 5
    p, q = np.array([0.3, 0.2]), np.array([0.3, 0.5])
    covariance = (np.diag(p) - np.outer(p, p) + np.diag(q) - np.outer(q, q)) / 2
    expected = np.sqrt((p - q) @ np.linalg.inv(covariance) @ (p - q))
    assert categorical_smd(first, second) == pytest.approx(expected)
    assert categorical_smd(second[::-1], first[::-1]) == pytest.approx(expected)
    renamed = [{"a": "z", "b": "y", "c": "x"}[value] for value in first], ["z"] * 2 + ["y"] * 3 + ["x"] * 5
    assert categorical_smd(*renamed) == pytest.approx(expected)  # whichever level is left out


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([], [1.0, 2], NAN), ([1.0], [1.0, 2], NAN), ([1.0, 1], [1.0, 1], 0.0), ([1.0, 1], [2.0, 2], float("inf"))],
)
def test_differences_of_few_and_constant_numbers(first: list[float], second: list[float], expected: float) -> None:
    assert smd(np.array(first), np.array(second)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([], ["a"], NAN),
        (["a"], [], NAN),
        (["a"], ["a", "a"], 0.0),
        (["a", "b"], ["b", "a"], 0.0),
        (["a", "a"], ["b"], float("inf")),
        (["a", "b"], ["c", "d"], float("inf")),
    ],
)
def test_differences_of_few_and_constant_categories(first: list[str], second: list[str], expected: float) -> None:
    assert categorical_smd(first, second) == pytest.approx(expected, nan_ok=True)


def test_the_largest_difference_of_any_two_groups() -> None:
    groups = [np.array([1.0, 2, 3]), np.array([2.0, 3, 4]), np.array([5.0, 6, 7]), np.array([9.0])]
    assert largest_smd(groups, categorical=False) == pytest.approx(4.0)  # a group of one value has no pair
    assert largest_smd(groups[::-1], categorical=False) == pytest.approx(4.0)
    assert largest_smd([["a", "b"], ["a", "b"], []], categorical=True) == 0.0
    assert np.isnan(largest_smd([], categorical=False))
    assert np.isnan(largest_smd([np.array([1.0]), np.array([])], categorical=False))


def test_kruskal_wallis_leaves_out_empty_groups() -> None:
    rng = np.random.default_rng(1)
    groups = [rng.normal(place, 1, 15) for place in (0, 0.3, 0.9)]
    found = numeric_p([groups[0], np.array([]), *groups[1:]])
    assert found == pytest.approx(kruskal(*groups).pvalue)
    assert numeric_p([rng.permutation(group) for group in reversed(groups)]) == pytest.approx(found)
    assert np.isnan(numeric_p([groups[0], np.array([])]))
    assert np.isnan(numeric_p([np.ones(4), np.ones(5)]))
    assert np.isnan(numeric_p([]))


def test_chi_squared_by_hand() -> None:
    first, second = ["a"] * 10 + ["b"] * 20, ["a"] * 20 + ["b"] * 10
    statistic = 4 * 5**2 / 15  # every cell is 5 away from the 15 that were expected
    assert categorical_p([first, [], second]) == pytest.approx(chi2.sf(statistic, 1))
    assert categorical_p([second[::-1], first[::-1]]) == pytest.approx(chi2.sf(statistic, 1))
    assert categorical_p([first, first]) == pytest.approx(1.0)
    assert np.isnan(categorical_p([first, []]))
    assert np.isnan(categorical_p([["a"], ["a", "a"]]))
