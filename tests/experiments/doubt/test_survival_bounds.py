"""Lower bounds of survival: as many outlive them as is said, where the truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from datamodules.errors import DataError
from experiments.doubt.prediction_sets import CONFIDENCE
from experiments.doubt.survival_bounds import LowerBounds, bound_coverage, fit_lower_bounds

MONTHS = np.linspace(0, 400, 1601)


def drawn(rng: np.random.Generator, count: int, censoring: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariate, true time and time of censoring; nobody is followed longer than 15 years."""
    covariate = rng.normal(size=count)
    time = rng.exponential(1 / (0.02 * np.exp(0.8 * covariate)))
    ends = rng.exponential(1 / censoring, count) if censoring else np.full(count, np.inf)
    return covariate, time, np.minimum(ends, 180.0) if censoring else ends


def model(wrong: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A curve whose level and spread are wrong."""
    return lambda covariate, months: np.exp(-0.02 * wrong * np.exp(0.4 * covariate) * months)


def true_coverage(rng: np.random.Generator, count: int, censoring: float, wrong: float) -> float:
    """Share of new patients that truly outlive bounds chosen on so many censored ones."""
    curve = model(wrong)
    covariate, time, ends = drawn(rng, count, censoring)
    seen = np.minimum(time, ends)
    bounds = fit_lower_bounds(seen, time <= ends, curve(covariate, seen))
    covariate, time, _ = drawn(rng, 300, censoring)
    return float((time >= bounds(MONTHS, curve(covariate[:, None], MONTHS[None]))).mean())


@pytest.mark.parametrize(("censoring", "events"), [(0.0, 1.0), (0.01, 0.66), (0.03, 0.42)])
@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_nine_in_ten_outlive_their_bound_whatever_the_model(censoring: float, events: float, wrong: float) -> None:
    rng = np.random.default_rng(0)
    _, time, ends = drawn(rng, 20000, censoring)
    assert float((time <= ends).mean()) == pytest.approx(events, abs=0.03)  # how much is censored
    found = np.array([true_coverage(rng, 60, censoring, wrong) for _ in range(150)])
    error = found.std() / np.sqrt(len(found))
    assert found.mean() > CONFIDENCE - 3 * error
    assert found.mean() < CONFIDENCE + 1 / 61 + 3 * error + 0.01 * (censoring > 0)


def test_without_censoring_the_level_is_that_of_split_conformal_prediction() -> None:
    rng = np.random.default_rng(1)
    for count in (9, 10, 19, 20, 57):
        score = rng.random(count)
        bounds = fit_lower_bounds(np.linspace(1, 2, count), np.ones(count, bool), 1 - score)
        rank = int(np.floor((1 - CONFIDENCE) * (count + 1) + 1e-9))  # the rank-th least score may be reached
        expected = 0.0 if rank < 1 else np.sort(np.delete(score, -1))[rank - 1]
        # The last time is the last that follow-up reaches, so that an event there breaks no bound.
        assert bounds.level == pytest.approx(expected)


def test_a_bound_is_where_the_curve_falls_to_the_level_and_no_later_than_follow_up() -> None:
    months = np.array([0.0, 10.0, 20.0, 40.0])
    curves = np.array([[1.0, 0.9, 0.8, 0.4], [1.0, 0.99, 0.98, 0.97], [1.0, 0.95, np.nan, np.nan]])
    bounds = LowerBounds(0.15, 30.0, 50, 20)
    assert bounds(months, curves) == pytest.approx([15.0, 30.0, 10.0])
    assert LowerBounds(0.0, 30.0, 5, 1)(months, curves).tolist() == [0.0, 0.0, 0.0]
    # A rising map of all curves moves level and curves together.
    assert LowerBounds(1 - 0.85**2, 30.0, 50, 20)(months[:3], curves[:1, :3] ** 2) == pytest.approx([15.0], abs=0.2)


def test_coverage_of_censored_patients_is_that_of_the_true_times() -> None:
    rng = np.random.default_rng(2)
    covariate, time, ends = drawn(rng, 4000, 0.02)
    bound = np.full(len(time), 6.0) + 3 * (covariate < 0)
    found = bound_coverage(np.minimum(time, ends), time <= ends, bound, replicates=200)
    assert found.value == pytest.approx(float((time >= bound).mean()), abs=0.015)
    assert found.low < found.value < found.high
    assert found.n == 4000
    assert found.events == int(((time <= ends) & (time < bound)).sum())


def test_what_no_bound_can_be_made_of_is_refused() -> None:
    with pytest.raises(DataError, match="of 0 patients"):
        fit_lower_bounds(np.empty(0), np.empty(0, bool), np.empty(0))
    with pytest.raises(DataError, match="Bounds at 1"):
        fit_lower_bounds(np.ones(20), np.ones(20, bool), np.full(20, 0.5), confidence=1.0)
