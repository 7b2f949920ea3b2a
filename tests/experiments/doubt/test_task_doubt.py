"""Doubt of a task: calibrated by validation patients alone, held in JSON, and in tables that say n and interval."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from experiments.doubt.calibrators import Calibrator
from experiments.doubt.doubt_tables import (
    AFTER,
    BEFORE,
    ECE,
    abstention_table,
    calibration_table,
    doubt_metrics,
    local_table,
    sets_table,
)
from experiments.doubt.prediction_sets import PredictionSets
from experiments.doubt.task_doubt import asked_and_said, task_doubt
from experiments.statistics.calibration import calibration_slope

CENTERS = {"I1": ("internal", 160), "E1": ("external", 120), "E2": ("external", 40)}


def made(classes: int = 2, seed: int = 0, folds: bool = False, sharp: float = 2.5) -> pd.DataFrame:
    """Predictions that are too sure, of validation patients and of three centres' tested ones."""
    rng = np.random.default_rng(seed)
    parts = [("I1", "internal", "val", 200)] + [(name, role, "test", n) for name, (role, n) in CENTERS.items()]
    frames = []
    for center, role, part, count in parts:
        logits = rng.normal(0, 1.3, (count, classes))
        chance = softmax(logits, axis=1)
        frame = pd.DataFrame({"patient_id": [f"{center}-{part}-{number}" for number in range(count)]})
        frame[["center", "role", "part"]] = [center, "internal" if folds else role, part]
        frame["target"] = (rng.random(count)[:, None] > chance.cumsum(axis=1)).sum(axis=1)
        frame[[f"score_{number}" for number in range(classes)]] = softmax(sharp * logits, axis=1)
        if folds:
            frame["fold"] = np.arange(count) % 2
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_that_are_too_sure_are_mended_where_nobody_was_fitted(classes: int) -> None:
    predictions = made(classes)
    doubt = task_doubt(predictions)
    assert doubt is not None
    table = calibration_table(doubt, predictions, replicates=200).set_index(["group", "stage", "statistic"])
    assert set(table.index.get_level_values("group")) == {
        "internal test",
        "external E1",
        "external E2",
        "pooled external",
    }
    for group, n in (("internal test", 160), ("pooled external", 160)):
        before, after = (table.loc[(group, stage, ECE)] for stage in (BEFORE, AFTER))
        assert before["n"] == after["n"] == n
        assert after["value"] < before["value"] - 0.01
        assert before["low"] < before["value"] < before["high"]
        slopes = [table.loc[(group, stage, "slope"), "value"] for stage in (BEFORE, AFTER)]
        assert abs(slopes[1] - 1) < abs(slopes[0] - 1)


def test_tested_patients_change_nothing_of_what_was_chosen() -> None:
    predictions = made()
    shuffled = predictions.copy()
    tested = shuffled["part"] == "test"
    shuffled.loc[tested, "target"] = 1 - shuffled.loc[tested, "target"]
    assert task_doubt(shuffled).to_dict() == task_doubt(predictions).to_dict()  # type: ignore[union-attr]
    other = predictions.copy()
    validated = other["part"] == "val"
    other.loc[validated, "target"] = 1 - other.loc[validated, "target"]
    assert task_doubt(other).to_dict() != task_doubt(predictions).to_dict()  # type: ignore[union-attr]


def test_every_fold_is_calibrated_by_its_own_validation_patients_and_json_gives_the_same() -> None:
    predictions = made(folds=True)
    doubt = task_doubt(predictions)
    assert doubt is not None
    content = json.loads(json.dumps(doubt.to_dict()))
    assert [entry["fold"] for entry in content["calibrators"]] == [0, 1]
    assert all(entry["validation_patients"] == 100 for entry in content["calibrators"])
    assert "I1-" not in json.dumps(content)
    for entry in content["calibrators"]:
        rows = doubt.tested.rows["fold"] == entry["fold"]
        calibrator = Calibrator(entry["method"], entry["parameters"])
        score = doubt.tested.rows.loc[rows, ["score_0", "score_1"]].to_numpy()
        np.testing.assert_allclose(calibrator(score), doubt.tested.probability[rows.to_numpy()])
        own = predictions[(predictions["part"] == "val") & (predictions["fold"] == entry["fold"])]
        sets = PredictionSets(own[["score_0", "score_1"]].to_numpy(), own["target"].to_numpy())(score)
        np.testing.assert_array_equal(sets, doubt.tested.sets[rows.to_numpy()])


def test_tables_count_what_they_show() -> None:
    predictions = made(3)
    doubt = task_doubt(predictions)
    assert doubt is not None
    table = sets_table(doubt, predictions, replicates=200).set_index(["group", "statistic"])
    held = doubt.tested.sets[np.arange(320), doubt.tested.target]
    external = (doubt.tested.rows["role"] == "external").to_numpy()
    assert table.loc[("pooled external", "coverage"), "value"] == pytest.approx(held[external].mean())
    assert table.loc[("pooled external", "set size"), "value"] == pytest.approx(
        doubt.tested.sets[external].sum(axis=1).mean()
    )
    assert (
        table.loc[("pooled external", "error of 80%"), "value"]
        < table.loc[("pooled external", "error of 100%"), "value"]
    )
    parts = [table.loc[("external E1", f"coverage of class {number}"), "n"] for number in range(3)]
    assert sum(parts) == 120
    metrics = doubt_metrics(doubt, predictions)
    assert metrics["coverage/pooled_external"] == pytest.approx(held[external].mean())
    assert metrics["set_size/external_E1"] == pytest.approx(table.loc[("external E1", "set size"), "value"])
    calibrated = calibration_table(doubt, predictions, replicates=100).set_index(["group", "stage", "statistic"])
    for stage in (BEFORE, AFTER):
        expected = calibrated.loc[("internal test", stage, ECE), "value"]
        assert metrics[f"ece_{stage}/internal_test"] == pytest.approx(expected)
    curve = abstention_table(doubt, predictions)
    assert curve.groupby("group")["n"].max().to_dict() == {"internal test": 160, "pooled external": 160}


def test_local_patients_mend_a_centre_that_is_off_and_small_centres_are_left_out() -> None:
    predictions = made(sharp=1.0)
    moved = predictions.copy()
    off = (moved["center"] == "E1").to_numpy()
    odds = np.log(moved.loc[off, "score_1"] / moved.loc[off, "score_0"]) - 1.5
    moved.loc[off, "score_1"] = 1 / (1 + np.exp(-odds))
    moved.loc[off, "score_0"] = 1 - moved.loc[off, "score_1"]
    doubt, table = task_doubt(moved), None
    assert doubt is not None
    table = local_table(doubt, moved).set_index(["group", "local"])
    assert set(table.index) == {("external E1", 20), ("external E1", 50), ("external E2", 20)}
    for local in (20, 50):
        row = table.loc[("external E1", local)]
        assert row["n"] == 120 - local
        assert row["log_loss_after"] < row["log_loss_before"] - 0.05
        assert row["distance_after"] < row["distance_before"] - 0.1
        # Sets of the centre's own patients cover what is said, where those of other centres do not.
        assert row["coverage_before"] < 0.85
        assert row["coverage_after"] == pytest.approx(0.9, abs=0.04)
    target, probability = asked_and_said(doubt.tested.target, doubt.tested.probability)
    assert calibration_slope(target, probability).n == 320


def test_survival_and_a_missing_class_have_no_doubt_of_this_kind() -> None:
    predictions = made()
    assert task_doubt(predictions.drop(columns=["score_0", "score_1"]).assign(risk=0.0)) is None
    predictions.loc[predictions["part"] == "val", "target"] = 0
    assert task_doubt(predictions) is None
