"""From the predictions of a curve's points to its table, and to the smallest fraction that is enough."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from callbacks.predictions import PREDICTIONS
from datamodules.cohort.cohort import Cohort
from datamodules.files import read_parquet
from experiments.finetuning.point import Point, without_labels
from experiments.registry import ENCODERS
from experiments.runs.console import say
from experiments.scores.outcomes import ACROSS_FOLDS, Metric, across_columns, outcomes_of
from experiments.scores.results_table import groups, marked, row_name, width_of, with_interval
from experiments.statistics.data_efficiency import smallest_fraction
from experiments.studies.compare import REPORTED, Pooled, changed_labels, pooled_seeds

ZERO_SHOT = ("aligned", "mean prompt")
"""The encoder that classifies without labels, and the strategy of its prompts that stands at 0 %."""


@dataclass(frozen=True)
class Skipped:
    """An encoder or a fraction that is not in the curve, and why."""

    encoder: str | None
    fraction: float | None
    reason: str

    @property
    def short(self) -> str:
        """What is skipped, with the part of the reason that a figure has room for."""
        if self.fraction is not None:
            return f"{self.fraction:.3g} of the labels: {self.reason.rsplit('; ', 1)[-1]}"
        return f"{self.words.split(';')[0].rstrip('.')}."

    @property
    def words(self) -> str:
        """What is skipped and why."""
        what = self.encoder if self.fraction is None else f"{self.fraction:.3g} of the labels"
        return f"{what}: {self.reason}"


@dataclass(frozen=True)
class Curve:
    """What a curve consists of.

    Args:
        first: A point, of which task, mode, profile, folders and flags hold for all.
        encoders: Encoders that can be run.
        labels: Training patients of every fraction that can be run, rising; the mean over seeds and folds.
        seeds: Seeds.
        skipped: What cannot be run.
        failed: Names of points that failed, with the reason; their encoder and fraction is averaged over the other
            seeds.
        only: Points that the curve is of, by encoder, fraction and seed, where it is not of all.
    """

    first: Point
    encoders: list[str]
    labels: dict[float, float]
    seeds: list[int]
    skipped: list[Skipped]
    failed: Mapping[str, str] = field(default_factory=dict)
    only: frozenset[tuple[str, float, int]] | None = None

    @property
    def how(self) -> str:
        """How its points were trained, in words."""
        tagged = f", runs tagged {self.first.tag}" if self.first.tag else ""
        return f"{'linear probe' if self.first.mode == 'probe' else 'fine-tuned'}{tagged}"

    def points(self) -> list[Point]:
        """All points, the seeds of one encoder and fraction after each other; without labels those from prompts."""
        return [
            replace(self.first, encoder=encoder, fraction=fraction, seed=seed)
            for encoder in self.encoders
            for fraction in self.labels
            for seed in self.seeds
            if fraction > 0 or without_labels(self.first.task, encoder)
            if self.only is None or (encoder, fraction, seed) in self.only
        ]


@dataclass(frozen=True)
class Cell:
    """One encoder and fraction, on one outcome of one group of patients."""

    encoder: str
    fraction: float
    group: str
    kind: str
    endpoint: str
    own: bool  # whether the task was trained on this endpoint
    pooled: Pooled


def collect(plan: Curve, cohort: Cohort, replicates: int = 2000) -> list[Cell]:
    """The metric of every encoder and fraction, averaged over seeds, with its replicates.

    All are resampled over the same patients in the same order, so that replicates are paired. Single centres are
    scored on the endpoint that was trained on; pooled groups on every one that is known.

    Args:
        plan: The curve, all of whose points are finished or failed; at least one is finished.
        cohort: The cohort.
        replicates: Bootstrap replicates over patients.
    """
    tables: dict[tuple[str, float], list[pd.DataFrame]] = {}
    for point in plan.points():
        if point.name in plan.failed:
            continue
        predictions = read_parquet(point.folder(cohort) / PREDICTIONS)[0]
        tables.setdefault((point.encoder, point.fraction), []).append(predictions)
    cells = []
    for group in groups(next(iter(tables.values()))[0]):
        for number, outcome in enumerate(outcomes_of(group.rows)):
            own = outcome.endpoint in ("", next(outcomes_of(group.rows)).endpoint) and number == 0
            if not own and group.kind not in REPORTED:
                continue
            patients = outcome.rows["patient_id"].tolist()
            for (encoder, fraction), seeds in tables.items():
                pooled = pooled_seeds(seeds, patients, outcome.endpoint, replicates)
                cells.append(Cell(encoder, fraction, group.name, group.kind, outcome.endpoint, own, pooled))
    return cells


def zero_shot_rows(plan: Curve, cohort: Cohort, metric: Metric) -> list[dict[str, object]]:
    """Rows at 0 % of the labels, where `make zeroshot` was run for the task and its encoder is in the curve.

    Figures of other patients or labels than those of the points are left out, which is said.
    """
    encoder, strategy = ZERO_SHOT
    folder = plan.first.folder(cohort).parent / f"{encoder}-zeroshot-{plan.first.pretrained}"
    if encoder not in plan.encoders or not (folder / "results.csv").is_file():
        return []
    tested = read_parquet(folder / PREDICTIONS)[0]
    tested = tested[tested["part"] == "test"]
    point = next(point for point in plan.points() if point.name not in plan.failed)
    theirs = read_parquet(point.folder(cohort) / PREDICTIONS)[0]
    others = set(tested["patient_id"]) ^ set(theirs.loc[theirs["part"] == "test", "patient_id"])
    changed = changed_labels(tested, cohort, plan.first.task)
    if others or changed:
        what = f"{len(others)} tested patients are others" if others else f"{changed} of the labels are others now"
        say(f"Left out: zero-shot figures of {encoder}, of which {what}; run `make zeroshot` again.")
        return []
    found = pd.read_csv(folder / "results.csv")
    rows: list[dict[str, object]] = []
    for row in found[found["strategy"] == strategy].to_dict("records"):
        counted = row["positives"] if metric.count == "positives" else pd.NA
        rows.append(
            {"encoder": encoder, "fraction": 0.0, "labels": 0.0, "group": row["group"], "kind": row["kind"]}
            | {"seeds": 1, "n": row["n"], metric.count: counted, "metric": metric.name, "value": row["auroc"]}
            | {"spread": np.nan, "low": row["low"], "high": row["high"], "interval": row["interval"]}
            | {"note": f"zero-shot, {strategy}"}
        )
    return rows


def curve_table(plan: Curve, cells: list[Cell], zero_shot: list[dict[str, object]]) -> pd.DataFrame:
    """The curve as a table.

    Returns:
        Columns encoder, fraction, labels (training patients), group, kind, endpoint (survival only), seeds, n, what is
        counted (positives, minority or events), metric, value (mean over seeds), spread (standard deviation over seeds,
        NaN of one), low, high (95 % interval over patients), interval (its method), across_folds, across_folds_low,
        across_folds_high, across_folds_interval (pooled folds; only where there are folds, value being within them),
        note. What was skipped has a row with the reason in note and no value.
    """
    metric = cells[0].pooled.metric
    rows: list[dict[str, object]] = []
    for cell in cells:
        estimate, seeds = cell.pooled.estimate, cell.pooled.by_seed
        row: dict[str, object] = {"encoder": cell.encoder, "fraction": cell.fraction}
        row |= {"labels": plan.labels[cell.fraction], "group": cell.group, "kind": cell.kind, "endpoint": cell.endpoint}
        row |= {"seeds": len(seeds), "n": estimate.n, metric.count: estimate.events, "metric": metric.name}
        row |= {"value": estimate.value, "spread": np.std(seeds, ddof=1) if len(seeds) > 1 else np.nan}
        row |= across_columns(cell.pooled.across_folds)
        rows.append(row | {"low": estimate.low, "high": estimate.high, "interval": estimate.interval, "note": ""})
    rows += zero_shot
    rows += [{"encoder": entry.encoder, "fraction": entry.fraction, "note": entry.words} for entry in plan.skipped]
    for point in plan.points():
        if point.name in plan.failed:
            note = f"{point.name} failed: {plan.failed[point.name]}"
            rows.append({"encoder": point.encoder, "fraction": point.fraction, "note": note})
    columns = ["encoder", "fraction", "labels", "group", "kind", *(["endpoint"] if metric.survival else []), "seeds"]
    columns += ["n", metric.count, "metric", "value", "spread", "low", "high", "interval"]
    columns += [*(ACROSS_FOLDS if metric.within_folds else ()), "note"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"seeds": "Int64", "n": "Int64", metric.count: "Int64"})


def reached_table(plan: Curve, cells: list[Cell]) -> pd.DataFrame:
    """The smallest fraction at which each pretrained encoder reaches the best baseline at 100 % of the labels.

    Of the internal test, the pooled external patients or the pooled folds, on the endpoint that was trained on.
    Baselines are the encoders that owe nothing to the pretraining stages.

    Returns:
        Columns encoder, group, baseline, fraction, low, high (infinite: not reached), reached (share of replicates), n,
        events, sentence; empty where there is no such encoder, no baseline, or no 100 %.
    """
    rows = []
    shown = dict.fromkeys(cell.group for cell in cells if cell.kind in REPORTED)
    for group in shown:
        own = {(c.encoder, c.fraction): c.pooled for c in cells if c.group == group and c.own}
        best = [n for n in plan.encoders if ENCODERS[n].baseline and np.isfinite(_value(own.get((n, 1.0))))]
        for name in plan.encoders:
            steps = [step for step in plan.labels if np.isfinite(_value(own.get((name, step))))]
            if ENCODERS[name].baseline or not best or not steps:
                continue
            line, bases = [own[name, step] for step in steps], [own[base, 1.0] for base in best]
            found = smallest_fraction(
                steps,
                np.array([pooled.estimate.value for pooled in line]),
                np.stack([pooled.values for pooled in line]),
                np.array([pooled.estimate.value for pooled in bases]),
                np.stack([pooled.values for pooled in bases]),
                line[0].estimate.n,
                line[0].estimate.events,
            )
            row = {"encoder": name, "group": group, "baseline": best[found.baseline], "fraction": found.value}
            row |= {"low": found.low, "high": found.high, "reached": found.reached, "n": found.n}
            sentence = f"{group[0].upper()}{group[1:]}: {found.sentence(name, best)}"
            rows.append(row | {"events": found.events, "sentence": sentence})
    columns = ["encoder", "group", "baseline", "fraction", "low", "high", "reached", "n", "events", "sentence"]
    return pd.DataFrame(rows, columns=columns)


def _value(pooled: Pooled | None) -> float:
    return float("nan") if pooled is None else pooled.estimate.value


def format_curve(table: pd.DataFrame, metric: Metric) -> str:
    """The pooled groups of the curve as fixed-width text."""
    title = f"{f'{metric.title} (95 % interval)':{width_of(metric)}s}"
    title += f"{'across folds':14s}" if metric.within_folds else ""
    counted = f"{'seeds':>6s}{'n':>5s}{metric.count_title:>10s}"
    lines = [f"{'encoder':12s}{'labels':>14s}  {'group':24s}{counted}   {title}SD over seeds"]
    shown = table[table["kind"].isin(REPORTED)]
    for row in shown.to_dict("records"):
        lines.append(_line(row, metric))
    return "\n".join([*lines, *marked(shown)])


def _line(row: Mapping[Hashable, object], metric: Metric) -> str:
    middle, low, high = (float(row[name]) for name in ("value", "low", "high"))  # type: ignore[arg-type]
    value = with_interval(middle, low, high, row["interval"])
    value = f"{value:{width_of(metric)}s}"
    if metric.within_folds:
        pooled = float(row[ACROSS_FOLDS[0]])  # type: ignore[arg-type]
        value += f"{'-' if np.isnan(pooled) else f'{pooled:.3f}':14s}"
    spread = "" if pd.isna(row["spread"]) else f"{row['spread']:.3f}"  # type: ignore[call-overload]
    count = "-" if pd.isna(row[metric.count]) else row[metric.count]  # type: ignore[call-overload]
    labels = f"{row['fraction']:.3g} ({row['labels']:.0f})"
    named = {key: found for key, found in row.items() if key != "endpoint" or isinstance(found, str)}
    return (
        f"{row['encoder']:12s}{labels:>14s}  {row_name(named):24s}{row['seeds']:6d}{row['n']:5d}{count:>10}   "
        f"{value}{spread}"
    ).rstrip()
