"""From predictions to the table and figure of a run: every number with its n, its positives and its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from datamodules.cohort import CohortInfo
from experiments.statistics.discrimination import auroc_delong

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Group:
    """A set of patients that a metric is computed over."""

    name: str
    kind: str  # internal, external, pooled external, folds
    rows: pd.DataFrame


def groups(predictions: pd.DataFrame) -> Iterator[Group]:
    """The groups that are reported: the internal test, every external centre, all external centres together.

    Predictions of folds (role internal, one row per patient from the fold that tested it) form one group.

    Args:
        predictions: Columns role, center, part, target and the scores; only part `test` is used.
    """
    tested = predictions[predictions["part"] == "test"]
    folds = "fold" in tested
    internal = tested[tested["role"] == "internal"]
    if not internal.empty:
        yield Group("pooled out-of-fold" if folds else "internal test", "folds" if folds else "internal", internal)
    external = tested[tested["role"] == "external"]
    for center, rows in external.groupby("center", sort=True):
        yield Group(f"external {center}", "external", rows)
    if len(set(external["center"])) > 1:
        yield Group("pooled external", "pooled external", external)


def score_columns(predictions: pd.DataFrame) -> list[str]:
    """The score columns in class order."""
    return [name for name in predictions.columns if name.startswith("score_")]


def results_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """AUC of every group of a two-class task.

    Returns:
        Columns group, kind, n, positives, auroc, low, high (95 % DeLong interval); NaN where a class is absent.
    """
    positive = score_columns(predictions)[1]
    rows = []
    for group in groups(predictions):
        target = group.rows["target"].to_numpy(dtype=int)
        estimate = auroc_delong(target, group.rows[positive].to_numpy(dtype=float))
        rows.append(
            {
                "group": group.name,
                "kind": group.kind,
                "n": len(target),
                "positives": int((target == 1).sum()),
                "auroc": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
            }
        )
    return pd.DataFrame(rows)


def caption(info: CohortInfo) -> str:
    """What must be said beside every result of a cohort."""
    parts = [f"Cohort {info.name}."]
    if info.phantom:
        parts.append("Phantom results: the patients are generated.")
    if info.intensity == "rendered":
        parts.append("CT intensities are rendered from masks, not acquired.")
    return " ".join(parts)


def format_table(table: pd.DataFrame) -> str:
    """The results as fixed-width text."""
    lines = [f"{'':24s}{'n':>6s}{'positives':>11s}{'AUC':>8s}  95 % interval"]
    for row in table.to_dict("records"):
        value = "-" if np.isnan(row["auroc"]) else f"{row['auroc']:.3f}"
        interval = "not defined" if np.isnan(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(f"{row['group']:24s}{row['n']:6d}{row['positives']:11d}{value:>8s}  {interval}")
    return "\n".join(lines)


def roc_figure(predictions: pd.DataFrame, title: str, note: str) -> Figure:
    """ROC curves of the internal test (or folds) and of all external centres together."""
    positive = score_columns(predictions)[1]
    table = results_table(predictions).set_index("group")
    figure, axes = plt.subplots(figsize=(5.4, 7.4), layout="constrained")
    figure.suptitle(title)
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    for group in groups(predictions):
        row = table.loc[group.name]
        if np.isnan(row["auroc"]):
            continue
        strong = group.kind != "external"
        rate, sensitivity, _ = roc_curve(group.rows["target"], group.rows[positive])
        size = f"n {row['n']}, {row['positives']} positive"
        label = f"{group.name} ({size}): {row['auroc']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        axes.plot(rate, sensitivity, linewidth=2 if strong else 0.8, alpha=1 if strong else 0.6, label=label)
    axes.set(xlabel="1 - specificity", ylabel="Sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1.005))
    title_font = {"title": "AUC [95 % interval]", "title_fontsize": 8}
    figure.legend(fontsize=8, loc="outside lower center", frameon=False, **title_font)
    axes.set_title("\n".join(textwrap.wrap(note, 80)), fontsize=7, color="0.4")
    return figure


def write_results(folder: Path, predictions: pd.DataFrame, title: str, info: CohortInfo) -> pd.DataFrame:
    """Write `results.csv` and `roc.png` beside the predictions.

    Returns:
        The table.
    """
    table = results_table(predictions)
    table.to_csv(folder / "results.csv", index=False)
    figure = roc_figure(predictions, title, caption(info))
    figure.savefig(folder / "roc.png", dpi=150)
    plt.close(figure)
    return table
