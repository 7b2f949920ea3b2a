"""`make compare`: encoders against each other on the same patients, seeds pooled, with paired intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from callbacks.predictions import PREDICTIONS
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import ENDPOINTS
from datamodules.cohort.labels import targets
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from datamodules.files import read_json_mapping, read_parquet
from experiments.finetuning.point import mode_suffix
from experiments.registry import ENCODERS, MODES, TASKS, choose, task_label
from experiments.runs.console import say
from experiments.runs.folders import experiment_of
from experiments.runs.launch import DONE, RUN_COMMAND
from experiments.scores.outcomes import ACROSS_FOLDS, FOLD, Metric, across_columns, metric_of, outcomes_of
from experiments.scores.results_table import groups, marked, row_name, scored_caption, width_of, with_interval
from experiments.statistics.bootstrap import bootstrap, percentile_difference, seed_mean
from experiments.statistics.estimate import Estimate
from experiments.statistics.multiplicity import benjamini_hochberg, holm
from experiments.statistics.support import Support, mark

REPORTED = ("internal", "pooled external", "folds")
CORRECTIONS = {"holm": ("Holm", holm), "benjamini_hochberg": ("Benjamini and Hochberg", benjamini_hochberg)}
"""Name and function of every correction of p values for several comparisons."""


@dataclass(frozen=True)
class FinishedPoint:
    """A finished point: its predictions of one encoder, fraction and seed."""

    encoder: str
    fraction: float
    seed: int
    predictions: pd.DataFrame


def finished_points(
    runs: Path, cohort: Cohort, task: str, tag: str = "", mode: str = "finetune"
) -> list[FinishedPoint]:
    """All finished points of a task of a cohort.

    Args:
        runs: Folder of all runs.
        cohort: The cohort.
        task: Downstream task.
        tag: Only runs with this TAG.
        mode: Only fine-tuned points, or only linear probes.

    Raises:
        DataError: if a point was tested in other folds, or on other labels, than the cohort has now.
    """
    points = []
    for done in sorted((runs / experiment_of(cohort, task)).glob(f"*/{DONE}")):
        point = read_json_mapping(done.parent / RUN_COMMAND, "arguments")["arguments"]
        # Runs of before there were modes are fine-tuned ones.
        if (point["tag"], point.get("mode", "finetune")) == (tag, mode) and point["encoder"] in ENCODERS:
            predictions = read_parquet(done.parent / PREDICTIONS)[0]
            _check_folds(predictions, cohort, done.parent.name)
            _check_labels(predictions, cohort, task, done.parent.name)
            points.append(FinishedPoint(point["encoder"], point["fraction"], point["seed"], predictions))
    return points


def _check_folds(predictions: pd.DataFrame, cohort: Cohort, name: str) -> None:
    """Refuse a point of an older split: its folds would be compared with others, and their replicates not paired."""
    if FOLD not in predictions:
        return
    tested = _tested(predictions)[FOLD]
    now = cohort.patients().set_index("patient_id")["fold"].reindex(tested.index)
    moved = int((now.notna() & (now.astype("Int64") != tested.astype("Int64"))).sum())
    if moved:
        raise DataError(
            f"{moved} of {len(tested)} patients of {name} were tested in another fold than the one that cohort "
            f"{cohort.info.name} has them in now; move the run away, and run it again on this split."
        )


def changed_labels(predictions: pd.DataFrame, cohort: Cohort, task: str) -> int:
    """How many tested patients have another label, or other endpoints, in the cohort than in predictions.

    Args:
        predictions: Predictions of a task.
        cohort: The cohort; patients who are not in it do not count.
        task: The task.
    """
    known = targets(cohort, task_label(task)).set_index("patient_id")
    tested = _tested(predictions)
    tested = tested[tested.index.isin(known.index)]
    now = known.loc[tested.index]
    differs = np.zeros(len(tested), dtype=bool)
    if "target" in tested:
        differs |= _numbers(tested["target"]) != _numbers(now["target"])
    for name in ENDPOINTS:
        for column in (f"{name}_months", f"{name}_event"):
            if column in tested:
                label = np.where(now[f"{name}_known"], _numbers(now[column]), np.nan)
                differs |= ~np.isclose(_numbers(tested[column]), label, rtol=1e-5, atol=1e-5, equal_nan=True)
    return int(differs.sum())


def _check_labels(predictions: pd.DataFrame, cohort: Cohort, task: str, name: str) -> None:
    """Refuse a point of other labels: its figures would be those of a cohort that is no more."""
    changed = changed_labels(predictions, cohort, task)
    if changed:
        raise DataError(
            f"{changed} tested patients of {name} have another label now than the one that they were tested against; "
            f"delete the run, and run it again with `make finetune TASK={task}`."
        )


def _numbers(values: pd.Series) -> np.ndarray:
    return values.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)


def compare(
    task: str = "malignancy",
    reference: str = "scratch",
    data: Path = Path("data/demo"),
    runs: Path = Path("runs"),
    tag: str = "",
    replicates: int = 2000,
    mode: str = "finetune",
    correction: str = "holm",
) -> int:
    """Compare the encoders of all finished points of a task, fraction by fraction.

    The metric of the task (AUC, or C-index of every endpoint) is averaged over the seeds that all encoders of a
    fraction have; its interval and that of the difference to the reference are percentiles of a bootstrap over
    patients, the same patients for every encoder and seed. In a cohort with folds patients are compared and resampled
    within their fold, and the metric of the pooled folds stands beside. The p values are corrected for all comparisons
    of the table.

    Args:
        task: Downstream task.
        reference: Encoder that the others are compared with.
        data: Folder of the cohort.
        runs: Folder of all runs.
        tag: Only runs with this TAG.
        replicates: Bootstrap replicates.
        mode: `finetune` for fine-tuned points, `probe` for linear probes.
        correction: Of the p values: `holm` holds the chance of any false finding, `benjamini_hochberg` the share of
            false ones among the findings.
    """
    choose("CORRECTION", correction, dict(CORRECTIONS))
    choose("TASK", task, dict(TASKS))
    choose("MODE", mode, dict(MODES))
    choose("REFERENCE", reference, dict(ENCODERS))
    cohort = Cohort.load(data)
    points = finished_points(runs, cohort, task, tag, mode)
    if not points:
        raise DataError(
            f"No finished run of task {task} on cohort {cohort.info.name} is in {runs.name}"
            f"{f' with TAG={tag}' if tag else ''}; run `make finetune TASK={task} ENCODER=...` first."
        )
    table = comparison_table(points, reference, replicates, correction)
    path = runs / experiment_of(cohort, task) / f"comparison{mode_suffix(mode, tag)}.csv"
    write_csv(path, table)
    metric = metric_of(points[0].predictions)
    text = format_comparison(table, reference, metric)
    compared = int(table["p"].notna().sum())
    if compared:
        text += f"\np corrected for {compared} comparisons by {CORRECTIONS[correction][0]}; uncorrected in the table."
    say(f"{text}\n{scored_caption(cohort.info, metric)}\nTable: {path.as_posix()}")
    return 0


def comparison_table(
    points: list[FinishedPoint], reference: str, replicates: int = 2000, correction: str = "holm"
) -> pd.DataFrame:
    """The metric of every encoder and its paired difference to the reference.

    Args:
        points: Finished points of one task.
        reference: Encoder that the others are compared with.
        replicates: Bootstrap replicates.
        correction: One of `CORRECTIONS`, over all comparisons of the table.

    Returns:
        Columns fraction, group, endpoint (survival only), encoder, seeds, n, what is counted (positives, minority or
        events), the metric (auroc or c_index), low, high, interval (its method), across_folds, across_folds_low,
        across_folds_high, across_folds_interval (pooled folds; only where there are folds), difference, difference_low,
        difference_high, difference_interval, p, p_corrected; the difference is NaN for the reference itself and where
        it was not run.
    """
    rows: list[dict[str, object]] = []
    for fraction in sorted({point.fraction for point in points}):
        chosen = [point for point in points if point.fraction == fraction]
        by_encoder = {name: {p.seed: p for p in chosen if p.encoder == name} for name in {p.encoder for p in chosen}}
        seeds = sorted(set.intersection(*(set(entry) for entry in by_encoder.values())))
        if not seeds:
            continue
        tables = {name: [by_encoder[name][seed].predictions for seed in seeds] for name in by_encoder}
        names = sorted(tables, key=lambda name: (name != reference, list(ENCODERS).index(name)))
        for group in groups(tables[names[0]][0]):
            if group.kind in REPORTED:
                for outcome in outcomes_of(group.rows):
                    kept = outcome.rows["patient_id"].tolist()
                    shared = {"fraction": fraction, "group": group.name}
                    shared |= {"endpoint": outcome.endpoint} if outcome.endpoint else {}
                    found = {name: pooled_seeds(tables[name], kept, outcome.endpoint, replicates) for name in names}
                    rows += [shared | row for row in _compared(found, reference, len(seeds))]
    metric = metric_of(points[0].predictions)
    columns = ["fraction", "group", *(["endpoint"] if metric.survival else []), "encoder", "seeds", "n", metric.count]
    columns += [
        metric.name,
        "low",
        "high",
        "interval",
        *(ACROSS_FOLDS if metric.within_folds else ()),
        "difference",
        "difference_low",
        "difference_high",
        "difference_interval",
        "p",
    ]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_corrected=CORRECTIONS[correction][1](table["p"].to_numpy(dtype=float)))


@dataclass(frozen=True)
class Pooled:
    """The metric of one encoder, averaged over seeds, and its replicates.

    Args:
        metric: The metric.
        estimate: Its mean over seeds with the interval over patients.
        values: Its replicates.
        by_seed: The metric of every seed.
        support: What the mean over seeds rests on.
        across_folds: The metric of the pooled folds; None where there are no folds.
    """

    metric: Metric
    estimate: Estimate
    values: np.ndarray
    by_seed: tuple[float, ...]
    support: Support
    across_folds: Estimate | None = None


def pooled_seeds(tables: list[pd.DataFrame], patients: list[str], endpoint: str, replicates: int = 2000) -> Pooled:
    """The metric averaged over seeds, with replicates over patients.

    Args:
        tables: Predictions of each seed.
        patients: The patients tested, in the order in which they are resampled.
        endpoint: Endpoint of a survival task; empty for others.
        replicates: Bootstrap replicates.

    Returns:
        Where there are folds, the metric within them, of patients who are resampled within them.
    """
    parts = [_tested(table).loc[patients].reset_index() for table in tables]
    outcomes = [next(found for found in outcomes_of(part) if found.endpoint == endpoint) for part in parts]
    statistics, ones = [outcome.statistic() for outcome in outcomes], np.ones((1, len(patients)), dtype=np.float32)
    sampled = {"patients": len(patients), "replicates": replicates, "events": outcomes[0].count}
    mean = seed_mean(statistics)
    estimate, values = bootstrap(mean, **sampled, strata=outcomes[0].folds)
    by_seed = tuple(float(statistic(ones)[0]) for statistic in statistics)
    pooled = [statistic for outcome in outcomes if (statistic := outcome.across_folds()) is not None]
    across = bootstrap(seed_mean(pooled), **sampled, strata=outcomes[0].folds)[0] if pooled else None
    return Pooled(metric_of(tables[0]), estimate, values, by_seed, mean.support, across)


def _tested(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["part"] == "test"].set_index("patient_id")


def _compared(found: dict[str, Pooled], reference: str, seeds: int) -> Iterator[dict[str, object]]:
    """One row per encoder."""
    for name, pooled in found.items():
        estimate, metric = pooled.estimate, pooled.metric
        row: dict[str, object] = {"encoder": name, "seeds": seeds, "n": estimate.n, metric.count: estimate.events}
        row |= {metric.name: estimate.value, "low": estimate.low, "high": estimate.high, "interval": estimate.interval}
        row |= across_columns(pooled.across_folds)
        if name != reference and reference in found:
            base = found[reference]
            found_gain = percentile_difference(
                estimate.value - base.estimate.value, pooled.values - base.values, pooled.support.minus(base.support)
            )
            gain = found_gain.estimate
            row |= {"difference": gain.value, "difference_low": gain.low, "difference_high": gain.high}
            row |= {"difference_interval": gain.interval, "p": found_gain.p}
        yield row


def format_comparison(table: pd.DataFrame, reference: str, metric: Metric) -> str:
    """The comparison as fixed-width text."""
    title = f"{f'{metric.title} (95 % interval)':{width_of(metric)}s}"
    title += f"{'across folds':14s}" if metric.within_folds else ""
    counted = f"{'seeds':>6s}{'n':>5s}{metric.count_title:>10s}"
    lines = [f"{'labels':>7s}  {'group':24s}{'encoder':12s}{counted}   {title}minus {reference} (95 % interval)"]
    for row in table.to_dict("records"):
        gain = ""
        if np.isfinite(row["difference"]):
            ends = f"{row['difference_low']:+.3f} to {row['difference_high']:+.3f}"
            interval = "(interval not defined)" if np.isnan(row["difference_low"]) else f"({ends})"
            interval += mark(row["difference_interval"])
            gain = f"{row['difference']:+.3f} {interval}, p {row['p_corrected']:.3f}"
        shown = with_interval(row[metric.name], row["low"], row["high"], row["interval"])
        value = f"{shown:{width_of(metric)}s}"
        value += f"{row[ACROSS_FOLDS[0]]:<14.3f}" if metric.within_folds else ""
        lines.append(
            f"{row['fraction']:7.0%}  {row_name(row):24s}{row['encoder']:12s}{row['seeds']:6d}{row['n']:5d}"
            f"{row[metric.count]:10d}   {value}{gain}".rstrip()
        )
    return "\n".join([*lines, *marked(table)])
