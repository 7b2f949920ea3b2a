"""C-indices against scikit-survival and pycox, replicate by replicate, under ties and censoring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.exceptions import NoComparablePairException
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
from sksurv.util import Surv

from datamodules.errors import DataError
from experiments.statistics.bootstrap import bootstrap, paired_difference
from experiments.statistics.concordance import c_index, harrell, uno
from experiments.statistics.weighted_survival import follow_up
from tests.experiments.statistics.cohort import apart, censored, resamples


def _scikit_survival(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    """Its C-index; NaN where it finds no comparable pair, which it says in several ways."""
    try:
        with np.errstate(invalid="ignore"):
            return float(concordance_index_censored(event, time, risk)[0])
    except NoComparablePairException:
        return float("nan")
    except ValueError:
        assert not event.any()
        return float("nan")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(5, 70), times=st.integers(2, 200), risks=st.integers(1, 30))
def test_harrell_is_scikit_survivals_on_every_resample(seed: int, n: int, times: int, risks: int) -> None:
    time, event, risk = censored(seed, n, times, risks)
    indices, weights = resamples(n, 10, seed)
    for row, value in zip(indices, harrell(time, event, risk)(weights), strict=True):
        expected = _scikit_survival(time[row], event[row], risk[row])
        assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_large_cohorts_go_through_several_blocks() -> None:
    time, event, risk = censored(3, 900, 10_000, 5000, rate=2.0)
    assert event.sum() > 300
    indices, weights = resamples(900, 3)
    expected = [_scikit_survival(time[row], event[row], risk[row]) for row in indices]
    assert harrell(time, event, risk)(weights) == pytest.approx(expected, abs=1e-12)


def test_risks_closer_than_the_tolerance_are_tied() -> None:
    time, event = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    risk = np.array([1.0, 1.0 + 5e-9, 0.0])
    assert harrell(time, event, risk)(np.ones((1, 3)))[0] == _scikit_survival(time, event, risk) == 2.5 / 3


@pytest.mark.parametrize("tau", [None, 12.0])
def test_uno_is_scikit_survivals_with_censoring_estimated_anew(tau: float | None) -> None:
    checked = 0
    for seed in range(8):
        time, event, risk = apart(censored(seed))
        time[-1], event[-1] = time.max() + 1, False
        indices, weights = resamples(len(time), 12, seed)
        for row, value in zip(indices, uno(time, event, risk, tau)(weights), strict=True):
            survival = Surv.from_arrays(event[row], time[row])
            assert value == pytest.approx(concordance_index_ipcw(survival, survival, risk[row], tau)[0], abs=1e-12)
            checked += 1
    assert checked == 96


def test_uno_with_the_censoring_of_training_patients() -> None:
    time, event, risk = censored(1)
    training = apart(censored(2, 200))
    survival = Surv.from_arrays(training.event, training.time)
    indices, weights = resamples(len(time), 10)
    values = uno(time, event, risk, 15.0, follow_up(training.time, training.event))(weights)
    for row, value in zip(indices, values, strict=True):
        tested = Surv.from_arrays(event[row], time[row])
        assert value == pytest.approx(concordance_index_ipcw(survival, tested, risk[row], 15.0)[0], abs=1e-12)
    with pytest.raises(DataError, match=r"reference for censoring was followed for 3\.0"):
        uno(np.append(time, 500.0), np.append(event, True), np.append(risk, 0.0), None, follow_up([1, 3], [True, True]))


def test_uno_without_censoring_is_harrell() -> None:
    time, _, risk = censored(4)
    event = np.ones(len(time), dtype=bool)
    _, weights = resamples(len(time), 20)
    assert uno(time, event, risk)(weights) == pytest.approx(harrell(time, event, risk)(weights), abs=1e-12)


def test_order_of_patients_and_shift_of_risk_do_not_matter() -> None:
    time, event, risk = censored(9)
    order = np.random.default_rng(0).permutation(len(time))
    first = c_index(harrell(time, event, risk), event, 200)
    ones = np.ones((1, len(time)))
    assert harrell(time[order], event[order], risk[order] * 3 + 5)(ones)[0] == pytest.approx(first.value)
    assert (first.n, first.events) == (80, int(event.sum()))
    assert first.low < first.value < first.high


def test_paired_difference_is_that_of_the_loop() -> None:
    time, event, risk = censored(11)
    other = risk + np.random.default_rng(1).normal(0, 1, len(risk))
    first, second = harrell(time, event, risk), harrell(time, event, other)
    difference = paired_difference(first, second, len(time), 300, 5, int(event.sum()))
    one, two = (bootstrap(statistic, len(time), 300, 5)[1] for statistic in (first, second))
    assert difference.estimate.low == pytest.approx(np.percentile(one - two, 2.5))
    assert difference.estimate.value == pytest.approx(
        _scikit_survival(time, event, risk) - _scikit_survival(time, event, other)
    )
    assert difference.estimate.events == event.sum()


def test_degenerate_cohorts() -> None:
    time, event, risk = censored(0)
    none = c_index(harrell(time, event & False, risk), event & False)
    assert np.isnan(none.value)
    assert (none.n, none.events) == (80, 0)
    tied = c_index(harrell(time, event, risk * 0), event, 200)
    assert tied.low < tied.value == 0.5 < tied.high
    same = c_index(harrell(time * 0 + 1, event | True, risk), event | True, 200)
    assert np.isnan(same.value)
    assert same.events == 80
    assert np.isnan(uno(time, event & False, risk)(np.ones((2, 80)))).all()
    assert harrell(time, event, risk)(np.ones((0, 80))).shape == (0,)


def test_bad_input_is_refused() -> None:
    time, event, risk = censored(0)
    with pytest.raises(DataError, match="must match"):
        harrell(time, event, risk[1:])
    with pytest.raises(DataError, match=r"1 of 80 times are negative"):
        harrell(np.where(np.arange(80) == 3, -1, time), event, risk)
    with pytest.raises(DataError, match="1 of 80 risk values are not finite"):
        harrell(time, event, np.where(np.arange(80) == 3, np.nan, risk))
    with pytest.raises(DataError, match="endpoint is not known"):
        harrell(time, np.where(np.arange(80) == 3, -1, event), risk)
