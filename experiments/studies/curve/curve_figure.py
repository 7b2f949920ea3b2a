"""The figure of a data-efficiency curve: one panel a group, one line an encoder, its interval as a band or as bars."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.registry import ENCODERS
from experiments.scores.outcomes import Metric
from experiments.scores.plots.style import new_figure
from experiments.studies.compare import REPORTED
from experiments.studies.encoder_lines import encoder_line, encoder_marker

_BANDS = 3
"""More bands than this hide each other; bars, each a little apart from the next, take their place."""
_APART = 0.008
"""On the square-root axis."""


def curve_figure(table: pd.DataFrame, metric: Metric, labels: Mapping[float, float], title: str, note: str) -> Figure:
    """Metric against the share of the labels, on a square-root axis: small shares stand apart, and 0 % has a place.

    Baselines are grey and broken, with open markers. Of a survival task the endpoint that was trained on is drawn.

    Args:
        table: As `curve_table` gives it.
        metric: The metric.
        labels: Training patients of every fraction.
        title: What was predicted, and how.
        note: What must be said beside it: the cohort, and what was skipped.
    """
    drawn = table[table["kind"].isin(REPORTED)]
    if "endpoint" in drawn:
        drawn = drawn[drawn["endpoint"] == drawn["endpoint"].iloc[0]]
    shown = list(dict.fromkeys(drawn["group"]))
    figure = new_figure(4.6 * len(shown) + 3.0, 4.8, title, note)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    fractions = sorted(share for share in labels if share > 0)
    names = [name for name in ENCODERS if name in set(drawn["encoder"])]
    for axes, group in zip(panels, shown, strict=True):
        own = drawn[drawn["group"] == group]
        first = own.iloc[0]
        axes.axhline(0.5, color="0.85", linewidth=1, zorder=0)
        for number, name in enumerate(names):
            apart = None if len(names) <= _BANDS else _APART * (number - (len(names) - 1) / 2)
            _line(axes, own[own["encoder"] == name].sort_values("fraction"), name, apart)
        axes.set_title(f"{group}, n {first['n']}, {first[metric.count]} {metric.count_title}", fontsize=9)
        axes.set_xlabel("Share of the training labels (patients)", fontsize=9)
        _ticks(axes, fractions, labels, bool((own["fraction"] == 0).any()))
    panels[0].set_ylabel(f"{metric.title}, mean over seeds, 95 % interval over patients", fontsize=9)
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside right center", fontsize=8, frameon=False)
    return figure


def _line(axes: Axes, rows: pd.DataFrame, name: str, apart: float | None) -> None:
    """One encoder, with its interval as a band, or as bars that far beside the share of the labels."""
    entry, look = ENCODERS[name], encoder_line(name)
    chosen = look["color"]
    # An encoder that starts from prompts has its own first point; of others zero-shot is another model.
    alone = (rows["fraction"] == 0) & (not entry.prompts)
    zero, labelled = rows[alone], rows[~alone]
    place = np.sqrt(labelled["fraction"].to_numpy(dtype=float)) + (apart or 0.0)
    low, high = (labelled[end].to_numpy(dtype=float) for end in ("low", "high"))
    if apart is None:
        axes.fill_between(place, low, high, color=chosen, alpha=0.12, linewidth=0)
    else:
        axes.vlines(place, low, high, color=chosen, alpha=0.45, linewidth=1.0)
    axes.plot(place, labelled["value"], markersize=5, label=entry.title, **look, **encoder_marker(name))
    for row in zero.to_dict("records"):
        ends = np.array([[row["value"] - row["low"]], [row["high"] - row["value"]]])
        label = f"{entry.title}, zero-shot"
        axes.errorbar([0.0], [row["value"]], yerr=ends, fmt="*", color=chosen, capsize=3, markersize=9, label=label)
        axes.axhline(row["value"], color=chosen, linewidth=0.8, linestyle=":")


def _ticks(axes: Axes, fractions: list[float], labels: Mapping[float, float], zero: bool) -> None:
    shown = [0.0, *fractions] if zero else fractions
    texts = ["0 %" if not value else f"{100 * value:g} %\n({labels[value]:.0f})" for value in shown]
    axes.set_xticks(np.sqrt(shown), texts, fontsize=7)
    axes.tick_params(axis="y", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
