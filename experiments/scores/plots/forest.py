"""Forest plots: estimates of groups or covariates beneath each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.transforms import offset_copy

from datamodules.errors import DataError
from experiments.scores.plots.style import COLORS, new_figure, words
from experiments.statistics.estimate import Estimate

_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_COLUMNS_PT, _ALIGN = (16.0, 66.0, 78.0), ("right", "right", "left")
"""Places of n, of what is counted and of the numbers, in points from the left, and where each column is flush."""
COLUMNS = ("label", "value", "low", "high", "n", "events")


def forest_plot(
    table: pd.DataFrame,
    title: str,
    measure: str,
    note: str = "",
    reference: float | None = None,
    log: bool = False,
    counted: str = "events",
) -> Figure:
    """One row per estimate: point and interval, with n, what is counted and the numbers beside it.

    Args:
        table: Columns label, value, low, high, n, events, top to bottom; `color` and `look` (of the marker, as
            matplotlib's Line2D takes it) where rows differ in them, and `interval` where its method is known. A row
            without n is a heading.
        title: Title.
        measure: Name of the horizontal axis, such as `Hazard ratio`.
        note: What must be said beside the result.
        reference: Value of no effect, drawn as a line: 1 for ratios, 0 for differences, 0.5 for AUC and C-index.
        log: Draw ratios on a logarithmic axis.
        counted: What the column events counts.

    Raises:
        DataError: if a column is missing, there is no row, or a value on a logarithmic axis is not positive.
    """
    absent = [name for name in COLUMNS if name not in table]
    if absent or table.empty:
        raise DataError(f"A forest plot of {len(table)} rows without columns {absent}; expected {', '.join(COLUMNS)}.")
    ends = table[["value", "low", "high"]].to_numpy(dtype=float)
    if log and (ends <= 0).any():
        raise DataError("A ratio of 0 or less cannot be drawn on a logarithmic axis; expected positive values.")
    figure = new_figure(8.2, 1.5 + 0.3 * len(table), title, note)
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    beside.axis("off")
    if log:
        axes.set_xscale("log")
    if reference is not None:
        axes.axvline(reference, color="0.7", linewidth=1, zorder=0)
    right = beside.get_yaxis_transform()

    def column(points: float, place: float, text: str, align: str) -> None:
        """A cell at a distance from the left that does not shrink with the axes: titles never run into each other."""
        moved = offset_copy(right, figure, x=points, units="points")
        beside.text(0, place, text, transform=moved, fontsize=8, va="center", ha=align)

    for points, text, align in zip(_COLUMNS_PT, ("n", counted, "[95 % interval]"), _ALIGN, strict=True):
        column(points, -0.9, text, align)
    for place, row in enumerate(table.to_dict("records")):
        if pd.isna(row["n"]):
            continue
        value, low, high = (float(row[name]) for name in ("value", "low", "high"))
        estimate = Estimate(value, low, high, interval=str(row.get("interval", "")))
        shade = row.get("color") or COLORS[0]
        look = {"marker": "s", **(row.get("look") or {})}
        axes.plot([estimate.low, estimate.high], [place, place], color=shade, linewidth=1.6)
        axes.plot(estimate.value, place, linestyle="", color=shade, markersize=6, **look)
        events = "" if pd.isna(row["events"]) else f"{int(row['events'])}"
        cells = (f"{int(row['n'])}", events, words(estimate))
        for points, text, align in zip(_COLUMNS_PT, cells, _ALIGN, strict=True):
            column(points, place, text, align)
    axes.set_yticks(np.arange(len(table)), table["label"], fontsize=8)
    axes.tick_params(axis="y", length=0, pad=8 + 5 * int(table["label"].str.len().max()))
    for label, number in zip(axes.get_yticklabels(), table["n"], strict=True):
        label.set(fontweight="bold" if pd.isna(number) else "normal", horizontalalignment="left")
    axes.set_ylim(len(table) - 0.5, -1.3)
    axes.set_xlabel(measure)
    axes.spines[["top", "left", "right"]].set_visible(False)
    if log:
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in _RATIOS if low <= tick <= high], minor=False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    return figure
