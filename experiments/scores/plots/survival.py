"""Kaplan-Meier curves of groups, with numbers at risk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.scores.plots.style import color, legend, new_figure, words
from experiments.statistics.cox import FIRTH
from experiments.statistics.estimate import Estimate
from experiments.statistics.kaplan_meier import kaplan_meier, log_rank, numbers_at_risk
from experiments.statistics.risk_groups import hazard_ratios


def kaplan_meier_plot(
    time_months: np.ndarray,
    event: np.ndarray,
    group: np.ndarray,
    names: Mapping[int, str],
    title: str,
    note: str = "",
    endpoint: str = "Survival",
    at_months: Sequence[float] | None = None,
) -> Figure:
    """Kaplan-Meier curves with log-log intervals, censoring marks, log-rank test, hazard ratios and numbers at risk.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        group: Group of each patient [N].
        names: Name of every group, the reference first.
        title: Title.
        note: What must be said beside the result.
        endpoint: Name of the endpoint.
        at_months: Times of the table; by default whole years, few enough to be read.

    Raises:
        DataError: if times or events are not valid, or fewer than two groups are present.
    """
    time, event, group = np.asarray(time_months, dtype=float), np.asarray(event).astype(bool), np.asarray(group)
    present = [number for number in names if (group == number).any()]
    at = np.asarray(at_months if at_months is not None else _years(float(time.max())), dtype=float)
    figure = new_figure(6.4, 4.7 + 0.22 * len(present), title, note)
    axes, table = figure.subplots(2, 1, sharex=True, height_ratios=(10, 1 + len(present)))
    for place, number in enumerate(present):
        chosen = group == number
        _draw_curve(axes, time[chosen], event[chosen], names[number], color(place))
    axes.set(ylabel=f"{endpoint} [95 % interval]", ylim=(0, 1.02), xlim=(0, max(float(time.max()), at[-1]) * 1.02))
    axes.set_xticks(at)
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("Months")
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    axes.set_title(_comparison(time, event, group, names), fontsize=8, loc="left")
    _draw_table(table, time, group, [(number, names[number]) for number in present], at)
    return figure


def survival_calibration_plot(
    curves: Mapping[str, pd.DataFrame], title: str, horizon_months: float, note: str = ""
) -> Figure:
    """Event rate by a horizon, by Kaplan-Meier, against the predicted one, in groups by predicted risk.

    Args:
        curves: Tables of `survival_calibration_curve`, by name.
        title: Title.
        horizon_months: The horizon.
        note: What must be said beside the result.
    """
    figure = new_figure(5.2, 5.6, title, note)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    top = 0.05
    for place, (name, curve) in enumerate(curves.items()):
        defined = curve.dropna(subset=["observed"])
        middle = defined["observed"].to_numpy()
        # An interval that is not defined is not drawn.
        ends = [np.nan_to_num(middle - defined["low"]), np.nan_to_num(defined["high"] - middle)]
        label = f"{name}: n {int(curve['n'].sum())}, {int(curve['events'].sum())} events"
        style: dict[str, Any] = {"color": color(place), "linewidth": 1.4, "markersize": 4, "capsize": 2}
        axes.errorbar(defined["predicted"], middle, yerr=np.maximum(ends, 0), fmt="o-", label=label, **style)
        top = max(top, float(defined[["predicted", "observed", "high"]].max().max()))
    ends_at = min(1.0, 1.05 * top)
    axes.set(xlabel=f"Predicted event rate by {horizon_months:.0f} months", aspect="equal")
    axes.set(ylabel="Observed event rate [95 % interval]", xlim=(0, ends_at), ylim=(0, ends_at))
    legend(axes, "events up to the horizon")
    return figure


def _draw_curve(axes: Axes, time: np.ndarray, event: np.ndarray, name: str, shade: str) -> None:
    curve = kaplan_meier(time, event)
    label = f"{name}: n {len(time)}, {int(event.sum())} events"
    axes.step(curve.times_months, curve.survival, where="post", color=shade, linewidth=1.8, label=label)
    axes.fill_between(curve.times_months, curve.low, curve.high, step="post", color=shade, alpha=0.15, linewidth=0)
    place = np.searchsorted(curve.times_months, curve.censored_months, side="right") - 1
    axes.plot(curve.censored_months, curve.survival[place], "|", color=shade, markersize=5, markeredgewidth=0.8)


def _draw_table(
    axes: Axes, time: np.ndarray, group: np.ndarray, rows: Sequence[tuple[int, str]], at: np.ndarray
) -> None:
    for place, (number, name) in enumerate(rows):
        axes.text(
            -0.05,
            place,
            name,
            ha="right",
            va="center",
            fontsize=8,
            color=color(place),
            transform=axes.get_yaxis_transform(),
        )
        for month, count in zip(at, numbers_at_risk(time[group == number], at), strict=True):
            axes.text(month, place, str(count), ha="center", va="center", fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_title("Number at risk", fontsize=8, loc="left")
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)


def _comparison(time: np.ndarray, event: np.ndarray, group: np.ndarray, names: Mapping[int, str]) -> str:
    test = log_rank(time, event, group)
    lines = ["Log-rank test not defined: no events" if np.isnan(test.p) else f"Log-rank {_p(test.p)}"]
    for row in hazard_ratios(time, event, group).to_dict("records"):
        ratio = words(Estimate(row["hazard_ratio"], row["low"], row["high"]))
        firth = " (Firth)" if row["method"] == FIRTH else ""
        lines.append(f"Hazard ratio {names[row['group']]} v. {names[row['reference']]}: {ratio}{firth}")
    return "\n".join(lines)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _years(last: float) -> np.ndarray:
    step = next((months for months in (3, 6, 12, 24, 36, 60) if last / months <= 8), 120)
    return np.arange(0, last + 1e-9, step)
