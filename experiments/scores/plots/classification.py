"""ROC, calibration and decision curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.scores.plots.style import color, counts, legend, new_figure, words
from experiments.statistics.auroc import auroc_of
from experiments.statistics.calibration import calibration_curve, calibration_intercept, calibration_slope
from experiments.statistics.discrimination import mean_roc
from experiments.statistics.operating_point import OperatingPoint

Predictions = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Targets (0 or 1) and scores or probabilities of each system or group."""


def roc_plot(
    predictions: Predictions,
    title: str,
    note: str = "",
    points: Mapping[str, OperatingPoint] | None = None,
    styles: Sequence[Mapping[str, Any]] | None = None,
    folds: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """ROC curves with AUC and DeLong's interval; what lacks a class is named and not drawn.

    Of patients of several folds the curve is the mean of those of the folds, and the area that within folds with its
    bootstrap interval.

    Args:
        predictions: Targets and scores by name.
        title: Title.
        note: What must be said beside the result.
        points: Operating points by the same names, marked on their curves.
        styles: Colour, stroke and width of the lines in the order of the names; colours by place where left out.
        folds: Fold of each patient [N] by the same names, where scores of different folds are of different models.
    """
    lines = styles or [{"color": color(number), "linewidth": 1.8} for number in range(len(predictions))]
    figure = new_figure(5.2, 5.9, title, note)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    for number, (name, (target, score)) in enumerate(predictions.items()):
        own = (folds or {}).get(name)
        area = auroc_of(target, score, own)
        label = f"{name}: {words(area)}, {counts(area, 'positive')}"
        nothing = np.empty(0)
        rate, sensitivity = (nothing, nothing) if np.isnan(area.value) else mean_roc(target, score, own)
        axes.plot(rate, sensitivity, label=label, **lines[number])
        if points and name in points:
            reached = points[name].estimates
            place = (1 - reached["specificity"].value, reached["sensitivity"].value)
            axes.plot(*place, "o", color=lines[number]["color"], markeredgecolor="white", markersize=8)
    axes.set(xlabel="1 - specificity", ylabel="Sensitivity", aspect="equal", xlim=(-0.005, 1.005), ylim=(-0.005, 1.005))
    mark = "; dots: threshold chosen on validation" if points else ""
    legend(axes, f"AUC{' within folds' if folds else ''} [95 % interval]{mark}")
    return figure


def calibration_plot(predictions: Predictions, title: str, note: str = "", groups: int = 10) -> Figure:
    """Observed share against predicted score, with the predictions' histogram beneath.

    Args:
        predictions: Targets and probabilities by name.
        title: Title.
        note: What must be said beside the result.
        groups: Groups by quantile of the prediction.
    """
    figure = new_figure(5.2, 7.0, title, note)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    edges = np.linspace(0, 1, 26)
    for number, (name, (target, probability)) in enumerate(predictions.items()):
        curve = calibration_curve(target, probability, groups)
        slope, intercept = calibration_slope(target, probability), calibration_intercept(target, probability)
        label = f"{name} ({counts(slope, 'positive')})\nslope {words(slope)}, intercept {words(intercept)}"
        middle = curve["observed"]
        ends = [middle - curve["low"], curve["high"] - middle]
        style = {"color": color(number), "linewidth": 1.4, "markersize": 4, "capsize": 2}
        axes.errorbar(curve["predicted"], middle, yerr=ends, fmt="o-", label=label, **style)
        share = np.full(len(target), 1 / max(1, len(target)))
        below.hist(probability, edges, weights=share, histtype="step", color=color(number), linewidth=1.4)
    axes.set(ylabel="Observed share [95 % interval]", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    below.set(xlabel="Score of the positive class", ylabel="Patients")
    below.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    below.legend(
        *axes.get_legend_handles_labels(), fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.5)
    )
    return figure


def decision_plot(
    curves: Mapping[str, pd.DataFrame],
    title: str,
    note: str = "",
    styles: Sequence[Mapping[str, Any]] | None = None,
    counted: str = "positive",
) -> Figure:
    """Net benefit by threshold probability, with treating all and treating nobody.

    Args:
        curves: Tables of `decision_curve` of the same patients, by name. Bands of more than three hide each other and
            are not drawn.
        title: Title.
        note: What must be said beside the result.
        styles: Colour, stroke and width of the lines in the order of the names; colours by place where left out.
        counted: What the events of the tables are.
    """
    lines = styles or [{"color": color(number), "linewidth": 1.8} for number in range(len(curves))]
    figure = new_figure(6.0, 5.2, title, note)
    axes, banded = figure.subplots(), len(curves) <= 3
    first = next(iter(curves.values()))
    axes.axhline(0, color="0.3", linewidth=1, label="treat nobody")
    axes.plot(first["threshold"], first["treat_all"], color="0.6", linewidth=1.2, linestyle="--", label="treat all")
    for number, (name, curve) in enumerate(curves.items()):
        if banded:
            ends = (curve["low"], curve["high"])
            axes.fill_between(curve["threshold"], *ends, color=lines[number]["color"], alpha=0.15, linewidth=0)
        axes.plot(curve["threshold"], curve["net_benefit"], label=name, **lines[number])
    top = max(float(curve["high"].max()) for curve in curves.values())
    axes.set(xlabel="Threshold probability", ylabel="Net benefit", xlim=(0, 1), ylim=(-0.25 * top, 1.05 * top))
    n, events = int(first["n"].iloc[0]), int(first["events"].iloc[0])
    legend(axes, f"n {n}, {events} {counted}{'; bands: 95 % interval' if banded else ''}", columns=2 if banded else 1)
    return figure
