"""Scores of report-writing systems as a picture: facts above, words below, a panel a measure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from datamodules.files import replacing
from experiments.generation.system_scores import MEASURES

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SHOWN = ("fact_micro_f1", "fact_macro_f1", "hallucination", "omission", "bleu_4", "rouge_l", "meteor", "cider")


def scores_figure(path: Path, table: pd.DataFrame, titles: Mapping[str, str], note: str) -> None:
    """Draw the last group of a table of scores, which pools most patients.

    Args:
        path: PNG file.
        table: As `scores_table` gives it, with `group`.
        titles: Title of every system by name, in order.
        note: What must be said beside the results.
    """
    group = table["group"].iloc[-1]
    rows = table[table["group"] == group].set_index(["system", "measure"])
    height = np.arange(len(titles))[::-1]
    figure, panels = plt.subplots(
        2, 4, figsize=(12.5, 2.2 + 0.55 * len(titles)), sharey=True, layout="constrained", squeeze=False
    )
    for axes, measure in zip(panels.flat, SHOWN, strict=True):
        for number, name in enumerate(titles):
            if (name, measure) not in rows.index or not np.isfinite(rows.loc[(name, measure), "value"]):
                continue
            row = rows.loc[(name, measure)]
            axes.hlines(height[number], row["low"], row["high"], color=f"C{number}", linewidth=2)
            axes.scatter(row["value"], height[number], color=f"C{number}", s=24, zorder=3)
        better = {"higher": "more is better", "lower": "less is better"}[MEASURES[measure].better]
        axes.set_title(f"{MEASURES[measure].title}\n({better})", fontsize=9)
        axes.set_xlim(left=0)
        axes.set_yticks(height, ["\n".join(textwrap.wrap(title, 26)) for title in titles.values()], fontsize=8)
        axes.set_ylim(-0.6, len(titles) - 0.4)
        axes.grid(axis="x", color="0.93")
    counted = rows.iloc[0]
    heading = f"Generated reports, {group}: {counted['n']} patients, {counted['kidneys']} kidneys"
    figure.suptitle(heading + "\n" + "\n".join(textwrap.wrap(note, 150)), fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)
