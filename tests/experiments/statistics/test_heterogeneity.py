"""Cochran's Q by hand, against scipy's weighted regression, and where it is not defined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, norm

from datamodules.errors import DataError
from experiments.statistics.heterogeneity import cochran_q


def test_by_hand() -> None:
    found = cochran_q([0.6, 0.8], [0.1, 0.1])
    assert found.statistic == pytest.approx(2.0)  # weights 100, mean .7, both .1 away
    assert found.degrees == 1
    assert found.p == pytest.approx(chi2.sf(2.0, 1))
    uneven = cochran_q([0.5, 0.7, 0.9], [0.1, 0.2, 0.1])
    assert uneven.statistic == pytest.approx(100 * 0.2**2 + 100 * 0.2**2)  # the mean is .7
    assert uneven.degrees == 2


def test_of_two_groups_it_is_the_z_test_of_their_difference() -> None:
    values, errors = np.array([0.62, 0.71]), np.array([0.03, 0.05])
    z = np.diff(values)[0] / np.hypot(*errors)
    assert cochran_q(values, errors).p == pytest.approx(2 * norm.sf(abs(z)))


def test_it_is_the_residual_of_a_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    values, errors = rng.normal(0.7, 0.1, 7), rng.uniform(0.02, 0.2, 7)
    _, residual, _, _, _ = np.polyfit(np.arange(7), values, 0, w=1 / errors, full=True)
    found = cochran_q(values, errors)
    assert found.statistic == pytest.approx(residual[0])
    order = rng.permutation(7)
    assert cochran_q(values[order], errors[order]).statistic == pytest.approx(found.statistic)
    assert cochran_q(values + 5, errors).p == pytest.approx(found.p)
    assert cochran_q(10 * values, 10 * errors).p == pytest.approx(found.p)


def test_equal_groups_are_no_evidence() -> None:
    found = cochran_q([0.7, 0.7, 0.7], [0.1, 0.2, 0.3])
    assert found.statistic == pytest.approx(0, abs=1e-20)
    assert found.p == pytest.approx(1.0)


def test_chance_alone_gives_a_uniform_p() -> None:
    rng = np.random.default_rng(1)
    errors = rng.uniform(0.02, 0.1, 5)
    found = [cochran_q(rng.normal(0.7, errors), errors).p for _ in range(600)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.025)


def test_groups_that_are_not_usable_are_left_out() -> None:
    values, errors = [0.6, float("nan"), 0.8, 0.9, 0.1], [0.1, 0.1, 0.1, float("nan"), 0.0]
    assert cochran_q(values, errors) == cochran_q([0.6, 0.8], [0.1, 0.1])
    for few in (0, 1):
        alone = cochran_q(values[:few], errors[:few])
        assert (np.isnan(alone.statistic), alone.degrees, np.isnan(alone.p)) == (True, 0, True)


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="one of each a group"):
        cochran_q([0.5, 0.6], [0.1])
    with pytest.raises(DataError, match="one of each a group"):
        cochran_q([[0.5, 0.6]], [[0.1, 0.1]])  # type: ignore[list-item]
