"""`make compare`: encoders against each other on the same patients, seeds pooled, with paired intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from callbacks.predictions import PREDICTIONS
from datamodules.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_json, read_parquet, replacing
from experiments.console import say
from experiments.evaluation import caption, groups, score_columns
from experiments.launch import DONE, RUN_COMMAND
from experiments.registry import ENCODERS, TASKS, choose
from experiments.statistics.bootstrap import (
    Statistic,
    bootstrap,
    macro_auroc,
    percentile_interval,
    seed_mean,
    two_sided_p,
)
from experiments.statistics.discrimination import Estimate

REPORTED = ("internal", "pooled external", "folds")


@dataclass(frozen=True)
class Finished:
    """A finished point: its predictions of one encoder, fraction and seed."""

    encoder: str
    fraction: float
    seed: int
    predictions: pd.DataFrame


def finished_points(runs: Path, cohort: Cohort, task: str, tag: str = "") -> list[Finished]:
    """All finished points of a task of a cohort.

    Args:
        runs: Folder of all runs.
        cohort: The cohort.
        task: Downstream task.
        tag: Only runs with this TAG.
    """
    points = []
    for done in sorted((runs / f"renal/{cohort.info.name}/{task}").glob(f"*/{DONE}")):
        point = read_json(done.parent / RUN_COMMAND)["arguments"]
        if point["tag"] == tag and point["encoder"] in ENCODERS:
            predictions = read_parquet(done.parent / PREDICTIONS)[0]
            points.append(Finished(point["encoder"], point["fraction"], point["seed"], predictions))
    return points


def compare(
    task: str = "malignancy",
    reference: str = "scratch",
    data: Path = Path("data/demo"),
    runs: Path = Path("runs"),
    tag: str = "",
    replicates: int = 2000,
) -> int:
    """Compare the encoders of all finished points of a task, fraction by fraction.

    The AUC is averaged over the seeds that all encoders of a fraction have; its interval and that of the difference to
    the reference are percentiles of a bootstrap over patients, the same patients for every encoder and seed.

    Args:
        task: Downstream task.
        reference: Encoder that the others are compared with.
        data: Folder of the cohort.
        runs: Folder of all runs.
        tag: Only runs with this TAG.
        replicates: Bootstrap replicates.
    """
    choose("TASK", task, dict(TASKS))
    choose("REFERENCE", reference, dict(ENCODERS))
    cohort = Cohort.load(data)
    points = finished_points(runs, cohort, task, tag)
    if not points:
        raise DataError(
            f"No finished run of task {task} on cohort {cohort.info.name} is in {runs.name}"
            f"{f' with TAG={tag}' if tag else ''}; run `make finetune TASK={task} ENCODER=...` first."
        )
    table = comparison_table(points, reference, replicates)
    path = runs / f"renal/{cohort.info.name}/{task}" / f"comparison{f'-{tag}' if tag else ''}.csv"
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
    say(f"{format_comparison(table, reference)}\n{caption(cohort.info)}\nTable: {path.as_posix()}")
    return 0


def comparison_table(points: list[Finished], reference: str, replicates: int = 2000) -> pd.DataFrame:
    """AUC of every encoder and its paired difference to the reference.

    Returns:
        Columns fraction, group, encoder, seeds, n, positives, auroc, low, high, difference, difference_low,
        difference_high, p; the difference is NaN for the reference itself and where it was not run.
    """
    rows = []
    for fraction in sorted({point.fraction for point in points}):
        chosen = [point for point in points if point.fraction == fraction]
        by_encoder = {name: {p.seed: p for p in chosen if p.encoder == name} for name in {p.encoder for p in chosen}}
        seeds = sorted(set.intersection(*(set(entry) for entry in by_encoder.values())))
        if not seeds:
            continue
        names = sorted(by_encoder, key=lambda name: (name != reference, list(ENCODERS).index(name)))
        first = by_encoder[names[0]][seeds[0]].predictions
        for group, patients in _groups(first):
            results = {
                name: _pooled([by_encoder[name][seed].predictions for seed in seeds], patients, replicates)
                for name in names
            }
            for name in names:
                estimate, values, n, positives = results[name]
                row = {"fraction": fraction, "group": group, "encoder": name, "seeds": len(seeds), "n": n}
                row |= {"positives": positives, "auroc": estimate.value, "low": estimate.low, "high": estimate.high}
                if name != reference and reference in results:
                    base, base_values = results[reference][:2]
                    gain = percentile_interval(estimate.value - base.value, values - base_values)
                    row |= {"difference": gain.value, "difference_low": gain.low, "difference_high": gain.high}
                    row["p"] = two_sided_p(values - base_values)
                rows.append(row)
    columns = ["fraction", "group", "encoder", "seeds", "n", "positives", "auroc", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "difference", "difference_low", "difference_high", "p"])


def _groups(predictions: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    for group in groups(predictions):
        if group.kind in REPORTED:
            yield group.name, group.rows["patient_id"].tolist()


def _pooled(tables: list[pd.DataFrame], patients: list[str], replicates: int) -> tuple[Estimate, np.ndarray, int, int]:
    """Estimate, replicates, n and positives of the AUC averaged over seeds, for one group of patients."""
    parts = [table.set_index("patient_id").loc[patients] for table in tables]
    estimate, values = bootstrap(seed_mean([_auc_of(part) for part in parts]), len(patients), replicates)
    return estimate, values, len(patients), int((parts[0]["target"] == 1).sum())


def _auc_of(rows: pd.DataFrame) -> Statistic:
    target, score = rows["target"].to_numpy(dtype=int), rows[score_columns(rows)].to_numpy(dtype=float)
    return lambda weights: macro_auroc(target, score, weights)


def format_comparison(table: pd.DataFrame, reference: str) -> str:
    """The comparison as fixed-width text."""
    lines = [f"{'labels':>7s}  {'group':20s}{'encoder':12s}{'seeds':>6s}{'n':>5s}{'pos':>5s}   AUC (95 % interval)    "
             f"minus {reference} (95 % interval)"]  # fmt: skip
    for row in table.to_dict("records"):
        gain = ""
        if np.isfinite(row["difference"]):
            interval = f"({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"
            gain = f"{row['difference']:+.3f} {interval}, p {row['p']:.3f}"
        lines.append(
            f"{row['fraction']:7.0%}  {row['group']:20s}{row['encoder']:12s}{row['seeds']:6d}{row['n']:5d}"
            f"{row['positives']:5d}   {row['auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f})   {gain}"
        )
    return "\n".join(lines)
