"""Encoders against each other: the p values of a table are corrected for all of its comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control
from sklearn.metrics import roc_auc_score

from datamodules.cohort.cohort import CohortInfo
from experiments.scores.outcomes import AUROC, metric_of
from experiments.scores.results_table import format_table, results_table, scored_caption
from experiments.studies.compare import FinishedPoint, comparison_table, format_comparison


def _points() -> list[FinishedPoint]:
    rng = np.random.default_rng(0)
    target = np.arange(120) % 2
    rows = {"patient_id": [f"P{number:03d}" for number in range(120)], "center": "E1", "part": "test", "target": target}
    rows["role"] = np.where(np.arange(120) < 60, "internal", "external")
    rows["center"] = np.where(np.arange(120) % 3 == 0, "E1", "E2")
    points = []
    for fraction in (0.2, 1.0):
        for name, signal in (("scratch", 0.0), ("stage1", 0.6), ("aligned", 1.2)):
            score = 1 / (1 + np.exp(-signal * target - rng.normal(0, 1, 120)))
            frame = pd.DataFrame({**rows, "score_benign": 1 - score, "score_malignant": score})
            points.append(FinishedPoint(name, fraction, 42, frame))
    return points


def _holm(p: np.ndarray) -> np.ndarray:
    """Step by step, as Holm describes it: the smallest of m times m, the next times m - 1, never falling."""
    adjusted, highest = np.empty(len(p)), 0.0
    for passed, place in enumerate(np.argsort(p, kind="stable")):
        highest = max(highest, min(1.0, (len(p) - passed) * p[place]))
        adjusted[place] = highest
    return adjusted


@pytest.mark.parametrize(("correction", "by_hand"), [("holm", _holm), ("benjamini_hochberg", false_discovery_control)])
def test_p_values_are_corrected_over_the_whole_table(
    correction: str, by_hand: Callable[[np.ndarray], np.ndarray]
) -> None:
    table = comparison_table(_points(), "scratch", 200, correction)
    tested = table["p"].notna()
    assert tested.sum() == 8  # two fractions, two groups, two encoders besides the reference
    np.testing.assert_allclose(table.loc[tested, "p_corrected"], by_hand(table.loc[tested, "p"].to_numpy()))
    assert table.loc[~tested, "p_corrected"].isna().all()
    assert (table.loc[tested, "p_corrected"] > table.loc[tested, "p"]).any()
    row = table[tested].iloc[0]
    assert f"p {row['p_corrected']:.3f}" in format_comparison(table, "scratch", AUROC)


def _within(target: np.ndarray, score: np.ndarray, folds: np.ndarray) -> float:
    """scikit-learn's AUC of every fold, weighted by its pairs."""
    values, pairs = [], []
    for fold in np.unique(folds):
        own = folds == fold
        values.append(roc_auc_score(target[own], score[own]))
        pairs.append(target[own].sum() * (1 - target[own]).sum())
    return float(np.average(values, weights=pairs))


def test_folds_are_compared_within_and_stand_beside_their_pool() -> None:
    folds = np.arange(120) // 2 % 3
    level = np.array([0.0, 2.0, -2.0])[folds]  # models of different folds that share no level
    points = []
    for point in _points():
        score = point.predictions["score_malignant"] + (level if point.encoder == "stage1" else 0)
        frame = point.predictions.assign(score_malignant=score, role="internal", fold=folds)
        points.append(FinishedPoint(point.encoder, point.fraction, point.seed, frame))
    table = comparison_table(points, "scratch", 200)
    assert set(table["group"]) == {"out-of-fold"}
    rows = table[table["fraction"] == 1.0].set_index("encoder")
    for point in points[3:]:
        target, score = (point.predictions[name].to_numpy() for name in ("target", "score_malignant"))
        row = rows.loc[point.encoder]
        assert row["auroc"] == pytest.approx(_within(target, score, folds))
        assert row["across_folds"] == pytest.approx(roc_auc_score(target, score))
        assert row["low"] < row["auroc"] < row["high"]
    assert rows.loc["stage1", "across_folds"] < rows.loc["stage1", "auroc"] - 0.05
    gap = rows.loc["stage1", "auroc"] - rows.loc["scratch", "auroc"]
    assert rows.loc["stage1", "difference"] == pytest.approx(gap)
    assert rows.loc["stage1", "difference_low"] < gap < rows.loc["stage1", "difference_high"]
    # The table and the words of a single point say the same.
    frame = points[4].predictions
    metric, own = metric_of(frame), results_table(frame)
    assert own["auroc"].item() == pytest.approx(rows.loc["stage1", "auroc"])
    assert own["across_folds"].item() == pytest.approx(rows.loc["stage1", "across_folds"])
    for text in (format_table(own, metric), format_comparison(table, "scratch", metric)):
        assert "AUC within folds" in text.splitlines()[0]
        assert "across folds" in text.splitlines()[0]
        assert f"{rows.loc['stage1', 'across_folds']:.3f}" in text
    info = CohortInfo("made", "folds", "rendered", "Drawn by a test.", phantom=True)
    assert "different models" in scored_caption(info, metric)
    assert "different models" not in scored_caption(info, AUROC)
