"""What a run leaves for its reader: the table and the figures, whose risk groups are cut on validation alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.cohort.cohort import CohortInfo
from experiments.scores.results_figures import risk_group_of, write_results

INFO = CohortInfo("made", "roles", "rendered", "Drawn by a test.", phantom=True)


def _patients(n: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    part = np.repeat(["val", "test"], [n // 4, n - n // 4])
    role = np.where((np.arange(n) % 2 == 0) & (part == "test"), "external", "internal")
    center = np.where(role == "external", np.where(np.arange(n) % 4 == 0, "E1", "E2"), "I1")
    return pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)], "center": center, "role": role, "part": part,
            "os_months": rng.exponential(30, n), "os_event": rng.random(n) < 0.5, "risk": rng.normal(size=n),
        }
    )  # fmt: skip


def test_survival_has_a_figure_of_every_pooled_group(tmp_path: Path) -> None:
    table, figures = write_results(tmp_path, _patients(), "OS", INFO)
    assert [path.name for path in figures] == ["km_internal_test.png", "km_pooled_external.png"]
    assert all(path.stat().st_size > 10_000 for path in figures)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv"), table)


def test_risk_groups_are_cut_at_the_median_of_validation(tmp_path: Path) -> None:
    predictions = _patients()
    cut = predictions.loc[predictions["part"] == "val", "risk"].median()
    tested = predictions[predictions["part"] == "test"]
    assert risk_group_of(predictions, tested).tolist() == (tested["risk"] > cut).astype(int).tolist()
    # Tested patients who are all above the cut are one group, whatever their own median: nothing is drawn.
    above = predictions.assign(risk=predictions["risk"] + 100 * (predictions["part"] == "test"))
    assert write_results(tmp_path, above, "OS", INFO)[1] == []
    assert risk_group_of(above, above[above["part"] == "test"]) is None


def test_each_fold_is_cut_by_its_own_validation() -> None:
    predictions = _patients().assign(role="internal", center="I1", fold=np.arange(120) % 2)
    moved = predictions.assign(risk=predictions["risk"] + 50 * predictions["fold"])
    tested = predictions["part"] == "test"
    plain = risk_group_of(predictions, predictions[tested])
    assert plain.tolist() == risk_group_of(moved, moved[tested]).tolist()


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_have_a_roc(classes: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    score = rng.dirichlet(np.ones(classes), 120)
    frame = _patients()[["patient_id", "center", "role", "part"]].assign(target=np.arange(120) % classes)
    for number in range(classes):
        frame[f"score_{number}"] = score[:, number]
    table, figures = write_results(tmp_path, frame, "Classes", INFO)
    assert [path.name for path in figures] == ["roc.png"]
    assert ("kappa" in table) == (classes == 3)
    assert table["group"].tolist() == ["internal test", "external E1", "external E2", "pooled external"]


def test_no_risk_groups_where_nobody_validated_is_above_the_cut() -> None:
    """Most of the few risks of shallow trees may be the highest one."""
    part = ["val"] * 4 + ["test"] * 2
    frame = pd.DataFrame({"part": part, "risk": [0.1, 0.3, 0.3, 0.3, 0.1, 0.3]})
    assert risk_group_of(frame, frame[frame["part"] == "test"]) is None
    frame.loc[1, "risk"] = 0.1
    assert risk_group_of(frame, frame[frame["part"] == "test"]).tolist() == [0, 1]  # type: ignore[union-attr]
