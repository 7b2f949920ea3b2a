"""What `make attributes` found, as a table on the screen and as one picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from datamodules.reports.schema import AttributeSchema
from experiments.cohorts.extractor_accuracy import EVERY

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_UNSTATED = "#e6e6e6"
_SHOWN = 0.06
"""Share of the kidneys from which a class's name fits into its bar."""


def print_report(summary: Mapping[str, Any], folder: Path) -> None:
    """Print what was found: counts, and by attribute the stated rate with agreement and accuracy where known.

    Args:
        summary: As in `summary.json`.
        folder: Folder with `agreement.csv` and `accuracy.csv`.
    """
    console = Console(width=120)
    phantom = " Phantom results." if summary["phantom"] else ""
    console.print(
        f"Cohort {summary['cohort']}: {summary['statements']} statements ({summary['uncertain']} hedged, "
        f"{summary['reviewed']} by the reviewer) of {summary['kidneys']} kidneys of {summary['patients']} patients in "
        f"{summary['reports']} of {summary['reports_in_cohort']} reports, by {summary['extractor']}; attribute schema "
        f"{summary['schema_version']} ({summary['schema_hash']}).{phantom}",
        highlight=False,
    )
    kappas, scores = _indexed(folder / "agreement.csv"), _indexed(folder / "accuracy.csv", summary["extractor"])
    table = Table("attribute", "stated", box=None)
    if kappas is not None:
        table.add_column("kappa", no_wrap=True)
        console.print(f"Kappa is with {summary['compare']}, over all kidneys; in brackets 95 % intervals.")
    if scores is not None:
        for name in ("in truth", "macro F1", "recall", "precision", "silence"):
            table.add_column(name, no_wrap=True)
        console.print("Silence: share of the kidneys of which the truth states nothing and nothing was read.")
    for name, stated in summary["stated"].items():
        table.add_row(name, *_cells(name, stated, kappas, scores))
    for group, totals in _totals(folder / "accuracy.csv", summary["extractor"]):
        table.add_row(group, *_cells(EVERY, int(totals["found"].iloc[0]), kappas, totals))
    console.print(table, highlight=False)


def _indexed(path: Path, extractor: str | None = None) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    frame = pd.read_csv(path)
    if extractor is not None:
        rows = (frame["extractor"] == extractor) & (frame["group"] == EVERY) & (frame["class"] == EVERY)
        frame = frame[rows]
    return frame.set_index("attribute")


def _totals(path: Path, extractor: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Over all attributes together, by group of centres."""
    if path.is_file():
        frame = pd.read_csv(path)
        whole = frame[(frame["extractor"] == extractor) & (frame["attribute"] == EVERY)]
        for group in whole["group"].unique():
            yield str(group), whole[whole["group"] == group].set_index("attribute")


def _cells(name: str, stated: int, kappas: pd.DataFrame | None, scores: pd.DataFrame | None) -> list[str]:
    cells = [str(stated)]
    if kappas is not None:
        cells.append(_estimate(kappas, name, "kappa"))
    if scores is not None:
        cells.append(str(scores.loc[name, "stated"]) if name in scores.index else "-")
        cells += [_estimate(scores, name, column) for column in ("macro_f1", "recall", "precision", "silence")]
    return cells


def _estimate(frame: pd.DataFrame, name: str, column: str) -> str:
    if name not in frame.index or pd.isna(frame.loc[name, column]):
        return "-"
    value, low, high = (float(frame.loc[name].get(f"{column}{end}", np.nan)) for end in ("", "_low", "_high"))
    interval = "" if np.isnan(low) else f" ({_short(low)}–{_short(high)})"
    return _short(value) + interval


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if 0 <= value < 0.995 else f"{value:.2f}"


def draw_report(
    table: pd.DataFrame,
    kidneys: pd.DataFrame,
    kappas: pd.DataFrame | None,
    scores: pd.DataFrame | None,
    schema: AttributeSchema,
    summary: Mapping[str, Any],
    path: Path,
) -> None:
    """Draw how often each attribute is stated, its classes, and how well it is read where that is known.

    Args:
        table: Rows of the table `attributes`.
        kidneys: The kidneys that were read of.
        kappas: Table of `agreement`.
        scores: Table of `accuracy` with a column `extractor`.
        schema: Attributes and classes.
        summary: As `print_report`.
        path: PNG to write.
    """
    figure, (bars, points) = plt.subplots(
        1, 2, figsize=(11, 1.4 + 0.3 * len(schema.names)), width_ratios=[2.4, 1], sharey=True, layout="constrained"
    )
    _draw_classes(bars, table, len(kidneys), schema)
    known = _draw_points(points, kappas, scores, schema, summary)
    if not known:
        points.remove()
    what = "phantom results" if summary["phantom"] else f"cohort {summary['cohort']}"
    figure.suptitle(
        f"Attributes read by {summary['extractor']}: {summary['reports']} reports, {len(kidneys)} kidneys, {what}",
        fontsize=11,
    )
    figure.savefig(path, dpi=130, format="png")
    plt.close(figure)


def _draw_classes(axes: Axes, table: pd.DataFrame, kidneys: int, schema: AttributeSchema) -> None:
    for row, attribute in enumerate(schema.attributes):
        values = table.loc[table["attribute"] == attribute.name, "value"].value_counts()
        axes.barh(row, 1.0, color=_UNSTATED, height=0.78)
        colours = plt.get_cmap("viridis")(np.linspace(0.15, 0.9, len(attribute.class_names)))
        left = 0.0
        for name, colour in zip(attribute.class_names, colours, strict=True):
            share = float(values.get(name, 0)) / max(kidneys, 1)
            axes.barh(row, share, left=left, color=colour, height=0.78)
            text = name.replace("_", " ")
            if share > max(_SHOWN, 0.0115 * len(text)):
                dark = float(np.dot(colour[:3], (0.3, 0.59, 0.11))) < 0.5
                axes.text(left + share / 2, row, text, ha="center", va="center", fontsize=7, color="w" if dark else "k")
            left += share
        axes.text(1.01, row, f"{left:.0%}", va="center", fontsize=7)
    axes.set_yticks(range(len(schema.names)), [name.replace("_", " ") for name in schema.names], fontsize=8)
    axes.set_ylim(len(schema.names) - 0.4, -0.6)
    axes.set_xlim(0, 1.07)
    axes.set_xticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)], fontsize=8)
    axes.set_xlabel("share of kidneys by class; grey: not stated; at the right: stated", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_points(
    axes: Axes,
    kappas: pd.DataFrame | None,
    scores: pd.DataFrame | None,
    schema: AttributeSchema,
    summary: Mapping[str, Any],
) -> bool:
    """Kappa and macro F1 with their intervals; whether there was anything to draw."""
    series: list[tuple[str, pd.DataFrame, str, str]] = []
    if kappas is not None:
        series.append((f"kappa with {summary['compare']}", kappas, "kappa", "#b5452c"))
    if scores is not None:
        rows = (scores["extractor"] == summary["extractor"]) & (scores["group"] == EVERY) & (scores["class"] == EVERY)
        series.append(("macro F1 against the truth", scores[rows], "macro_f1", "#2a5d8f"))
    for number, (label, frame, column, colour) in enumerate(series):
        indexed = frame.set_index("attribute").reindex(list(schema.names))
        heights = np.arange(len(indexed)) + (number - (len(series) - 1) / 2) * 0.3
        low, high = (indexed[f"{column}_{end}"].astype(float) for end in ("low", "high"))
        axes.hlines(heights, low, high, color=colour, linewidth=1.2)
        axes.plot(indexed[column].astype(float), heights, "o", color=colour, markersize=3.5, label=label)
    if series:
        axes.set_xlim(min(0.0, *axes.get_xlim()), 1.02)
        axes.set_xlabel("with 95 % intervals over patients", fontsize=8)
        axes.tick_params(axis="both", labelsize=8, length=0)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
    return bool(series)
