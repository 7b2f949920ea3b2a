"""What all figures share: colours, the words for an estimate, and the note beneath the title."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.files import replacing
from experiments.statistics.estimate import Estimate
from experiments.statistics.support import mark

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart with any colour vision (Okabe and Ito, 2008)."""


def color(number: int) -> str:
    """Colour of a system or group by its place; they repeat after seven."""
    return COLORS[number % len(COLORS)]


def words(estimate: Estimate, digits: int = 2) -> str:
    """Value and interval, such as `0.71 [0.64, 0.78]`; `not defined` where it is not."""
    if math.isnan(estimate.value):
        return "not defined"
    if math.isnan(estimate.low):
        return f"{estimate.value:.{digits}f} [interval not defined]"
    ends = f"[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return f"{estimate.value:.{digits}f} {ends}{mark(estimate.interval)}"


def counts(estimate: Estimate, events: str = "events") -> str:
    """What an estimate rests on, such as `n 120, 31 events`."""
    return f"n {estimate.n}, {estimate.events} {events}"


def new_figure(width: float, height: float, title: str, note: str = "") -> Figure:
    """A figure with its title and, beneath it, what must be said beside the result.

    Args:
        width: Inches.
        height: Inches.
        title: What is shown.
        note: Cohort, and whether results are phantom results.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    lines = [title, *textwrap.wrap(note, int(width * 16))]
    figure.suptitle(lines[0], fontsize=11)
    if len(lines) > 1:
        figure.supxlabel("\n".join(lines[1:]), fontsize=7, color="0.4")
    return figure


def legend(axes: Axes, title: str, columns: int = 1) -> None:
    """The legend below the axes, where it hides no curve."""
    axes.legend(
        fontsize=8,
        frameon=False,
        title=title,
        title_fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=columns,
    )


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure atomically as PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
