"""Pairs within folds alone: the mean over folds of scikit-learn's and scikit-survival's, weighted by their pairs."""

from __future__ import annotations

import time as clock
from collections.abc import Callable

import numpy as np
import pytest
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score, roc_curve
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw, cumulative_dynamic_auc
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from datamodules.errors import DataError
from experiments.statistics.auroc import auroc_bootstrap, auroc_statistic, macro_auroc, weighted_auroc
from experiments.statistics.bootstrap import Statistic, bootstrap, paired_difference, patient_weights
from experiments.statistics.concordance import c_index, harrell, uno
from experiments.statistics.discrimination import mean_roc
from experiments.statistics.horizons import at_horizon, dynamic_auc
from experiments.statistics.strata import strata_key
from experiments.statistics.support import share_support
from tests.experiments.statistics.cohort import apart, censored, resamples

FOLDS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [50, 30, 25, 15]))
ONES = np.ones((1, len(FOLDS)))


def _binary() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    target = rng.random(len(FOLDS)) < 0.3
    score = rng.integers(0, 9, len(FOLDS)) / 9 + 0.3 * target + FOLDS  # every fold's scores have a level of their own
    target[FOLDS == 3] = False  # a fold without a positive has no pair
    return target, score


def _weighted(measure: Callable[[np.ndarray], tuple[float, float]]) -> float:
    """Mean over folds of a value and the number of its pairs."""
    values, pairs = np.array([measure(np.flatnonzero(fold == FOLDS)) for fold in range(4)]).T
    return float((values * pairs)[pairs > 0].sum() / pairs.sum())


def test_auc_is_the_mean_of_scikit_learns_weighted_by_pairs() -> None:
    target, score = _binary()
    indices, weights = resamples(len(FOLDS), 8)
    ours = weighted_auroc(target, score, weights, FOLDS)
    for row, value in zip(indices, ours, strict=True):

        def measure(members: np.ndarray, row: np.ndarray = row) -> tuple[float, float]:
            chosen = row[np.isin(row, members)]
            ups = int(target[chosen].sum())
            pairs = ups * (len(chosen) - ups)
            return (roc_auc_score(target[chosen], score[chosen]) if pairs else 0.0), pairs

        assert value == pytest.approx(_weighted(measure), abs=1e-12)
    assert np.isnan(weighted_auroc(target & False, score, ONES, FOLDS)[0])


def test_macro_auc_is_the_mean_over_classes() -> None:
    rng = np.random.default_rng(2)
    target, score = rng.integers(0, 3, len(FOLDS)), rng.dirichlet([1, 1, 1], len(FOLDS))

    def of_class(number: int) -> float:
        def measure(members: np.ndarray) -> tuple[float, float]:
            own = target[members] == number
            return roc_auc_score(own, score[members, number]), own.sum() * (~own).sum()

        return _weighted(measure)

    assert macro_auroc(target, score, ONES, FOLDS)[0] == pytest.approx(np.mean([of_class(n) for n in range(3)]))


def test_harrell_is_the_mean_of_scikit_survivals_and_lifelines_weighted_by_pairs() -> None:
    time, event, risk = censored(4, len(FOLDS))
    risk = risk + 3.0 * FOLDS
    indices, weights = resamples(len(FOLDS), 6)
    ours = harrell(time, event, risk, FOLDS)(weights)
    for row, value in zip(indices, ours, strict=True):

        def measure(members: np.ndarray, row: np.ndarray = row) -> tuple[float, float]:
            chosen = row[np.isin(row, members)]
            index, up, down, tied, _ = concordance_index_censored(event[chosen], time[chosen], risk[chosen])
            return index, up + down + tied

        assert value == pytest.approx(_weighted(measure), abs=1e-12)
    # lifelines compares the same pairs where no two times are equal.
    apart = np.random.default_rng(5).permutation(len(FOLDS)) + 1.0

    def lifelines(members: np.ndarray) -> tuple[float, float]:
        pairs = sum(float((apart[members] > apart[one]).sum()) for one in members if event[one])
        return concordance_index(apart[members], -risk[members], event[members]), pairs

    assert harrell(apart, event, risk, FOLDS)(ONES)[0] == pytest.approx(_weighted(lifelines), abs=1e-12)


def test_uno_and_dynamic_auc_weigh_censoring_over_all_folds() -> None:
    time, event, risk = apart(censored(6, len(FOLDS), rate=2.0))
    everybody = Surv.from_arrays(event, time)
    late = float(np.quantile(time[event], 0.7))
    found, moved = (uno(time, event, r, late, strata=FOLDS)(ONES)[0] for r in (risk, risk + 9.0 * FOLDS))
    assert found == pytest.approx(moved)
    one = np.zeros(len(FOLDS))
    assert uno(time, event, risk, late, strata=one)(ONES)[0] == pytest.approx(
        concordance_index_ipcw(everybody, everybody, risk, late)[0]
    )
    # Each fold with the censoring of everybody is the library's; a fold weighs as much as its weighted pairs.
    cases = event & (time <= late)
    inverse = 1 / CensoringDistributionEstimator().fit(everybody).predict_proba(time)

    def measure(members: np.ndarray) -> tuple[float, float]:
        area = cumulative_dynamic_auc(everybody, everybody[members], risk[members], [late])[0][0]
        return area, (inverse * cases)[members].sum() * (time[members] > late).sum()

    statistic = dynamic_auc(time, event, risk, late, strata=FOLDS)
    assert statistic(ONES)[0] == pytest.approx(_weighted(measure))
    estimate = at_horizon(statistic, time, event, late, replicates=200, strata=FOLDS)
    assert estimate.low < estimate.value < estimate.high


def test_the_mean_roc_has_the_area_within_folds() -> None:
    target, score = _binary()
    rate, sensitivity = mean_roc(target, score, FOLDS)
    assert np.trapezoid(sensitivity, rate) == pytest.approx(weighted_auroc(target, score, ONES, FOLDS)[0], abs=1e-12)
    assert (np.diff(rate) >= 0).all()
    assert (np.diff(sensitivity) >= -1e-12).all()
    assert (rate[0], sensitivity[0], rate[-1], sensitivity[-1]) == (0, 0, 1, 1)
    whole = mean_roc(target, score)
    known = roc_curve(target, score)
    assert np.trapezoid(whole[1], whole[0]) == pytest.approx(roc_auc_score(target, score), abs=1e-12)
    assert set(zip(*known[:2], strict=True)) <= set(zip(*whole, strict=True))
    with pytest.raises(DataError, match="no stratum has both classes"):
        mean_roc(target & False, score, FOLDS)


def test_patients_are_resampled_within_their_fold() -> None:
    weights = patient_weights(len(FOLDS), 500, 0, strata_key(FOLDS))
    for fold in range(4):
        members = fold == FOLDS
        assert (weights[:, members].sum(axis=1) == members.sum()).all()
        assert weights[:, members].var() == pytest.approx(1 - 1 / members.sum(), rel=0.1)
    names = np.array(["a", "b", "c", "d"])[FOLDS]
    assert patient_weights(len(FOLDS), 500, 0, strata_key(names)) is weights
    assert np.array_equal(patient_weights(9, 50, 3), patient_weights(9, 50, 3, (7,) * 9))
    with pytest.raises(DataError, match="one each a patient"):
        bootstrap(Statistic(lambda w: w[:, 0], share_support(5)), 5, 10, strata=np.arange(4))


def test_levels_of_folds_bias_what_is_compared_across_them_and_nothing_within() -> None:
    target, score = _binary()
    within = auroc_bootstrap(target, score, 300, strata=FOLDS)
    shifted = auroc_bootstrap(target, score + 100.0 * np.array([3, 1, 4, 1])[FOLDS], 300, strata=FOLDS)
    assert within == shifted
    assert within.low < within.value < within.high
    across = weighted_auroc(target, score, ONES)[0]
    assert across != pytest.approx(within.value, abs=0.02)
    one = np.zeros(len(FOLDS))
    assert weighted_auroc(target, score, ONES, one)[0] == across
    order = np.random.default_rng(0).permutation(len(FOLDS))
    assert weighted_auroc(target[order], score[order], ONES, FOLDS[order])[0] == pytest.approx(within.value)
    difference = paired_difference(
        *(auroc_statistic(target, s, FOLDS) for s in (score, score - 50.0 * FOLDS)), len(FOLDS), 100
    )
    assert difference.estimate.low < difference.estimate.value == 0.0 < difference.estimate.high
    assert difference.p == 1.0


def test_the_bootstrap_of_folds_is_as_fast_as_that_of_one() -> None:
    time, event, risk = censored(1, 1000, 500, 500)
    folds = np.arange(1000) % 5
    taken = []
    for strata in (None, folds):
        started = clock.process_time()
        c_index(harrell(time, event, risk, strata), event, 1000, strata=strata)
        taken.append(clock.process_time() - started)
    assert taken[1] < 1.5 * taken[0] + 0.5
