"""Encoders against each other: the p values of a table are corrected for all of its comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from experiments.compare import Finished, comparison_table, format_comparison
from experiments.outcomes import AUROC


def _points() -> list[Finished]:
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
            points.append(Finished(name, fraction, 42, frame))
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
