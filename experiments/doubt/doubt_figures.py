"""The figures of doubt: calibration before and after as smooth curves, coverage by centre, error by share answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.doubt.doubt_tables import AFTER, BEFORE
from experiments.doubt.prediction_sets import CONFIDENCE
from experiments.scores.plots.style import color, legend, new_figure
from experiments.statistics.bootstrap import patient_weights
from experiments.statistics.calibration import smooth_calibration

_POINTS, _REPLICATES = 41, 200
_ENDS = (2.5, 97.5)


def smooth_curve(target: np.ndarray, probability: np.ndarray, replicates: int = _REPLICATES) -> pd.DataFrame:
    """Observed share as a smooth function of the prediction, with its 95 % band by bootstrap over patients.

    Args:
        target: 0 or 1 [N].
        probability: Predicted probability of 1 [N].
        replicates: Bootstrap replicates.

    Returns:
        Columns predicted, observed, low, high, n, events, over the range of the predictions without their outermost
        fiftieths; empty where the curve is not defined.
    """
    first, last = np.quantile(probability, [0.02, 0.98])
    at = np.linspace(float(first), float(last), _POINTS)
    observed = smooth_calibration(target, probability, at)
    if np.isnan(observed).any():
        return pd.DataFrame(columns=["predicted", "observed", "low", "high", "n", "events"])
    curves = []
    for weight in patient_weights(len(target), replicates):
        rows = np.repeat(np.arange(len(target)), weight.astype(int))
        curves.append(smooth_calibration(target[rows], probability[rows], at))
    low, high = np.nanpercentile(curves, _ENDS, axis=0)
    counts = {"n": len(target), "events": int(target.sum())}
    return pd.DataFrame({"predicted": at, "observed": observed, "low": low, "high": high, **counts})


def calibration_figure(curves: Mapping[str, pd.DataFrame], title: str, note: str, said: str) -> Figure:
    """Smooth curves before and after calibration.

    Args:
        curves: From `smooth_curve`, by `before` and `after`.
        title: Title.
        note: What must be said beside it.
        said: What the horizontal axis shows.
    """
    figure = new_figure(4.6, 5.4, title, note)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    for number, (name, curve) in enumerate(curves.items()):
        if curve.empty:
            continue
        style: dict[str, Any] = {"color": color(number), "linewidth": 1.8, "linestyle": "--" if name == BEFORE else "-"}
        label = {BEFORE: "score as it is", AFTER: "calibrated"}.get(name, name)
        axes.plot(curve["predicted"], curve["observed"], label=label, **style)
        axes.fill_between(curve["predicted"], curve["low"], curve["high"], color=color(number), alpha=0.15, linewidth=0)
    axes.set(xlabel=said, ylabel="Observed share", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    first = next(iter(curves.values()))
    if not first.empty:
        legend(axes, f"n {first['n'].iloc[0]}, {first['events'].iloc[0]} positive; bands: 95 % interval", columns=2)
    return figure


SETS = (f"Share of sets that hold the true class; {CONFIDENCE:.0%} was asked for", "set size", "Classes in a set, mean")
BOUNDS = (f"Share that outlives its bound; {CONFIDENCE:.0%} was asked for", "bound in months", "Bound, mean in months")
"""What coverage is of, which statistic stands beside it, and what that is called."""


def coverage_figure(table: pd.DataFrame, title: str, note: str, said: tuple[str, str, str] = SETS) -> Figure:
    """Coverage by group, and mean size of the sets or height of the bounds.

    Args:
        table: From `sets_table` or `bounds_table`.
        title: Title.
        note: What must be said beside it.
        said: `SETS` or `BOUNDS`.
    """
    names = list(dict.fromkeys(table["group"]))
    figure = new_figure(7.4, 1.9 + 0.34 * len(names), title, note)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, statistic in ((left, "coverage"), (right, said[1])):
        rows = table[table["statistic"] == statistic].set_index("group").loc[names]
        place = np.arange(len(names))
        axes.hlines(place, rows["low"], rows["high"], color=color(0), linewidth=1.6)
        axes.plot(rows["value"], place, "o", color=color(0), markersize=5)
    left.axvline(CONFIDENCE, color="0.5", linewidth=1, linestyle="--")
    counts = table[table["statistic"] == "coverage"].set_index("group")["n"]
    left.set_yticks(range(len(names)), [f"{name} (n {counts[name]})" for name in names], fontsize=8)
    left.invert_yaxis()
    left.set(xlabel=said[0])
    right.set(xlabel=said[2])
    for axes in (left, right):
        axes.xaxis.label.set_fontsize(8)
    return figure


def risk_coverage_figure(table: pd.DataFrame, title: str, note: str) -> Figure:
    """Error of the patients that are answered, against their share.

    Args:
        table: From `abstention_table`.
        title: Title.
        note: What must be said beside it.
    """
    figure = new_figure(4.6, 5.0, title, note)
    axes = figure.subplots()
    for number, (name, curve) in enumerate(table.groupby("group", sort=False)):
        shown = curve[curve["n"] >= min(20, curve["n"].max())]
        axes.plot(
            shown["answered"], shown["error"], color=color(number), linewidth=1.8, label=f"{name}, n {curve['n'].max()}"
        )
        axes.fill_between(shown["answered"], shown["low"], shown["high"], color=color(number), alpha=0.15, linewidth=0)
    axes.set(
        xlabel="Share of patients that are answered, the surest first", ylabel="Error", xlim=(0, 1), ylim=(0, None)
    )
    legend(axes, "bands: Wilson's 95 % interval")
    return figure
