"""The two figures of a sweep: its history, and the importance of its parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.scores.plots.style import color, new_figure


def history_figure(table: pd.DataFrame, metric: str, title: str, note: str) -> Figure:
    """Validation metric of every trial, and the best so far.

    Args:
        table: As `trial_table` gives it.
        metric: What the metric is called.
        title: What was searched.
        note: What must be said beside it.
    """
    figure = new_figure(7.2, 4.2, title, note)
    axes = figure.subplots()
    axes.axhline(0.5, color="0.85", linewidth=1, zorder=0)
    complete, pruned = (table[table["state"] == state] for state in ("complete", "pruned"))
    best = complete.sort_values("trial")["value"].astype(float).cummax()
    if len(complete):
        place = np.append(complete["trial"].to_numpy(), table["trial"].max() + 0.5)
        height = np.append(best.to_numpy(), best.iloc[-1])
        axes.step(place, height, where="post", color=color(1), linewidth=1.6, label="best so far")
        spread = complete[["value", "low", "high"]].to_numpy(dtype=float)
        axes.vlines(complete["trial"], spread[:, 1], spread[:, 2], color=color(0), alpha=0.3, linewidth=1.2)
        axes.plot(
            complete["trial"], complete["value"], "o", color=color(0), markersize=5, label="complete, 95 % interval"
        )
    if len(pruned):
        axes.plot(pruned["trial"], pruned["value"], "x", color="0.5", markersize=5, label="pruned, its last epoch")
    axes.set_xlabel("Trial", fontsize=9)
    axes.set_ylabel(f"Validation {metric}", fontsize=9)
    axes.set_xlim(table["trial"].min() - 0.5, table["trial"].max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def importance_figure(shares: Mapping[str, float], metric: str, title: str, note: str) -> Figure:
    """Share of the variance of the validation metric that each parameter explains.

    Args:
        shares: By parameter, the largest first.
        metric: What the metric is called.
        title: What was searched.
        note: What must be said beside it.
    """
    figure = new_figure(7.2, 1.6 + 0.32 * len(shares), title, note)
    axes = figure.subplots()
    place, width = np.arange(len(shares)), list(shares.values())
    axes.barh(place, width, height=0.6, color=color(0))
    for at, share in zip(place, width, strict=True):
        axes.text(share + 0.01, float(at), f"{share:.0%}", va="center", fontsize=8)
    axes.set_yticks(place, list(shares), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.arange(0, 1.01, 0.25), [f"{tick:.0%}" for tick in np.arange(0, 1.01, 0.25)], fontsize=8)
    axes.set_xlabel(f"Share of the variance of the validation {metric} (functional ANOVA)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
