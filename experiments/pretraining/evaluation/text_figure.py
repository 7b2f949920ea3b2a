"""The picture of a text evaluation: facts told apart, attributes read, and the geometry of the embeddings."""

from __future__ import annotations

import textwrap

import matplotlib
import numpy as np
import pandas as pd

from experiments.pretraining.evaluation.text_results import ALIGNMENT, ATTRIBUTES, EVERY, MEAN, RETRIEVAL, UNIFORMITY

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SHOWN_FROM = 20
"""Fewest kidneys of a kind of fact to be drawn; the table holds all."""


def text_figure(values: pd.DataFrame, group: str, title: str, note: str) -> Figure:
    """Draw a table of `experiments.pretraining.evaluation.text_results.tabulate`.

    Args:
        values: Its values.
        group: Group of patients of the first and third panel; the second shows all groups.
        title: Title.
        note: What must be said beside it.
    """
    systems = list(dict.fromkeys(values["system"]))
    colours = {system: f"C{number}" for number, system in enumerate(systems)}
    own = values[values["group"] == group]
    retrieval = own[(own["metric"] == RETRIEVAL) & (own["kidneys"] >= SHOWN_FROM)]
    kinds = [EVERY, *(kind for kind in dict.fromkeys(retrieval["kind"]) if kind != EVERY)][::-1]
    figure, panels = plt.subplots(
        1, 3, figsize=(13, 1.6 + 0.36 * len(kinds)), layout="constrained", width_ratios=(3, 2, 2)
    )
    counts = retrieval.drop_duplicates("kind").set_index("kind")["kidneys"]
    labels = [f"{kind.replace('_', ' ')} (n {counts[kind]})" for kind in kinds]
    _intervals(panels[0], retrieval.set_index(["system", "kind"]), kinds, labels, colours)
    panels[0].set(xlabel="Paraphrase nearer than the text with the fact changed, 95 % interval", xlim=(-0.02, 1.02))
    panels[0].axvline(0.5, color="0.7", linewidth=0.8)
    panels[0].set_title(f"One fact changed, {group}", fontsize=9)
    means = values[(values["metric"] == ATTRIBUTES) & (values["kind"] == MEAN)]
    groups = list(dict.fromkeys(means["group"]))[::-1]
    sizes = means.drop_duplicates("group").set_index("group")["kidneys"]
    names = [f"{name}\n(n {sizes[name]})" for name in groups]
    _intervals(panels[1], means.set_index(["system", "group"]), groups, names, colours)
    panels[1].set(xlabel="Mean AUC of attributes, 95 % interval")
    panels[1].set_title("Linear probe of attributes", fontsize=9)
    _geometry(panels[2], own, colours)
    handles = [plt.Line2D([], [], color=colours[name], marker="o", label=name) for name in systems]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(systems), frameon=False, fontsize=9)
    figure.suptitle(title + "\n" + "\n".join(textwrap.wrap(note, 150)), fontsize=10)
    return figure


def _intervals(axes: Axes, rows: pd.DataFrame, entries: list[str], labels: list[str], colours: dict[str, str]) -> None:
    step = 0.7 / max(1, len(colours))
    for number, (system, colour) in enumerate(colours.items()):
        part = rows.loc[system].reindex(entries)
        height = np.arange(len(entries)) + 0.35 - step * (number + 0.5)
        axes.hlines(height, part["low"], part["high"], color=colour, linewidth=1.2)
        axes.scatter(part["value"], height, color=colour, s=14, zorder=3)
    axes.set_yticks(np.arange(len(entries)), labels, fontsize=8)
    axes.grid(axis="x", color="0.93")


def _geometry(axes: Axes, rows: pd.DataFrame, colours: dict[str, str]) -> None:
    for system, colour in colours.items():
        places = rows[rows["system"] == system].set_index("metric")["value"]
        axes.scatter(places[UNIFORMITY], places[ALIGNMENT], color=colour, s=40)
    axes.set(xlabel="Uniformity (lower: spread out)", ylabel="Alignment (lower: nearer)")
    axes.set_title("Geometry of the embeddings", fontsize=9)
    axes.grid(color="0.93")
