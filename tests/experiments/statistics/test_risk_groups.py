"""Risk groups cut on training patients, and their hazard ratios."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from datamodules.errors import DataError
from experiments.statistics.risk_groups import assign_groups, hazard_ratios, risk_cuts
from tests.experiments.statistics.cohort import censored


def test_cuts_are_training_quantiles_and_tested_patients_do_not_move_them() -> None:
    training = np.random.default_rng(0).normal(size=101)
    cuts = risk_cuts(training)
    assert cuts == pytest.approx([np.median(training)])
    tested = np.array([-9.0, cuts[0], cuts[0] + 1e-9, 9.0])
    assert assign_groups(tested, cuts).tolist() == [0, 0, 1, 1]
    assert np.bincount(assign_groups(training, risk_cuts(training, 3))).tolist() == [34, 33, 34]


def test_hazard_ratios_are_those_of_a_cox_model() -> None:
    time, event, risk = censored(0, 150)
    group = assign_groups(risk, risk_cuts(risk, 3))
    table = hazard_ratios(time, event, group)
    frame = pd.DataFrame({"t": time, "e": event, "1": group == 1, "2": group == 2}).astype(float)
    expected = CoxPHFitter().fit(frame, "t", "e").summary
    assert table["hazard_ratio"].to_numpy() == pytest.approx(expected["exp(coef)"].to_numpy(), rel=1e-4)
    assert table["low"].to_numpy() == pytest.approx(expected["exp(coef) lower 95%"].to_numpy(), rel=1e-4)
    assert table["p"].to_numpy() == pytest.approx(expected["p"].to_numpy(), rel=1e-3)
    assert table["n"].tolist() == [int((group <= 1).sum()), int((group != 1).sum())]
    assert table["events"].iloc[1] == event[group != 1].sum()


def test_groups_without_events_have_firths_hazard_ratio() -> None:
    time, event, risk = censored(1, 90)
    group = assign_groups(risk, risk_cuts(risk, 3))
    middle = hazard_ratios(time, event & (group != 1), group).set_index("group")
    assert middle["method"].eq("Cox, Firth").all()
    assert 0 < middle.loc[1, "low"] < middle.loc[1, "hazard_ratio"] < 0.2
    reference = hazard_ratios(time, event & (group != 0), group)
    assert (reference["low"] > 1).all()
    assert reference["events"].tolist() == [event[group == 1].sum(), event[group == 2].sum()]
    none = hazard_ratios(time, event & False, group)
    assert none["hazard_ratio"].isna().all()
    assert none["method"].eq("none").all()
    assert none["events"].eq(0).all()


def test_a_group_that_is_never_at_risk_at_an_event_has_no_hazard_ratio() -> None:
    time = np.array([1.0, 2.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    event = np.array([0, 0, 1, 1, 0, 1, 0])
    table = hazard_ratios(time, event, np.array([1, 1, 0, 2, 0, 2, 0])).set_index("group")
    assert np.isnan(table.loc[1, "hazard_ratio"])
    assert np.isfinite(table.loc[2, "hazard_ratio"])


def test_a_rare_group_of_a_strong_effect_has_its_own_ratio() -> None:
    """A step from 0 without a check of the likelihood ended in a ratio forty times as large, or in none."""
    worst = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        high = rng.random(300) < 0.1
        onset, censoring = rng.exponential(1 / np.where(high, 0.08, 0.004)), rng.uniform(6, 60, 300)
        row = hazard_ratios(np.minimum(onset, censoring), onset <= censoring, high.astype(int)).iloc[0]
        assert row["method"] == "Cox"
        worst.append(abs(np.log(row["hazard_ratio"] / 20)) / (np.log(row["high"] / row["low"]) / 3.92))
    assert max(worst) < 4
    assert np.mean(worst) == pytest.approx(0.8, abs=0.3)  # the mean of the absolute value of a standard normal


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(DataError, match="1 distinct training risks cannot be cut into 2 groups"):
        risk_cuts(np.full(20, 0.3))
    with pytest.raises(DataError, match="expected two or more"):
        risk_cuts(np.array([]))
    with pytest.raises(DataError, match="1 risk group of 3 patients"):
        hazard_ratios(np.ones(3), np.ones(3), np.zeros(3))


def test_an_infinite_hazard_ratio_is_firths() -> None:
    time = np.array([1.0, 2.0, 3.0, 10.0, 11.0, 12.0])
    event = np.array([True, True, True, True, False, False])
    row = hazard_ratios(time, event, np.array([1, 1, 1, 0, 0, 0])).iloc[0]
    assert row["method"] == "Cox, Firth"
    assert 1 < row["low"] < row["hazard_ratio"] < row["high"]
    assert (row["n"], row["events"]) == (6, 4)
