"""Figures show what the statistics say, with n, events and intervals, and say what is not defined."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from datamodules.errors import DataError
from experiments.scores.plots.classification import calibration_plot, decision_plot, roc_plot
from experiments.scores.plots.forest import forest_plot
from experiments.scores.plots.style import save, words
from experiments.scores.plots.survival import kaplan_meier_plot
from experiments.statistics.calibration import calibration_slope
from experiments.statistics.decision import decision_curve
from experiments.statistics.discrimination import auroc_delong
from experiments.statistics.estimate import Estimate
from experiments.statistics.kaplan_meier import kaplan_meier, numbers_at_risk
from experiments.statistics.operating_point import operating_point, youden_threshold
from experiments.statistics.risk_groups import assign_groups, risk_cuts
from tests.experiments.statistics.cohort import censored

NOTE = "Phantom results: the patients are generated."


def _texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def _predictions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    probability = rng.random(120)
    return (rng.random(120) < probability).astype(int), probability


def test_roc_carries_auc_and_operating_point(tmp_path: Path) -> None:
    target, score = _predictions()
    point = operating_point(target, score, youden_threshold(target, score))
    figure = roc_plot({"size": (target, score), "empty": (target * 0, score)}, "Malignancy", NOTE, {"size": point})
    shown = _texts(figure)
    assert f"size: {words(auroc_delong(target, score))}, n 120, {target.sum()} positive" in shown
    assert "empty: not defined, n 120, 0 positive" in shown
    assert NOTE in shown
    (dot,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert dot.get_ydata()[0] == point.estimates["sensitivity"].value  # type: ignore[index]
    save(figure, tmp_path / "roc.png")
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")


def test_calibration_carries_slope_and_every_patient() -> None:
    target, probability = _predictions()
    figure = calibration_plot({"model": (target, probability)}, "Malignancy", NOTE, 5)
    assert f"slope {words(calibration_slope(target, probability))}" in _texts(figure)
    axes, below = figure.axes
    points = axes.lines[1].get_xdata()
    assert len(points) == 5  # type: ignore[arg-type]
    heights = below.patches[0].get_xy()[:, 1]
    assert heights.max() > 0


def test_decision_curve_is_the_table() -> None:
    target, probability = _predictions()
    table = decision_curve(target, probability, replicates=50)
    figure = decision_plot({"model": table}, "Malignancy", NOTE)
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "model"]
    assert np.array_equal(line.get_ydata(), table["net_benefit"])
    assert f"n 120, {target.sum()} positive" in _texts(figure)


def test_kaplan_meier_shows_the_curve_and_who_is_at_risk() -> None:
    time, event, risk = censored(0, 150)
    group = assign_groups(risk, risk_cuts(risk))
    figure = kaplan_meier_plot(time, event, group, {0: "low", 1: "high"}, "RFS", NOTE, at_months=[0, 5, 10])
    curve = kaplan_meier(time[group == 1], event[group == 1])
    drawn = [line for line in figure.axes[0].lines if str(line.get_label()).startswith("high")][0]  # noqa: RUF015
    assert np.array_equal(drawn.get_ydata(), curve.survival)
    assert drawn.get_drawstyle() == "steps-post"
    table = [text.get_text() for text in figure.axes[1].texts]
    expected = [
        [name, *map(str, numbers_at_risk(time[group == k], np.array([0, 5, 10])))]
        for k, name in enumerate(("low", "high"))
    ]
    assert table == expected[0] + expected[1]
    shown = _texts(figure)
    assert "Hazard ratio high v. low" in shown
    assert f"high: n {(group == 1).sum()}, {event[group == 1].sum()} events" in shown
    silent = kaplan_meier_plot(time, event & False, group, {0: "low", 1: "high"}, "RFS")
    assert "not defined: no events" in _texts(silent)


def test_forest_draws_every_row_and_refuses_what_it_cannot() -> None:
    rows = pd.DataFrame(
        {
            "label": ["Sex", "women", "men"],
            "value": [np.nan, 1.4, np.nan],
            "low": [np.nan, 0.8, np.nan],
            "high": [np.nan, 2.2, np.nan],
            "n": [np.nan, 40, 3],
            "events": [np.nan, 12, 0],
        }
    )
    figure = forest_plot(rows, "Subgroups", "Hazard ratio", NOTE, 1, log=True)
    shown = _texts(figure)
    assert "1.40 [0.80, 2.20]" in shown
    assert "not defined" in shown
    assert figure.axes[0].get_xscale() == "log"
    with pytest.raises(DataError, match="cannot be drawn"):
        forest_plot(rows.assign(low=-0.1), "Subgroups", "Hazard ratio", log=True)
    with pytest.raises(DataError, match="without columns"):
        forest_plot(rows.drop(columns="n"), "Subgroups", "Hazard ratio")


def test_words_for_an_estimate() -> None:
    assert words(Estimate(0.712, 0.641, 0.783)) == "0.71 [0.64, 0.78]"
    assert words(Estimate(1.0, float("nan"), float("nan"))) == "1.00 [interval not defined]"
    assert words(Estimate(float("nan"), float("nan"), float("nan"))) == "not defined"


def test_titles_of_a_forest_plot_stand_apart_whatever_the_labels_are() -> None:
    label = "Radiomics and the encoder that was aligned with reports, by centre"
    rows = pd.DataFrame([{"label": label, "value": 0.8, "low": 0.7, "high": 0.9, "n": 12345, "events": 6789}])
    figure = forest_plot(rows, "Encoders", "AUC", NOTE, 0.5, counted="positives")
    figure.draw_without_rendering()
    cells = [text for text in figure.axes[1].texts if text.get_text()]
    assert [text.get_text() for text in cells][:3] == ["n", "positives", "[95 % interval]"]
    for row in (cells[:3], cells[3:]):
        boxes = [text.get_window_extent() for text in row]
        assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(boxes))


def test_rows_of_a_forest_plot_have_the_markers_that_they_ask_for() -> None:
    rows = pd.DataFrame([{"label": name, "value": 0.8, "low": 0.7, "high": 0.9, "n": 9, "events": 6} for name in "ab"])
    rows["look"] = [{"marker": "o", "markerfacecolor": "white"}, {"marker": "^"}]
    figure = forest_plot(rows, "Encoders", "AUC")
    assert [line.get_marker() for line in figure.axes[0].lines if line.get_marker() != "None"] == ["o", "^"]
