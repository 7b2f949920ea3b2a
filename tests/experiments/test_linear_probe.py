"""How the penalty of a linear model is chosen."""

from __future__ import annotations

import math

import pytest

from experiments.linear_probe import _chosen


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
