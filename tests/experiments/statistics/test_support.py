"""No interval is without width where patients are few and all alike: against R, by definition, and by coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from experiments.statistics.agreement import cohen_kappa
from experiments.statistics.auroc import auroc_of, macro_auroc_bootstrap
from experiments.statistics.bootstrap import (
    Statistic,
    bootstrap,
    mean_of,
    paired_difference,
    percentile_difference,
    percentile_interval,
)
from experiments.statistics.calibration import brier, scaled_brier
from experiments.statistics.concordance import c_index, disjoint_pairs, harrell, uno
from experiments.statistics.decision import decision_curve
from experiments.statistics.discrimination import auroc_delong
from experiments.statistics.embeddings import alignment, uniformity
from experiments.statistics.estimate import Estimate
from experiments.statistics.horizons import at_horizon, brier_at, dynamic_auc, integrated_brier, mean_dynamic_auc
from experiments.statistics.kaplan_meier import kaplan_meier, survival_at
from experiments.statistics.operating_point import operating_point
from experiments.statistics.support import MARK, MedianSupport, Support, auroc_support, mark, newcombe, share_support

TARGET = np.arange(20) % 2
TIME, EVENT = np.arange(1.0, 21.0), np.arange(20) % 3 > 0
RISK = -TIME
FOLDS = np.arange(20) // 10
GRID = np.array([5.0, 10.0, 15.0])
SURE = (TIME[:, None] > GRID).astype(float)
PERFECT = 0.5 + 0.4 * (2 * TARGET - 1)


def _estimate(statistic: Statistic, patients: int = 20) -> Estimate:
    return bootstrap(statistic, patients, 200)[0]


CONSTANT: dict[str, Callable[[], Estimate]] = {
    "AUC of 1": lambda: auroc_delong(TARGET, PERFECT),
    "AUC of 0": lambda: auroc_delong(TARGET, -PERFECT),
    "AUC of a constant": lambda: auroc_delong(TARGET, np.ones(20)),
    "AUC of 1 within folds": lambda: auroc_of(TARGET, PERFECT, FOLDS),
    "macro AUC of 1": lambda: macro_auroc_bootstrap(np.arange(30) % 3, np.eye(3)[np.arange(30) % 3], 200),
    "Harrell's C of 1": lambda: c_index(harrell(TIME, EVENT, RISK), EVENT, 200),
    "Harrell's C of a constant": lambda: c_index(harrell(TIME, EVENT, 0 * RISK), EVENT, 200),
    "Uno's C of 1": lambda: c_index(uno(TIME, EVENT, RISK, 15.0), EVENT, 200),
    "dynamic AUC of 1": lambda: at_horizon(dynamic_auc(TIME, EVENT, RISK, 10.0), TIME, EVENT, 10.0, replicates=200),
    "mean dynamic AUC": lambda: at_horizon(
        mean_dynamic_auc(TIME, EVENT, RISK, GRID), TIME, EVENT, 15.0, replicates=200
    ),
    "Brier score of 0 at a time": lambda: at_horizon(
        brier_at(TIME, EVENT, SURE[:, 1], 10.0), TIME, EVENT, 10.0, replicates=200
    ),
    "integrated Brier score": lambda: at_horizon(
        integrated_brier(TIME, EVENT, SURE, GRID), TIME, EVENT, 15.0, replicates=200
    ),
    "kappa of 1": lambda: _estimate(cohen_kappa(np.arange(20) % 3, np.arange(20) % 3, 3)),
    "kappa of one answer": lambda: _estimate(cohen_kappa(np.arange(20) % 3, np.ones(20, dtype=int), 3)),
    "Brier score of 0": lambda: _estimate(brier(TARGET, TARGET)),
    "scaled Brier score of 1": lambda: _estimate(scaled_brier(TARGET, TARGET)),
    "recall of all": lambda: _estimate(mean_of(np.ones(20))),
    "recall of none of both kidneys": lambda: _estimate(mean_of(np.zeros(40), owner=np.arange(40) // 2)),
    "alignment of equals": lambda: _estimate(alignment(np.eye(20), np.eye(20), np.arange(20))),
    "uniformity of equals": lambda: _estimate(uniformity(np.ones((20, 2)), np.arange(20))),
    "survival without events": lambda: survival_at(TIME, EVENT & False, 10.0),
    "survival of nobody": lambda: survival_at(TIME, EVENT | True, 20.0),
    "median of one time": lambda: kaplan_meier(np.ones(4), np.ones(4, dtype=bool)).median,
    "one patient": lambda: _estimate(mean_of(np.ones(1)), 1),
} | {
    f"{name} of {what}": lambda name=name, sign=sign: operating_point(TARGET, sign * PERFECT, 0.0).estimates[name]  # type: ignore[misc]
    for name in ("sensitivity", "accuracy", "f1")
    for what, sign in (("all", 1), ("none", -1))
    if (name, sign) != ("accuracy", -1)
}


@pytest.mark.parametrize("name", CONSTANT)
def test_patients_who_are_all_alike_leave_an_interval_of_some_width(name: str) -> None:
    found = CONSTANT[name]()
    assert found.low <= found.value <= found.high
    assert found.high - found.low > 0.01
    assert found.interval.split(", ")[-1] in (
        "Clopper-Pearson",
        "Newcombe",
        "Wilson",
        "order statistics",
        "beta product",
    )


def test_ends_are_those_of_r() -> None:
    """binom.test and prop.test of R 4.2.2; Newcombe's equation solved by its uniroot."""
    assert share_support(20).interval(0.0)[:2] == pytest.approx((0, 0.1684335), abs=1e-7)
    assert share_support(12).interval(1.0)[:2] == pytest.approx((0.7353515, 1), abs=1e-7)
    assert newcombe(1.0, [(10, 10)])[:2] == pytest.approx((0.80021361, 1), abs=1e-7)
    assert newcombe(0.0, [(10, 10)])[:2] == pytest.approx((0, 1 - 0.80021361), abs=1e-7)
    assert newcombe(1.0, [(5, 40)])[:2] == pytest.approx((0.78499656, 1), abs=1e-7)
    assert newcombe(0.8, [(10, 30)])[:2] == pytest.approx((0.59545765, 0.91024697), abs=1e-7)
    assert newcombe(0.5, [(12, 12)])[:2] == pytest.approx((0.28988136, 0.71011864), abs=1e-7)


def test_an_interval_that_does_not_reach_1_is_that_of_proc() -> None:
    """ci.auc of pROC on the same scores is 1-1 with a warning where the AUC is 1, and DeLong's elsewhere."""
    score = np.array([3.0, 1, 2, 5, 4, 6, 8, 7, 2.5, 0, 4.5, 9, 1.5, 5.5, 3.5, 6.5])
    found = auroc_delong(np.arange(16) % 2, score)
    assert found.interval == "DeLong"
    assert mark(found.interval) == ""
    assert mark(auroc_delong(TARGET, PERFECT).interval) == MARK


@pytest.mark.parametrize(("positives", "negatives", "truth"), [(10, 10, 0.98), (10, 10, 0.95), (30, 60, 0.98)])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_an_auc_near_1_is_covered(positives: int, negatives: int, truth: float, spread: float) -> None:
    """DeLong's interval alone covers an AUC of 0.98 of 20 patients in 55 % of samples."""
    rng = np.random.default_rng(0)
    shift = norm.ppf(truth) * np.hypot(1, spread)
    covered = 0
    for _ in range(300):
        score = np.r_[rng.normal(shift, spread, positives), rng.normal(size=negatives)]
        found = auroc_delong(np.r_[np.ones(positives), np.zeros(negatives)], score)
        covered += found.low <= truth <= found.high
    assert covered >= 0.93 * 300


@pytest.mark.parametrize(("patients", "truth"), [(20, 0.98), (20, 0.95), (10, 0.97), (5, 0.95)])
def test_a_share_near_1_is_covered(patients: int, truth: float) -> None:
    rng = np.random.default_rng(1)
    found = [bootstrap(mean_of((rng.random(patients) < truth).astype(float)), patients, 300)[0] for _ in range(300)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93


def test_models_that_agree_on_everybody_differ_by_an_unknown_amount() -> None:
    same = harrell(TIME, EVENT, RISK)
    found = paired_difference(same, same, 20, 200)
    share = share_support(disjoint_pairs(TIME, EVENT)).interval(0.0).high
    assert found.estimate[:3] == pytest.approx((0.0, -share, share))
    assert found.p == 1.0


def test_a_difference_that_no_replicate_changes_is_as_sure_as_its_patients_are_many() -> None:
    """Two thousand replicates of three patients are three patients."""
    few = percentile_difference(1.0, np.ones(2000), share_support(3).minus(share_support(3)))
    many = percentile_difference(1.0, np.ones(2000), share_support(30).minus(share_support(30)))
    assert few.p == 0.25
    assert many.p == pytest.approx(2 * 0.5**30)
    assert few.estimate.low < 0 < many.estimate.low < 1.0 == many.estimate.high


def test_what_is_not_estimable_is_said() -> None:
    assert auroc_delong(np.ones(5), np.arange(5.0)).interval == "none: one class only"
    assert auroc_delong(np.array([1, 0, 0]), np.arange(3.0)).interval == "none: one patient of a class"
    assert c_index(harrell(TIME, EVENT & False, RISK), EVENT & False).interval == "none: no event"
    assert "no known range" in _estimate(mean_of(np.full(20, 3.0), 0.0, np.inf)).interval
    few = percentile_interval(0.7, np.array([np.nan, 0.7, 0.8]), share_support(3))
    assert few.interval == "none: defined in 2 of 3 replicates"
    assert Support(0, 1, 0).interval(0.0).method == "none: it rests on no patient"
    assert auroc_support(np.ones(4)).interval(1.0).method == "none: one class only"


def test_strata_count_their_own_pairs() -> None:
    whole, within = auroc_support(TARGET), auroc_support(TARGET, np.arange(20) // 2)
    assert (whole.units, within.units) == (10, 10)
    assert newcombe(1.0, [(4, 6)]) == newcombe(1.0, [(4, 6), (4, 6)])._replace(low=newcombe(1.0, [(4, 6)]).low)
    assert newcombe(1.0, [(4, 6), (4, 6)]).low > newcombe(1.0, [(4, 6)]).low
    assert auroc_support(np.r_[TARGET, TARGET], np.zeros(40), np.r_[:20, :20]).classes == ((10, 10),)


def test_disjoint_pairs_are_a_largest_matching() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        time, event = rng.integers(1, 6, 8).astype(float), rng.random(8) < 0.6
        pairs = [
            (one, other)
            for one in np.flatnonzero(event)
            for other in range(8)
            if time[other] > time[one] or (time[other] == time[one] and not event[other])
        ]
        assert disjoint_pairs(time, event) == _matching(pairs)
    assert disjoint_pairs(TIME, EVENT, FOLDS) == sum(
        disjoint_pairs(TIME[fold == FOLDS], EVENT[fold == FOLDS]) for fold in (0, 1)
    )


def _matching(pairs: list[tuple[int, int]]) -> int:
    """Size of a largest matching, by trying all."""
    if not pairs:
        return 0
    (one, other), rest = pairs[0], pairs[1:]
    return max(_matching(rest), 1 + _matching([pair for pair in rest if not {one, other} & set(pair)]))


def test_order_statistics_of_a_median() -> None:
    """Of ten values the second and ninth, of five the range (Conover, Practical Nonparametric Statistics, 1999)."""
    ordered = tuple(float(value) for value in range(1, 11))
    assert MedianSupport(0, 99, 10, ordered).interval(5.0)[:2] == (2.0, 9.0)
    assert MedianSupport(0, 99, 6, ordered[:6]).interval(3.0)[:2] == (1.0, 6.0)
    assert MedianSupport(0, 99, 5, ordered[:5]).interval(3.0)[:2] == (0, 99)


def test_decisions_that_treat_nobody_or_everybody_have_an_interval() -> None:
    curve = decision_curve(TARGET, np.full(20, 0.5), (0.2, 0.8), replicates=200)
    assert curve["interval"].tolist() == ["bootstrap", "Clopper-Pearson"]
    assert (
        curve["advantage_interval"].tolist() == ["Clopper-Pearson", "bootstrap"]
        or (curve["advantage_high"] > curve["advantage_low"]).all()
    )
    assert (curve["high"] > curve["low"]).all()
