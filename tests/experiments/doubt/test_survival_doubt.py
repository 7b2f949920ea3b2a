"""Doubt of a survival task: by validation patients alone, in JSON without a patient, in tables with n and interval."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from experiments.doubt.doubt_tables import AFTER, BEFORE
from experiments.doubt.survival_doubt import survival_doubt
from experiments.doubt.survival_tables import (
    BRIER,
    ECE,
    RATIO,
    bounds_table,
    survival_calibration_table,
    survival_doubt_metrics,
    survival_local_table,
)
from experiments.scores.outcomes import outcomes_of
from experiments.scores.survival_curves import predicted_survival
from experiments.statistics.horizons import at_horizon, brier_at

CUTS = (0.0, 6.0, 20.0, 45.0, 90.0)
GROUPS = [("I1", "internal", "val", 200), ("I1", "internal", "test", 160), ("E1", "external", "test", 90)]
GROUPS += [("E2", "external", "test", 40)]


def made(level: float = 0.9, folds: bool = False, seed: int = 0) -> pd.DataFrame:
    """Predictions whose curves promise too long a life, of validation patients and three centres' tested ones."""
    rng = np.random.default_rng(seed)
    frames = []
    for center, role, part, count in GROUPS:
        risk = rng.normal(0, 0.8, count)
        rate = 0.008 * np.exp(risk)
        time, ends = rng.exponential(1 / (rate * np.exp(level))), rng.uniform(10, 130, count)
        frame = pd.DataFrame({"patient_id": [f"{center}-{part}-{number}" for number in range(count)]})
        frame[["center", "role", "part"]] = [center, "internal" if folds else role, part]
        frame["rfs_months"] = pd.array(np.minimum(time, ends), dtype="Float64")
        frame["rfs_event"] = pd.array(time <= ends, dtype="boolean")
        frame["risk"] = risk
        for cut in CUTS:
            frame[f"survival_{cut:.2f}"] = np.exp(-rate * cut)
        if folds:
            frame["fold"] = np.arange(count) % 2
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize("folds", [False, True])
def test_curves_that_are_off_are_mended_where_nobody_was_fitted(folds: bool) -> None:
    predictions = made(folds=folds)
    doubt = survival_doubt(predictions)
    assert doubt is not None
    assert set(doubt.chosen) == ({0, 1} if folds else {None})
    assert all(one.calibrator.level == pytest.approx(0.9, abs=0.35) for one in doubt.chosen.values())
    table = survival_calibration_table(doubt, predictions, replicates=100)
    group = "out-of-fold" if folds else "pooled external"
    own = table[(table["group"] == group) & (table["months"] == 36.0)].set_index(["stage", "statistic"])
    assert own.loc[(AFTER, ECE), "value"] < 0.6 * own.loc[(BEFORE, ECE), "value"]
    assert own.loc[(BEFORE, RATIO), "low"] > 1.2
    assert own.loc[(AFTER, RATIO), "value"] == pytest.approx(1, abs=0.25)
    assert own.loc[(AFTER, BRIER), "value"] < own.loc[(BEFORE, BRIER), "value"]
    assert {"value", "low", "high", "n", "events", "interval"} <= set(table)


def test_bounds_hold_although_the_curves_do_not_and_by_centre() -> None:
    found = []
    for seed in range(8):
        predictions = made(seed=seed)
        doubt = survival_doubt(predictions)
        assert doubt is not None
        table = bounds_table(doubt, predictions, replicates=50).set_index(["group", "statistic"])
        assert set(table.index.get_level_values(0)) == {
            "internal test", "external E1", "external E2", "pooled external",
        }  # fmt: skip
        found.append(table.loc[("internal test", "coverage"), "value"])
        assert table.loc[("external E1", "coverage"), "n"] == 90
        assert table.loc[("pooled external", "error of 80%"), "n"] == round(0.8 * 130)
        assert table.loc[("internal test", "bound in months"), "value"] > 2
    assert np.mean(found) == pytest.approx(0.9, abs=0.03)


def test_what_is_kept_holds_numbers_and_no_patient() -> None:
    predictions = made()
    doubt = survival_doubt(predictions)
    assert doubt is not None
    text = json.dumps(doubt.to_dict())
    assert not any(name in text for name in predictions["patient_id"])
    (one,) = json.loads(text)["calibrators"]
    assert one["validation_patients"] == 200
    assert 0 < one["bounds"]["level"] < 1
    metrics = survival_doubt_metrics(doubt, predictions)
    assert metrics["ece_36_months_after/pooled_external"] < metrics["ece_36_months_before/pooled_external"]
    assert 0.75 < metrics["bound_coverage/internal_test"] <= 1


def test_tested_patients_change_neither_calibration_nor_bounds() -> None:
    predictions = made()
    changed = predictions.copy()
    tested = changed["part"] == "test"
    changed.loc[tested, "rfs_months"] = changed.loc[tested, "rfs_months"] / 7
    first, second = survival_doubt(predictions), survival_doubt(changed)
    assert first is not None
    assert second is not None
    assert first.to_dict() == second.to_dict()


def test_without_curves_or_events_nothing_is_said() -> None:
    predictions = made()
    assert survival_doubt(predictions.drop(columns=[name for name in predictions if name.startswith("surv")])) is None
    assert survival_doubt(predictions.drop(columns="risk")) is None
    quiet = predictions.copy()
    quiet.loc[quiet["part"] == "val", "rfs_event"] = False
    assert survival_doubt(quiet) is None


def test_local_patients_mend_a_centre_that_is_off() -> None:
    predictions = made(level=0.0)
    off = predictions["center"] == "E1"
    predictions.loc[off, "rfs_months"] = predictions.loc[off, "rfs_months"] / 3
    doubt = survival_doubt(predictions)
    assert doubt is not None
    table = survival_local_table(doubt, predictions).set_index(["group", "local"])
    assert ("external E2", 50) not in table.index  # 40 patients
    assert table.loc[("external E1", 20), "n"] == 70
    for local in (20, 50):
        assert (
            table.loc[("external E1", local), "log_loss_after"] < table.loc[("external E1", local), "log_loss_before"]
        )


def test_a_score_has_the_interval_that_it_has_elsewhere_in_a_report() -> None:
    predictions = made(folds=True)
    doubt = survival_doubt(predictions)
    assert doubt is not None
    table = survival_calibration_table(doubt, predictions).set_index(["months", "stage", "statistic"])
    (outcome,) = outcomes_of(predictions[predictions["part"] == "test"])
    given = outcome.months, outcome.target
    survival = predicted_survival(outcome.rows, [36.0])[:, 0]
    expected = at_horizon(brier_at(*given, survival, 36.0), *given, 36.0, strata=outcome.folds)
    found = table.loc[(36.0, BEFORE, BRIER), ["value", "low", "high"]].to_numpy(float)
    assert found == pytest.approx(np.array(expected[:3]))
