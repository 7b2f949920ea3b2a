"""What attribute pretraining reached: every attribute with its AUC, kappa, n and interval, as table and figure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from callbacks.predictions import LESION_DICE
from datamodules.batch import MISSING
from datamodules.cohort.cohort import CohortInfo
from datamodules.csv_files import write_csv
from experiments.scores.plots.style import save
from experiments.scores.results_table import caption, with_interval
from experiments.statistics.auroc import macro_auroc_statistic
from experiments.statistics.bootstrap import Statistic, bootstrap, mean_of, percentile_interval, ratio
from experiments.statistics.support import mean_support
from lightning_modules.pretrain.attributes import SCORED_FROM

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

MEAN = "mean of attributes"


def tested_groups(predictions: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The groups that are reported: internal centres, external centres, both; folds as one."""
    if set(predictions["role"]) <= {"internal"}:
        yield "held out", predictions
        return
    for role in ("internal", "external"):
        rows = predictions[predictions["role"] == role]
        if not rows.empty:
            yield f"{role} centres", rows
    yield "all held-out centres", predictions


def attribute_names(predictions: pd.DataFrame) -> list[str]:
    """The attributes of a prediction table, in order."""
    return [name.split(":", 1)[1] for name in predictions.columns if name.startswith("target:")]


def attribute_statistic(rows: pd.DataFrame, name: str, owner: np.ndarray) -> tuple[Statistic, int, int] | None:
    """The AUC of one attribute as a statistic of weighted patients.

    Args:
        rows: Predictions of a group of kidneys.
        name: Attribute.
        owner: int [rows], number of each kidney's patient.

    Returns:
        The statistic (macro one-vs-rest over classes stated of enough kidneys), the number of kidneys and of classes;
        None where fewer than two classes are.
    """
    target = rows[f"target:{name}"].to_numpy()
    columns = [column for column in rows.columns if column.startswith(f"score:{name}:")]
    counts = np.bincount(target[target != MISSING], minlength=len(columns))
    kept = np.flatnonzero(counts >= SCORED_FROM)
    if len(kept) < 2:
        return None
    used = np.isin(target, kept)
    code = np.searchsorted(kept, target[used])
    score = rows.loc[used, [columns[number] for number in kept]].to_numpy(dtype=float)
    score = score / score.sum(axis=1, keepdims=True).clip(1e-12)
    return macro_auroc_statistic(code, score, owner=owner[used]), int(used.sum()), len(kept)


def attribute_table(predictions: pd.DataFrame, replicates: int = 1000) -> pd.DataFrame:
    """AUC and kappa of every attribute in every group, and the mean AUC, with 95 % intervals over patients.

    Args:
        predictions: As `callbacks.predictions.attribute_frame` makes them.
        replicates: Bootstrap replicates; patients are resampled with both their kidneys.

    Returns:
        Columns group, attribute, kidneys, patients, classes, auroc, low, high, interval (its method, or why there is
        none), kappa; NaN where not defined.
    """
    rows = []
    for group, part in tested_groups(predictions):
        part = part.reset_index(drop=True)
        owner, names = pd.factorize(part["patient_id"])
        found = {name: attribute_statistic(part, name, owner) for name in attribute_names(part)}
        scored: list[Statistic] = []
        replicate_values, point_values = [], []
        for name, entry in found.items():
            row = {"group": group, "attribute": name, "patients": len(names)}
            if entry is None:
                stated = int((part[f"target:{name}"] != MISSING).sum())
                row |= {"interval": "none: fewer than two classes are stated of enough kidneys"}
                rows.append(row | {"kidneys": stated, "classes": 0} | dict.fromkeys(_NUMBERS, float("nan")))
                continue
            statistic, kidneys, classes = entry
            estimate, values = bootstrap(statistic, len(names), replicates)
            scored.append(statistic)
            replicate_values.append(values)
            point_values.append(estimate.value)
            rows.append(
                row
                | {"kidneys": kidneys, "classes": classes, "kappa": _kappa(part, name)}
                | {"auroc": estimate.value, "low": estimate.low, "high": estimate.high, "interval": estimate.interval}
            )
        if point_values:
            support = mean_support([statistic.support for statistic in scored])
            mean = percentile_interval(float(np.mean(point_values)), defined_mean(replicate_values), support)
            rows.append(
                {"group": group, "attribute": MEAN, "kidneys": len(part), "patients": len(names), "classes": 0}
                | {"auroc": mean.value, "low": mean.low, "high": mean.high, "interval": mean.interval}
                | {"kappa": float("nan")}
            )
    order = ["group", "attribute", "kidneys", "patients", "classes", "auroc", "low", "high", "interval", "kappa"]
    return pd.DataFrame(rows)[order]


def defined_mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over attributes in every replicate [R]; one whose class a replicate has lost is left out of that replicate.

    Args:
        values: float [R] of every attribute.
    """
    stacked = np.stack(values)
    defined = np.isfinite(stacked)
    return ratio(np.where(defined, stacked, 0.0).sum(axis=0), defined.sum(axis=0))


_NUMBERS = ("auroc", "low", "high", "kappa")


def _kappa(rows: pd.DataFrame, name: str) -> float:
    """Cohen's kappa between the likeliest class and the stated one."""
    target = rows[f"target:{name}"].to_numpy()
    columns = [column for column in rows.columns if column.startswith(f"score:{name}:")]
    used = target != MISSING
    return float(cohen_kappa_score(target[used], rows.loc[used, columns].to_numpy().argmax(axis=1)))


def attribute_figure(table: pd.DataFrame, title: str, note: str) -> Figure:
    """AUC of every attribute with its interval, largest first, one panel per group."""
    groups = list(dict.fromkeys(table["group"]))
    last = table[(table["group"] == groups[-1]) & table["auroc"].notna()]
    order = [name for name in last.sort_values("auroc")["attribute"] if name != MEAN]
    labels = [MEAN, *order]
    figure, panels = plt.subplots(
        1, len(groups), figsize=(2.6 + 2.7 * len(groups), 1.2 + 0.21 * len(labels)), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axes, group in zip(panels[0], groups, strict=True):
        rows = table[table["group"] == group].set_index("attribute").reindex(labels)
        height = np.arange(len(labels))
        colours = ["C3" if name == MEAN else "C0" for name in labels]
        axes.hlines(height, rows["low"], rows["high"], color=colours, linewidth=1.4)
        axes.scatter(rows["auroc"], height, color=colours, s=16, zorder=3)
        axes.axvline(0.5, color="0.7", linewidth=0.8)
        kidneys = int(table.loc[(table["group"] == group) & (table["attribute"] == MEAN), "kidneys"].iloc[0])
        axes.set(title=f"{group}\n{kidneys} kidneys", xlabel="AUC, 95 % interval", xlim=(0.2, 1.0))
        axes.set_yticks(height, [name.replace("_", " ") for name in labels], fontsize=8)
        axes.grid(axis="x", color="0.93")
        axes.title.set_fontsize(9)
    figure.suptitle(title + "\n" + "\n".join(textwrap.wrap(note, 90)), fontsize=9)
    return figure


def dice_table(predictions: pd.DataFrame, replicates: int = 1000) -> pd.DataFrame:
    """Mean Dice coefficient of the painted lesions in every group, with 95 % intervals over patients.

    Args:
        predictions: As `callbacks.predictions.AttributePredictionWriter` writes them.
        replicates: Bootstrap replicates; patients are resampled with both their kidneys.

    Returns:
        Columns group, kidneys, patients, dice, low, high, interval (its method), median; empty where nothing was
        painted.
    """
    rows = []
    measured = predictions[predictions[LESION_DICE].notna()] if LESION_DICE in predictions else predictions.iloc[:0]
    for group, part in tested_groups(measured) if len(measured) else ():
        patients, owner = np.unique(part["patient_id"].astype(str).to_numpy(), return_inverse=True)
        value = part[LESION_DICE].to_numpy(dtype=float)
        estimate, _ = bootstrap(mean_of(value, owner=owner), len(patients), replicates)
        rows.append(
            {
                "group": group,
                "kidneys": len(part),
                "patients": len(patients),
                "dice": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "interval": estimate.interval,
                "median": float(np.median(value)),
            }
        )
    return pd.DataFrame(rows)


def stage_summary(folder: Path, predictions: pd.DataFrame, info: CohortInfo) -> str:
    """Write `attributes.csv` and `attributes.png`, and say the mean AUC in a sentence."""
    table = attribute_table(predictions)
    write_csv(folder / "attributes.csv", table)
    if table["auroc"].notna().any():
        figure = attribute_figure(table, "Attributes predicted from the image", caption(info))
        save(figure, folder / "attributes.png")
        plt.close(figure)
    painted = _painted(folder, predictions)
    means = table[table["attribute"] == MEAN]
    if means.empty:
        return f"No attribute is stated of enough kidneys of the held-out patients to be scored.{painted}"
    row = means.iloc[-1]
    shown = with_interval(row["auroc"], row["low"], row["high"], row["interval"])
    scored = int(table[(table["group"] == row["group"]) & (table["attribute"] != MEAN)]["auroc"].notna().sum())
    return (
        f"Mean AUC of {scored} attributes, {row['group']}, with 95 % interval: {shown}, "
        f"{row['kidneys']} kidneys of {row['patients']} patients.{painted}"
    )


def _painted(folder: Path, predictions: pd.DataFrame) -> str:
    """Write `lesion_dice.csv`, and say the overlap of painted lesions in a sentence; nothing where none were."""
    table = dice_table(predictions)
    if table.empty:
        return ""
    write_csv(folder / "lesion_dice.csv", table)
    row = table.iloc[-1]
    return (
        f" Lesions painted without a mask, {row['group']}: mean Dice, with 95 % interval, "
        f"{with_interval(row['dice'], row['low'], row['high'], row['interval'])}, "
        f"median {row['median']:.3f}, {row['kidneys']} kidneys of {row['patients']} patients."
    )
